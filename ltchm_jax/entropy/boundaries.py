"""Guards: parameter values so close to a rounding boundary that another device might round them otherwise.

The encoder lists them with the side it took, and the decoder takes that side. Inside one step of the scan
a value is known by its position in an array; in a stream by an index into the whole latent, in raster
order. There are few of them (about one in a block of 1024 x 1024 pixels), and they make the agreement of the
two sides a guarantee.
"""

import numpy as np

from ltchm_jax.entropy.range_coder import GuardError

# Far above float64 noise (about 1e-12 grid units), far below what would fill the list: about one of ten
# million means or scales lies this close to a boundary by chance, and one of two million weights.
DISTANCE = 2.0**-24
RELATIVE_DISTANCE = 2.0**-37

Shape = tuple[int, ...]
Guards = tuple[tuple[int, int], ...]  # (index of the value in the latent, side 0 or 1), indices rising


def find_guards(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where values lie within the guard distance of a rounding boundary, and which side they round to.

    Args:
      values: float64 [...], as `snapping.grid_values` returns them.

    Returns:
      positions: int64 [g], flat, rising; sides: int64 [g], 1 where the value rounds up.
    """
    fraction = values - np.floor(values)
    near = np.abs(fraction - 0.5) < DISTANCE + RELATIVE_DISTANCE * np.abs(values)
    positions = np.flatnonzero(near)
    return positions, (fraction.ravel()[positions] >= 0.5).astype(np.int64)


def entries(flat: np.ndarray, sides: np.ndarray, count: int, positions: np.ndarray, shape: Shape) -> Guards:
    """Guards as a stream holds them.

    Args:
      flat, sides: what `find_guards` returned for a float64 [count, P * M].
      positions: int32 [P, 2], where its columns belong in the latent.
      shape: (H, W, M) of the latent.

    Returns:
      (((row * W + column) * M + channel) * count + value, side) for each.
    """
    value, slot, channel = np.unravel_index(flat, (count, len(positions), shape[2]))
    pixel = positions[slot, 0].astype(np.int64) * shape[1] + positions[slot, 1]
    index = (pixel * shape[2] + channel) * count + value
    return tuple(zip(index.tolist(), sides.tolist(), strict=True))


class GuardList:
    """The guards of a stream, found again step by step."""

    def __init__(self, guards: Guards, steps: list[np.ndarray], shape: Shape) -> None:
        """guards: see `entries`; steps: the scan order of a latent of this shape."""
        self._index, self._sides = np.array(guards, np.int64).reshape(-1, 2).T
        self._steps, self._shape = steps, shape
        self._step_of, self._slot_of = np.zeros((2, *shape[:2]), np.int64)
        if len(self._index):
            for i, step in enumerate(steps):
                self._step_of[step[:, 0], step[:, 1]] = i
                self._slot_of[step[:, 0], step[:, 1]] = np.arange(len(step))

    def of_step(self, i: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Flat positions in the float64 [count, P * M] of step i, and the sides to take, int64 [g] both.

        Raises:
          GuardError: if an entry lies outside the latent.
        """
        if not len(self._index):
            return self._index, self._sides
        height, width, channels = self._shape
        limit = height * width * channels * count
        if self._index.min() < 0 or self._index.max() >= limit:
            highest = self._index.max()
            raise GuardError(f"guards of this latent must be in 0..{limit - 1}, got {highest}")
        pixel, channel, value = np.unravel_index(self._index, (height * width, channels, count))
        mine = self._step_of.ravel()[pixel] == i
        flat = (value * len(self._steps[i]) + self._slot_of.ravel()[pixel]) * channels + channel
        return flat[mine], self._sides[mine]
