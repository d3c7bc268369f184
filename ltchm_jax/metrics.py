"""Distortion and rate of one image: PSNR, MS-SSIM, VIFp, bits per pixel (paper section 3.2).

Every function takes one pair of images, `x` the original and `x_hat` the reconstruction, and returns a
Python float. Averages over images are averages of these per-image values. LPIPS lives in `lpips.py`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ltchm_jax import local_statistics

# Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", 2003.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
# Sheikh and Bovik's pixel-domain VIF: windows of four scales, and the variance of the visual noise.
_VIF_WINDOWS = (17, 9, 5, 3)
_VIF_NOISE = 2.0
_VIF_SMALLEST = 41
_EPS = 1e-8


def bpp(num_bytes: int, height: int, width: int) -> float:
    """Bits per pixel of a file: 8 * num_bytes / (height * width). A pixel is a position, not a sample."""
    if num_bytes < 0 or height < 1 or width < 1:
        raise ValueError(
            f"bpp needs a size of 0 bytes or more and a side of 1 or more, got {num_bytes} bytes for "
            f"{height}x{width}; pass the length of the encoded file and the image's height and width"
        )
    return 8.0 * num_bytes / (height * width)


def psnr(x: ArrayLike, x_hat: ArrayLike, released: bool = False) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), over all pixels and bands; inf when equal.

    Args:
      x: original, uint8 [H, W, C].
      x_hat: reconstruction, uint8 [H, W, C]; with `released`, float [H, W, C] in units of 1.
      released: what the released code computes. Its MSE is taken on the decoder's output in units of 1,
        before clipping to 0..1 and before rounding to 8 bits, so it is not the PSNR of a stored image.

    Raises:
      ValueError: shapes differ, or the types are not the ones above.
    """
    if released:
        original = _checked(x, "x").astype(np.float64) / 255.0
        output = np.asarray(x_hat)
        if output.shape != original.shape or output.dtype.kind != "f":
            raise ValueError(
                f"psnr(released=True) needs a float x_hat of shape {original.shape}, got {output.dtype} "
                f"{output.shape}; pass the decoder's output before clipping"
            )
        error, peak = original - output, 1.0
    else:
        original, output = _pair(x, x_hat)
        error, peak = original.astype(np.float64) - output, 255.0
    mse = float(np.mean(np.square(error)))
    return math.inf if mse == 0 else 10.0 * math.log10(peak**2 / mse)


def ms_ssim(x: ArrayLike, x_hat: ArrayLike, released: bool = False) -> float:
    """Multi-scale structural similarity, 0..1; the value of `tf.image.ssim_multiscale`.

    Window 11 with sigma 1.5, K = (0.01, 0.03), five scales joined by a 2x2 mean (odd sides repeat their last
    row or column), negative factors set to 0, computed for each band and averaged over bands.

    The coarsest scale must hold the window, so five scales need a shorter side of 161. Below that the largest
    number of scales that fits is used and its weights are divided by their sum; a side below 11 is first
    extended to 11 by reflection.

    Args:
      x: original, uint8 [H, W, C].
      x_hat: reconstruction, uint8 [H, W, C].
      released: what the released code computes. The factor of the coarsest scale enters once for each
        finer scale, so its exponent is 4 * 0.1333 instead of 0.1333, and bands are averaged before the
        powers are taken. Values come out low. (That code also pads odd sides with zeros; it only ever
        saw 256x256, where no side is odd, and the padding is not reproduced.)

    Raises:
      ValueError: shapes differ, or an array is not uint8 [H, W, C].
    """
    x, x_hat = _pair(x, x_hat)
    if np.array_equal(x, x_hat):
        return 1.0  # exactly, so that it counts as lossless
    original, output = (_reflect_to(image, SSIM_WINDOW) for image in (x, x_hat))
    height, width, _ = original.shape
    num_scales = _num_scales(min(height, width))
    canvas = local_statistics.canvas(original, output)
    terms = _ms_ssim_terms(canvas, height, width, num_scales)
    structure, similarity = np.maximum(terms, 0.0)  # [scales, C] each
    weights = np.asarray(MS_SSIM_WEIGHTS[:num_scales])
    weights = weights if num_scales == len(MS_SSIM_WEIGHTS) else weights / weights.sum()
    if released:
        structure, similarity = structure.mean(-1, keepdims=True), similarity.mean(-1, keepdims=True)
    factors = np.concatenate([structure[:-1], similarity[-1:]])
    repeats = max(num_scales - 1, 1) if released else 1
    weights = np.append(weights[:-1], weights[-1] * repeats)
    return float(min(np.mean(np.prod(factors ** weights[:, None], axis=0)), 1.0))


