"""Rate and distortion against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ltchm_jax.losses import Losses, bits_per_pixel, psnr, rate_distortion
from ltchm_jax.model import Mixture, Output

PIXELS = 64 * 64


def output(y_hat: np.ndarray, mixture: Mixture, logits: tuple, x_hat: np.ndarray | None = None) -> Output:
    x_hat = np.zeros((len(y_hat), 64, 64, 3), np.float32) if x_hat is None else x_hat
    z = np.zeros((len(y_hat), 1, 1, 2), np.float32)
    return Output(x_hat, y_hat, z, y_hat, z, mixture, logits)


def even_logits(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Cumulatives of 1/4 and 3/4 at both ends of every bin of z: one bit each, two of them."""
    end = np.full((batch, 1, 1, 2), np.log(3), np.float32)
    return -end, end


def mixture(shape: tuple[int, ...]) -> Mixture:
    rng = np.random.default_rng(0)
    means, scales = rng.normal(0, 2, (*shape, 3)), rng.uniform(0.2, 3, (*shape, 3))
    return Mixture(*(a.astype(np.float32) for a in (means, scales, rng.dirichlet([1, 1, 1], shape))))


@pytest.mark.parametrize(("kind", "law"), [("gaussian", stats.norm), ("laplace", stats.laplace)])
def test_bits_of_y_are_those_of_its_mixture(kind, law):
    y_hat = np.random.default_rng(1).integers(-3, 4, (2, 4, 4, 5)).astype(np.float32)
    means, scales, weights = mixture(y_hat.shape)
    y = y_hat[..., None]
    mass = law.cdf(y + 0.5, means, scales) - law.cdf(y - 0.5, means, scales)
    want = -np.log2((weights * mass).sum(-1)).sum((1, 2, 3)) / PIXELS
    got, _ = bits_per_pixel(output(y_hat, Mixture(means, scales, weights), even_logits(2)), PIXELS, kind)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_bits_of_z_are_those_of_its_cumulative():
    y_hat = np.zeros((3, 4, 4, 1), np.float32)
    _, got = bits_per_pixel(output(y_hat, mixture(y_hat.shape), even_logits(3)), PIXELS, "gaussian")
    np.testing.assert_allclose(got, np.full(3, 2 / PIXELS), rtol=1e-5)


def test_the_loss_adds_rates_and_weighted_error_of_each_image():
    y_hat, x = np.zeros((2, 4, 4, 1), np.float32), np.full((2, 64, 64, 3), 0.5, np.float32)
    x_hat = x + np.float32([0.1, 0.2]).reshape(2, 1, 1, 1)
    made = output(y_hat, mixture(y_hat.shape), even_logits(2), x_hat)
    got = rate_distortion(made, x, np.float32([100, 1000]))
    np.testing.assert_allclose(got.mse, [0.01, 0.04], rtol=1e-4)
    np.testing.assert_allclose(got.loss, got.bpp_y + got.bpp_z + np.float32([1, 40]), rtol=1e-4)
    assert all(part.shape == (2,) and part.dtype == jnp.float32 for part in got)


def test_the_error_is_not_clipped():
    y_hat, x = np.zeros((1, 4, 4, 1), np.float32), np.ones((1, 64, 64, 3), np.float32)
    got = rate_distortion(output(y_hat, mixture(y_hat.shape), even_logits(1), 3 * x), x, np.ones(1))
    np.testing.assert_allclose(got.mse, [4.0])


@functools.cache
def loss_and_gradients(kind: str):
    def loss(mixture: Mixture, logits: tuple, y_hat: jax.Array) -> jax.Array:
        made = output(y_hat, mixture, logits)
        return rate_distortion(made, made.x_hat, jnp.zeros(1), kind).loss[0]

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize(
    ("y", "scale", "weight"),
    [(0, 1, 1), (1e4, 0.11, 1), (-1e4, 0.11, 1), (0, 1e4, 1), (300, 1e-4, 1), (3, 1, 0), (1e6, 0.11, 0.5)],
)
def test_values_and_gradients_are_finite_in_extreme_tails(kind, y, scale, weight):
    """Far out, thin, wide, and with a component that weighs nothing."""
    y_hat = np.full((1, 1, 1, 1), y, np.float32)
    scales = np.full((1, 1, 1, 1, 2), scale, np.float32)
    weights = np.float32([weight, 1 - weight]).reshape(1, 1, 1, 1, 2)
    logits = tuple(np.float32([[a, b]]).reshape(1, 1, 1, 2) for a, b in ((-90, 80), (-89, 81)))
    parts = Mixture(np.zeros_like(scales), scales, weights), logits
    value, gradients = loss_and_gradients(kind)(*parts, y_hat)
    assert np.isfinite(value)
    assert value >= 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    if abs(y) > 1:
        assert np.abs(gradients[0].means).max() > 0  # and they pull the means towards y
        assert np.sign(np.sum(-gradients[0].means)) == np.sign(y)


def test_psnr():
    np.testing.assert_allclose(psnr(jnp.array([1.0, 0.1, 1e-4])), [0, 10, 40], atol=1e-5)
    assert Losses._fields == ("loss", "bpp_y", "bpp_z", "mse")
