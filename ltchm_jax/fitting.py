"""Fitting one half of a model while the other stays as it is: what is said, or what is made of it.

The entropy model alone is the cheap part: it works at a sixteenth of the image's sides and less. So it goes
first where the transforms are good and it knows nothing (a linear start), when its gradient would teach them
to say less before it has learned to say it well; and last, on larger images than training has room for.

The synthesis alone learns from the very integers that it will be given, not from noise in their place, and
cannot cost a bit.
"""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ltchm_jax.losses import code_lengths, psnr, rate_weights
from ltchm_jax.model import LTCHM, Y_STRIDE, ModelConfig
from ltchm_jax.training import to_unit

TRANSFORMS = ("g_a", "g_s", "gain_y")  # all that the entropy model does not touch
BATCH, WINDOW = 8, 16  # a step of the entropy model takes so many windows of y, at most so large
# Of Adam, at their highest: up to it in a tenth of the steps, then down by a cosine.
NOISY_RATE, INTEGER_RATE, SYNTHESIS_RATE = 1e-3, 8e-4, 1e-4
CLIP_NORM = 1.0  # of the gradient

Tree = dict[str, Any]
# Told after each tenth of a fit: the steps done, and the mean bpp or PSNR in dB since it was last told.
Report = Callable[[int, float], None]


