"""The whole model: sizes of Tables 1-2, published counts, any image size, rates, precision, causality."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from small_model import small_model

from ltchm_jax.devices import float64
from ltchm_jax.losses import rate_distortion, symbol_bits
from ltchm_jax.model import (
    LTCHM,
    PRESETS,
    ModelConfig,
    Output,
    abstract_variables,
    init_variables,
    ltchm,
    pad_sides,
)

SMALL = small_model()
RATES = small_model(lmbdas=(128.0, 512.0, 2048.0))


def photo(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


@functools.cache
def variables_of(config: ModelConfig) -> dict:
    return init_variables(config, jax.random.key(0))


@functools.cache
def compiled(config: ModelConfig):
    return jax.jit(LTCHM(config).apply)


def run(config: ModelConfig, x: np.ndarray, *args) -> Output:
    return compiled(config)(variables_of(config), x, *args)


def test_padding_repeats_the_last_row_and_column():
    x = photo(0, 1, 3, 70, 2)
    got = pad_sides(x, 16)
    assert got.shape == (1, 16, 80, 2)
    np.testing.assert_array_equal(got[:, :3, :70], x)
    np.testing.assert_array_equal(got[:, 3:, :70], np.repeat(x[:, -1:], 13, 1))
    np.testing.assert_array_equal(got[:, :3, 70:], np.repeat(x[:, :, -1:], 10, 2))
    np.testing.assert_array_equal(pad_sides(got, 16), got)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_shapes_of_the_presets(name):
    config = PRESETS[name]
    x = jax.ShapeDtypeStruct((2, 65, 130, 3), jnp.float32)
    out = jax.eval_shape(LTCHM(config).apply, abstract_variables(config), x)
    latent, width = {"paper": (384, 192), "released": (128, 128)}[name]
    assert out.x_hat.shape == (2, 65, 130, 3)
    assert out.y.shape == out.y_hat.shape == (2, 5, 9, latent)
    assert out.z.shape == out.z_hat.shape == out.z_logits[0].shape == (2, 2, 3, width)
    assert {part.shape for part in out.mixture} == {(2, 5, 9, latent, 3)}
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}


def count(config: ModelConfig) -> int:
    """Parameters as the authors' framework counts them: with the masked half of the context kernel."""
    stored = sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(config)["params"]))
    return stored + 13 * config.latent_channels * 2 * config.latent_channels


@pytest.mark.slow
def test_parameters_of_the_presets():
    """Of the released model what its code holds and uses; of the paper's what Tables 1-2 add up to."""
    assert count(PRESETS["released"]) == 13_342_995
    assert count(PRESETS["paper"]) / 1e6 == pytest.approx(55.4, abs=0.06)


def test_initial_values_depend_on_the_key_alone():
    first, again, other = (init_variables(SMALL, jax.random.key(seed)) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert jax.tree.structure(first) == jax.tree.structure(abstract_variables(SMALL))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first["params"]["g_a"], other["params"]["g_a"])
    assert not same["down2"]["conv1"]["kernel"]
    assert same["down2"]["gdn"]["gamma"]  # which starts from constants
    ltchm._initialiser.cache_clear()
    with float64():  # changes nothing
        wide = init_variables(SMALL, jax.random.key(3))
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype("float32")}
    jax.tree.map(np.testing.assert_array_equal, first, wide)


def test_latents_are_rounded_and_noise_is_added_instead():
    x = photo(0, 1, 64, 64, 3)
    plain = run(SMALL, x)
    np.testing.assert_array_equal(plain.y_hat, np.round(plain.y))
    np.testing.assert_array_equal(plain.z_hat, np.round(plain.z))
    noise = photo(1, *plain.y.shape) - 0.5, photo(2, *plain.z.shape) - 0.5
    noisy = run(SMALL, x, None, noise)
    np.testing.assert_allclose(noisy.y_hat, plain.y + noise[0], atol=1e-5)
    np.testing.assert_allclose(noisy.z_hat, plain.z + noise[1], atol=1e-5)


@pytest.mark.parametrize("rounding", ["straight", "hard"])
def test_rounding_shows_what_a_decoder_sees_and_passes_gradients(rounding):
    x = photo(0, 1, 64, 128, 3)
    plain = run(SMALL, x)
    noise = photo(1, *plain.y.shape) - 0.5, photo(2, *plain.z.shape) - 0.5

    def error(x):
        out = LTCHM(SMALL).apply(variables_of(SMALL), x, None, noise, rounding=rounding)
        return jnp.sum(jnp.square(out.x_hat - 0.5)), out

    (_, out), slope = jax.value_and_grad(error, has_aux=True)(jnp.asarray(x))
    np.testing.assert_allclose(out.x_hat, plain.x_hat, atol=1e-5)
    coded = plain.y_hat if rounding == "hard" else plain.y + noise[0]
    np.testing.assert_allclose(out.y_hat, coded, atol=1e-5)
    np.testing.assert_allclose(out.z_hat, plain.z + noise[1], atol=1e-5)
    assert np.abs(slope).max() > 1e-6


