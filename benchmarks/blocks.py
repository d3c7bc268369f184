"""What cutting pictures into blocks costs: bytes, time, and error near the borders, for sizes of block.

    python benchmarks/blocks.py PICTURE... --blocks 512,768 --overlaps 0,4,16

Every line is beside the same pictures, each coded as one block: bytes and seconds as ratios, and as `seam`
the mean absolute error within 8 pixels of a border between blocks over that elsewhere, divided by the same
ratio in the uncut pictures, so that what lies at the borders does not matter. 1.000 is no seam at all.
`step` is how much the error changes from one pixel to the next where it changes most across a border, as a
mean along it, over the mean change there in the uncut pictures: an edge where none was.
"""

import argparse
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ltchm_jax.codec import Codec
from ltchm_jax.container.grid import MAX_BLOCK, Grid
from ltchm_jax.imagery.images import read_image

NEAR = 8  # pixels to either side of a border


class Run(NamedTuple):
    """All pictures coded once: bytes, seconds, error [H, W, bands] of each picture."""

    size: int
    encoding: float
    decoding: float
    errors: list[np.ndarray]


def near_borders(grid: Grid) -> np.ndarray:
    """bool [H, W]: within NEAR pixels of where one block ends inside the picture, or the next begins."""
    sides = []
    for axis in (grid.rows, grid.cols):
        near = np.zeros(axis.length, bool)
        for i in range(axis.count - 1):
            near[max(0, axis.start(i + 1) - NEAR) : axis.stop(i) + NEAR] = True
        sides.append(near)
    return sides[0][:, None] | sides[1][None]


def run(codec: Codec, pictures: list[np.ndarray], quality: float | None, block: int, overlap: int) -> Run:
    """Codes the pictures, cut into blocks of at most `block` pixels a side; warm."""
    codec.block_size, codec.overlap = block, overlap
    for picture in {picture.shape: picture for picture in pictures}.values():
        codec.decompress(codec.compress(picture, quality))
    start = time.perf_counter()
    streams = [codec.compress(picture, quality) for picture in pictures]
    middle = time.perf_counter()
    decoded = [codec.decompress(stream) for stream in streams]
    end = time.perf_counter()
    errors = [a.astype(np.float32) - b for a, b in zip(decoded, pictures, strict=True)]
    return Run(sum(map(len, streams)), middle - start, end - middle, errors)


def contrast(errors: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """Mean error near borders over that elsewhere."""
    sizes = [np.abs(error).mean(-1) for error in errors]
    size, mask = (np.concatenate([v.ravel() for v in values]) for values in (sizes, masks))
    return size[mask].mean() / size[~mask].mean()


def steps(error: np.ndarray, grid: Grid) -> Iterator[np.ndarray]:
    """For each border its mean change of error from each line of pixels to the next, from before to after."""
    for axis, turned in ((grid.rows, error), (grid.cols, error.swapaxes(0, 1))):
        for i in range(axis.count - 1):
            across = turned[axis.start(i + 1) - 1 : axis.stop(i) + 1].mean(-1)
            yield np.abs(np.diff(across, axis=0)).mean(1)


def step(cut: list[np.ndarray], whole: list[np.ndarray], grids: list[Grid]) -> float:
    """The mean over borders of the largest change of error across them, over the mean change if uncut."""
    largest, usual = [], []
    for errors, uncut, grid in zip(cut, whole, grids, strict=True):
        largest += [changes.max() for changes in steps(errors, grid)]
        usual += [changes.mean() for changes in steps(uncut, grid)]
    return float(np.sum(largest) / np.sum(usual))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("picture", nargs="+")
    options.add_argument("--model")
    options.add_argument("--quality", type=float)
    options.add_argument("--blocks", default="512,768")
    options.add_argument("--overlaps", default="0,4,16")
    given = options.parse_args()
    codec = Codec.load(given.model)
    pictures = [read_image(name).pixels[..., :3] for name in given.picture]
    whole = run(codec, pictures, given.quality, MAX_BLOCK, 0)
    pixels = sum(picture[..., 0].size for picture in pictures)
    print(f"{len(pictures)} pictures, {8 * whole.size / pixels:.3f} bpp in one block each")
    print("block  overlap  bytes  compress  decompress   seam   step")
    for block in map(int, given.blocks.split(",")):
        for overlap in map(int, given.overlaps.split(",")):
            cut = run(codec, pictures, given.quality, block, overlap)
            grids = [Grid(*picture.shape[:2], block, overlap) for picture in pictures]
            masks = [near_borders(grid) for grid in grids]
            seam = contrast(cut.errors, masks) / contrast(whole.errors, masks)
            edge = step(cut.errors, whole.errors, grids)
            times = f"{cut.encoding / whole.encoding:8.2f}  {cut.decoding / whole.decoding:10.2f}"
            size = f"{block:5}  {overlap:7}  {cut.size / whole.size:5.3f}"
            print(f"{size}  {times}  {seam:5.3f}  {edge:5.3f}", flush=True)


if __name__ == "__main__":
    main()