def ms_ssim_db(value: float) -> float:
    """MS-SSIM on a logarithmic scale, -10 log10(1 - value) dB; inf for 1."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"MS-SSIM lies in 0..1, got {value}; pass the result of `ms_ssim`")
    return math.inf if value == 1.0 else -10.0 * math.log10(1.0 - value)


def vif_p(x: ArrayLike, x_hat: ArrayLike) -> float:
    """Visual information fidelity in the pixel domain (VIFp), 0 upwards, 1 for equal images.

    Four scales on luma (0.299, 0.587, 0.114) in 0..255, visual noise variance 2; the value of `piq.vif_p`.
    The measure needs a shorter side of 41; smaller images are first extended to 41 by reflection.
    The released code calls a wavelet-domain VIF of another package under this name, which is another measure.

    Args:
      x: original, uint8 [H, W, 3], or [H, W, 1] taken as luma.
      x_hat: reconstruction, the same shape and type.

    Raises:
      ValueError: shapes differ, an array is not uint8, or there are neither 1 nor 3 bands.
    """
    original, output = _pair(x, x_hat)
    if original.shape[2] not in (1, 3):
        raise ValueError(f"VIFp is defined for 1 or 3 bands, got {original.shape[2]}; pass three bands")
    original, output = (_reflect_to(image, _VIF_SMALLEST) for image in (original, output))
    height, width, _ = original.shape
    rows = np.asarray(_vif_rows(local_statistics.canvas(original, output), height, width), np.float64)
    kept, total = rows.sum(axis=1)
    return float((kept + _EPS) / (total + _EPS))


def _checked(image: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"metrics need a uint8 array [H, W, C] with at least one pixel, got {name} of {array.dtype} "
            f"{array.shape}; clip, round and cast the reconstruction first"
        )
    return array


def _pair(x: ArrayLike, x_hat: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    original, output = _checked(x, "x"), _checked(x_hat, "x_hat")
    if original.shape != output.shape:
        raise ValueError(
            f"x and x_hat must have one shape, got {original.shape} and {output.shape}; crop the "
            "reconstruction to the original"
        )
    return original, output


def _reflect_to(image: np.ndarray, smallest: int) -> np.ndarray:
    """Extends sides below `smallest` to it by symmetric reflection, at the far end."""
    pads = [(0, max(0, smallest - side)) for side in image.shape[:2]]
    return np.pad(image, [*pads, (0, 0)], mode="symmetric")


def _num_scales(shorter_side: int) -> int:
    """How many MS-SSIM scales fit: each halving rounds up, and the last must hold the window."""
    scales = 1
    while scales < len(MS_SSIM_WEIGHTS) and -(-shorter_side // 2) >= SSIM_WINDOW:
        shorter_side, scales = -(-shorter_side // 2), scales + 1
    return scales


def ssim_maps(pair: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Contrast-structure term and SSIM of every window, two of [..., H - 10, W - 10].

    `pair` [2, ..., H, W] holds the original and the reconstruction, in 0..1.
    """
    taps = local_statistics.gaussian(SSIM_WINDOW, SSIM_SIGMA)
    (mean_x, mean_y), (var_x, var_y, cov) = local_statistics.moments(pair, taps)
    structure = (2 * cov + SSIM_C2) / (var_x + var_y + SSIM_C2)
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    return structure, structure * luminance


def _ssim_of_band(pair: jax.Array, height: jax.Array, width: jax.Array) -> jax.Array:
    """Mean contrast-structure term and mean SSIM of one band at one scale: [2, H, W] in 0..1 -> [2]."""
    terms = jnp.stack(ssim_maps(pair))
    height, width = height - SSIM_WINDOW + 1, width - SSIM_WINDOW + 1
    terms = jnp.where(local_statistics.inside(terms.shape, height, width), terms, 0.0)
    return terms.sum(-1).sum(-1) / (height * width)


