"""Convolutions, GDN and the residual blocks that every transform is built from (paper Fig. 1, Tables 1-2).

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
import numpy as np
from jax import lax

from ltchm_jax.model.pooling import sum_over_pixels

Array = jax.Array
Initializer = Callable[..., Array]
Padding = tuple[tuple[int, int], tuple[int, int]]

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
SAME: Padding = ((1, 1), (1, 1))  # of a 3x3 kernel
SLOPE = 0.01  # of LeakyReLU
leaky_relu = functools.partial(nn.leaky_relu, negative_slope=SLOPE)


def param(module: nn.Module, name: str, init: Callable, *arguments: Any) -> Any:
    """`module.param`, which traces the initialiser even where there is a value: a tenth of a start."""
    if module.has_variable("params", name):
        return module.get_variable("params", name)
    return module.param(name, init, *arguments)


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


def kernel_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The same for a kernel [..., I, O], whose fan-in is all but the last."""
    return bias_init(math.prod(shape[:-1]))(key, shape, dtype)


def uniform_init(bound: float) -> Initializer:
    """Uniform on -bound..bound."""
    return drawn(functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0), bound)


def normal_init(deviation: float) -> Initializer:
    """Normal around 0."""
    return drawn(jax.random.normal, deviation)


def mix_channels(x: Array, matrix: Array) -> Array:
    """x [..., I] @ matrix [I, O]: [..., O].

    As one product of matrices: for the gradient of one with more axes XLA turns x round, in a slow loop.
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def conv2d(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Cross-correlation of x [B, H, W, I] with kernel [k, k, I, O], zeros outside."""
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return mix_channels(x[:, ::stride, ::stride], kernel[0, 0])
    if x.dtype == jnp.float64:
        return _conv2d_as_matmul(zero_padded(x, padding), kernel, stride)
    return _convolve(x, kernel, stride, padding)


