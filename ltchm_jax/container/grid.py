"""How a picture is cut into blocks: integers only, standard library only.

Both sides of a stream compute the cut from four numbers (height, width, block size, overlap), so this file is
part of the format; `docs/bitstream.md` states the same rules.

Along an axis of `length` pixels the number of blocks is the smallest that covers it with blocks of at most
`block_size` and overlaps of at least `overlap`. The blocks then shrink evenly until they only just cover the
axis. Compared with full-size blocks and a last one pushed back inside, this codes fewer pixels twice (a 600
pixel axis, blocks of 512, overlap 32: 632 coded, not 1024), and all blocks of a picture still have one shape.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MIN_BLOCK = 16
MAX_BLOCK = 4096  # pixels: bounds what a decoder must hold at once


class Rect(NamedTuple):
    """A rectangle of pixels: `[top, top + height) x [left, left + width)`."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of this rectangle in an array `[H, W, ...]`."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Axis:
    """One side of the picture, cut into spans of one size. `block_size` 0 leaves it whole."""

    length: int
    block_size: int
    overlap: int

    @property
    def count(self) -> int:
        """Number of spans: the smallest `k` with `k * (block_size - overlap) + overlap >= length`."""
        if self.block_size == 0 or self.length <= self.block_size:
            return 1
        return -(-(self.length - self.overlap) // (self.block_size - self.overlap))

    @property
    def size(self) -> int:
        """Pixels in a span: the smallest that covers the axis with `count` spans."""
        return -(-(self.length + (self.count - 1) * self.overlap) // self.count)

    def start(self, number: int) -> int:
        """First pixel of a span; the spans are spread evenly, the last ends where the axis ends."""
        return number * (self.length - self.size) // max(self.count - 1, 1)

    def stop(self, number: int) -> int:
        """The pixel after the last of a span."""
        return self.start(number) + self.size

    def touching(self, start: int, stop: int) -> range:
        """Numbers of the spans that hold a pixel of `[start, stop)`."""
        spans = range(self.count)
        return range(bisect_right(spans, start, key=self.stop), bisect_left(spans, stop, key=self.start))


@dataclass(frozen=True)
class Grid:
    """The blocks of a picture, numbered row by row.

    Attributes:
      height: pixels, at least 1.
      width: pixels, at least 1.
      block_size: largest side of a block, `MIN_BLOCK` to `MAX_BLOCK` pixels, or 0 for a picture of one block.
      overlap: pixels that neighbours share at least, at most a quarter of `block_size`. Then a pixel lies
        in at most two blocks along each axis.

    Raises:
      ValueError: the attributes break these rules.
    """

    height: int
    width: int
    block_size: int = 0
    overlap: int = 0

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"a picture has at least one pixel, got {self.height} x {self.width}")
        if self.block_size and not MIN_BLOCK <= self.block_size <= MAX_BLOCK:
            raise ValueError(
                f"block size must be 0 or {MIN_BLOCK} to {MAX_BLOCK}, got {self.block_size}: use 512"
            )
        if not 0 <= self.overlap <= self.block_size // 4:
            raise ValueError(
                f"overlap must be 0 to a quarter of the block size {self.block_size}, got {self.overlap}"
            )
        if not self.block_size and max(self.height, self.width) > MAX_BLOCK:
            raise ValueError(
                f"one block has sides up to {MAX_BLOCK}, got {self.height} x {self.width}: give a block size"
            )

    @property
    def rows(self) -> Axis:
        """The cut from top to bottom."""
        return Axis(self.height, self.block_size, self.overlap)

    @property
    def cols(self) -> Axis:
        """The cut from left to right."""
        return Axis(self.width, self.block_size, self.overlap)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.rows.count * self.cols.count

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every block."""
        return self.rows.size, self.cols.size

    @property
    def whole(self) -> Rect:
        """The picture."""
        return Rect(0, 0, self.height, self.width)

    def rect(self, number: int) -> Rect:
        """Where a block lies.

        Raises:
          IndexError: there is no such block.
        """
        if not 0 <= number < self.count:
            raise IndexError(f"blocks are numbered 0 to {self.count - 1}, got {number}")
        row, col = divmod(number, self.cols.count)
        return Rect(self.rows.start(row), self.cols.start(col), self.rows.size, self.cols.size)

    def check_window(self, window: Rect) -> None:
        """Refuses a window that is empty or leaves the picture.

        Raises:
          ValueError: it does.
        """
        top, left, height, width = window
        inside = min(top, left) >= 0 and top + height <= self.height and left + width <= self.width
        if not inside or min(height, width) < 1:
            raise ValueError(
                f"a window lies inside the picture of {self.width} x {self.height} pixels, "
                f"got x {left}, y {top}, {width} x {height}"
            )

    def blocks_in(self, window: Rect) -> tuple[range, range]:
        """Rows and columns of the blocks that hold a pixel of the window.

        Raises:
          ValueError: the window leaves the picture.
        """
        self.check_window(window)
        rows = self.rows.touching(window.top, window.top + window.height)
        return rows, self.cols.touching(window.left, window.left + window.width)

    def numbers_in(self, window: Rect) -> Iterator[int]:
        """Numbers of the blocks that a window touches, row by row, as `blocks.blend_rows` takes them."""
        rows, cols = self.blocks_in(window)
        return (row * self.cols.count + col for row in rows for col in cols)
