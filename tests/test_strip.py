"""Strips: pixels are shown as they are, captions are below, sizes must agree."""

import numpy as np
import pytest
from toy_codec import picture

from ltchm_jax.evaluation.strip import strip
from ltchm_jax.evaluation.tiles import Tile, crop


def test_pixels_become_squares_of_pixels():
    pictures = [picture(60, 80, seed) for seed in range(3)]
    page = strip([Tile(str(n), pixels) for n, pixels in enumerate(pictures)], side=40, zoom=3)
    gap = 8
    for place, pixels in enumerate(pictures):
        left = gap + place * (120 + gap)
        shown = page[gap : gap + 120, left : left + 120]
        for row, column in ((0, 0), (1, 2), (2, 1)):
            np.testing.assert_array_equal(shown[row::3, column::3], crop(pixels, 40))
    assert page.shape[1] == 3 * (120 + gap) + gap


def test_captions_are_drawn_below_each_crop():
    page = strip([Tile("one", picture(32, 96)), Tile("two", picture(32, 96), 0.5, 30.0)], side=96, zoom=2)
    below = page[8 + 64 :]
    assert (below[:, :200] < 128).any()
    assert (below[:, 208:] < 128).any()
    assert (page[:8] == 255).all()


def test_a_small_picture_is_shown_whole():
    pixels = picture(20, 30)
    np.testing.assert_array_equal(strip([Tile("a", pixels)], side=64, zoom=1)[8:28, 8:38], pixels)


@pytest.mark.parametrize("sizes", [[], [(20, 20), (20, 21)]])
def test_one_size_is_needed(sizes):
    with pytest.raises(ValueError, match="pictures of one size"):
        strip([Tile("a", picture(*size)) for size in sizes])
