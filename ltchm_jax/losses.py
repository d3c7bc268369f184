"""Rate, distortion and their sum (paper eq. 3), for every image of a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ltchm_jax.entropy.distributions import logistic_bin_bits, mixture_bits
from ltchm_jax.metrics import MS_SSIM_WEIGHTS, ssim_maps
from ltchm_jax.model import Output
from ltchm_jax.model.priors import Mixture

SMALLEST_WEIGHT = 1e-30  # below it a component of a mixture counts for nothing, and gets no gradient
SMALLEST_FACTOR = 1e-4  # of MS-SSIM; below it the slope of the fractional powers runs off to infinity
SMALLEST_SIDE = 161  # five scales of MS-SSIM fit
DISTORTIONS = ("mse", "ms_ssim")


class Losses(NamedTuple):
    """Per image, each float32 [B]; `loss` = bpp_y + bpp_z + lmbda * distortion."""

    loss: jax.Array
    bpp_y: jax.Array
    bpp_z: jax.Array
    mse: jax.Array  # of values in 0..1, not clipped
    distortion: jax.Array  # that mse, or 1 - MS-SSIM


def symbol_bits(y_hat: jax.Array, mixture: Mixture, kind: str) -> jax.Array:
    """Ideal code length in bits of every latent of y_hat, any shape; `kind`: of the mixture."""
    means, scales, weights = mixture
    return mixture_bits(y_hat, means, scales, jnp.log(jnp.maximum(weights, SMALLEST_WEIGHT)), kind)


def code_lengths(
    y_hat: jax.Array, mixture: Mixture, z_logits: tuple[jax.Array, jax.Array], kind: str
) -> tuple[jax.Array, jax.Array]:
    """Ideal code lengths in bits of y_hat [B, h, w, M] and of z_hat, each [B]; `kind`: of the mixture."""
    bits_y, bits_z = symbol_bits(y_hat, mixture, kind), logistic_bin_bits(*z_logits)
    return jnp.sum(bits_y, (1, 2, 3)), jnp.sum(bits_z, (1, 2, 3))


def bits_per_pixel(output: Output, pixels: int, mixture: str) -> tuple[jax.Array, jax.Array]:
    """Ideal code lengths of y_hat and z_hat [B] in bits over `pixels`, under the model's probabilities."""
    bits_y, bits_z = code_lengths(output.y_hat, output.mixture, output.z_logits, mixture)
    return bits_y / pixels, bits_z / pixels


def rate_distortion(
    output: Output, x: jax.Array, lmbda: jax.Array, mixture: str = "gaussian", distortion: str = "mse"
) -> Losses:
    """The loss of each image (eq. 3): bpp + lmbda * MSE, or bpp + lmbda * (1 - MS-SSIM).

    Args:
      output: what the model made of x.
      x: float32 [B, H, W, bands] in 0..1; sides of 161 at least for MS-SSIM.
      lmbda: [B]. For MSE: divided by 65025 it is the lambda of implementations whose pixels run over 0..255.
      mixture: 'gaussian' or 'laplace'.
      distortion: 'mse' or 'ms_ssim'.

    Raises:
      ValueError: another distortion, or sides too small for it.
    """
    check_distortion(distortion, min(x.shape[1:3]))
    bpp_y, bpp_z = bits_per_pixel(output, x.shape[1] * x.shape[2], mixture)
    mse = jnp.mean(jnp.square(output.x_hat - x), (1, 2, 3))
    chosen = mse if distortion == "mse" else 1 - ms_ssim(x, output.x_hat)
    return Losses(bpp_y + bpp_z + lmbda * chosen, bpp_y, bpp_z, mse, chosen)


def check_distortion(distortion: str, side: int) -> None:
    """Raises ValueError for an unknown distortion, or images in which five scales of MS-SSIM don't fit."""
    if distortion not in DISTORTIONS:
        raise ValueError(f"`distortion` must be one of {', '.join(DISTORTIONS)}, got {distortion!r}.")
    if distortion == "ms_ssim" and side < SMALLEST_SIDE:
        raise ValueError(
            f"Crops (`data.crop`) must be {SMALLEST_SIDE} or more for MS-SSIM (its five scales need it), got "
            f"{side}."
        )


def ms_ssim(x: jax.Array, x_hat: jax.Array) -> jax.Array:
    """Multi-scale structural similarity of each image, 0..1, with gradients: `metrics.ms_ssim` of batches.

    The values are the same but where a factor falls below `SMALLEST_FACTOR`: here it counts as that, without
    a gradient, and there a negative one counts as 0.

    Args:
      x: float32 [B, H, W, bands] in 0..1, sides of 161 at least.
      x_hat: the same shape, any values; it is not clipped.

    Returns:
      float32 [B], the mean over bands.
    """
    pair = jnp.moveaxis(jnp.stack([x, x_hat]), -1, 2)  # [2, B, bands, H, W]
    factors = []
    for _ in MS_SSIM_WEIGHTS[:-1]:
        factors.append(_ssim_terms(pair)[0])
        pair = _halve(pair)
    factors.append(_ssim_terms(pair)[1])
    weights = jnp.asarray(MS_SSIM_WEIGHTS)[:, None, None]
    powers = jnp.maximum(jnp.stack(factors), SMALLEST_FACTOR) ** weights  # [scales, B, bands]
    return jnp.mean(jnp.prod(powers, 0), -1)


@jax.checkpoint  # the windows overlap: what the gradient would keep is many times the images
def _ssim_terms(pair: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean contrast-structure term and mean SSIM at one scale: [2, ..., H, W] -> two of [...]."""
    structure, similarity = ssim_maps(pair)
    return jnp.mean(structure, (-2, -1)), jnp.mean(similarity, (-2, -1))


def _halve(images: jax.Array) -> jax.Array:
    """2x2 means of [..., H, W]; an odd side repeats its last row or column."""
    height, width = images.shape[-2:]
    even = [(0, 0)] * (images.ndim - 2) + [(0, height % 2), (0, width % 2)]
    images = jnp.pad(images, even, mode="edge")
    return images.reshape(*images.shape[:-2], -(-height // 2), 2, -(-width // 2), 2).mean((-3, -1))


def lmbda_at(lmbdas: tuple[float, ...] | jax.Array, quality: jax.Array) -> jax.Array:
    """lmbda at real qualities [B] in 0..L-1, interpolated exponentially like the gains."""
    return jnp.exp(
        jnp.interp(quality, jnp.arange(len(lmbdas), dtype=jnp.float32), jnp.log(jnp.asarray(lmbdas)))
    )


def rate_weights(lmbdas: tuple[float, ...], quality: jax.Array | None, balance: float) -> jax.Array:
    """What the losses of images at qualities [B] count: (lmbda / geometric mean of lmbdas) ** -balance.

    Bits and lambda * MSE both grow about as the root of lambda: at balance 0 high rates count most, at 0.5 a
    per cent counts alike at every rate. 1 for a model of one rate, whose quality is None.
    """
    if quality is None:
        return jnp.ones(())
    return jnp.exp(balance * (jnp.mean(jnp.log(jnp.asarray(lmbdas))) - jnp.log(lmbda_at(lmbdas, quality))))


def psnr(mse: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB of a mean squared error of values in 0..1; any shape."""
    return -10 * jnp.log10(mse)
