"""Pooling and sums over pixels against NumPy's means and sums, and their gradients against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltchm_jax.devices import float64
from ltchm_jax.model.pooling import adaptive_average_pool, bin_weights, pooling_bins, sum_over_pixels


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        (128, [(0, 43), (42, 86), (85, 128)]),
        (64, [(0, 22), (21, 43), (42, 64)]),
        (32, [(0, 11), (10, 22), (21, 32)]),
        (16, [(0, 6), (5, 11), (10, 16)]),
        (3, [(0, 1), (1, 2), (2, 3)]),
        (2, [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_pooling_bins(size, want):
    assert [(cells.start, cells.stop) for cells in pooling_bins(size, 3)] == want
    assert pooling_bins(size, 1) == [slice(0, size)]


def test_adaptive_pooling_averages_each_cell():
    x = normal(0, 2, 16, 7, 3)
    got = adaptive_average_pool(x, 3)
    for i, rows in enumerate(pooling_bins(16, 3)):
        for j, columns in enumerate(pooling_bins(7, 3)):
            np.testing.assert_allclose(got[:, i, j], x[:, rows, columns].mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize(("size", "bins"), [(16, 1), (16, 3), (7, 3), (2, 3)])
def test_weights_of_every_bin_add_up_to_one(size, bins):
    np.testing.assert_allclose(bin_weights(size, bins).sum(1), np.ones(bins), rtol=1e-15)


def derived_pool(x: jax.Array, bins: int) -> jax.Array:
    """The same with means, whose gradient JAX derives."""
    cells = [pooling_bins(size, bins) for size in x.shape[1:3]]
    rows = [[jnp.mean(x[:, i, j], (1, 2)) for j in cells[1]] for i in cells[0]]
    return jnp.stack([jnp.stack(row, 1) for row in rows], 1)


@pytest.mark.parametrize("bins", [1, 3])
def test_gradient_of_pooling_equals_the_derived_one(bins):
    """Over a leading axis, too, as the branches of dynamic attention have it."""
    x, weights = normal(0, 2, 3, 11, 7, 5), normal(1, 2, 3, bins, bins, 5)

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(weights * jax.vmap(lambda x: pool(x, bins))(x)))(x)

    np.testing.assert_allclose(gradient(adaptive_average_pool), gradient(derived_pool), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 8, 2), (2, 2, 9, 4, 3)])
def test_sums_over_pixels(shape):
    x = normal(0, *shape)
    want = x.astype(np.float64).sum((-3, -2))
    np.testing.assert_allclose(sum_over_pixels(x), want, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(sum_over_pixels)(x[None])[0], want, rtol=1e-6, atol=1e-5)
    with float64():
        np.testing.assert_allclose(sum_over_pixels(jnp.asarray(x, jnp.float64)), want, rtol=1e-13, atol=1e-13)


def test_a_sum_of_a_million_is_closer_than_one_running_total():
    x = np.full((1, 1024, 1024, 1), 0.1, np.float32)
    want = 1024 * 1024 * float(np.float32(0.1))
    running = float(np.cumsum(x.reshape(-1), dtype=np.float32)[-1])
    error = abs(float(sum_over_pixels(x)[0, 0]) - want)
    assert error < 1e-4 * want < 1e-3 * want < abs(running - want)


def test_sums_of_bfloat16_are_rounded_once():
    x = jnp.ones((1, 40, 40, 2), jnp.bfloat16)
    assert sum_over_pixels(x).tolist() == [[1600.0, 1600.0]]