def fit_entropy_model(
    config: ModelConfig,
    variables: Tree,
    images: np.ndarray,
    steps: int,
    key: jax.Array,
    noisy: bool = False,
    report: Report = lambda step, found: None,
    rate_balance: float = 0.0,
) -> Tree:
    """Descends the rate: in all parameters but those of the transforms and of the gains of y, or in few.

    Args:
      images: uint8 [N, H, W, bands], sides multiples of 64; their latents are kept in memory.
      steps: 1 or more.
      key: draws windows, qualities and noise.
      noisy: whether y and z have noise in place of rounding, for transforms that are yet to be trained with
        it; else their very integers are coded (Guo et al. 2021), and only the prior of y learns: z stays.
      report: is told how far the fit is and the bpp; what it raises ends the fit.
      rate_balance: what bits count at each rate of a variable-rate model: `losses.rate_weights`.

    Returns:
      The variables.
    """
    params = variables["params"]
    learns = {*params} - {*TRANSFORMS} if noisy else {"prior_y"}
    free = {name: params[name] for name in learns}
    kept = {name: part for name, part in params.items() if name not in learns}
    latents, rate = _latents(config, variables, images), nn.apply(_rate, LTCHM(config))

    def loss(free: Tree, y: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_quality, of_noise = jax.random.split(key)
        quality = _qualities(config, of_quality, len(y))
        bpp = rate({"params": kept | free}, y, quality, of_noise, noisy)
        return jnp.mean(rate_weights(config.lmbdas, quality, rate_balance) * bpp), jnp.mean(bpp)

    def windows(key: jax.Array) -> np.ndarray:
        return _windows(latents, key)

    free = _descend(loss, free, windows, NOISY_RATE if noisy else INTEGER_RATE, steps, key, report)
    return variables | {"params": kept | free}


def fit_synthesis(
    config: ModelConfig,
    variables: Tree,
    batches: Iterator[np.ndarray],
    steps: int,
    key: jax.Array,
    report: Report = lambda step, found: None,
    parts: int = 1,
    remat: bool = False,
) -> Tree:
    """Ascends the PSNR in the parameters of the synthesis and the inverse gains, from rounded latents.

    Batch statistics stay as they are.

    Args:
      batches: uint8 [B, H, W, bands], sides multiples of 16, always of one shape.
      steps: 1 or more.
      key: draws qualities.
      report: is told how far the fit is and the PSNR; what it raises ends the fit.
      parts: in which a batch is taken one after the other, which divides the memory that a step needs.
      remat: compute blocks again for the gradient, which needs less memory still.

    Returns:
      The variables.
    """
    params, error = variables["params"], nn.apply(_error, LTCHM(config, remat=remat))
    gains = params.get("gain_y", {})
    free = {"g_s": params["g_s"]} | {name: part for name, part in gains.items() if name == "log_inverse"}

    def whole(free: Tree) -> Tree:
        inverse = {name: part for name, part in free.items() if name != "g_s"}
        return params | {"g_s": free["g_s"]} | ({"gain_y": gains | inverse} if inverse else {})

    def decibels(free: Tree, images: jax.Array, key: jax.Array) -> jax.Array:
        fitted, batch = variables | {"params": whole(free)}, (images, _qualities(config, key, len(images)))
        if parts == 1:
            return jnp.mean(psnr(error(fitted, *batch)))
        split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)
        return jnp.mean(jax.lax.map(jax.checkpoint(lambda part: psnr(error(fitted, *part))), split))

    def loss(free: Tree, images: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = decibels(free, images, key)
        return -found, found

    free = _descend(loss, free, lambda key: next(batches), SYNTHESIS_RATE, steps, key, report)
    return variables | {"params": whole(free)}


def _descend(
    loss: Callable[[Tree, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    free: Tree,
    batch_of: Callable[[jax.Array], np.ndarray],
    rate: float,
    steps: int,
    key: jax.Array,
    report: Report,
) -> Tree:
    """Parameters after so many steps; `loss` says, beside itself, what is reported."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(schedule))
    flat = optax.flatten(optimizer)  # few loops over one vector compile faster

    @jax.jit
    def step(free: Tree, state: Any, batch: jax.Array, key: jax.Array) -> tuple[Tree, Any, jax.Array]:
        gradient, found = jax.grad(loss, has_aux=True)(free, batch, key)
        update, state = flat.update(gradient, state)
        return optax.apply_updates(free, update), state, found

    state, values = flat.init(free), []
    for i in range(steps):
        of_batch, of_loss = jax.random.split(jax.random.fold_in(key, i))
        free, state, value = step(free, state, batch_of(of_batch), of_loss)
        values.append(value)
        if len(values) >= steps / 10 or i + 1 == steps:
            report(i + 1, float(np.mean(jax.device_get(values))))
            values = []
    return jax.device_get(free)


def _latents(config: ModelConfig, variables: Tree, images: np.ndarray) -> np.ndarray:
    """y [N, H/16, W/16, M] of uint8 images before any gain."""
    analyse = jax.jit(nn.apply(lambda model, x: model.g_a(to_unit(x)), LTCHM(config)))
    parts = np.split(images, range(BATCH, len(images), BATCH))
    return np.concatenate([np.asarray(analyse(variables, part)) for part in parts])


def _windows(latents: np.ndarray, key: jax.Array) -> np.ndarray:
    """[BATCH, h, w, M] out of [N, H, W, M] at random, sides WINDOW at most."""
    rows, columns = (min(n, WINDOW) for n in latents.shape[1:3])
    choices = np.array([len(latents), latents.shape[1] - rows + 1, latents.shape[2] - columns + 1])
    places = (np.asarray(jax.random.uniform(key, (BATCH, 3)), np.float64) * choices).astype(int)
    return np.stack([latents[i, top : top + rows, left : left + columns] for i, top, left in places])


def _qualities(config: ModelConfig, key: jax.Array, count: int) -> jax.Array | None:
    """[count], uniform over those of a variable-rate model; else None."""
    if not config.lmbdas:
        return None
    return jax.random.uniform(key, (count,), maxval=len(config.lmbdas) - 1.0)


def _rate(model: LTCHM, y: jax.Array, quality: jax.Array | None, key: jax.Array, noisy: bool) -> jax.Array:
    """bpp [B] of y [B, h, w, M] before its gain, with noise or rounded, and z likewise."""
    of_y, of_z = jax.random.split(key)
    if quality is not None:
        y = y * model.gain_y(quality, False, y.dtype)
    z = model.hyper_analyse(y, quality)
    if noisy:
        y_hat = y + jax.random.uniform(of_y, y.shape, minval=-0.5, maxval=0.5)
        z_hat = z + jax.random.uniform(of_z, z.shape, minval=-0.5, maxval=0.5)
    else:
        y_hat, z_hat = jnp.round(y), jnp.round(z)
    bits_y, bits_z = code_lengths(y_hat, *model.probabilities(y_hat, z_hat, quality), model.config.mixture)
    return (bits_y + bits_z) / (y.shape[1] * y.shape[2] * Y_STRIDE**2)


def _error(model: LTCHM, images: jax.Array, quality: jax.Array | None) -> jax.Array:
    """Mean squared error [B] of uint8 images, synthesised from rounded latents."""
    x = to_unit(images)
    y, _ = model.analyse(x, quality)
    return jnp.mean(jnp.square(model.synthesise(jnp.round(y), quality) - x), (1, 2, 3))
