"""The results page is what its rows say, and its rows are what the weights that ship do today."""

import functools
import math
import re
from pathlib import Path

import numpy as np
import pytest

from ltchm_jax.evaluation.rows import read_rows
from ltchm_jax.imagery.images import read_image
from ltchm_jax.metrics import psnr

DOCS = Path(__file__).parents[1] / "docs"
ROWS = read_rows(DOCS / "results" / "rows.csv")


def mean_of(codec, setting, name):
    return np.mean([getattr(row, name) for row in ROWS if (row.codec, row.setting) == (codec, setting)])


@pytest.mark.parametrize(("codec", "setting"), sorted({(row.codec, row.setting) for row in ROWS}))
def test_the_page_shows_the_means_of_its_rows(codec, setting):
    page = (DOCS / "results.md").read_text()
    line = re.search(rf"^\| {codec} \| {setting} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) ", page, re.M)
    assert line, f"no line for {codec} at quality {setting}"
    shown = [float(number) for number in line.groups()]
    means = [mean_of(codec, setting, name) for name in ("bpp", "psnr", "ms_ssim")]
    np.testing.assert_allclose(shown, means, atol=0.006, rtol=1e-3)


def test_bits_are_those_of_files():
    assert all(math.isclose(row.bpp, 8 * row.num_bytes / row.height / row.width) for row in ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, len(ROWS) // 2, len(ROWS) - 1])
def test_a_fresh_run_gives_the_rows(shared, number):
    pytest.importorskip("tensorflow_compression_ops")
    row = ROWS[number]
    effort = int(row.codec.partition(" effort ")[2] or 0)
    pixels = read_image(shared / "data" / row.dataset / row.image).pixels
    data = shipped(effort).compress(pixels, float(row.setting))
    # A latent may round otherwise in float32, and where some move by what others did, so may a few more.
    bytes_off, db_off = (1e-2, 0.05) if effort else (2e-3, 0.01)
    assert len(data) == pytest.approx(row.num_bytes, rel=bytes_off)
    assert psnr(pixels, shipped(effort).decompress(data)) == pytest.approx(row.psnr, abs=db_off)


@functools.cache
def shipped(effort):
    """Loaded once, with the shapes of its weights compared, which a start leaves out for what ships."""
    from ltchm_jax.codec import Codec
    from ltchm_jax.model_file import load_model
    from ltchm_jax.weights import find_model

    return Codec(load_model(find_model()), "shipped", effort=effort)
