"""Drawn scenes: repeatable, varied, and of the texture that codecs meet in photographs."""

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from ltchm_jax.imagery.scenes import draw_scene, noise

SCENES = [draw_scene(160, 200, seed) for seed in range(6)]


def test_a_seed_gives_one_scene():
    np.testing.assert_array_equal(draw_scene(160, 200, 3), SCENES[3])
    assert all((a != b).mean() > 0.5 for a, b in pairwise(SCENES))


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (64, 1), (7, 300), (33, 65)])
def test_any_size_is_drawn(shape):
    scene = draw_scene(*shape, 1)
    assert (scene.shape, scene.dtype) == ((*shape, 3), np.uint8)


@pytest.mark.parametrize("arguments", [(0, 5, 0), (5, 0, 0), (5, 5, -1)])
def test_impossible_scenes_are_refused(arguments):
    with pytest.raises(ValueError, match="at least one pixel, seeds start"):
        draw_scene(*arguments)


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_noise_has_the_spectrum_it_promises(slope):
    field = noise(256, 256, slope, np.random.default_rng(0))
    assert abs(field.mean()) < 1e-9
    assert field.std() == pytest.approx(1)
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None, :])
    bands = [(frequency > low) & (frequency < 1.2 * low) for low in (0.05, 0.3)]
    means = [np.log(power[band].mean()) for band in bands]
    assert (means[0] - means[1]) / np.log(0.3 / 0.05) == pytest.approx(2 * slope, abs=0.25)


def test_exposure_is_that_of_a_photograph():
    pixels = np.stack(SCENES).astype(float)
    assert 70 < pixels.mean() < 140
    assert 20 < pixels.std() < 60
    assert (pixels == 0).mean() + (pixels == 255).mean() < 0.02


def test_power_falls_with_frequency_as_in_photographs():
    """Power falls as about `frequency ** -2.5` in aerial photographs; white noise has slope 0."""
    slopes = []
    for scene in SCENES:
        grey = scene.mean(axis=2)[:160, :160]
        grey = (grey - grey.mean()) * np.outer(np.hanning(160), np.hanning(160))
        power = np.abs(np.fft.fft2(grey)) ** 2
        frequency = np.hypot(np.fft.fftfreq(160)[:, None], np.fft.fftfreq(160)[None, :])
        use = (frequency > 0.02) & (frequency < 0.4)
        slopes.append(np.polyfit(np.log(frequency[use]), np.log(power[use]), 1)[0])
    assert -3.4 < np.mean(slopes) < -2


def test_scenes_cost_a_codec_what_photographs_cost():
    """JPEG of quality 75 takes 1 to 4 bits a pixel for aerial photographs, under 0.5 for a flat drawing."""
    for scene in SCENES:
        file = io.BytesIO()
        Image.fromarray(scene).save(file, "JPEG", quality=75)
        assert 0.8 < 8 * len(file.getvalue()) / (160 * 200) < 5
