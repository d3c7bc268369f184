"""The scan order of the latent, and the passes that give the entropy parameters of positions along it.

The context of a position is a 5x5 causal window (12 taps: two rows above, two columns to the left):

    o o o o o
    o o o o o
    o o x

so all positions with equal t = column + 3 row depend only on smaller t and can be processed at once: a latent of
H x W takes W + 3 (H - 1) steps instead of H W. The encoder knows all of y and evaluates many steps in one pass; the
decoder evaluates one step at a time. Both go through `grid_values_at`, and snapping hides what is left of their
differences, so they agree.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.entropy.snapping import grid_values

TAPS = np.array([(r, c) for r in (-2, -1, 0) for c in range(-2, 3) if r < 0 or c < 0], np.int32)  # [12, 2]
CHUNK = 256  # positions evaluated in one pass by the encoder, and in one step where there is no context

# parameters(variables, taps [P, 12, M], psi [P, F]) -> means, scales, weights, each [P, M, K]; all float64.
Parameters = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]


def float64() -> contextlib.AbstractContextManager:
    """A context in which JAX computes in float64. To be held while tracing and while calling."""
    enable = getattr(jax, "enable_x64", None)
    if enable is None:  # before JAX 0.8
        from jax.experimental import enable_x64 as enable
    return enable(True)


def scan_order(height: int, width: int, context: bool) -> list[np.ndarray]:
    """The positions of an H x W latent, step by step.

    Args:
      context: whether positions depend on others; if not, a step is a run of up to 256 positions in raster order.

    Returns:
      For each step an int32 [P, 2] of (row, column), P >= 1. Together they hold every position once.
    """
    rows, columns = (v.ravel() for v in np.indices((height, width), np.int32))
    positions = np.stack([rows, columns], axis=1)
    if not context:
        return np.array_split(positions, range(CHUNK, len(positions), CHUNK))
    t = columns + 3 * rows
    order = np.argsort(t, kind="stable")
    # Narrow latents have steps without positions.
    return np.split(positions[order], np.flatnonzero(np.diff(t[order])) + 1)


def chunks(steps: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Groups consecutive steps so that a group has at most `chunk_size(steps)` positions."""
    size, group, count = chunk_size(steps), [], 0
    for step in steps:
        if count + len(step) > size:
            yield group
            group, count = [], 0
        group.append(step)
        count += len(step)
    yield group


def chunk_size(steps: list[np.ndarray]) -> int:
    """Positions of a padded group of steps: a power of two for small latents, so that few shapes are compiled."""
    total, largest = sum(map(len, steps)), max(map(len, steps))
    return max(largest, min(CHUNK, 1 << (total - 1).bit_length()))


def step_size(steps: list[np.ndarray]) -> int:
    """Positions of a padded step: a multiple of 8, because matrix products with 8 rows are faster than with 6."""
    return -(-max(map(len, steps)) // 8) * 8


def padded(positions: np.ndarray, size: int) -> np.ndarray:
    """int32 [size, 2]: positions, then (0, 0) up to `size`, whose outcome nobody reads."""
    return np.concatenate([positions, np.zeros((size - len(positions), 2), np.int32)])


def padded_latent(y: np.ndarray) -> np.ndarray:
    """float64 [H + 2, W + 4, M]: y with the zeros that the taps find outside the latent."""
    return np.pad(np.asarray(y, np.float64), ((2, 0), (2, 2), (0, 0)))


def mixtures_at(
    parameters: Parameters, variables: Any, latent: jax.Array, psi: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Means, scales and weights at some positions, from a padded latent in which their taps are known.

    Args:
      latent: float64 [H + 2, W + 4, M]; psi: float64 [H, W, F]; positions: int32 [P, 2].
    """
    at = positions[:, None] + (TAPS + 2)[None]  # [P, 12, 2]
    taps = latent[at[..., 0], at[..., 1]]  # [P, 12, M]
    return parameters(variables, taps, psi[positions[:, 0], positions[:, 1]])


def grid_values_at(
    parameters: Parameters, variables: Any, latent: jax.Array, psi: jax.Array, positions: jax.Array
) -> jax.Array:
    """float64 [3K - 1, P, M], `snapping.grid_values` of `mixtures_at`."""
    return grid_values(*mixtures_at(parameters, variables, latent, psi, positions))


def decoder_step(
    parameters: Parameters,
    variables: Any,
    latent: jax.Array,
    psi: jax.Array,
    known: jax.Array,
    symbols: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Writes the symbols of the last step into the padded latent, and evaluates the next step.

    Args:
      known: int32 [P, 2], where the symbols belong; rows beyond the latent are dropped.
      symbols: int32 [P, M].

    Returns:
      The latent (its buffer is reused) and `grid_values_at` the positions of the next step.
    """
    latent = latent.at[known[:, 0] + 2, known[:, 1] + 2].set(symbols.astype(latent.dtype), mode="drop")
    return latent, grid_values_at(parameters, variables, latent, psi, positions)
