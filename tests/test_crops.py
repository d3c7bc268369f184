"""Random parts of an image: where they lie, and what becomes of their pixels."""

import numpy as np
import pytest
from PIL import Image

from ltchm_jax import crops
from ltchm_jax.crops import crop, part_of, resized_crop


def ramp(height: int, width: int, bands: int = 3) -> np.ndarray:
    return np.arange(height * width * bands).reshape(height, width, bands).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (3, 100), (64, 64), (63, 200)])
def test_crops_of_any_image_have_the_size_asked_for(size):
    got = crop(ramp(*size), 64, np.random.default_rng(0))
    assert (got.shape, got.dtype) == ((64, 64, 3), np.uint8)
    assert got.flags.c_contiguous
    assert set(got.reshape(-1, 3)[:, 0]) <= set(ramp(*size).reshape(-1, 3)[:, 0])  # mirrored, nothing made up


def test_crops_cover_all_places_and_flips():
    image = np.stack([*np.indices((3, 3)), np.zeros((3, 3))], -1).astype(np.uint8)
    rng = np.random.default_rng(0)
    seen = {crop(image, 2, rng).tobytes() for _ in range(300)}
    assert len(seen) == 4 * 4  # four places, each four ways round
    unflipped = {crop(image, 2, rng, flips=False).tobytes() for _ in range(100)}
    assert unflipped == {image[i : i + 2, j : j + 2].tobytes() for i in (0, 1) for j in (0, 1)}


@pytest.mark.parametrize("size", [(1, 1), (3, 100), (64, 64), (400, 500), (2000, 40)])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_resized_crops_have_the_size_asked_for(size, bands):
    got = resized_crop(ramp(*size, bands), 48, np.random.default_rng(0))
    assert (got.shape, got.dtype) == ((48, 48, bands), np.uint8)
    assert got.flags.c_contiguous


def test_parts_have_their_area_and_ratio_and_cover_the_image():
    rng, parts = np.random.default_rng(0), []
    for _ in range(3000):
        top, left, height, width = part_of(400, 600, rng)
        assert 0 <= top <= 400 - height
        assert 0 <= left <= 600 - width
        parts.append((top, left, height, width))
    tops, lefts, heights, widths = np.array(parts).T
    areas, ratios = heights * widths / (400 * 600), widths / heights
    assert 0.075 < areas.min() < 0.1
    assert 0.85 < areas.max() <= 8 / 9  # at 4:3 no more fits
    assert 0.74 < ratios.min() < 0.77
    assert 1.3 < ratios.max() < 1.35
    assert tops.min() == lefts.min() == 0
    small = areas[areas < 0.31]  # all of these fit, so they are uniform
    assert np.mean(small < 0.195) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("size", "part"),
    [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10)), ((1, 1), (0, 0, 1, 1))],
)
def test_where_no_part_fits_the_largest_central_one_is_taken(size, part, monkeypatch):
    monkeypatch.setattr(crops, "ATTEMPTS", 0)
    assert part_of(*size, np.random.default_rng(0)) == part


def test_a_resized_crop_is_its_part_resized(monkeypatch):
    """Bands one by one, or three together, come out alike."""
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    monkeypatch.setattr(crops, "part_of", lambda *_: (5, 7, 40, 50))
    got = resized_crop(image, 32, np.random.default_rng(0), flips=False)
    part = Image.fromarray(image[5:45, 7:57])
    np.testing.assert_array_equal(got, np.asarray(part.resize((32, 32), Image.Resampling.BILINEAR)))
    four = resized_crop(
        np.concatenate([image, image[..., :1]], -1), 32, np.random.default_rng(0), flips=False
    )
    np.testing.assert_array_equal(four, np.concatenate([got, got[..., :1]], -1))
