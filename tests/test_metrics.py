import math

import numpy as np
import pytest
from scipy.ndimage import correlate1d

from ltchm_jax import metrics


def pair(height: int, width: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with edges, and the same with noise; both uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    base = 120 + 60 * np.sin(rows / 9)[..., None] * np.cos(
        columns / np.array([7, 11, 13])[:, None, None]
    ).transpose(1, 2, 0)
    base += 40 * (rows + columns > height)[..., None]
    noisy = base + rng.normal(0, noise, base.shape)
    return tuple(np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in (base, noisy))  # type: ignore[return-value]


def window_mean(image: np.ndarray, size: int, sigma: float) -> np.ndarray:
    taps = np.exp(-0.5 * (np.arange(size) - size // 2) ** 2 / sigma**2)
    taps /= taps.sum()
    half = size // 2
    blurred = correlate1d(correlate1d(image, taps, axis=0), taps, axis=1)
    return blurred[half : image.shape[0] - half, half : image.shape[1] - half]


def moments_float64(x: np.ndarray, y: np.ndarray, size: int, sigma: float) -> list[np.ndarray]:
    mean_x, mean_y = window_mean(x, size, sigma), window_mean(y, size, sigma)
    variances = [window_mean(a * b, size, sigma) - p * q for a, b, p, q in (
        (x, x, mean_x, mean_x), (y, y, mean_y, mean_y), (x, y, mean_x, mean_y))]  # fmt: skip
    return [mean_x, mean_y, *variances]


def ms_ssim_factors(x: np.ndarray, y: np.ndarray, scales: int) -> tuple[np.ndarray, np.ndarray]:
    """Structure and similarity of each scale and band by the textbook, in float64: two [scales, 3]."""
    x, y = x / 255.0, y / 255.0
    structure, similarity = [], []
    for scale in range(scales):
        if scale:
            odd = [(0, x.shape[0] % 2), (0, x.shape[1] % 2), (0, 0)]
            x, y = (np.pad(image, odd, mode="symmetric") for image in (x, y))
            x, y = (image.reshape(image.shape[0] // 2, 2, -1, 2, 3).mean((1, 3)) for image in (x, y))
        mean_x, mean_y, var_x, var_y, cov = moments_float64(x, y, 11, 1.5)
        contrast = (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)
        luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        structure.append(contrast.mean((0, 1)))
        similarity.append((contrast * luminance).mean((0, 1)))
    return np.maximum(structure, 0), np.maximum(similarity, 0)


def ms_ssim_float64(x: np.ndarray, y: np.ndarray, scales: int) -> float:
    structure, similarity = ms_ssim_factors(x, y, scales)
    weights = np.array(metrics.MS_SSIM_WEIGHTS[:scales])
    weights = weights if scales == 5 else weights / weights.sum()
    factors = np.concatenate([structure[:-1], similarity[-1:]])
    return float(np.prod(factors ** weights[:, None], axis=0).mean())


def vif_float64(x: np.ndarray, y: np.ndarray) -> float:
    """Sheikh and Bovik's pixel-domain measure, scale by scale with plain conditionals."""
    luma = np.array([0.299, 0.587, 0.114])
    x, y = x.astype(float) @ luma, y.astype(float) @ luma
    kept = total = 0.0
    for scale, size in enumerate((17, 9, 5, 3)):
        if scale:
            x, y = (window_mean(image, size, size / 5)[::2, ::2] for image in (x, y))
        _, _, var_x, var_y, cov = moments_float64(x, y, size, size / 5)
        for vx, vy, c in zip(var_x.flat, var_y.flat, cov.flat, strict=True):
            vx, vy = (v if v >= 1e-8 else 0.0 for v in (vx, vy))
            gain = c / (vx + 1e-8) if vx and vy else 0.0
            rest = vy - gain * c if gain > 0 else vy
            kept += math.log10(1 + max(gain, 0) ** 2 * vx / (max(rest, 1e-8) + 2))
            total += math.log10(1 + vx / 2)
    return (kept + 1e-8) / (total + 1e-8)


def test_bpp_counts_positions() -> None:
    assert metrics.bpp(1000, 40, 50) == 4.0


@pytest.mark.parametrize(("num_bytes", "height"), [(-1, 4), (3, 0)])
def test_bpp_refuses(num_bytes: int, height: int) -> None:
    with pytest.raises(ValueError, match="bpp needs"):
        metrics.bpp(num_bytes, height, 4)


def test_psnr_of_a_known_error() -> None:
    x = np.full((8, 8, 3), 100, np.uint8)
    assert metrics.psnr(x, x + 5) == pytest.approx(20 * math.log10(255 / 5), abs=1e-12)
    assert metrics.psnr(x, x) == math.inf


def test_released_psnr_sees_values_outside_the_range() -> None:
    x = np.full((4, 4, 3), 255, np.uint8)
    assert metrics.psnr(x, np.full((4, 4, 3), 1.1, np.float32), released=True) == pytest.approx(
        20.0, abs=1e-5
    )
    with pytest.raises(ValueError, match="float x_hat"):
        metrics.psnr(x, x, released=True)


@pytest.mark.parametrize("noise", [2.0, 40.0])
def test_ms_ssim_is_the_textbook_value(noise: float) -> None:
    x, y = pair(193, 211, noise)
    assert metrics.ms_ssim(x, y) == pytest.approx(ms_ssim_float64(x, y, 5), abs=1e-6)


@pytest.mark.parametrize(
    ("side", "scales"), [(161, 5), (160, 4), (81, 4), (80, 3), (21, 2), (20, 1), (11, 1), (1, 1)]
)
def test_number_of_scales(side: int, scales: int) -> None:
    assert metrics._num_scales(side) == scales


def test_ms_ssim_of_a_small_picture_renormalises() -> None:
    x, y = pair(45, 48, 10.0)
    assert metrics.ms_ssim(x, y) == pytest.approx(ms_ssim_float64(x, y, 3), abs=1e-6)


def test_ms_ssim_below_the_window_reflects() -> None:
    x, y = pair(5, 14, 10.0)
    wider = [np.pad(image, [(0, 6), (0, 0), (0, 0)], mode="symmetric") for image in (x, y)]
    assert metrics.ms_ssim(x, y) == pytest.approx(ms_ssim_float64(*wider, 1), abs=1e-6)


def test_released_ms_ssim_repeats_the_last_factor() -> None:
    x, y = pair(193, 211, 20.0)
    structure, similarity = (values.mean(-1) for values in ms_ssim_factors(x, y, 5))
    weights = np.array(metrics.MS_SSIM_WEIGHTS)
    expected = np.prod(structure[:4] ** weights[:4] * similarity[4] ** weights[4])
    assert metrics.ms_ssim(x, y, released=True) == pytest.approx(expected, abs=1e-6)
    assert metrics.ms_ssim(x, y, released=True) < metrics.ms_ssim(x, y)


def test_ms_ssim_against_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    for height, width, noise in ((193, 211, 12.0), (205, 200, 50.0)):
        x, y = pair(height, width, noise)
        assert metrics.ms_ssim(x, y) == pytest.approx(float(tf.image.ssim_multiscale(x, y, 255)), abs=1e-5)


@pytest.mark.parametrize("noise", [3.0, 30.0])
def test_vif_is_the_published_value(noise: float) -> None:
    x, y = pair(60, 53, noise)
    assert metrics.vif_p(x, y) == pytest.approx(vif_float64(x, y), abs=1e-5)


def test_vif_where_most_of_the_picture_is_flat() -> None:
    x = np.full((60, 53, 3), 250, np.uint8)
    y = x.copy()
    x[20:30, 20:30] = 200
    y[20:30, 20:30] = 210
    assert metrics.vif_p(x, y) == pytest.approx(vif_float64(x, y), abs=1e-5)


def test_vif_of_a_small_picture_reflects() -> None:
    x, y = pair(12, 50, 10.0)
    wider = [np.pad(image, [(0, 29), (0, 0), (0, 0)], mode="symmetric") for image in (x, y)]
    assert metrics.vif_p(x, y) == pytest.approx(vif_float64(*wider), abs=1e-5)


@pytest.mark.parametrize("measure", [metrics.ms_ssim, metrics.vif_p])
@pytest.mark.parametrize("value", [0, 7, 255])
def test_equal_pictures_score_one(measure, value: int) -> None:
    x = np.full((45, 48, 3), value, np.uint8)
    assert measure(x, x) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("side", [1, 12, 161])
def test_an_exact_copy_is_without_loss(side: int) -> None:
    x, _ = pair(side, side, 10.0)
    assert metrics.ms_ssim(x, x.copy()) == 1.0  # so that it is inf dB


def test_decibels() -> None:
    assert metrics.ms_ssim_db(0.99) == pytest.approx(20.0)
    assert metrics.ms_ssim_db(1.0) == math.inf
    with pytest.raises(ValueError, match="MS-SSIM lies in"):
        metrics.ms_ssim_db(1.1)


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ms_ssim, metrics.vif_p])
def test_wrong_arrays_are_refused(measure) -> None:
    x = np.zeros((45, 48, 3), np.uint8)
    for y in (x[:-1], x.astype(np.float32), x[..., 0], x[:0]):
        with pytest.raises(ValueError, match=r"uint8 array|one shape"):
            measure(x, y)


def test_many_sizes_share_compilations() -> None:
    for width in (50, 52, 54, 56):
        x, y = pair(50, width, 5.0)
        metrics.vif_p(x, y)
        if width == 50:
            compiled = metrics._vif_rows._cache_size()
    assert metrics._vif_rows._cache_size() == compiled
