"""The results page is what its rows say, and its rows are what the weights that ship do today."""

import functools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from ltchm_jax.evaluation.rows import read_rows
from ltchm_jax.imagery.images import read_image
from ltchm_jax.metrics import psnr
from ltchm_jax.model_file import load_model
from ltchm_jax.weights import find_model

DOCS = Path(__file__).parents[1] / "docs"
ALL = read_rows(DOCS / "results" / "rows.csv")
ROWS = [row for row in ALL if row.codec.startswith("rsscn7")]
ANCHORS = ("jpeg2000-paper", "jpeg2000", "avif", "heic")


def mean_of(codec, setting, name):
    return np.mean([getattr(row, name) for row in ALL if (row.codec, row.setting) == (codec, setting)])


@pytest.mark.parametrize(("codec", "setting"), sorted({(row.codec, row.setting) for row in ROWS}))
def test_the_page_shows_the_means_of_its_rows(codec, setting):
    page = (DOCS / "results.md").read_text()
    line = re.search(rf"^\| {codec} \| {setting} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) ", page, re.M)
    assert line, f"no line for {codec} at quality {setting}"
    shown = [float(number) for number in line.groups()]
    means = [mean_of(codec, setting, name) for name in ("bpp", "psnr", "ms_ssim")]
    np.testing.assert_allclose(shown, means, atol=0.006, rtol=1e-3)


def curve(codec):
    """Mean PSNR, rising, and the logarithm of the mean rate; a setting with an exact copy has no PSNR."""
    settings = {row.setting for row in ALL if row.codec == codec}
    points = [(mean_of(codec, s, "psnr"), np.log(mean_of(codec, s, "bpp"))) for s in settings]
    return np.array(sorted(point for point in points if np.isfinite(point[0]))).T


def saved(codec, anchor):
    """Per cent of the anchor's bytes over the PSNR that both reach, by Bjontegaard's integral."""
    curves = [PchipInterpolator(*curve(name)) for name in (codec, anchor)]
    low, high = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    ours, theirs = (c.integrate(low, high) / (high - low) for c in curves)
    return 100 * (1 - np.exp(ours - theirs))


def test_what_the_readme_says_of_other_codecs_follows_from_the_rows():
    text = " ".join((DOCS.parent / "README.md").read_text().split())
    told = text[text.index("For the same PSNR they need") : text.index("([results]")]
    shares = re.findall(r"(\d+)%", re.sub(r"\(.*?\)", "", told))
    want = [saved(codec, anchor) for codec in ("rsscn7 effort 8", "rsscn7") for anchor in ANCHORS]
    assert [int(share) for share in shares] == [round(share) for share in want]


def test_the_weights_are_ahead_of_avif_from_0_2_to_1_bpp():
    theirs, ours = (PchipInterpolator(*curve(name)[::-1]) for name in ("avif", "rsscn7"))
    for rate in np.log(np.linspace(0.2, 1.0, 17)):
        assert ours(rate) > theirs(rate)


def test_the_card_names_the_weights():
    card, model = (DOCS / "models.md").read_text(), load_model(find_model(), check_shapes=False)
    assert f"`{model.digest.hex()}`" in card
    assert {re.match(r"rsscn7@([0-9a-f]{16})", row.codec_version)[1] for row in ROWS} == {model.digest.hex()}
    assert find_model().stat().st_size < 60e6


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

    return Codec(load_model(find_model()), "shipped", effort=effort)
