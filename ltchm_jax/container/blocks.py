"""Pictures cut into blocks, and blocks put together again, without a seam.

Where two blocks overlap, the picture fades linearly from one to the other: first between the blocks of a row,
then between rows. Integer samples are blended in integers, so the result is the same on every machine, and
blocks that agree are returned as they are.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from ltchm_jax.container.grid import Grid, Rect


class Pixels(Protocol):
    """An array `[H, W, bands]`, or what gives some rows of one when they are asked for."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """uint8 `[rows, W, bands]`."""


def cut_blocks(grid: Grid, pixels: Pixels) -> Iterator[np.ndarray]:
    """The blocks of a picture in order, each `[*grid.shape, bands]`; asks for the pixels of a row at once."""
    for row in range(grid.rows.count):
        strip = pixels[grid.rows.start(row) : grid.rows.stop(row)]
        for col in range(grid.cols.count):
            yield strip[:, grid.cols.start(col) : grid.cols.stop(col)]


def blend_rows(grid: Grid, blocks: Iterable[np.ndarray], window: Rect | None = None) -> Iterator[np.ndarray]:
    """The picture, or a window of it, as bands of rows from top to bottom.

    Holds one row of blocks at a time, whatever the height of the picture.

    Args:
      grid: where the blocks lie.
      blocks: the blocks `grid.numbers_in(window)`, in that order, each `[*grid.shape, bands]`, one dtype.
      window: the part that is wanted; the whole picture when not given.

    Yields:
      Arrays `[rows, width, bands]` of the blocks' dtype; their rows add up to the window's height.

    Raises:
      ValueError: the window leaves the picture, a block has the wrong shape, or there are too few.
    """
    window = grid.whole if window is None else window
    rows, cols = grid.blocks_in(window)
    supply = iter(blocks)
    carry: np.ndarray | None = None
    for row in rows:
        strip = _join(grid, cols, supply)[:, window.left - grid.cols.start(cols[0]) :][:, : window.width]
        if carry is not None:
            strip[: len(carry)] = _fade(carry, strip[: len(carry)], axis=0)
        top = grid.rows.start(row)
        stop = grid.rows.stop(row) if row == rows[-1] else grid.rows.start(row + 1)
        carry = strip[stop - top :]
        band = strip[max(window.top - top, 0) : min(stop, window.top + window.height) - top]
        if len(band):
            yield band


def _join(grid: Grid, cols: range, supply: Iterator[np.ndarray]) -> np.ndarray:
    """The next row of blocks, blended from left to right: `[block height, all their columns, bands]`."""
    axis = grid.cols
    first = _next_block(grid, supply)
    strip = np.empty((first.shape[0], axis.stop(cols[-1]) - axis.start(cols[0]), first.shape[2]), first.dtype)
    strip[:, : axis.size] = first
    for col in cols[1:]:
        block = _next_block(grid, supply)
        left, shared = axis.start(col) - axis.start(cols[0]), axis.stop(col - 1) - axis.start(col)
        seam = strip[:, left : left + shared]
        seam[...] = _fade(seam, block[:, :shared], axis=1)
        strip[:, left + shared : left + axis.size] = block[:, shared:]
    return strip


def _next_block(grid: Grid, supply: Iterator[np.ndarray]) -> np.ndarray:
    block = next(supply, None)
    if block is None:
        raise ValueError(
            f"a grid of {grid.count} blocks needs each block that touches the window: give more blocks"
        )
    if block.ndim != 3 or block.shape[:2] != grid.shape:
        raise ValueError(
            f"blocks of this grid are {grid.shape} + (bands,), got {block.shape}: cut them with grid.rect"
        )
    return block


def _fade(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    """From `first` to `second` along an axis: pixel `j` of `n` weighs them `(2n - 2j - 1) : (2j + 1)`."""
    n = first.shape[axis]
    ramp = np.expand_dims(
        2 * np.arange(n, dtype=np.int32) + 1, tuple(a for a in range(first.ndim) if a != axis)
    )
    if not np.issubdtype(first.dtype, np.integer):
        return np.asarray(first + (second - first) * (ramp / (2 * n)).astype(first.dtype))
    total = first.astype(np.int32) * (2 * n - ramp) + second.astype(np.int32) * ramp
    return np.asarray((total + n) // max(2 * n, 1)).astype(first.dtype)
