"""From float64 mixture parameters to integers, so that noise in the last bits cannot change a stream.

Each value is rounded on its own, to a grid so coarse that float64 noise (about 1e-12 grid units)
practically never matters. `boundaries` deals with the values for which it might.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.entropy import tables

SYMBOL_LIMIT = 1 << 15  # latents are integers in [-SYMBOL_LIMIT, SYMBOL_LIMIT]
WEIGHT_BITS = 16


def grid_values(means: jax.Array, scales: jax.Array, weights: jax.Array) -> jax.Array:
    """Mixture parameters in units of their grids, still real numbers.

    Args:
      means, scales, weights: float64 [P, M, K]; scales > 0, weights summing to one over K.

    Returns:
      float64 [3K - 1, P, M]: means / 2^-10, log2(scales) * 32, cumulative weights * 2^16, each clipped to the
      range of its table. NaN stays NaN.
    """
    limit = float(SYMBOL_LIMIT << tables.MEAN_BITS)
    grid_means = jnp.clip(means * float(1 << tables.MEAN_BITS), -limit, limit)
    levels = jnp.clip(
        jnp.log2(scales) * float(tables.LEVELS_PER_OCTAVE), float(tables.MIN_LEVEL), float(tables.MAX_LEVEL)
    )
    one = float(1 << WEIGHT_BITS)
    cumulative = jnp.clip(jnp.cumsum(weights, axis=-1)[..., :-1] * one, 0.0, one)
    return jnp.moveaxis(jnp.concatenate([grid_means, levels, cumulative], axis=-1), -1, 0)


def snap(values: np.ndarray, positions: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Rounds to the nearest integer, half up; a listed value goes to the listed side of its nearest boundary.

    Args:
      values: float64 [...]; positions, sides: int64 [g] (flat positions), see `boundaries.find_guards`.

    Returns:
      int64 [...].

    Raises:
      ValueError: if a value is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("entropy parameters must be finite, got NaN or infinity: check the model's weights")
    snapped = np.floor(values + 0.5).astype(np.int64)
    if len(positions):
        snapped.reshape(-1)[positions] = np.floor(values.reshape(-1)[positions]).astype(np.int64) + sides
    return snapped


@dataclass(frozen=True)
class Mixtures:
    """Snapped mixtures of n symbols: everything the symbol probabilities depend on, in integers.

    Attributes:
      kind: 'gaussian' or 'laplace'.
      centres: int64 [n], a likely symbol of each mixture; the tree of decisions starts there.
      offsets: int64 [K, n], component means minus the centre, in grid units.
      levels: int64 [K, n], rows of the scale tables.
      weights: int64 [K, n], summing to 2^16.
    """

    kind: str
    centres: np.ndarray
    offsets: np.ndarray
    levels: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_snapped(cls, snapped: np.ndarray, kind: str) -> "Mixtures":
        """From int64 [3K - 1, n], as `snap` returns them."""
        k = (len(snapped) + 1) // 3
        means, levels = snapped[:k], snapped[k : 2 * k] - tables.MIN_LEVEL
        weights = np.diff(snapped[2 * k :], axis=0, prepend=0, append=1 << WEIGHT_BITS)
        centres = (_tallest(means, levels, weights) + (1 << (tables.MEAN_BITS - 1))) >> tables.MEAN_BITS
        return cls(kind, centres, means - (centres << tables.MEAN_BITS), levels, weights)


def _tallest(means: np.ndarray, levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int64 [n]: the mean of the component with the tallest peak; scales below 1/4 count as 1/4."""
    quarter = -2 * tables.LEVELS_PER_OCTAVE - tables.MIN_LEVEL
    heights = weights * tables.rates().take(np.maximum(levels, quarter), mode="clip")
    mean, height = means[0], heights[0]
    for k in range(1, len(means)):
        taller = heights[k] > height
        mean, height = np.where(taller, means[k], mean), np.maximum(heights[k], height)
    return mean
