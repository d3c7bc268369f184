"""A linear start: what goes in comes out, as much of it as the channels hold, through nets that can bend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import small_model

from ltchm_jax.imagery.scenes import draw_scene
from ltchm_jax.linear_start import SPREAD_Z, linear_start, principal_components
from ltchm_jax.model import LTCHM, ModelConfig, Output, init_variables

KEY = jax.random.key(0)
WIDE = {"bands": 1, "width": 128, "latent_mult": 2, "stage_widths": (16, 32, 128, 256)}  # room for all
NARROW = {"bands": 1, "width": 64, "stage_widths": (16, 32, 64, 64)}
RATES = {"lmbdas": (128.0, 1024.0)}


def scenes(bands: int, count: int = 12) -> np.ndarray:
    return np.stack([draw_scene(64, 64, seed)[..., :bands] for seed in range(count)])


def transformed(config: ModelConfig, variables: dict, images: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """y, and what the synthesis makes of it without any rounding; images in 0..1."""
    model, x = LTCHM(config), jnp.asarray(images / np.float32(255))
    quality = jnp.zeros(len(x)) if config.lmbdas else None
    y, _ = model.apply(variables, x, quality, method="analyse")
    return y, model.apply(variables, y, quality, method="synthesise")


def error(images: np.ndarray, found: jax.Array) -> float:
    return float(np.mean(np.square(images / 255 - found)))


def test_principal_components_of_a_known_ellipse():
    rows = np.random.default_rng(0).normal(size=(4000, 3)) * (1.0, 5.0, 0.1) + (7.0, 8.0, 9.0)
    mean, basis = principal_components(rows, 2)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.abs(basis), [[0, 1], [1, 0], [0, 0]], atol=0.02)
    assert principal_components(rows, 9)[1].shape == (3, 3)


@pytest.mark.parametrize("attention", ["none", "dam"])
def test_nothing_is_lost_where_there_are_channels_for_all(attention):
    """Fresh weights give 5 to 15 dB; what is left here is what GDN bends."""
    config = small_model(**WIDE, attention=attention, idconv_norm="none")
    images = scenes(1)
    _, found = transformed(config, linear_start(config, images, 512.0, KEY), images)
    assert -10 * np.log10(error(images, found)) > 36
    _, found = transformed(config, init_variables(config, KEY), images)
    assert -10 * np.log10(error(images, found)) < 20


def test_what_is_lost_is_what_the_components_leave_out():
    """The error is that of the same cascade of principal components, computed here by singular values."""
    config = small_model(bands=1, stage_widths=(16, 32, 48, 32))
    images = scenes(1)
    stage, energy = images / 255, 0.0
    for width in (4, 16, 24, 32):
        batch, side, _, depth = stage.shape
        cells = stage.reshape(batch, side // 2, 2, side // 2, 2, depth).swapaxes(2, 3).reshape(-1, 4 * depth)
        _, values, axes = np.linalg.svd(cells - cells.mean(0), full_matrices=False)
        energy += np.square(values[width:]).sum() / images.size
        stage = ((cells - cells.mean(0)) @ axes[:width].T).reshape(batch, side // 2, side // 2, width)
    _, found = transformed(config, linear_start(config, images, 512.0, KEY), images)
    assert error(images, found) == pytest.approx(energy, rel=0.15)


def test_spare_channels_are_alive():
    """A stage with more channels than its cells have samples keeps the others as drawn: they can learn."""
    config = small_model(**NARROW)
    kernel = linear_start(config, scenes(1), 512.0, KEY)["params"]["g_a"]["down2"]["conv1"]["kernel"]
    fresh = init_variables(config, KEY)["params"]["g_a"]["down2"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel[..., 8:], fresh[..., 8:])
    assert not np.array_equal(kernel[..., :8], fresh[..., :8])


def test_hyper_latent_and_mixtures_start_from_the_data():
    config = small_model(**NARROW)
    images = scenes(1)
    output = LTCHM(config).apply(linear_start(config, images, 512.0, KEY), images / np.float32(255))
    assert isinstance(output, Output)
    assert np.std(output.z) == pytest.approx(SPREAD_Z, rel=0.05)
    spread = np.std(output.y, (0, 1, 2))
    middle = np.maximum(spread, config.scale_min)
    np.testing.assert_allclose(output.mixture.scales[0, 0, 0, :, 1], middle, rtol=0.1)
    np.testing.assert_allclose(output.mixture.weights, 1 / 3, rtol=1e-5)


def test_low_rates_shrink_what_they_have_no_bits_for():
    """Before and after the quantiser, less at the high rate, and not at all where a channel is strong."""
    config = small_model(**NARROW, **RATES)
    gains = linear_start(config, scenes(1), 512.0, KEY)["params"]["gain_y"]
    kept = (gains["log_gain"] + gains["log_inverse"]) / 2
    assert kept[0, 0] == pytest.approx(0, abs=0.01)
    assert (kept <= 0).all()
    assert (kept[0] <= kept[1] + 1e-6).all()
    assert kept[0, -1] < -1


@pytest.mark.parametrize("fields", [{"latent_mult": 2}, {"stage_widths": (32, 32, 32, 64)}])
def test_latents_may_have_more_or_fewer_channels_than_the_stage(fields):
    """Preset `paper` has twice as many latents; its synthesis starts from the strongest half."""
    config, images = small_model(**{"bands": 1} | fields), scenes(1)
    variables = linear_start(config, images, 512.0, KEY)
    y, found = transformed(config, variables, images)
    assert y.shape[-1] == config.latent_channels
    _, fresh = transformed(config, init_variables(config, KEY), images)
    assert error(images, found) < error(images, fresh) / 10
    spread = np.std(y, (0, 1, 2))
    assert (np.diff(spread) <= 0.01 * spread[0]).all()  # the strongest come first


@pytest.mark.parametrize(
    "fields",
    [
        {"bands": 1, "width": 160, "latent_mult": 2},
        {"width": 64, "latent_mult": 2, "stage_widths": (32, 32, 32, 64)} | RATES,
    ],
)
def test_latents_beyond_the_last_components_begin_silent(fields):
    """One band gives 256 components at most, a narrow stage fewer; nothing of it is not finite."""
    config = small_model(**fields)
    images = scenes(config.bands, 4)
    variables = linear_start(config, images, 512.0, KEY)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    y, found = transformed(config, variables, images)
    silent = np.std(y, (0, 1, 2)) == 0
    assert silent.sum() == config.latent_channels - min(256, 2 * config.width_at(8))
    assert silent[-1]
    assert error(images, found) < np.var(images / 255) / 10


def test_other_attention_has_no_linear_start():
    with pytest.raises(ValueError, match="dam or none, got wam"):
        linear_start(small_model(attention="wam"), scenes(3), 512.0, KEY)
