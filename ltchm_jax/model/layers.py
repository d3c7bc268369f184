"""Convolutions, GDN and the residual blocks that every transform is built from (paper Fig. 1, Tables 1-2).

All arrays are NHWC. The dtype of the input is the dtype of the computation: parameters are cast to it, so the same
module runs in bfloat16 while training, in float32 for the transforms and in float64 where bits are decided.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Initializer = Callable[..., Array]
Padding = tuple[tuple[int, int], tuple[int, int]]

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.01)

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of the framework that the authors used.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_init(fan_in: int) -> Initializer:
    """Uniform on -1/sqrt(fan_in)..1/sqrt(fan_in)."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def conv2d(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Cross-correlation of x [B, H, W, I] with kernel [k, k, I, O], zeros outside."""
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if x.dtype == jnp.float64:
        return _conv2d_as_matmul(x, kernel, stride, padding)
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS)


def _conv2d_as_matmul(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """The same in one matrix product. XLA's float64 convolution on CPU is a plain loop, about 30 times slower."""
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    taps = [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def conv_transpose2d(x: Array, kernel: Array, stride: int) -> Array:
    """Transposed convolution of x [B, H, W, I] to [B, s*H, s*W, O]; the kernel [k, k, I, O] is applied unflipped.

    Equal to PyTorch's ConvTranspose2d with padding k//2 and output padding s-1 on the flipped kernel.
    """
    size = kernel.shape[0]
    low = size - 1 - size // 2
    padding = ((low, low + stride - 1),) * 2
    if x.dtype == jnp.float64 or size == 1:
        if size == 1:  # the product first: it is linear, and s*s times smaller before the zeros go in
            x, kernel = x @ kernel[0, 0], None
        interior = ((0, 0, 0), *((low, high, stride - 1) for low, high in padding), (0, 0, 0))
        x = lax.pad(x, jnp.zeros((), x.dtype), interior)
        return x if kernel is None else _conv2d_as_matmul(x, kernel, 1, ((0, 0), (0, 0)))
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, lhs_dilation=(stride, stride), dimension_numbers=DIMENSIONS
    )


@jax.custom_vjp
def depthwise_conv2d(x: Array, kernel: Array) -> Array:
    """Depthwise 'same' cross-correlation of x [B, H, W, C] with kernels [B or 1, k, k, C], k odd.

    Shifted multiply-adds: on CPU some 40 times faster than a grouped convolution, and one fused loop elsewhere.
    The gradient is written out, because the derived one takes minutes to compile for 7 x 7.
    """
    size = kernel.shape[1]
    taps = kernel[:, :, :, None, None, :]  # [B or 1, k, k, 1, 1, C]
    padded = _pad_sides(x, size // 2)
    shifts = [(i, j) for i in range(size) for j in range(size)]
    return functools.reduce(jnp.add, (_shift(padded, x.shape, i, j) * taps[:, i, j] for i, j in shifts))


def _pad_sides(x: Array, half: int) -> Array:
    return jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))


def _shift(padded: Array, shape: tuple[int, ...], i: Array | int, j: Array | int) -> Array:
    return lax.dynamic_slice(padded, (0, i, j, 0), shape)


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_conv2d(x, kernel), (x, kernel)


def _depthwise_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    size, axes = kernel.shape[1], (1, 2) if kernel.shape[0] == x.shape[0] else (0, 1, 2)
    padded = _pad_sides(x, size // 2)

    def tap(shift: Array) -> Array:
        return jnp.sum(_shift(padded, x.shape, *shift) * gradient, axes)

    rows, columns = jnp.divmod(jnp.arange(size * size), size)
    taps = lax.map(tap, (rows, columns))  # [k*k, B, C] or [k*k, C]
    kernel_gradient = jnp.moveaxis(taps.reshape(size, size, -1, x.shape[-1]), 2, 0)
    return depthwise_conv2d(gradient, kernel[:, ::-1, ::-1]), kernel_gradient


depthwise_conv2d.defvjp(_depthwise_forward, _depthwise_backward)


class Conv(nn.Module):
    """k x k convolution, zero padding k//2: [B, H, W, I] -> [B, ceil(H/s), ceil(W/s), O]."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = self.kernel_size
        kernel = self.param("kernel", kernel_init, (size, size, x.shape[-1], self.features))
        x_out = conv2d(x, kernel.astype(x.dtype), self.stride, ((size // 2, size // 2),) * 2)
        if not self.use_bias:
            return x_out
        bias = self.param("bias", bias_init(size * size * x.shape[-1]), (self.features,))
        return x_out + jnp.asarray(bias, x.dtype).reshape(1, 1, 1, -1)


class ConvTranspose(nn.Module):
    """k x k transposed convolution with bias: [B, H, W, I] -> [B, s*H, s*W, O]."""

    features: int
    kernel_size: int = 3
    stride: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = self.kernel_size
        # The authors' framework takes the output channels as the fan-in of a transposed convolution.
        bound_init = bias_init(size * size * self.features)
        kernel = self.param("kernel", bound_init, (size, size, x.shape[-1], self.features))
        bias = self.param("bias", bound_init, (self.features,))
        x_out = conv_transpose2d(x, kernel.astype(x.dtype), self.stride)
        return x_out + bias.astype(x.dtype).reshape(1, 1, 1, -1)


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


class GDN(nn.Module):
    """Generalised divisive normalisation (Balle et al. 2016): x / sqrt(beta + gamma x^2); times for the inverse.

    Parameters: beta [C], gamma [C in, C out], stored as square roots. Shape and dtype are kept.
    """

    inverse: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        beta = self.param("beta", lambda _: jnp.full((channels,), (1 + PEDESTAL) ** 0.5))
        gamma = self.param("gamma", lambda _: jnp.sqrt(0.1 * jnp.eye(channels) + PEDESTAL))
        beta = lower_bound(beta, (BETA_MIN + PEDESTAL) ** 0.5) ** 2 - PEDESTAL
        gamma = lower_bound(gamma, PEDESTAL**0.5) ** 2 - PEDESTAL
        norm = jnp.square(x) @ gamma.astype(x.dtype) + beta.astype(x.dtype).reshape(1, 1, 1, -1)
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
        residual = leaky_relu(ConvTranspose(self.features, name="conv1")(x))
        residual = GDN(inverse=True, name="igdn")(Conv(self.features, name="conv2")(residual))
        return residual + ConvTranspose(self.features, kernel_size=1, name="skip")(x)
