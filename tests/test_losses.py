"""Rate and distortion against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ltchm_jax import metrics
from ltchm_jax.losses import bits_per_pixel, ms_ssim, psnr, rate_distortion
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
    np.testing.assert_array_equal(got.distortion, got.mse)
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


def pair_of_images(size: tuple[int, int], noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture and the same with noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    waves = np.stack([np.sin(rows * a + columns * b) for a, b in rng.uniform(0.02, 0.2, (3, 2))], -1)
    original = (128 + 80 * waves).astype(np.uint8)
    noisy = original + rng.normal(0, noise, original.shape)
    return original, noisy.clip(0, 255).round().astype(np.uint8)


def to_unit(images: list[np.ndarray]) -> np.ndarray:
    return np.stack(images).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("size", [(161, 161), (163, 170), (176, 192)])
def test_ms_ssim_of_a_batch_is_the_metric_of_each_image(size):
    pairs = [pair_of_images(size, noise, seed) for seed, noise in enumerate((2, 20, 60))]
    got = jax.jit(ms_ssim)(*map(to_unit, zip(*pairs, strict=True)))
    np.testing.assert_allclose(got, [metrics.ms_ssim(*pair) for pair in pairs], atol=2e-6)
    assert got[0] > got[1] > got[2]


def test_ms_ssim_of_flat_images_is_the_luminance_of_the_coarsest_scale():
    """No structure: every factor is 1 but the last, 2 a b / (a^2 + b^2) to a small power."""
    a, b = 0.5, 0.25
    flat = [np.full((1, 161, 161, 1), value, np.float32) for value in (a, b)]
    want = ((2 * a * b + 1e-4) / (a * a + b * b + 1e-4)) ** 0.1333
    np.testing.assert_allclose(ms_ssim(*flat), [want], rtol=1e-5)
    np.testing.assert_allclose(ms_ssim(flat[0], flat[0]), [1], rtol=1e-6)


@functools.cache
def ms_ssim_and_gradient():
    return jax.jit(jax.value_and_grad(lambda x, x_hat: ms_ssim(x, x_hat)[0], 1))


@pytest.mark.parametrize("case", ["noisy", "equal", "inverted", "black", "far outside"])
def test_ms_ssim_has_finite_gradients_everywhere(case):
    x, noisy = (to_unit([image]) for image in pair_of_images((161, 161), 20))
    x_hat = {
        "noisy": noisy,
        "equal": x,
        "inverted": 1 - x,
        "black": np.zeros_like(x),
        "far outside": 100 * noisy - 50,
    }[case]
    value, gradient = ms_ssim_and_gradient()(x, x_hat)
    assert 0 < value <= 1 + 1e-6
    assert np.isfinite(gradient).all()
    if case == "noisy":
        step = gradient / np.linalg.norm(gradient)
        assert np.sum(gradient * (x - x_hat)) > 0  # towards the original
        slope = (ms_ssim_and_gradient()(x, x_hat + step)[0] - ms_ssim_and_gradient()(x, x_hat - step)[0]) / 2
        np.testing.assert_allclose(slope, np.linalg.norm(gradient), rtol=0.05)


def test_the_loss_may_weigh_ms_ssim():
    x, x_hat = (to_unit([image]) for image in pair_of_images((161, 161), 20))
    y_hat = np.zeros((1, 12, 12, 1), np.float32)
    made = output(y_hat, mixture(y_hat.shape), even_logits(1), x_hat)
    got = jax.jit(functools.partial(rate_distortion, distortion="ms_ssim"))(made, x, np.float32([8]))
    np.testing.assert_allclose(got.distortion, 1 - ms_ssim_and_gradient()(x, x_hat)[0][None], rtol=1e-4)
    np.testing.assert_allclose(got.loss, got.bpp_y + got.bpp_z + 8 * got.distortion, rtol=1e-5)
    np.testing.assert_allclose(got.mse, np.mean(np.square(x_hat - x), (1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "message"), [("MSE", 16, "one of mse"), ("ms_ssim", 160, "161 or more")]
)
def test_distortions_are_checked(name, side, message):
    with pytest.raises(ValueError, match=message):
        rate_distortion(None, np.zeros((1, side, 200, 3), np.float32), np.ones(1), distortion=name)
