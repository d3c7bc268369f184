"""Layers with parameters, and the residual blocks that transforms are built from (paper Fig. 1, Tables 1-2).

All arrays are NHWC. The dtype of the input is the dtype of the computation: parameters are cast to it, so the
same module runs in bfloat16 while training, in float32 for the transforms and in float64 where bits are
decided.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ltchm_jax.model.convolutions import add_offset, conv2d, depthwise_conv2d, mix_channels, upsample_conv2d
from ltchm_jax.model.pooling import Array

Initializer = Callable[..., Array]
SLOPE = 0.01  # of LeakyReLU
leaky_relu = functools.partial(nn.leaky_relu, negative_slope=SLOPE)


@jax.custom_vjp
def relu(x: Array) -> Array:
    """max(x, 0); the gradient keeps the result alone, which what follows keeps anyway."""
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    out = relu(x)
    return out, out


relu.defvjp(_relu_forward, lambda out, gradient: (jnp.where(out > 0, gradient, 0),))


@jax.custom_vjp
def exact_gelu(x: Array) -> Array:
    """x times the normal distribution function at x; the gradient keeps x alone."""
    return nn.gelu(x, approximate=False)


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # `cdf` knows no bfloat16
    slope = jax.scipy.stats.norm.cdf(wide) + wide * jax.scipy.stats.norm.pdf(wide)
    return (gradient * slope.astype(x.dtype),)


exact_gelu.defvjp(lambda x: (exact_gelu(x), x), _gelu_backward)


def param(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
    """A parameter of a module, float32 where it is new; ValueError where there is one of another shape.

    `module.param` would trace the initialiser even where there is a value: a tenth of a start.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    value: Array = module.get_variable("params", name)
    if value.shape != shape:
        raise ValueError(
            f"Parameter {'/'.join((*module.path, name))!r} must have shape {list(shape)}, got "
            f"{list(value.shape)}: take the variables of this configuration."
        )
    return value