@jax.jit
def _ssim_of_scale(pairs: jax.Array, height: jax.Array, width: jax.Array) -> jax.Array:
    """`_ssim_of_band` for each band: [C, 2, H, W] -> [C, 2]."""
    # One band after the other: a third of the memory on large scenes.
    return jax.lax.map(lambda pair: _ssim_of_band(pair, height, width), pairs)


@jax.jit
def _halve(pairs: jax.Array, height: jax.Array, width: jax.Array) -> jax.Array:
    """2x2 means of [C, 2, H, W]; an odd true side repeats its last row or column."""
    bands, _, canvas_height, canvas_width = pairs.shape
    rows = jnp.minimum(jnp.arange(-(-canvas_height // 2) * 2), height - 1)
    columns = jnp.minimum(jnp.arange(-(-canvas_width // 2) * 2), width - 1)
    pairs = pairs[:, :, rows][:, :, :, columns]
    return pairs.reshape(bands, 2, rows.size // 2, 2, columns.size // 2, 2).mean((3, 5))


def _ms_ssim_terms(canvas: np.ndarray, height: int, width: int, num_scales: int) -> np.ndarray:
    """Means of the two SSIM terms at each scale and band: uint8 [2, Hc, Wc, C] -> float64 [2, scales, C]."""
    pairs = jnp.moveaxis(jnp.asarray(canvas, jnp.float32) / 255.0, -1, 0)
    terms = [_ssim_of_scale(pairs, height, width)]
    for _ in range(num_scales - 1):
        pairs, height, width = _halve(pairs, height, width), -(-height // 2), -(-width // 2)
        terms.append(_ssim_of_scale(pairs, height, width))
    return np.stack([np.asarray(term, np.float64) for term in terms]).transpose(2, 0, 1)


def _vif_information(pair: jax.Array, taps: tuple[float, ...]) -> jax.Array:
    """Information (log10) kept by the reconstruction and held by the original: [2, H, W] -> [2, H', W']."""
    _, (var_x, var_y, cov) = local_statistics.moments(pair, taps)
    flat_x, flat_y = var_x < _EPS, var_y < _EPS
    gain = jnp.where(flat_x | flat_y, 0.0, cov / (var_x + _EPS))
    residual = jnp.where(flat_x, var_y, var_y - cov * cov / (var_x + _EPS))
    residual = jnp.where(flat_y, 0.0, residual)
    residual = jnp.maximum(jnp.where(gain < 0, var_y, residual), _EPS)
    gain, var_x = jnp.maximum(gain, 0.0), jnp.where(flat_x, 0.0, var_x)
    kept = jnp.log1p(gain**2 * var_x / (residual + _VIF_NOISE))
    return jnp.stack([kept, jnp.log1p(var_x / _VIF_NOISE)]) / math.log(10.0)


@jax.jit
def _vif_rows(canvas: jax.Array, height: jax.Array, width: jax.Array) -> jax.Array:
    """Row sums of both information maps over the four scales: uint8 [2, Hc, Wc, C] -> float32 [2, rows]."""
    luma = jnp.asarray([0.299, 0.587, 0.114] if canvas.shape[-1] == 3 else [1.0], jnp.float32)
    pair = jnp.einsum("phwc,c->phw", canvas.astype(jnp.float32), luma, precision=jax.lax.Precision.HIGHEST)
    rows = []
    for scale, size in enumerate(_VIF_WINDOWS):
        taps = local_statistics.gaussian(size, size / 5)
        if scale:
            pair = local_statistics.blur(pair, taps)[:, ::2, ::2]
            height, width = (height - size + 2) // 2, (width - size + 2) // 2
        maps = _vif_information(pair, taps)
        inside = local_statistics.inside(maps.shape, height - size + 1, width - size + 1)
        rows.append(jnp.where(inside, maps, 0.0).sum(-1))
    return jnp.concatenate(rows, axis=1)
