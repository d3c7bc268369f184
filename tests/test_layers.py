"""Layers against their formulas, their limits and mental arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from ltchm_jax.devices import float64
from ltchm_jax.model import layers


def normal(seed: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.mark.parametrize(("gradient", "want"), [(1.0, [0.0, 1.0, 1.0]), (-1.0, [-1.0, -1.0, -1.0])])
def test_lower_bound_passes_gradients_that_lead_back(gradient, want):
    """Below the bound only a gradient whose descent raises x gets through; at the bound and above, all do."""
    x = jnp.array([-1.0, 0.5, 2.0])
    value, pull = jax.vjp(lambda x: layers.lower_bound(x, 0.5), x)
    np.testing.assert_array_equal(value, [0.5, 0.5, 2.0])
    np.testing.assert_array_equal(pull(jnp.full(3, gradient))[0], want)


def gdn(x: jax.Array, inverse: bool, beta: np.ndarray, gamma: np.ndarray) -> jax.Array:
    stored = {"beta": jnp.sqrt(beta + layers.PEDESTAL), "gamma": jnp.sqrt(gamma + layers.PEDESTAL)}
    return layers.GDN(inverse).apply({"params": stored}, x)


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_equals_its_formula(inverse):
    x, rng = normal(0, 2, 3, 4, 5), np.random.default_rng(1)
    beta, gamma = rng.uniform(0.5, 2, 5), rng.uniform(0, 0.3, (5, 5))
    norm = np.sqrt(beta + np.square(x.astype(np.float64)) @ gamma)
    want = x * norm if inverse else x / norm
    np.testing.assert_allclose(gdn(x, inverse, beta, gamma), want, rtol=1e-5, atol=1e-6)


def test_gdn_without_gamma_is_a_scale_and_its_inverse_undoes_it():
    x, beta, gamma = normal(0, 1, 2, 3, 4), np.full(4, 4.0), np.zeros((4, 4))
    np.testing.assert_allclose(gdn(x, False, beta, gamma), x / 2, rtol=1e-6)
    np.testing.assert_allclose(gdn(gdn(x, False, beta, gamma), True, beta, gamma), x, rtol=1e-6)


def test_gdn_starts_with_beta_1_and_gamma_a_tenth_on_the_diagonal():
    x = jnp.full((1, 1, 1, 3), 2.0)
    got, _ = layers.GDN().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(got, 2 / np.sqrt(1 + 0.4), rtol=1e-6)


def test_gdn_holds_where_beta_is_driven_below_its_bound():
    params = {"beta": jnp.full(2, -3.0), "gamma": jnp.zeros((2, 2))}
    got = layers.GDN().apply({"params": params}, jnp.ones((1, 1, 1, 2)))
    np.testing.assert_allclose(got, layers.BETA_MIN**-0.5, rtol=1e-3)


@pytest.mark.parametrize(("size", "stride", "want"), [((7, 6), 2, (4, 3)), ((7, 6), 1, (7, 6))])
def test_convolutions_of_ones_count_their_taps(size, stride, want):
    x, module = jnp.ones((1, *size, 2)), layers.Conv(1, stride=stride)
    params = jax.tree.map(jnp.ones_like, module.init(jax.random.key(0), x))
    got = module.apply(params, x)
    assert got.shape == (1, *want, 1)
    assert got[0, 0, 0, 0] == 2 * 4 + 1  # a corner sees 4 of 9 taps, in 2 channels, and the bias
    assert got[0, 1, 1, 0] == 2 * 9 + 1


def test_initial_values_span_their_bound():
    """Uniform within 1/sqrt(fan-in); a transposed convolution takes its outputs as the fan-in."""
    x = jnp.ones((1, 2, 2, 20))
    plain = layers.Conv(50).init(jax.random.key(0), x)["params"]
    of_stride_1 = layers.Conv(50, transposed=True).init(jax.random.key(0), x)["params"]
    of_stride_2 = layers.UpsampleConv(50).init(jax.random.key(0), x)["params"]
    by_outputs = (9 * 50) ** -0.5
    for params, bound in ((plain, (9 * 20) ** -0.5), (of_stride_1, by_outputs), (of_stride_2, by_outputs)):
        for leaf in params.values():
            assert 0.8 * bound < np.abs(leaf).max() <= bound * (1 + 1e-6)
        np.testing.assert_allclose(np.std(params["kernel"]), bound / 3**0.5, rtol=0.05)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (layers.ResidualBlock(4), (2, 6, 8, 4)),
        (layers.ResidualBlock(3), (2, 6, 8, 3)),
        (layers.DownBlock(5), (2, 3, 4, 5)),
        (layers.UpBlock(5), (2, 12, 16, 5)),
    ],
)
def test_blocks_in_every_precision(module, shape):
    x = normal(0, 2, 6, 8, 4)
    variables = module.init(jax.random.key(0), x)
    single = module.apply(variables, x)
    assert single.shape == shape
    half = module.apply(variables, jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), single, atol=0.1)
    with float64():
        double = module.apply(variables, jnp.asarray(x, jnp.float64))
        assert double.dtype == jnp.float64
        np.testing.assert_allclose(double, single, atol=1e-5)


def test_a_residual_block_of_zeros_is_the_identity():
    x, module = jnp.asarray(normal(0, 1, 3, 3, 4)), layers.ResidualBlock(4)
    params = jax.tree.map(jnp.zeros_like, module.init(jax.random.key(0), x))
    np.testing.assert_array_equal(module.apply(params, x), x)
    assert "skip" not in params["params"]
    assert "skip" in layers.ResidualBlock(3).init(jax.random.key(0), x)["params"]


def test_parameters_of_another_configuration_are_refused_by_name():
    params = layers.ResidualBlock(4).init(jax.random.key(0), jnp.ones((1, 4, 4, 4)))
    message = (
        r"Parameter 'conv1/kernel' must have shape \[3, 3, 5, 5\], got \[3, 3, 4, 4\]: take the variables"
    )
    with pytest.raises(ValueError, match=message):
        layers.ResidualBlock(5).apply(params, jnp.ones((1, 4, 4, 5)))


def test_the_exact_gelu_and_its_gradient_equal_their_definitions():
    x = np.linspace(-6, 6, 49).astype(np.float32)
    np.testing.assert_allclose(layers.exact_gelu(x), x * ndtr(x), rtol=1e-5, atol=1e-7)
    want = ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(jax.vmap(jax.grad(layers.exact_gelu))(x), want, rtol=1e-5, atol=1e-6)


def test_the_rectifier_and_its_gradient_equal_their_definitions():
    x = np.float32([-2, -0.0, 0, 1e-30, 3])
    np.testing.assert_array_equal(layers.relu(x), np.maximum(x, 0))
    np.testing.assert_array_equal(jax.vmap(jax.grad(layers.relu))(x), [0, 0, 0, 1, 1])
