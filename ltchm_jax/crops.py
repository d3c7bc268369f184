"""Random parts of an image, as pure functions of a generator of random numbers."""

import math

import numpy as np
from PIL import Image

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the part that `resized_crop` takes
ATTEMPTS = 10


def crop(image: np.ndarray, size: int, rng: np.random.Generator, flips: bool = True) -> np.ndarray:
    """A random size x size crop of image [H, W, C], flipped at random; smaller ones are mirrored up to it."""
    short = [max(0, size - n) for n in image.shape[:2]]
    if any(short):
        image = np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), "symmetric")
    top, left = (int(rng.integers(0, n - size + 1)) for n in image.shape[:2])
    image = image[top : top + size, left : left + size]
    return flip(image, rng) if flips else np.ascontiguousarray(image)


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """image [H, W, C], upside down or not, and mirrored or not, each with a chance of one half."""
    return np.ascontiguousarray(image[:: 1 - 2 * int(rng.integers(2)), :: 1 - 2 * int(rng.integers(2))])


def resized_crop(image: np.ndarray, size: int, rng: np.random.Generator, flips: bool = True) -> np.ndarray:
    """A random part of image uint8 [H, W, C], resized to size x size, as the released code trains.

    The part has 8% to 100% of the area and a ratio of sides of 3:4 to 4:3; it is resized by Pillow's bilinear
    filter, which averages where it shrinks. Detail is lost or made up: unlike a crop, it is not what a codec
    will see.
    """
    top, left, height, width = part_of(image.shape[0], image.shape[1], rng)
    part = image[top : top + height, left : left + width]
    if part.shape[-1] == 3:
        resized = _resized(part, size)
    else:
        resized = np.stack([_resized(part[..., i], size) for i in range(part.shape[-1])], -1)
    return flip(resized, rng) if flips else np.ascontiguousarray(resized)


def _resized(part: np.ndarray, size: int) -> np.ndarray:
    resized = Image.fromarray(np.ascontiguousarray(part)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def part_of(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part; the largest central one if no try fits."""
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    return (height - h) // 2, (width - w) // 2, h, w
