"""Blending: crops give the picture back, seams fade, windows are crops."""

import numpy as np
import pytest

from ltchm_jax.container.blocks import blend_rows, cut_blocks
from ltchm_jax.container.grid import Grid, Rect

GRIDS = [
    Grid(37, 90, 32, 8),
    Grid(100, 61, 16, 4),
    Grid(40, 40, 64, 0),
    Grid(70, 33, 17, 0),
    Grid(5, 300, 20, 5),
]
DTYPES = [np.uint8, np.uint16, np.int16, np.float32]


def picture(grid: Grid, dtype: type = np.uint8, bands: int = 3, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-32768, 32768, (grid.height, grid.width, bands))
    return (values % 65536 if dtype is np.uint16 else values).astype(dtype)


def crops(grid: Grid, image: np.ndarray, window: Rect | None = None) -> list[np.ndarray]:
    return [image[grid.rect(i).slices] for i in grid.numbers_in(window or grid.whole)]


def blend(grid: Grid, blocks: list[np.ndarray], window: Rect | None = None) -> np.ndarray:
    return np.concatenate(list(blend_rows(grid, blocks, window)))


class Rows:
    """A picture that counts the rows it was asked for."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.count = pixels, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.count += rows.stop - rows.start
        return self.pixels[rows]


@pytest.mark.parametrize("grid", GRIDS)
def test_blocks_are_cut_from_rows_that_are_asked_for_once(grid):
    rows = Rows(picture(grid))
    for block, crop in zip(cut_blocks(grid, rows), crops(grid, rows.pixels), strict=True):
        np.testing.assert_array_equal(block, crop)
    assert rows.count == grid.rows.count * grid.rows.size


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_crops_blend_to_the_picture_exactly(grid, dtype):
    image = picture(grid, dtype)
    result = blend(grid, crops(grid, image))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, image)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_window_is_a_crop_of_the_whole(grid, seed):
    random = np.random.default_rng(seed)
    top, left = random.integers(grid.height), random.integers(grid.width)
    size = random.integers(1, grid.height - top + 1), random.integers(1, grid.width - left + 1)
    window = Rect(int(top), int(left), int(size[0]), int(size[1]))
    noisy = [random.integers(0, 256, (*grid.shape, 2), np.uint8) for _ in range(grid.count)]
    chosen = [noisy[i] for i in grid.numbers_in(window)]
    np.testing.assert_array_equal(blend(grid, chosen, window), blend(grid, noisy)[window.slices])


def test_the_seam_of_two_blocks_is_the_documented_ramp():
    grid = Grid(16, 24, 16, 4)
    black, white = np.zeros((*grid.shape, 1), np.uint8), np.full((*grid.shape, 1), 200, np.uint8)
    seam = blend(grid, [black, white])[0, 10:14, 0]
    k = 4
    assert grid.cols.start(1) == 10
    assert seam.tolist() == [(200 * (2 * j + 1) + k) // (2 * k) for j in range(k)] == [25, 75, 125, 175]


def test_a_corner_mixes_rows_after_columns():
    grid = Grid(24, 24, 16, 4)
    values = [0, 80, 160, 240]
    image = blend(grid, [np.full((*grid.shape, 1), v, np.float64) for v in values])
    weight = (2 * np.arange(4) + 1) / 8
    across = np.array([[0 + 80 * w, 160 + 80 * w] for w in weight])
    expected = across[:, 0] + (across[:, 1] - across[:, 0]) * weight[:, None]
    np.testing.assert_allclose(image[10:14, 10:14, 0], expected, rtol=0, atol=1e-12)


def test_negative_samples_blend_without_bias():
    grid = Grid(16, 24, 16, 4)
    low, high = (np.full((*grid.shape, 1), v, np.int16) for v in (-32768, 32767))
    seam = blend(grid, [low, high])[0, 10:14, 0].astype(float)
    np.testing.assert_allclose(seam, -32768 + 65535 * np.array([1, 3, 5, 7]) / 8, atol=0.5)


@pytest.mark.parametrize("grid", GRIDS)
def test_bands_come_as_soon_as_their_blocks(grid):
    image, taken = picture(grid), 0

    def supply():
        nonlocal taken
        for block in crops(grid, image):
            taken += 1
            yield block

    for row, band in enumerate(blend_rows(grid, supply())):
        assert taken == (row + 1) * grid.cols.count
        assert len(band) <= grid.shape[0]


def test_blocks_are_not_written_to():
    grid = Grid(37, 90, 32, 8)
    blocks = [
        np.random.default_rng(i).integers(0, 256, (*grid.shape, 3), np.uint8) for i in range(grid.count)
    ]
    for block in blocks:
        block.flags.writeable = False
    assert blend(grid, blocks).shape == (37, 90, 3)


def test_too_few_or_misshapen_blocks_are_refused():
    grid = Grid(37, 90, 32, 8)
    blocks = crops(grid, picture(grid))
    with pytest.raises(ValueError, match="give more blocks"):
        blend(grid, blocks[:-1])
    with pytest.raises(ValueError, match="cut them with"):
        blend(grid, [block[:-1] for block in blocks])
    with pytest.raises(ValueError, match="a window lies inside"):
        blend(grid, blocks, Rect(0, 0, 38, 1))
