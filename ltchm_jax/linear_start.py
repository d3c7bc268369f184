"""Weights to begin training with that are a transform codec already: a Karhunen-Loeve transform.

Every stage of the analysis takes the principal components of the 2 x 2 cells of the stage before, the
synthesis is its transpose, and what is not linear starts where it is as good as linear: LeakyReLU gets every
value and its negative, so that a stage holds half as many components as it has channels; GDN has little
gamma; residual branches add nothing. Mixtures start from the spread of each channel of y, the hyper-latent
well above its noise. The nets are those of `model`, weight for weight; training goes on from here.
"""

import math
from typing import Any

import jax
import numpy as np

from ltchm_jax.devices import on_host
from ltchm_jax.model import ModelConfig, init_variables
from ltchm_jax.model.layers import PEDESTAL, SLOPE
from ltchm_jax.model.priors import CAUSAL_TAPS
from ltchm_jax.model.transforms import HyperAnalysis

GAMMA = 1e-3  # of GDN, where 0.1 is usual
DAM_GAIN = 1.5  # of a DAM whose mask is 1/2 everywhere and whose trunk is the identity
SPREAD_Z = 1.5  # standard deviation of z; that of the noise is 0.29
CHUNK, BATCH = 1 << 16, 64  # rows of a covariance, and latents of images, that are taken at a time
LEAST_KEPT = 0.01  # of the variance of a channel that a low rate has no bits for

Tree = dict[str, Any]


def linear_start(config: ModelConfig, images: np.ndarray, lmbda: float, key: jax.Array) -> Tree:
    """Variables of a model whose transforms are a Karhunen-Loeve transform of the images.

    Args:
      config: see `check_model`.
      images: uint8 [N, H, W, bands], sides multiples of 64; ten million samples are plenty.
      lmbda: of a model of one rate; a variable-rate model has its own.
      key: draws what does not follow from the images.

    Raises:
      ValueError: another kind of model.
    """
    check_model(config)
    with on_host():
        variables: Any = jax.tree.map(np.array, jax.device_get(init_variables(config, key)))
    params, stage = variables["params"], np.asarray(images, np.float32) / 255
    for part in (params["g_a"], params["g_s"]):
        _make_residuals_silent(part)
    for stride in (2, 4, 8, 16):
        stage = _set_stage(config, params, stride, stage, latent_scale(config, lmbda))
    spread = stage.std((0, 1, 2))
    _set_gains(params, config, spread)
    _set_hyper_analysis(params["h_a"], config, stage)
    _set_entropy_parameters(params["prior_y"], config, spread)
    return variables


def check_model(config: ModelConfig) -> None:
    """Raises ValueError for attention that does not start as a multiple of the identity."""
    if config.attention not in ("dam", "none"):
        raise ValueError(f"A linear start needs `attention` dam or none, got {config.attention}.")


