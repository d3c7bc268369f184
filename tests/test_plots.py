import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from result_summary import result
from toy_codec import picture

from ltchm_jax.evaluation import plots
from ltchm_jax.evaluation.tiles import Tile


def test_a_panel_for_each_measure_that_was_taken() -> None:
    figure = plots.rate_distortion(result(), "set/test")
    assert [axes.get_ylabel() for axes in figure.axes] == ["PSNR (dB)", "MS-SSIM (dB)", "VIFp"]


def test_curves_carry_the_points_in_order() -> None:
    psnr = plots.rate_distortion(result(), "set/test").axes[0]
    anchor, toy = psnr.get_lines()
    assert anchor.get_xydata().tolist() == [[0.2, 26.0], [1.0, 35.0]]
    assert toy.get_xydata().tolist() == [[0.3, 29.0], [0.6, 33.0]]  # the lossless point has no PSNR
    low, high = psnr.get_ylim()
    assert low < 26.0
    assert high > 33.0


def test_curves_differ_without_colour() -> None:
    toy = result()
    toy["codecs"] |= {f"c{n}": {"title": f"c{n}", "is_model": False} for n in range(6)}
    toy["datasets"]["set/test"]["points"] |= {
        f"c{n}": toy["datasets"]["set/test"]["points"]["toy"] for n in range(6)
    }
    lines = plots.rate_distortion(toy, "set/test").axes[0].get_lines()
    assert len({line.get_marker() for line in lines}) == len(lines) == 8


def test_colours_differ_in_lightness_or_hue_for_the_colour_blind() -> None:
    """Deuteranopes and protanopes keep blue against yellow and lightness; each pair must differ in those."""
    seen = [(0.3 * r + 0.59 * g + 0.11 * b, b - (r + g) / 2) for r, g, b in map(to_rgb, plots._COLOURS)]
    gaps = [math.dist(first, second) for n, first in enumerate(seen) for second in seen[:n]]
    assert min(gaps) > 0.08


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_figures_are_written_and_repeat_exactly(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{n}{suffix}" for n in range(2)]
    for path in paths:
        plots.save(plots.rate_distortion(result(), "set/test"), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert len(first) > 1000


def test_svg_keeps_its_words_as_words(tmp_path: Path) -> None:
    plots.save(plots.rate_distortion(result("a < b & c"), "set/test"), tmp_path / "rd.svg")
    assert "a &lt; b &amp; c" in (tmp_path / "rd.svg").read_text()


@pytest.mark.parametrize(("size", "expected"), [((9, 20), (4, 4)), ((3, 20), (3, 4)), ((2, 2), (2, 2))])
def test_crop_is_the_middle(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert plots.crop(picture(*size), 4).shape[:2] == expected
    grid = np.arange(25).reshape(5, 5, 1)
    assert plots.crop(grid, 3)[..., 0].tolist() == [[6, 7, 8], [11, 12, 13], [16, 17, 18]]


def test_tiles_carry_rate_and_quality(tmp_path: Path) -> None:
    x = picture(30, 40)
    tiles = [Tile("original", x), *(Tile(f"codec {n}", x, 0.25, 31.456) for n in range(4))]
    figure = plots.side_by_side(tiles, "p.png", side=16)
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions[:2] == ["original\n30x40", "codec 0\n0.250 bpp, 31.46 dB"]
    plots.save(figure, tmp_path / "crops.png")
    with Image.open(tmp_path / "crops.png") as image:
        assert image.width > image.height
