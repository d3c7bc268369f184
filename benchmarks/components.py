"""The PSNR that so many channels can reach at all, if the transform were linear: to choose widths by.

    python benchmarks/components.py TRAIN TEST --blocks 8,16 --counts 64,128,192,256

Principal components of the blocks of the pictures in TRAIN; for each count, blocks of the pictures in TEST
are projected on so many and put together again: mean PSNR in dB. A channel at 1/16 of the sides is one number
for a block of 16.
"""

import argparse
from pathlib import Path

import numpy as np

from ltchm_jax.evaluation.pictures import Picture, list_pictures
from ltchm_jax.linear_start import cells_of, principal_components

BLOCKS_TO_LEARN = 200_000


def blocks(picture: Picture, side: int) -> np.ndarray:
    """Those of a picture that lie in it whole, as rows [N, side * side * bands] in 0..1."""
    pixels = picture.pixels() / np.float32(255)
    rows, columns = (n // side for n in pixels.shape[:2])
    return cells_of(pixels[None, : rows * side, : columns * side], side).reshape(rows * columns, -1)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("train", type=Path)
    options.add_argument("test", type=Path)
    options.add_argument("--blocks", default="8,16")
    options.add_argument("--counts", default="64,128,192,256")
    given = options.parse_args()
    train, test = (list_pictures([folder])[0] for folder in (given.train, given.test))
    for side in map(int, given.blocks.split(",")):
        learnt = np.concatenate([blocks(picture, side) for picture in train])
        learnt = learnt[:: max(1, len(learnt) // BLOCKS_TO_LEARN)]
        mean, basis = principal_components(learnt, learnt.shape[1])
        for count in map(int, given.counts.split(",")):
            some, psnr = basis[:, :count], []
            for picture in test:
                cells = blocks(picture, side) - mean
                psnr.append(-10 * np.log10(np.mean(np.square(cells - cells @ some @ some.T))))
            print(f"blocks of {side}: {count} of {len(basis)} components, {np.mean(psnr):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
