"""The scan order of the latent, and the passes that give the entropy parameters of positions along it.

The context of a position is a 5x5 causal window (12 taps: two rows above, two columns to the left):

    o o o o o
    o o o o o
    o o x

so all positions with equal t = column + 3 row depend only on smaller t and can be processed at once: a latent
of H x W takes W + 3 (H - 1) steps instead of H W. The encoder knows all of y and evaluates many steps in
one pass. The decoder evaluates one step at a time. Both go through `grid_values_at`, and snapping hides
the noise in which they differ, so they agree.
"""

import contextlib
import functools
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


def float64() -> contextlib.AbstractContextManager:
    """A context in which JAX computes in float64. To be held while tracing and while calling."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # older JAX

    return enable_x64(True)


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


def step_size(steps: list[np.ndarray]) -> int:
    """Positions of a padded step: a multiple of 8, as matrix products with 8 rows are faster than with 6."""
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


def grid_values_in_turn(
    parameters: Parameters,
    variables: Any,
    latent: jax.Array,
    psi: jax.Array,
    positions: jax.Array,
    count: jax.Array,
) -> jax.Array:
    """`grid_values_at` the first `count` of the positions, one after the other; the rest is zero.

    On a CPU a few matrix-vector products, which read the weights where they lie, take half the time of one
    matrix product with as few rows, which copies them first.
    """

    def at(i: jax.Array) -> jax.Array:
        one = jax.lax.dynamic_slice_in_dim(positions, i, 1)
        return grid_values_at(parameters, variables, latent, psi, one)

    like = jax.eval_shape(at, count)
    out = jnp.zeros((like.shape[0], len(positions), like.shape[2]), like.dtype)
    return jax.lax.fori_loop(
        0, count, lambda i, out: jax.lax.dynamic_update_slice_in_dim(out, at(i), i, 1), out
    )


def decoder_step(
    parameters: Parameters,
    in_turn: bool,
    variables: Any,
    latent: jax.Array,
    psi: jax.Array,
    known: jax.Array,
    symbols: jax.Array,
    positions: jax.Array,
    count: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Writes the symbols of the last step into the padded latent, and evaluates the next step.

    Args:
      in_turn: evaluate one position after the other.
      known: int32 [P, 2], where the symbols belong; rows beyond the latent are dropped.
      symbols: int32 [P, M].
      positions, count: int32 [P, 2] and how many of them are meant.

    Returns:
      The latent (its buffer is reused) and the float64 [3K - 1, P, M] grid values of the next step.
    """
    latent = latent.at[known[:, 0] + 2, known[:, 1] + 2].set(symbols.astype(latent.dtype), mode="drop")
    if in_turn:
        return latent, grid_values_in_turn(parameters, variables, latent, psi, positions, count)
    return latent, grid_values_at(parameters, variables, latent, psi, positions)


def compiled_decoder_step(parameters: Parameters, size: int) -> Callable:
    """`decoder_step` for steps of `size` positions, compiled to run on the default device."""
    on_cpu = jax.default_backend() == "cpu"
    # Steps are too small to share among threads.
    options = {"xla_cpu_multi_thread_eigen": False} if on_cpu else None
    step = functools.partial(decoder_step, parameters, on_cpu and size <= 8)
    return jax.jit(step, donate_argnums=1, compiler_options=options)