def zero_padded(x: Array, padding: Padding) -> Array:
    """x [B, H, W, C] with zeros above, below, left and right."""
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def _correlate(x: Array, kernel: Array, stride: int = 1, padding: Any = "VALID", apart: int = 1) -> Array:
    """XLA's own convolution, with the taps of the kernel so far `apart`."""
    strides, dilation = (stride, stride), (apart, apart)
    return lax.conv_general_dilated(x, kernel, strides, padding, None, dilation, dimension_numbers=DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """`conv2d` with a gradient that a CPU is fast at, in loops as well.

    There XLA brings the axes of a derived gradient into the one order that it is fast at, but not in a loop:
    the gradient of a 3x3 kernel then takes 30 times as long.
    """
    # Padded by hand: on CPU the gradient of the kernel then takes a quarter less time, the rest the same.
    return _correlate(zero_padded(x, padding), kernel, stride)


def _convolve_forward(
    x: Array, kernel: Array, stride: int, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(
    stride: int, padding: Padding, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    def derived(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        forward = functools.partial(_correlate, stride=stride, padding=padding)
        return jax.vjp(forward, x, kernel)[1](gradient)

    def written_out(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        of_x = _gradient_of_input(x.shape, kernel, gradient, stride, padding)
        return of_x, _gradient_of_kernel(x, kernel.shape[0], gradient, stride, padding)

    halves = (stride, saved[1].shape[0], padding) == (2, 3, SAME)
    if stride > 1 and not halves:  # which no layer is
        return derived(*saved, gradient)
    return lax.platform_dependent(*saved, gradient, cpu=written_out, default=derived)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _gradient_of_input(
    shape: tuple[int, ...], kernel: Array, gradient: Array, stride: int, padding: Padding
) -> Array:
    """That of an x of this shape. With stride 2 the zeros in between are not multiplied."""
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    if stride == 2:
        return upsample_conv2d(gradient, flipped)[:, : shape[1], : shape[2]]
    last = kernel.shape[0] - 1
    return _correlate(gradient, flipped, padding=[(last - low, last - high) for low, high in padding])


def _gradient_of_kernel(x: Array, size: int, gradient: Array, stride: int, padding: Padding) -> Array:
    """That of a kernel of this size: the padded x cross-correlated with the gradient, images as channels."""
    rows, columns = (stride * (n - 1) + size for n in gradient.shape[1:3])
    seen = zero_padded(x, padding)[:, :rows, :columns]
    turned = _correlate(seen.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), apart=stride)
    return turned.transpose(1, 2, 0, 3)


def _conv2d_as_matmul(x: Array, kernel: Array, stride: int) -> Array:
    """The same of a padded x in one matrix product: XLA's own in float64 is about 30 times slower on CPU."""
    size = kernel.shape[0]
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    taps = [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def upsample_conv2d(x: Array, kernel: Array) -> Array:
    """Transposed convolution, stride 2, of x [B, H, W, I], to [B, 2H, 2W, O]; kernel [k, k, I, O], k 1 or 3.

    The kernel is applied unflipped to x with zeros in between: equal to PyTorch's ConvTranspose2d with
    padding k//2 and output padding 1 on the flipped kernel. Computed as one 2x2 convolution that gives the
    four phases of the result: no product with a zero in between, and kernel gradients 25 times faster than
    the direct form's.
    """
    if kernel.shape[0] == 1:  # one phase; the others stay zero
        return lax.pad(
            mix_channels(x, kernel[0, 0]),
            jnp.zeros((), x.dtype),
            ((0, 0, 0), (0, 1, 1), (0, 1, 1), (0, 0, 0)),
        )
    phases = conv2d(x, _phase_kernel(kernel), 1, ((0, 1), (0, 1)))
    batch, height, width, features = phases.shape
    phases = phases.reshape(batch, height, width, 2, 2, features // 4)
    return phases.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, features // 4)


def _phase_kernel(kernel: Array) -> Array:
    """[3, 3, I, O] -> [2, 2, I, 4 O]: along each axis the even phase sees tap 1, the odd one taps 0 and 2."""
    axes = kernel.shape[2:]
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # tap 3 is zero
    taps = jnp.array([[1, 3], [0, 2]])  # [phase, tap]
    kernel = kernel[taps[:, :, None, None], taps[None, None]]
    kernel = kernel.transpose(
        1, 3, 4, 0, 2, 5
    )  # [phase, tap, phase, tap, I, O] -> [tap, tap, I, phase, phase, O]
    return kernel.reshape(2, 2, axes[0], 4 * axes[1])


@jax.custom_vjp
def add_offset(x: Array, offset: Array) -> Array:
    """x [B, H, W, C] + offset [B or 1, 1, 1, C]; the gradient of the offset is `sum_over_pixels`."""
    return x + offset


def _add_offset_forward(x: Array, offset: Array) -> tuple[Array, Array]:
    return add_offset(x, offset), offset


def _add_offset_backward(offset: Array, gradient: Array) -> tuple[Array, Array]:
    return gradient, _sum_for(offset.shape[0], gradient).reshape(offset.shape)


def _sum_for(count: int, x: Array) -> Array:
    """Sums of x [B, H, W, C] for each of `count` parameters, one an image or 1 for all: [count, C]."""
    sums = sum_over_pixels(x)
    return sums if count == x.shape[0] else jnp.sum(sums, 0, keepdims=True)


add_offset.defvjp(_add_offset_forward, _add_offset_backward)


@jax.custom_vjp
def depthwise_conv2d(x: Array, kernel: Array) -> Array:
    """Depthwise 'same' cross-correlation of x [B, H, W, C] with kernels [B or 1, k, k, C], k odd.

    Shifted multiply-adds: on CPU some 40 times faster than a grouped convolution, and one fused loop
    elsewhere. The gradient is written out, because the derived one takes minutes to compile for 7 x 7.
    """
    return _sum_of_shifts(x, kernel)


@jax.jit  # traced once for each shape, not at each of forty calls
def _sum_of_shifts(x: Array, kernel: Array) -> Array:
    """Written in lax: indexing as NumPy does takes twice as long to trace, which a command feels."""
    batch, height, width, channels = x.shape
    size, padded = kernel.shape[1], zero_padded(x, ((kernel.shape[1] // 2,) * 2,) * 2)
    taps = kernel.reshape(kernel.shape[0], -1, 1, 1, channels)  # [B or 1, k * k, 1, 1, C]
    products = []
    for n, (i, j) in enumerate(np.ndindex(size, size)):
        shifted = lax.slice(padded, (0, i, j, 0), (batch, i + height, j + width, channels))
        products.append(shifted * lax.index_in_dim(taps, n, 1, keepdims=False))
    return functools.reduce(jnp.add, products)


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_conv2d(x, kernel), (x, kernel)


def _depthwise_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    count, size = kernel.shape[:2]
    padded = zero_padded(x, ((size // 2,) * 2,) * 2)

    def tap(shift: Array) -> Array:
        return _sum_for(count, lax.dynamic_slice(padded, (0, *shift, 0), x.shape) * gradient)

    rows, columns = jnp.divmod(jnp.arange(size * size), size)
    taps = lax.map(tap, (rows, columns))  # [k*k, B or 1, C]
    kernel_gradient = jnp.moveaxis(taps.reshape(size, size, count, -1), 2, 0)
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
        kernel = param(self, "kernel", kernel_init, (size, size, x.shape[-1], self.features))
        kernel = kernel.astype(x.dtype)
        x_out = conv2d(x, kernel, self.stride, ((size // 2, size // 2),) * 2)
        if not self.use_bias:
            return x_out
        bias = param(self, "bias", bias_init(size * size * x.shape[-1]), (self.features,))
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
    """Generalised divisive normalisation (Balle et al. 2016): x / sqrt(beta + gamma x^2); inverse: times.

    Parameters: beta [C], gamma [C in, C out], stored as square roots. Shape and dtype are kept.
    """

    inverse: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        beta = param(self, "beta", lambda _: jnp.full((channels,), (1 + PEDESTAL) ** 0.5))
        gamma = param(self, "gamma", lambda _: jnp.sqrt(0.1 * jnp.eye(channels) + PEDESTAL))
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
