"""Comparing tensors with those of a golden file, and what such files hold.

A forward file holds a state and one pass in evaluation mode, a training file one step of the same state:

  state/<reference name>                  the weights
  in/image                                uint8 [H, W, bands], sides multiples of 128
  out/y, z, psi, x_hat_unclipped          float32 [1, C, h, w]; y and z before rounding
  out/means, scales, weights              [1, M, h, w, 3]
  out/bpp_y, bpp_z, mse                   scalars

  in/images, noise_y, noise_z, lmbda      uint8 [B, H, W, bands], float32 [B, C, h, w] twice, scalar
  out/loss, mse, bpp_y, bpp_z             scalars
  grad_norm/<name>, grad/<name>           L2 norms; gradients after the elementwise clip
  buffer/<name>                           BatchNorm statistics after the pass
  after_step/mse, bpp_y, bpp_z            the first image, evaluated after one step of Adam
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.interop import State
from ltchm_jax.model import ModelConfig

# A pass runs once, so the compiler's time matters and not the program's.
COMPILER = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor compared; `relative` is the largest error over the largest magnitude of the reference."""

    tensor: str
    absolute: float
    relative: float
    tolerance: float
    ok: bool
    note: str = ""


def compare(name: str, got: Any, want: np.ndarray, tolerance: float) -> Row:
    """Passes where max |got - want| <= tolerance * max |want| and the shapes agree."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return Row(name, np.inf, np.inf, tolerance, False)
    error, scale = float(np.abs(got - want).max(initial=0)), float(np.abs(want).max(initial=0))
    relative = error / scale if scale else float(error > 0)
    return Row(name, error, relative, tolerance, bool(error <= tolerance * scale))


def rows_text(rows: Iterable[Row]) -> str:
    """A table, worst first within what failed and what passed, and a last line that counts."""
    rows = sorted(rows, key=lambda row: (row.ok, -row.relative / row.tolerance))
    width = max((len(row.tensor) for row in rows), default=6)
    lines = [f"{'tensor':<{width}} {'max abs':>9} {'relative':>9} {'tolerance':>9}  result"]
    for row in rows:
        numbers = f"{row.absolute:9.1e} {row.relative:9.1e} {row.tolerance:9.0e}"
        lines.append(f"{row.tensor:<{width}} {numbers}  {'ok' if row.ok else 'FAILED'}{row.note}")
    failed = sum(not row.ok for row in rows)
    return "\n".join([*lines, f"{len(rows)} tensors compared, {failed} failed."])


def images(pixels: np.ndarray, config: ModelConfig) -> jax.Array:
    """uint8 [H, W, bands] or [B, H, W, bands] -> float32 [B, H, W, bands] in 0..1; else ValueError."""
    whole = pixels.ndim in (3, 4) and not any(n % 128 or n == 0 for n in pixels.shape[-3:-1])
    if pixels.dtype != np.uint8 or not whole or pixels.shape[-1] != config.bands:
        rule = f"A golden image must be uint8 [..., H, W, {config.bands}] with sides in multiples of 128"
        raise ValueError(f"{rule}, got {pixels.dtype} {pixels.shape}.")
    return jnp.asarray(pixels.reshape(-1, *pixels.shape[-3:]), jnp.float32) / 255


def check_shapes(config: ModelConfig, x: jax.Array, arrays: Mapping[str, Any]) -> None:
    """Compares NHWC arrays, by name, with the shapes that they have for images x.

    Raises:
      ValueError: at the first that differs.
    """
    (batch, height, width, _), channels = x.shape, config.latent_channels
    latent = (batch, height // 16, width // 16)
    mixture = (*latent, channels, config.components)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("means", "scales", "weights"), mixture)
    shapes |= {"y": (*latent, channels), "psi": (*latent, 2 * config.width)}
    shapes["z"] = (batch, height // 64, width // 64, config.width)
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise ValueError(f"Golden {name} must be {shapes[name]} in NHWC order, got {array.shape}.")


def check_names(want: Iterable[str], got: Iterable[str]) -> None:
    """ValueError if a golden file names something that the model does not have."""
    unknown = sorted(set(want) - set(got))
    if unknown:
        raise ValueError(f"A golden file must name tensors of the model, got {', '.join(unknown)}.")


def member(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """One array of a golden file; ValueError if it is absent."""
    if name not in arrays:
        raise ValueError(f"A golden file must hold {name}, this one does not.")
    return arrays[name]


def section(arrays: Mapping[str, np.ndarray], name: str, needed: Iterable[str] = ()) -> State:
    """The arrays whose names start with `name/`, without that; ValueError if one of `needed` is absent."""
    for key in needed:
        member(arrays, f"{name}/{key}")
    start = f"{name}/"
    return {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}


def nhwc(array: np.ndarray) -> np.ndarray:
    """[B, C, H, W, ...] -> [B, H, W, C, ...]; ValueError for fewer axes."""
    if array.ndim < 4:
        raise ValueError(f"A golden tensor must have axes [B, C, H, W, ...], got shape {array.shape}.")
    return np.moveaxis(array, 1, 3)


def nchw(array: Any) -> np.ndarray:
    """The inverse of `nhwc`; scalars stay."""
    array = np.asarray(array)
    return np.moveaxis(array, 3, 1) if array.ndim > 3 else array
