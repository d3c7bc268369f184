"""Fitting one half of a model: the other stays, and what is fitted gets better."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import small_model

from ltchm_jax.fitting import fit_entropy_model, fit_synthesis
from ltchm_jax.imagery.scenes import draw_scene
from ltchm_jax.linear_start import linear_start
from ltchm_jax.losses import bits_per_pixel
from ltchm_jax.model import LTCHM, ModelConfig

KEY = jax.random.key(0)
NARROW = {"bands": 1, "width": 64, "stage_widths": (16, 32, 64, 64)}
RATES = {"lmbdas": (128.0, 1024.0)}


def scenes(bands: int, count: int = 12) -> np.ndarray:
    return np.stack([draw_scene(64, 64, seed)[..., :bands] for seed in range(count)])


def rates_of(config: ModelConfig, variables: dict, images: np.ndarray, quality: float, noisy: bool) -> list:
    """Mean bpp of y and z, with noise on z, and on y or not."""
    noise = [jax.random.uniform(KEY, (len(images), n, n, 64), minval=-0.5, maxval=0.5) for n in (4, 1)]
    x, level = images / np.float32(255), jnp.full(len(images), quality)
    given = variables, x, level if config.lmbdas else None, noise
    output = LTCHM(config).apply(*given, rounding="noise" if noisy else "hard")
    return [float(bpp.mean()) for bpp in bits_per_pixel(output, 64 * 64, config.mixture)]


@pytest.mark.parametrize("rates", [{}, RATES])
def test_fitting_lowers_the_rate_and_leaves_the_transforms(rates):
    config, images = small_model(**NARROW | {"parameter_width": 128}, **rates), scenes(1, 64)
    start = linear_start(config, images, 512.0, KEY)
    told: list[tuple[int, float]] = []
    noisy = fit_entropy_model(config, start, images, 200, KEY, True, lambda *found: told.append(found))
    rounded = fit_entropy_model(config, noisy, images, 100, KEY, False, lambda *found: told.append(found))
    assert [step for step, _ in told] == [*range(20, 201, 20), *range(10, 101, 10)]
    found, found_rounded = told[9][1], told[-1][1]
    for part in start["params"]:
        before, between, after = (variables["params"][part] for variables in (start, noisy, rounded))
        if part in {"g_a", "g_s", "gain_y"}:
            jax.tree.map(np.testing.assert_array_equal, between, before)
        if part != "prior_y":
            jax.tree.map(np.testing.assert_array_equal, after, between)
    for quality in (0.0, 1.0):
        before, after = (
            sum(rates_of(config, variables, images, quality, True)) for variables in (start, noisy)
        )
        assert after < 0.97 * before
    if not rates:
        assert after == pytest.approx(found, rel=0.1)
        assert sum(rates_of(config, rounded, images, 0.0, False)) == pytest.approx(found_rounded, rel=0.1)


def test_what_is_fitted_to_integers_codes_them_in_fewer_bits():
    """At equal steps from the same weights, and y alone: only a fit to noise goes on to change z."""
    config, images = small_model(**NARROW | {"parameter_width": 128}, **RATES), scenes(1, 64)
    start = linear_start(config, images, 512.0, KEY)
    start = fit_entropy_model(config, start, images, 200, KEY, noisy=True)
    noisy, rounded = (fit_entropy_model(config, start, images, 100, KEY, noise) for noise in (True, False))
    for quality in (0.0, 1.0):
        bpp, bpp_noisy = (rates_of(config, fit, images, quality, False)[0] for fit in (rounded, noisy))
        assert bpp < bpp_noisy


def test_a_fit_gains_at_the_rates_that_count():
    """From one start: the lowest rate counts 8 times the highest, and then as much."""
    config, images = small_model(**NARROW | {"parameter_width": 128}, **RATES), scenes(1, 64)
    start = linear_start(config, images, 512.0, KEY)
    fits = [fit_entropy_model(config, start, images, 100, KEY, True, rate_balance=b) for b in (1.0, 0.0)]
    low, high = ([sum(rates_of(config, fit, images, q, True)) for fit in fits] for q in (0.0, 1.0))
    assert low[0] < low[1]
    assert high[0] > high[1]


def decibels(config: ModelConfig, variables: dict, images: np.ndarray, quality: float) -> float:
    """PSNR over all images, decoded."""
    level = jnp.full(len(images), quality) if config.lmbdas else None
    x = images / np.float32(255)
    return -10 * np.log10(np.mean(np.square(LTCHM(config).apply(variables, x, level).x_hat - x)))


@pytest.mark.parametrize("rates", [{}, RATES])
def test_a_fit_in_parts_is_the_same_fit(rates):
    config, images = small_model(**NARROW, **rates), scenes(1)
    start = linear_start(config, images, 512.0, KEY)
    told: dict[int, list[float]] = {1: [], 3: []}
    for parts, found in told.items():
        batches, report = itertools.repeat(images), lambda _, value, found=found: found.append(value)
        fit_synthesis(config, start, batches, 10, KEY, report, parts)
    assert told[1][-1] != told[1][0]
    np.testing.assert_allclose(told[3], told[1], atol=2e-3)  # dB


@pytest.mark.parametrize("rates", [{}, RATES])
def test_fitting_the_synthesis_costs_no_bits(rates):
    config, images = small_model(**NARROW, **rates), scenes(1)
    start = linear_start(config, images, 512.0, KEY)
    told: list[tuple[int, float]] = []
    fitted = fit_synthesis(
        config, start, itertools.repeat(images), 32, KEY, lambda *found: told.append(found)
    )
    assert (jax.tree.structure(fitted), {*fitted["params"]}) == (
        jax.tree.structure(start),
        {*start["params"]},
    )
    changed = {
        part
        for part in start["params"]
        if not jax.tree.all(jax.tree.map(np.array_equal, fitted["params"][part], start["params"][part]))
    }
    assert changed == {"g_s"} | ({"gain_y"} if rates else set())
    if rates:
        gains = fitted["params"]["gain_y"]["log_gain"], start["params"]["gain_y"]["log_gain"]
        np.testing.assert_array_equal(*gains)
    for quality in (0.0, 1.0):
        before, after = (decibels(config, variables, images, quality) for variables in (start, fitted))
        assert after > before + 0.1
    assert [step for step, _ in told] == [4, 8, 12, 16, 20, 24, 28, 32]
    assert 15 < told[0][1] < told[-1][1] < 60
