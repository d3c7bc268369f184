"""Probability models: factorised for z, a mixture with context for y (paper eqs. 1-4)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltchm_jax.model.config import ModelConfig
from ltchm_jax.model.layers import (
    Array,
    Initializer,
    Linear,
    bias_init,
    leaky_relu,
    lower_bound,
    normal_init,
    param,
    uniform_init,
)

# The causal part of the 5x5 mask of type A, in raster order: (row, column) offsets of the taps.
CAUSAL_TAPS = tuple((i, j) for i in (-2, -1, 0) for j in range(-2, 3) if i < 0 or j < 0)


class Mixture(NamedTuple):
    """K components for every latent, each array [..., M, K]. Scales are positive, weights sum to 1."""

    means: Array
    scales: Array
    weights: Array


def causal_taps(y_hat: Array) -> Array:
    """The 12 decoded neighbours of every position, zeros outside: [B, H, W, M] -> [B, H, W, 12, M]."""
    height, width = y_hat.shape[1:3]
    padded = jnp.pad(y_hat, ((0, 0), (2, 0), (2, 2), (0, 0)))
    return jnp.stack(
        [padded[:, 2 + i : 2 + i + height, 2 + j : 2 + j + width] for i, j in CAUSAL_TAPS], axis=3
    )


class EntropyParameters(nn.Module):
    """Mixture of y from decoded neighbours and the hyper-decoder: a masked 5x5 convolution, then three 1x1.

    The masked taps do not exist as parameters: the convolution is a product with the 12 that are causal, so
    the same call serves a whole map and a single wavefront.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, taps: Array, psi: Array) -> Mixture:
        """taps [..., 12, M] and psi [..., 2C] -> Mixture of [..., M, K]."""
        config, channels = self.config, self.config.latent_channels
        x = psi
        if config.context == "masked":
            flat = taps.reshape(*taps.shape[:-2], -1)
            x = jnp.concatenate([MaskedContext(2 * channels, name="context")(flat), psi], -1)
        for i in (1, 2):
            x = leaky_relu(Linear(config.parameter_width, name=f"hidden{i}")(x))
        outputs = 3 * config.components * channels
        raw = Linear(outputs, use_bias=False, name="parameters")(x)
        raw = raw.reshape(*raw.shape[:-1], config.components, 3, channels)
        logits, means, scales = (jnp.moveaxis(raw[..., i, :], -2, -1) for i in range(3))
        return Mixture(means, self._positive(scales), jax.nn.softmax(logits))

    def _positive(self, scales: Array) -> Array:
        if self.config.variant == "released":  # a hard clamp: no gradient below
            return jnp.maximum(jnp.abs(scales), self.config.scale_min)
        return lower_bound(scales, self.config.scale_min)


class MaskedContext(nn.Module):
    """The causal half of a 5x5 convolution on gathered taps [..., 12 * M] -> [..., features]."""

    features: int

    @nn.compact
    def __call__(self, taps: Array) -> Array:
        full = taps.shape[-1] // len(CAUSAL_TAPS) * 25  # Glorot's fans are those of the unmasked kernel
        bound = (6 / (full + 25 * self.features)) ** 0.5
        kernel = param(self, "kernel", uniform_init(bound), (taps.shape[-1], self.features))
        bias = param(self, "bias", nn.initializers.zeros, (self.features,)).astype(taps.dtype)
        return taps @ kernel.astype(taps.dtype) + bias.reshape((1,) * (taps.ndim - 1) + (-1,))


class FactorisedPrior(nn.Module):
    """Factorised density of z (Balle et al. 2018, appendix 6.1): logits of the cumulative of each channel.

    With filters (1, 1, 1) it is the BitEstimator of the released code.
    """

    filters: Sequence[int]
    variant: str
    init_scale: float = 10.0

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """z [..., C] -> logits of P(Z < z), same shape, increasing in z."""
        channels, widths = z.shape[-1], (1, *self.filters, 1)
        x = jnp.moveaxis(z, -1, 0).reshape(channels, 1, -1)
        for i in range(len(widths) - 1):
            matrix, bias, factor = self._layer(i, channels, widths)
            matrix = jax.nn.softplus(matrix.astype(x.dtype))
            # Differences of what it gives are the probabilities: an accelerator must not round its factors.
            x = jnp.einsum("coi,cin->con", matrix, x, precision="highest") + bias.astype(x.dtype)
            if factor is not None:
                x = x + jnp.tanh(factor.astype(x.dtype)) * jnp.tanh(x)
        return jnp.moveaxis(x.reshape(channels, *z.shape[:-1]), 0, -1)

    def _layer(self, i: int, channels: int, widths: Sequence[int]) -> tuple[Array, Array, Array | None]:
        last = i == len(widths) - 2
        small = normal_init(0.01)
        if self.variant == "released":
            matrix_init, offset_init, factor_init = small, small, small
        else:
            scale = self.init_scale ** (1 / (len(widths) - 1))
            start = math.log(math.expm1(1 / scale / widths[i + 1]))
            matrix_init, factor_init = nn.initializers.constant(start), nn.initializers.zeros
            offset_init = bias_init(4)  # uniform on -1/2..1/2
        matrix = param(self, f"matrix{i}", matrix_init, (channels, widths[i + 1], widths[i]))
        bias = param(self, f"bias{i}", offset_init, (channels, widths[i + 1], 1))
        factor = None if last else param(self, f"factor{i}", factor_init, (channels, widths[i + 1], 1))
        return matrix, bias, factor


class GainUnit(nn.Module):
    """Channel gains of a variable-rate model (Cui et al. 2021): gain and inverse at a real-valued quality.

    Quality q in 0..L-1 interpolates exponentially between the gains of its two neighbours among L rates; one
    beyond them counts as the nearest.
    `start` [L] holds the logarithms that all channels start from.
    """

    start: tuple[float, ...]
    channels: int

    def setup(self) -> None:
        def started(sign: int) -> Initializer:
            return lambda _, shape, dtype: jnp.broadcast_to(
                sign * jnp.asarray(self.start, dtype)[:, None], shape
            )

        shape = (len(self.start), self.channels)
        self.log_gain = param(self, "log_gain", started(1), shape)
        self.log_inverse = param(self, "log_inverse", started(-1), shape)

    def __call__(self, quality: Array | None, inverse: bool, dtype: jnp.dtype) -> Array:
        """quality [B] -> positive factors [B, 1, 1, channels]. ValueError where no quality was given."""
        if quality is None:
            raise ValueError("A variable-rate model needs `quality` [B], got None: say which rate.")
        table = (self.log_inverse if inverse else self.log_gain).astype(dtype)
        levels = jnp.arange(len(self.start), dtype=dtype)
        quality = jnp.clip(quality.astype(dtype), 0, len(self.start) - 1)
        hat = jnp.maximum(0, 1 - jnp.abs(quality[:, None] - levels[None]))  # [B, L], sums to 1
        return jnp.exp(jnp.matmul(hat, table, precision="highest"))[:, None, None, :]
