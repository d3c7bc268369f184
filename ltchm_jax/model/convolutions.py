"""Convolutions of [B, H, W, C] in any dtype, with gradients that a CPU is fast at as well."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ltchm_jax.model.pooling import Array, sum_over_pixels

Padding = tuple[tuple[int, int], tuple[int, int]]

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
SAME: Padding = ((1, 1), (1, 1))  # of a 3x3 kernel
UNROLLED = 3  # largest depthwise kernel that is one expression


def alike(*arrays: Array) -> tuple[Array, ...]:
    """The arrays, all varying over the axes of a mesh that any of them varies over.

    `jax.shard_map` asks that of the arguments of a function whose gradient is written out, and gives each its
    own gradient back. Elsewhere, and in JAX that knows of no such thing, they are left as they are.
    """
    if not hasattr(lax, "pcast"):
        return arrays
    kinds = [jax.typeof(array) for array in arrays]
    axes = [getattr(kind, "manual_axis_type", kind) for kind in kinds]
    varying = [frozenset(getattr(a, "varying", getattr(a, "vma", ()))) for a in axes]
    every = frozenset().union(*varying)
    return tuple(
        lax.pcast(array, tuple(every - its), to="varying") if every - its else array
        for array, its in zip(arrays, varying, strict=True)
    )


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
    return _convolve(*alike(x, kernel), stride, padding)


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
    """The gradient of an x of this shape. With stride 2 the zeros in between are not multiplied."""
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    if stride == 2:
        return upsample_conv2d(gradient, flipped)[:, : shape[1], : shape[2]]
    last = kernel.shape[0] - 1
    return _correlate(gradient, flipped, padding=[(last - low, last - high) for low, high in padding])


def _gradient_of_kernel(x: Array, size: int, gradient: Array, stride: int, padding: Padding) -> Array:
    """The gradient of a kernel: the padded x cross-correlated with the gradient, images as channels."""
    rows, columns = (stride * (n - 1) + size for n in gradient.shape[1:3])
    seen = zero_padded(x, padding)[:, :rows, :columns]
    turned = _correlate(seen.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), apart=stride)
    return turned.transpose(1, 2, 0, 3)


def _conv2d_as_matmul(x: Array, kernel: Array, stride: int) -> Array:
    """A convolution of a padded x as one matrix product: in float64 XLA's takes 30 times as long."""
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
    # [phase, tap, phase, tap, I, O] -> [tap, tap, I, phase, phase, O]
    kernel = kernel.transpose(1, 3, 4, 0, 2, 5)
    return kernel.reshape(2, 2, axes[0], 4 * axes[1])


def add_offset(x: Array, offset: Array) -> Array:
    """x [B, H, W, C] + offset [B or 1, 1, 1, C]; the gradient of the offset is `sum_over_pixels`."""
    return _add_offset(*alike(x, offset))


@jax.custom_vjp
def _add_offset(x: Array, offset: Array) -> Array:
    return x + offset


def _add_offset_forward(x: Array, offset: Array) -> tuple[Array, Array]:
    return _add_offset(x, offset), offset


def _add_offset_backward(offset: Array, gradient: Array) -> tuple[Array, Array]:
    return gradient, _sum_for(offset.shape[0], gradient).reshape(offset.shape)


def _sum_for(count: int, x: Array) -> Array:
    """Sums of x [B, H, W, C] for each of `count` parameters, one an image or 1 for all: [count, C]."""
    return sum_over_pixels(x.reshape(count, -1, *x.shape[2:]))


_add_offset.defvjp(_add_offset_forward, _add_offset_backward)


def depthwise_conv2d(x: Array, kernel: Array) -> Array:
    """Depthwise 'same' cross-correlation of x [B, H, W, C] with kernels [B or 1, k, k, C], k odd.

    Shifted multiply-adds: on CPU some 40 times faster than a grouped convolution, and one fused loop
    elsewhere. The gradient is written out, because the derived one takes minutes to compile for 7 x 7.
    """
    return _depthwise(*alike(x, kernel))


@jax.custom_vjp
def _depthwise(x: Array, kernel: Array) -> Array:
    return _sum_of_shifts(x, kernel)


@jax.jit  # traced once for each shape, not at each of forty calls
def _sum_of_shifts(x: Array, kernel: Array) -> Array:
    """Of a large kernel row by row in a loop: 49 products in one expression take long to compile."""
    size, height = kernel.shape[1], x.shape[1]
    padded = zero_padded(x, ((size // 2,) * 2,) * 2)
    if size <= UNROLLED:
        rows = [lax.slice_in_dim(padded, i, i + height, axis=1) for i in range(size)]
        return functools.reduce(jnp.add, [_along_row(rows[i], kernel[:, i]) for i in range(size)])

    def add(total: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
        i, taps = row
        return total + _along_row(lax.dynamic_slice_in_dim(padded, i, height, 1), taps), None

    return lax.scan(add, jnp.zeros_like(x), (jnp.arange(size), jnp.moveaxis(kernel, 1, 0)))[0]


def _along_row(x: Array, taps: Array) -> Array:
    """One row of a depthwise kernel, taps [B or 1, k, C], on x [B, H, W + k - 1, C]: [B, H, W, C].

    Written in lax: indexing as NumPy does takes twice as long to trace, which a command feels.
    """
    batch, count, channels = taps.shape
    width, taps, products = x.shape[2] - count + 1, taps.reshape(batch, count, 1, 1, channels), []
    for j in range(count):
        tap = lax.index_in_dim(taps, j, 1, keepdims=False)
        products.append(lax.slice_in_dim(x, j, j + width, axis=2) * tap)
    return functools.reduce(jnp.add, products)


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel), (x, kernel)


def _depthwise_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    count, size = kernel.shape[:2]
    padded = zero_padded(x, ((size // 2,) * 2,) * 2)

    def tap(shift: Array) -> Array:
        return _sum_for(count, lax.dynamic_slice(padded, (0, *shift, 0), x.shape) * gradient)

    rows, columns = jnp.divmod(jnp.arange(size * size), size)
    taps = lax.map(tap, (rows, columns))  # [k*k, B or 1, C]
    kernel_gradient = jnp.moveaxis(taps.reshape(size, size, count, -1), 2, 0)
    return _depthwise(gradient, kernel[:, ::-1, ::-1]), kernel_gradient


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
