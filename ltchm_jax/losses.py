"""Rate, distortion and their sum (paper eq. 3), for every image of a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ltchm_jax.entropy.distributions import logistic_bin_bits, mixture_bits
from ltchm_jax.model import Output

SMALLEST_WEIGHT = 1e-30  # below it a component of a mixture counts for nothing, and gets no gradient


class Losses(NamedTuple):
    """Per image, each float32 [B]; `loss` = bpp_y + bpp_z + lmbda * mse."""

    loss: jax.Array
    bpp_y: jax.Array
    bpp_z: jax.Array
    mse: jax.Array  # of values in 0..1, not clipped


def bits_per_pixel(output: Output, pixels: int, mixture: str) -> tuple[jax.Array, jax.Array]:
    """Ideal code lengths of y_hat and z_hat [B] in bits over `pixels`, under the model's probabilities."""
    means, scales, weights = output.mixture
    log_weights = jnp.log(jnp.maximum(weights, SMALLEST_WEIGHT))
    bits_y = mixture_bits(output.y_hat, means, scales, log_weights, mixture)
    bits_z = logistic_bin_bits(*output.z_logits)
    return jnp.sum(bits_y, (1, 2, 3)) / pixels, jnp.sum(bits_z, (1, 2, 3)) / pixels


def rate_distortion(output: Output, x: jax.Array, lmbda: jax.Array, mixture: str = "gaussian") -> Losses:
    """The loss of each image (eq. 3): bpp + lmbda * MSE.

    Args:
      output: what the model made of x.
      x: float32 [B, H, W, bands] in 0..1.
      lmbda: [B]. Divided by 65025 it is the lambda of implementations whose pixels run over 0..255.
      mixture: 'gaussian' or 'laplace'.
    """
    bpp_y, bpp_z = bits_per_pixel(output, x.shape[1] * x.shape[2], mixture)
    mse = jnp.mean(jnp.square(output.x_hat - x), (1, 2, 3))
    return Losses(bpp_y + bpp_z + lmbda * mse, bpp_y, bpp_z, mse)


def psnr(mse: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB of a mean squared error of values in 0..1; any shape."""
    return -10 * jnp.log10(mse)
