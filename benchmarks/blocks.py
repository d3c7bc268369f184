"""What cutting pictures into blocks costs: bytes, time, and error near the borders, for sizes of block.

    python benchmarks/blocks.py PICTURE... --blocks 128,256 --overlaps 0,16,32

Every line is beside the same pictures, each coded as one block: bytes and seconds as ratios, and as `seam`
the mean absolute error within 8 pixels of a border between blocks over that elsewhere, divided by the same
ratio in the uncut pictures, so that what lies at the borders does not matter. 1.000 is no seam at all.
"""

import argparse
import time
from typing import NamedTuple

import numpy as np

from ltchm_jax.codec import Codec
from ltchm_jax.container.grid import MAX_BLOCK, Grid
from ltchm_jax.imagery.images import read_image

NEAR = 8  # pixels to either side of a border


class Run(NamedTuple):
    """All pictures coded once: bytes, seconds, absolute error [H, W] of each picture."""

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
    errors = [np.abs(a.astype(int) - b).mean(-1) for a, b in zip(decoded, pictures, strict=True)]
    return Run(sum(map(len, streams)), middle - start, end - middle, errors)


def contrast(errors: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """Mean error near borders over that elsewhere."""
    error, mask = (np.concatenate([v.ravel() for v in values]) for values in (errors, masks))
    return error[mask].mean() / error[~mask].mean()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("picture", nargs="+")
    options.add_argument("--model")
    options.add_argument("--quality", type=float)
    options.add_argument("--blocks", default="128,256")
    options.add_argument("--overlaps", default="0,16,32")
    given = options.parse_args()
    codec = Codec.load(given.model)
    pictures = [read_image(name).pixels[..., :3] for name in given.picture]
    whole = run(codec, pictures, given.quality, MAX_BLOCK, 0)
    pixels = sum(picture[..., 0].size for picture in pictures)
    print(f"{len(pictures)} pictures, {8 * whole.size / pixels:.3f} bpp in one block each")
    print("block  overlap  bytes  compress  decompress  seam")
    for block in map(int, given.blocks.split(",")):
        for overlap in map(int, given.overlaps.split(",")):
            cut = run(codec, pictures, given.quality, block, overlap)
            masks = [near_borders(Grid(*picture.shape[:2], block, overlap)) for picture in pictures]
            seam = contrast(cut.errors, masks) / contrast(whole.errors, masks)
            times = f"{cut.encoding / whole.encoding:8.2f}  {cut.decoding / whole.decoding:10.2f}"
            print(f"{block:5}  {overlap:7}  {cut.size / whole.size:5.3f}  {times}  {seam:.3f}", flush=True)


if __name__ == "__main__":
    main()