def test_the_rate_of_rounded_latents_passes_a_gradient_to_the_analysis():
    x = photo(0, 1, 64, 64, 3)
    noise = tuple(np.zeros_like(v) for v in (run(SMALL, x).y, run(SMALL, x).z))

    def rate(x):
        out = LTCHM(SMALL).apply(variables_of(SMALL), x, None, noise, rounding="hard")
        return jnp.sum(symbol_bits(out.y_hat, out.mixture, SMALL.mixture))

    assert np.abs(jax.grad(rate)(jnp.asarray(x))).max() > 1e-6


def test_an_image_of_any_size_is_its_padded_image_cropped():
    x = photo(0, 1, 50, 64, 3)
    got, padded = run(SMALL, x), run(SMALL, np.asarray(pad_sides(x, 16)))
    np.testing.assert_allclose(got.x_hat, padded.x_hat[:, :50], atol=1e-5)
    np.testing.assert_array_equal(got.y_hat, padded.y_hat)


@pytest.mark.parametrize(
    ("height", "width", "y_size", "z_size"), [(64, 80, (4, 5), (1, 2)), (1, 16, (1, 1), (1, 1))]
)
def test_latents_cover_the_image_and_no_more(height, width, y_size, z_size):
    out = run(SMALL, photo(0, 1, height, width, 3))
    assert (out.x_hat.shape[1:3], out.y.shape[1:3], out.z.shape[1:3]) == ((height, width), y_size, z_size)
    assert out.mixture.means.shape[1:3] == y_size


def test_the_hyper_latent_sees_the_last_row_and_column_of_y_again():
    y = photo(0, 1, 5, 6, SMALL.latent_channels)
    z = [
        LTCHM(SMALL).apply(variables_of(SMALL), part, method="hyper_analyse") for part in (y, pad_sides(y, 4))
    ]
    assert z[0].shape[1:3] == (2, 2)
    np.testing.assert_allclose(*z, atol=1e-5)


def test_logits_of_z_bound_its_bin():
    out = run(SMALL, photo(0, 1, 64, 64, 3))
    assert (out.z_logits[0] < out.z_logits[1]).all()
    model = LTCHM(SMALL)
    upper = model.apply(variables_of(SMALL), out.z_hat + 0.5, method=model.z_cumulative_logits)
    np.testing.assert_allclose(out.z_logits[1], upper, rtol=1e-5)


def test_four_bands_in_are_four_bands_out():
    out = run(small_model(bands=4), photo(0, 1, 64, 64, 4))
    assert out.x_hat.shape == (1, 64, 64, 4)
    assert np.isfinite(out.x_hat).all()


def test_transforms_in_bfloat16_give_rates_in_float32():
    x = photo(0, 1, 64, 64, 3)
    single, half = run(SMALL, x), run(SMALL, jnp.asarray(x, jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(half.x_hat, single.x_hat, atol=0.05)
    assert np.abs(np.asarray(half.x_hat) - single.x_hat).max() > 1e-6  # it did run in another precision


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_gradients_in_bfloat16_are_those_in_float32_roughly(name):
    """Every layer that has a gradient of its own, in training."""
    config = narrow(name)
    variables, x = variables_of(config), photo(0, 2, 64, 64, 3)
    noise = photo(1, 2, 4, 4, config.latent_channels) - 0.5, photo(2, 2, 1, 1, config.width) - 0.5

    @jax.jit
    @jax.grad
    def gradient(params: dict, like: jax.Array) -> jax.Array:
        given = variables | {"params": params}
        out, _ = LTCHM(config).apply(given, like, None, noise, train=True, mutable=["batch_stats"])
        return rate_distortion(out, x, jnp.full(2, 512.0), config.mixture).loss.mean()

    single, half = (gradient(variables["params"], jnp.asarray(x, dtype)) for dtype in ("float32", "bfloat16"))
    for part in single:
        a, b = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(of[part])]) for of in (single, half))
        assert b.dtype == np.float32
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert cosine > 0.98, part


@pytest.mark.parametrize("at", [(0, 0), (1, 2), (3, 3)])
def test_a_latent_changes_no_mixture_at_or_before_itself(at):
    """In raster order, as a decoder meets them; and it does change those after it within its reach."""
    x = photo(0, 1, 64, 64, 3)
    base = run(SMALL, x)
    zeros = np.zeros(base.y.shape, np.float32), np.zeros(base.z.shape, np.float32)
    nudged = zeros[0].copy()
    nudged[0, *at] = 3
    want, got = (run(SMALL, x, None, (noise, zeros[1])).mixture for noise in (zeros[0], nudged))
    position = np.arange(16).reshape(4, 4)
    changed = {int(p) for a, b in zip(want, got, strict=True) for p in position[np.any(a != b, (0, 3, 4))]}
    rows, columns = np.indices((4, 4))
    reach = (np.abs(columns - at[1]) <= 2) & (rows - at[0] <= 2) & (position > position[at])
    assert changed == set(position[reach].tolist())