def cells_of(x: np.ndarray, side: int) -> np.ndarray:
    """[N, H, W, D], sides multiples of `side` -> its cells, [N, H / side, W / side, side * side * D]."""
    batch, height, width, depth = x.shape
    cells = x.reshape(batch, height // side, side, width // side, side, depth).swapaxes(2, 3)
    return cells.reshape(batch, height // side, width // side, side * side * depth)


def principal_components(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and basis [D, n] of rows [N, D]: n = min(count, D) columns, most variance first."""
    mean = rows.mean(0, dtype=np.float64)
    scatter: Any = 0.0
    for first in range(0, len(rows), CHUNK):  # in float64 at once they would take many times their memory
        part = rows[first : first + CHUNK] - mean
        scatter += part.T @ part
    _, basis = np.linalg.eigh(scatter / (len(rows) - 1))
    return mean.astype(np.float32), basis[:, ::-1][:, :count].astype(np.float32)


def _set_stage(config: ModelConfig, params: Tree, stride: int, x: np.ndarray, of_y: float) -> np.ndarray:
    """Sets both transforms between x [N, 2h, 2w, D] and the next stage [N, h, w, n], which is returned.

    `of_y`: the scale of the last stage, before its gain.
    """
    last = stride == 16
    cells, depth = cells_of(x, 2), x.shape[-1]
    count = config.latent_channels if last else config.width_at(stride) // 2
    mean, basis = principal_components(cells.reshape(-1, 4 * depth), count)
    if last:  # what there is nothing for begins silent
        basis = np.pad(basis, ((0, 0), (0, count - basis.shape[1])))
    there = DAM_GAIN if config.attention == "dam" and stride in config.attention_at_analysis else 1.0
    back = DAM_GAIN if config.attention == "dam" and stride in config.attention_at_synthesis else 1.0
    scale = of_y / there if last else 1.0
    components = scale * ((cells - mean) @ basis)
    kernel = basis.reshape(2, 2, depth, -1)
    analyse, synthesise = params["g_a"][f"down{stride}"], params["g_s"][f"up{stride}"]
    forth, inverse = kernel * scale, kernel.swapaxes(2, 3)[::-1, ::-1] / (scale * there * back)
    inverse = inverse[:, :, : config.width_at(stride)]  # of more latents the synthesis sees the strongest
    (_set_layer if last else _set_block)(analyse, _corner(forth, 1), -scale * (mean @ basis))
    (_set_layer if stride == 2 else _set_block)(
        synthesise, _corner(inverse, 0), mean.reshape(4, depth).mean(0)
    )
    return there * components


def latent_scale(config: ModelConfig, lmbda: float) -> float:
    """Of y before its gain, over an orthonormal transform's: 1 / the best step at high rate.

    Of the rates of a variable-rate model it takes the middle one; else `lmbda`.
    """
    lmbda = np.exp(np.mean(np.log(config.lmbdas or (lmbda,))))
    return math.sqrt(lmbda * math.log(2) / (6 * config.bands))


def _corner(kernel: np.ndarray, first: int) -> np.ndarray:
    """[2, 2, I, O] as a 3 x 3 kernel that is zero elsewhere: on taps `first` and `first` + 1 of each axis."""
    out = np.zeros((3, 3, *kernel.shape[2:]), np.float32)
    out[first : first + 2, first : first + 2] = kernel
    return out


def _set_block(block: Tree, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Makes a block one linear map: of every value and its negative LeakyReLU lets one through whole."""
    inputs, outputs = kernel.shape[2:]
    both = np.concatenate([np.eye(outputs), -np.eye(outputs)], 1)  # [O, 2 O]
    _set_layer(block["conv1"], kernel @ both, bias @ both)
    _set_layer(block["conv2"], _centre(both.T / (1 + SLOPE)), np.zeros(outputs))
    _set_layer(block["skip"], np.zeros((1, 1, inputs, outputs)), np.zeros(outputs))
    norm = block.get("gdn") or block["igdn"]
    norm["gamma"][:] = np.sqrt(GAMMA * np.eye(len(norm["beta"])) + PEDESTAL)


def _set_layer(layer: Tree, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Sets the first outputs of a layer, which then see its first inputs only; the others stay as drawn."""
    inputs, outputs = kernel.shape[2:]
    layer["kernel"][..., :outputs] = 0
    layer["kernel"][:, :, :inputs, :outputs] = kernel
    if "bias" in layer:
        layer["bias"][:outputs] = bias


def _centre(matrix: np.ndarray) -> np.ndarray:
    """[I, O] as a 3 x 3 kernel that is zero elsewhere."""
    return np.pad(matrix[None, None], ((1, 1), (1, 1), (0, 0), (0, 0)))


def _make_residuals_silent(part: Tree) -> None:
    """Residual blocks become the identity (the first channels of it), DAMs a multiple of it."""
    for name, module in part.items():
        if name.startswith("residual"):
            for array in module["conv2"].values():
                array[:] = 0
            if "skip" in module:
                module["skip"]["kernel"][:] = np.eye(*module["skip"]["kernel"].shape[2:])
                module["skip"]["bias"][:] = 0
        elif name.startswith("attention"):
            for array in module["mask"].values():
                array[:] = 0


def _set_hyper_analysis(params: Tree, config: ModelConfig, y: np.ndarray) -> None:
    """Gives every channel of z mean 0 and the spread SPREAD_Z on y [N, h, w, M]."""
    analyse = jax.jit(HyperAnalysis(config).apply)
    parts = np.split(y, range(BATCH, len(y), BATCH))
    z = np.concatenate([np.asarray(analyse({"params": params}, part)) for part in parts])
    scale = SPREAD_Z / np.maximum(z.std((0, 1, 2)), 1e-6)
    last = params["conv5"]
    last["kernel"] *= scale
    last["bias"][:] = scale * (last["bias"] - z.mean((0, 1, 2)))


def _set_entropy_parameters(params: Tree, config: ModelConfig, spread: np.ndarray) -> None:
    """Mixtures of the spread [M] of each channel, by way of one hidden unit that is 1 whatever comes in."""
    if config.context == "masked":  # all inputs of about the same size
        params["context"]["kernel"] /= np.tile(np.maximum(spread, 1), len(CAUSAL_TAPS))[:, None]
    params["hidden2"]["kernel"][:, 0] = 0
    params["hidden2"]["bias"][0] = 1
    factors = 3.0 ** (np.arange(config.components) - (config.components - 1) / 2)
    outputs = np.zeros((config.components, 3, config.latent_channels), np.float32)
    outputs[:, 2] = factors[:, None] * np.maximum(spread, config.scale_min)
    params["parameters"]["kernel"][:] = 0
    params["parameters"]["kernel"][0] = outputs.reshape(-1)


def _set_gains(params: Tree, config: ModelConfig, spread: np.ndarray) -> None:
    """Shrinks, at each rate, every channel of spread [M] as a Gaussian of its variance asks for.

    Of variance S and error D = step^2 / 12, the factor is sqrt(1 - D / S) before the quantiser and after it
    (reverse water-filling: a channel that is less than the error is worth no bits).
    """
    if not config.lmbdas:
        return
    gain = params["gain_y"]["log_gain"]
    with np.errstate(divide="ignore"):  # silent channels
        kept = 1 - 1 / (12 * np.square(spread * np.exp(gain)))
    shrink = np.log(np.maximum(kept, LEAST_KEPT)) / 2
    gain += shrink
    params["gain_y"]["log_inverse"][:] += shrink
