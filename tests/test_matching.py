"""Matching: the nearest size in every direction, with an encoder of known sizes and with real ones."""

import numpy as np
import pytest
from toy_codec import picture

from ltchm_jax import baselines
from ltchm_jax.baselines import Baseline, PillowFeature
from ltchm_jax.evaluation.matching import match_size


def known(sizes, setting="quality"):
    """A baseline whose file at setting s has sizes(s) bytes; `calls` are the settings that were tried."""
    calls = []

    def encode(_, value):
        calls.append(value)
        return bytes(sizes(value))

    never = PillowFeature("jpg_2000")
    return Baseline(
        "known", setting, (), (), encode, lambda data: np.zeros((1, 1, 3), np.uint8), never
    ), calls


@pytest.mark.parametrize(
    ("wanted", "setting"),
    [(500, 50), (504, 50), (506, 51), (0, 0), (10**6, 100), (1000, 100), (4, 0), (6, 1)],
)
def test_the_nearest_of_evenly_spaced_sizes(wanted, setting):
    baseline, calls = known(lambda quality: 10 * quality)
    match = match_size(baseline, picture(8, 8), wanted)
    assert (match.setting, len(match.data)) == (setting, 10 * setting)
    assert len(calls) <= 7


def test_quantisers_fall_as_sizes_rise():
    baseline, _ = known(lambda quantiser: 1000 - 10 * quantiser, "quantiser")
    assert match_size(baseline, picture(8, 8), 700).setting == 30


def test_the_best_of_what_was_tried_where_sizes_do_not_rise():
    baseline, calls = known(lambda quality: 10 * quality + (60 if quality % 3 == 0 else 0))
    match = match_size(baseline, picture(8, 8), 400)
    errors = [abs(10 * q + (60 if q % 3 == 0 else 0) - 400) for q in calls]
    assert abs(len(match.data) - 400) == min(errors)


@pytest.mark.parametrize("name", ["jpeg2000", "webp", "avif"])
def test_real_codecs_come_near(name):
    try:
        baseline = baselines.find(name)
    except baselines.MissingEncoder as error:
        pytest.skip(str(error))
    pixels = picture(96, 128)
    middle = len(baseline.encode(pixels, 20))
    match = match_size(baseline, pixels, middle)
    assert abs(len(match.data) / middle - 1) <= 0.03
    assert baseline.encode(pixels, match.setting) == match.data
    assert baseline.decode(match.data).shape == pixels.shape


def test_jpeg2000_ratios_are_fine_enough():
    baseline, _ = known(lambda ratio: int(10**6 / ratio), "compression ratio")
    for wanted in (2_000, 33_333, 400_000):
        size = len(match_size(baseline, picture(8, 8), wanted).data)
        assert abs(size / wanted - 1) < 0.004