def test_without_context_no_latent_changes_a_mixture():
    config = small_model(context="none")
    x = photo(0, 1, 64, 64, 3)
    base = run(config, x)
    noise = np.full(base.y.shape, 2, np.float32), np.zeros(base.z.shape, np.float32)
    still = np.zeros(base.y.shape, np.float32), noise[1]
    for a, b in zip(run(config, x, None, noise).mixture, run(config, x, None, still).mixture, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_whole_quality_is_a_row_of_the_table_and_halfway_their_geometric_mean():
    x = np.tile(photo(0, 1, 64, 64, 3), (5, 1, 1, 1))
    out = run(RATES, x, np.float32([0, 1, 2, 0.5, 1.5]))
    start = np.sqrt(np.float64([128, 512, 2048]) / 512)  # around the geometric mean of the rates
    scale = np.float64([*start, np.sqrt(start[0] * start[1]), np.sqrt(start[1] * start[2])])
    np.testing.assert_allclose(out.y, out.y[1:2] * scale.reshape(5, 1, 1, 1), rtol=1e-4, atol=1e-5)


def test_inverse_gains_undo_gains_where_nothing_is_rounded():
    """With the noise that stands for no rounding error the quality cancels out of x_hat."""
    x = np.tile(photo(0, 1, 64, 64, 3), (2, 1, 1, 1))
    quality = np.float32([0, 1.7])
    shape = run(RATES, x, quality)
    noise = np.zeros(shape.y.shape, np.float32), np.zeros(shape.z.shape, np.float32)
    out = run(RATES, x, quality, noise)
    np.testing.assert_allclose(out.x_hat[0], out.x_hat[1], atol=1e-5)


def narrow(name: str) -> ModelConfig:
    """A preset at width 32, one attention of each kind."""
    places = {"attention_at_analysis": (16,), "attention_at_synthesis": (16,), "hyper_attention_at": (32,)}
    return dataclasses.replace(PRESETS[name], width=32, parameter_width=32, **places)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_both_presets_compute_finite_numbers(name):
    """Sides that are no multiples of a window."""
    config = narrow(name)
    out = run(config, photo(0, 1, 64, 130, 3))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
    assert out.x_hat.shape == (1, 64, 130, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_outside_of_jit_a_second_call_and_a_second_gradient_compile_nothing(name, caplog):
    config, x = narrow(name), photo(0, 1, 64, 64, 3)
    variables = variables_of(config)

    def error(params: dict) -> jax.Array:
        return jnp.mean(jnp.square(LTCHM(config).apply(variables | {"params": params}, x).x_hat - x))

    compilations = []
    for _ in range(2):
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            jax.value_and_grad(error)(variables["params"])
        compilations.append(caplog.text.count("Finished XLA compilation"))
        caplog.clear()
    assert compilations[0] > 10
    assert compilations[1] == 0


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((64, 64, 3)),
        np.zeros((1, 3, 64, 64)),
        np.zeros((1, 64, 64, 4)),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images):
    """Integers would turn all weights into integers, mostly zero."""
    config = ModelConfig(width=32, attention="none", hyper_attention="none")
    with pytest.raises(ValueError, match=r"must be floats in 0\.\.1, \[B, H, W, 3\]"):
        jax.eval_shape(LTCHM(config).apply, abstract_variables(config), images)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no checks of what varies over a mesh")
def test_gradients_pass_the_checks_of_shard_map_and_equal_those_of_one_device():
    """With batch statistics over both devices, and every kind of layer in the model."""
    config = ModelConfig(
        width=32, hyper_attention_at=(32,), attention_at_analysis=(16,), attention_at_synthesis=()
    )
    variables, x = init_variables(config, jax.random.key(0)), photo(0, 4, 64, 64, 3)
    noise = photo(1, 4, 4, 4, 64) - 0.5, photo(2, 4, 1, 1, 32) - 0.5

    def loss(params, x, noise, axis=None):
        state = variables | {"params": params}
        out, _ = LTCHM(config, axis).apply(state, x, None, noise, train=True, mutable=["batch_stats"])
        return jnp.mean(rate_distortion(out, x, jnp.full(len(x), 500.0), config.mixture, "mse").loss)

    @functools.partial(
        jax.shard_map,
        mesh=Mesh(np.array(jax.devices("cpu")[:2]), ("batch",)),
        in_specs=(P(), P("batch"), P("batch")),
        out_specs=P(),
    )
    def shared(params, x, noise):
        return jax.grad(lambda p: jax.lax.pmean(loss(p, x, noise, "batch"), "batch"))(params)

    got, want = (jax.jit(f)(variables["params"], x, noise) for f in (shared, jax.grad(loss)))
    for mine, whole in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(mine, whole, atol=1e-3 * np.abs(whole).max())
