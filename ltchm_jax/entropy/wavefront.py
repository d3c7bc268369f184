"""The scan order of the latent, and the passes that give the entropy parameters of positions along it.

The context of a position is a 5x5 causal window (12 taps: two rows above, two columns to the left):

    o o o o o
    o o o o o
    o o x

so all positions with equal t = column + 3 row depend only on smaller t and can be processed at once: a latent
of H x W takes W + 3 (H - 1) steps instead of H W. The encoder knows all of y and evaluates many steps in
one pass. The decoder evaluates one step at a time, of several latents at once. Both go through
`grid_values_of`, and snapping hides the noise in which they differ, so they agree. What a position reads is
gathered on the host: what is compiled then depends on no picture's size, and no latent is copied for a step.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.entropy.snapping import grid_values
from ltchm_jax.model.priors import CAUSAL_TAPS

TAPS = np.array(CAUSAL_TAPS, np.int32)  # [12, 2]; in the order in which the model was trained to read them
CHUNK = 256  # positions evaluated in one pass by the encoder, and in one step where there is no context

# parameters(variables, taps [P, 12, M], psi [P, F]) -> means, scales, weights, each [P, M, K]; all float64.
Parameters = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]


def scan_order(height: int, width: int, context: bool) -> list[np.ndarray]:
    """The positions of an H x W latent, step by step.

    Args:
      context: whether positions depend on others; if not, a step is a run of 256 positions in raster order.

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


def longest_step(height: int, width: int) -> int:
    """Positions of the largest step of an H x W latent with context."""
    return min(height, -(-width // 3))


def chunks(steps: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Groups consecutive steps so that a group has at most `chunk_size(steps)` positions."""
    size, count = chunk_size(steps), 0
    group: list[np.ndarray] = []
    for step in steps:
        if count + len(step) > size:
            yield group
            group, count = [], 0
        group.append(step)
        count += len(step)
    yield group


def chunk_size(steps: list[np.ndarray]) -> int:
    """Positions of a padded group of steps: a power of two if small, so that few shapes are compiled."""
    total, largest = sum(map(len, steps)), max(map(len, steps))
    return max(largest, min(CHUNK, 1 << (total - 1).bit_length()))


def step_size(count: int) -> int:
    """Positions of a padded step of `count`: a little more, and one of few sizes, as each is compiled."""
    size = 1
    while size < count:
        size += min(size, 8) if size < 32 else 16 if size < 64 else size // 2
    return size


def padded_latent(y: np.ndarray) -> np.ndarray:
    """int32 [..., H + 2, W + 4, M]: y [..., H, W, M] with the zeros that the taps find outside the latent."""
    outside = [(0, 0)] * (y.ndim - 3) + [(2, 0), (2, 2), (0, 0)]
    return np.pad(y.astype(np.int32), outside)


def gather(
    latent: np.ndarray, psi: np.ndarray, positions: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the entropy model reads at some positions of B latents of one shape.

    Args:
      latent: int32 [B, H + 2, W + 4, M], padded, the taps of the positions known; psi: float64 [B, H, W, F].
      positions: int32 [P, 2]; size: rows of the result, at least B P, those beyond are zero.

    Returns:
      taps int32 [size, 12, M] and psi float64 [size, F], latent by latent.
    """
    rows, columns = positions.T
    at = positions[:, None] + (TAPS + 2)[None]  # [P, 12, 2]
    taps = latent[:, at[..., 0], at[..., 1]].reshape(-1, len(TAPS), latent.shape[-1])
    psi = psi[:, rows, columns].reshape(-1, psi.shape[-1])
    return _filled_up(taps, size), _filled_up(psi, size)


def _filled_up(rows: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, *rows.shape[1:]), rows.dtype)
    out[: len(rows)] = rows
    return out


def grid_values_of(parameters: Parameters, variables: Any, taps: jax.Array, psi: jax.Array) -> jax.Array:
    """float64 [3K - 1, P, M], `snapping.grid_values` of the mixtures at P gathered positions."""
    return grid_values(*parameters(variables, taps.astype(jnp.float64), psi))