def drawn(distribution: Callable[..., Array], scale: float) -> Initializer:
    """`scale` times a distribution of `jax.random`.

    A draw takes long to compile. As vectors whose lengths are powers of 2, a few of them serve all shapes.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        size = math.prod(shape)
        vector = scale * distribution(key, (1 << (size - 1).bit_length(),), dtype)
        return vector[:size].reshape(shape)

    return init


def bias_init(fan_in: int) -> Initializer:
    """Uniform on -1/sqrt(fan_in)..1/sqrt(fan_in), the default of the framework that the authors used."""
    return uniform_init(fan_in**-0.5)


def uniform_init(bound: float) -> Initializer:
    """Uniform on -bound..bound."""
    return drawn(functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0), bound)


def normal_init(deviation: float) -> Initializer:
    """Normal around 0."""
    return drawn(jax.random.normal, deviation)


class Conv(nn.Module):
    """k x k convolution, zero padding k//2: [B, H, W, I] -> [B, ceil(H/s), ceil(W/s), O].

    Kernel and bias begin uniform, by the inputs of an output; those of a `transposed` one, which else is the
    same, by its features, as the authors' framework has it. With a `deviation` the kernel is normal.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True
    transposed: bool = False
    deviation: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = self.kernel_size
        init = bias_init(size * size * (self.features if self.transposed else x.shape[-1]))
        of_kernel = normal_init(self.deviation) if self.deviation else init
        kernel = param(self, "kernel", of_kernel, (size, size, x.shape[-1], self.features))
        kernel = kernel.astype(x.dtype)
        x_out = conv2d(x, kernel, self.stride, ((size // 2, size // 2),) * 2)
        if not self.use_bias:
            return x_out
        bias = param(self, "bias", init, (self.features,))
        return add_offset(x_out, jnp.asarray(bias, x.dtype).reshape(1, 1, 1, -1))


class UpsampleConv(nn.Module):
    """k x k transposed convolution with stride 2 and bias: [B, H, W, I] -> [B, 2H, 2W, O]."""

    features: int
    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = self.kernel_size
        # The authors' framework takes the output channels as the fan-in of a transposed convolution.
        init = bias_init(size * size * self.features)
        kernel = param(self, "kernel", init, (size, size, x.shape[-1], self.features))
        bias = param(self, "bias", init, (self.features,))
        return add_offset(
            upsample_conv2d(x, kernel.astype(x.dtype)), bias.astype(x.dtype).reshape(1, 1, 1, -1)
        )


class Linear(nn.Module):
    """Dense layer over the channels, in the dtype of its input."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in = x.shape[-1]
        kernel = param(self, "kernel", bias_init(fan_in), (fan_in, self.features))
        x_out = mix_channels(x, kernel.astype(x.dtype))
        if not self.use_bias:
            return x_out
        bias = param(self, "bias", bias_init(fan_in), (self.features,)).astype(x.dtype)
        return x_out + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class DepthwiseConv(nn.Module):
    """k x k depthwise convolution with bias, [B, H, W, C] kept."""

    kernel_size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, size = x.shape[-1], self.kernel_size
        init = bias_init(size * size)
        kernel = param(self, "kernel", init, (size, size, channels)).astype(x.dtype)
        bias = param(self, "bias", init, (channels,)).astype(x.dtype)
        return add_offset(depthwise_conv2d(x, kernel[None]), bias.reshape(1, 1, 1, -1))


def layer_norm(x: Array, name: str) -> Array:
    """Normalises the channels of x in its dtype (statistics in float32 or better). Call in `nn.compact`."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=x.dtype, name=name)(x)


@jax.custom_vjp
def lower_bound(x: Array, bound: float) -> Array:
    """max(x, bound), whose gradient passes where x >= bound or where descent would raise x."""
    return jnp.maximum(x, bound)


def _lower_bound_forward(x: Array, bound: float) -> tuple[Array, Array]:
    return jnp.maximum(x, bound), x >= bound


def _lower_bound_backward(inside: Array, gradient: Array) -> tuple[Array, None]:
    return jnp.where(inside | (gradient < 0), gradient, 0), None


lower_bound.defvjp(_lower_bound_forward, _lower_bound_backward)

# Non-negative parameters are stored as sqrt(value + PEDESTAL), which keeps their gradients alive near zero.
PEDESTAL = 2.0**-36
BETA_MIN = 1e-6


def _gamma_init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.sqrt(0.1 * jnp.eye(shape[0], dtype=dtype) + PEDESTAL)


class GDN(nn.Module):
    """Generalised divisive normalisation (Balle et al. 2016): x / sqrt(beta + gamma x^2); inverse: times.

    Parameters: beta [C], gamma [C in, C out], stored as square roots. Shape and dtype are kept.
    """

    inverse: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        beta = param(self, "beta", nn.initializers.constant((1 + PEDESTAL) ** 0.5), (channels,))
        gamma = param(self, "gamma", _gamma_init, (channels, channels))
        beta = lower_bound(beta, (BETA_MIN + PEDESTAL) ** 0.5) ** 2 - PEDESTAL
        gamma = lower_bound(gamma, PEDESTAL**0.5) ** 2 - PEDESTAL
        norm = add_offset(
            mix_channels(jnp.square(x), gamma.astype(x.dtype)), beta.astype(x.dtype).reshape(1, 1, 1, -1)
        )
        return x * jnp.sqrt(norm) if self.inverse else x * lax.rsqrt(norm)


class ResidualBlock(nn.Module):
    """x + LReLU(conv(LReLU(conv(x)))); a 1x1 projection carries the skip where the width changes."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        residual = leaky_relu(Conv(width, name="conv1")(x))
        residual = leaky_relu(Conv(self.features, name="conv2")(residual))
        skip = x if width == self.features else Conv(self.features, kernel_size=1, name="skip")(x)
        return skip + residual


class DownBlock(nn.Module):
    """Halves both sides: GDN(conv(LReLU(conv stride 2))) + a strided 1x1 skip."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        residual = leaky_relu(Conv(self.features, stride=2, name="conv1")(x))
        residual = GDN(name="gdn")(Conv(self.features, name="conv2")(residual))
        return residual + Conv(self.features, kernel_size=1, stride=2, name="skip")(x)


class UpBlock(nn.Module):
    """Doubles both sides: IGDN(conv(LReLU(transposed conv))) + a transposed 1x1 skip."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        residual = leaky_relu(UpsampleConv(self.features, name="conv1")(x))
        residual = GDN(inverse=True, name="igdn")(Conv(self.features, name="conv2")(residual))
        return residual + UpsampleConv(self.features, kernel_size=1, name="skip")(x)
