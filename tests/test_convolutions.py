"""Convolutions and their gradients against loops in numpy, lax's own forms, and mental arithmetic."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ltchm_jax.devices import float64
from ltchm_jax.model.convolutions import (
    DIMENSIONS,
    SAME,
    add_offset,
    conv2d,
    depthwise_conv2d,
    upsample_conv2d,
)

TOLERANCE = {"float32": 2e-5, "float64": 1e-13}


def normal(seed: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def correlate(x: np.ndarray, kernel: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """Cross-correlation of [B, H, W, I] with [k, k, I, O], one output pixel at a time."""
    size, x = kernel.shape[0], np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]), x.dtype)
    for i in range(height):
        for j in range(width):
            patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.einsum("bklc,klco->bo", patch, kernel)
    return out


def in_precision(dtype: str) -> contextlib.AbstractContextManager:
    return float64() if dtype == "float64" else contextlib.nullcontext()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "stride", "pad"), [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (5, 1, 2)])
def test_convolution_equals_loops(size, stride, pad, dtype):
    x, kernel = normal(0, 2, 7, 6, 3, dtype=dtype), normal(1, size, size, 3, 4, dtype=dtype)
    with in_precision(dtype):
        got = conv2d(jnp.asarray(x), jnp.asarray(kernel), stride, ((pad, pad), (pad, pad)))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, correlate(x, kernel, stride, pad), atol=TOLERANCE[dtype])


def zero_stuffed(x: np.ndarray, kernel: np.ndarray) -> jax.Array:
    """The transposed convolution as it is defined: zeros in between, then an unflipped kernel."""
    half, size = kernel.shape[0] // 2, 2
    pads = ((half, half + size - 1),) * 2
    return lax.conv_general_dilated(
        x, kernel, (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=DIMENSIONS
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 3])
def test_upsampling_equals_zero_stuffing(size, dtype):
    x, kernel = normal(0, 2, 5, 4, 3, dtype=dtype), normal(1, size, size, 3, 2, dtype=dtype)
    with in_precision(dtype):
        x, kernel = jnp.asarray(x), jnp.asarray(kernel)
        got = upsample_conv2d(x, kernel)
        assert got.shape == (2, 10, 8, 2)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, zero_stuffed(x, kernel), atol=TOLERANCE[dtype])


def test_upsampling_of_ones_is_mental_arithmetic():
    """A 3x3 kernel of ones sees, in zero-stuffed ones, 1, 2 or 4 of them by the parity of row and column."""
    got = upsample_conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(got[:4, :4], [[1, 2, 1, 2], [2, 4, 2, 4], [1, 2, 1, 2], [2, 4, 2, 4]])
    np.testing.assert_array_equal(got[-1], [1, 2, 1, 2, 1, 1])  # beyond the last column are zeros


def depthwise_by_lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One grouped convolution for each sample."""
    size, channels = kernel.shape[1], x.shape[-1]
    kernels = jnp.broadcast_to(kernel, (x.shape[0], *kernel.shape[1:]))[:, :, :, None, :]
    pads = ((size // 2, size // 2),) * 2
    samples = [
        lax.conv_general_dilated(
            x[i : i + 1], kernels[i], (1, 1), pads, feature_group_count=channels,
            dimension_numbers=DIMENSIONS,
        )
        for i in range(x.shape[0])
    ]  # fmt: skip
    return jnp.concatenate(samples)


AFTER = ((0, 1), (0, 1))  # the padding of the phases of a transposed convolution


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 9, 2), (1, 1, 2, 1)])
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(3, 1, SAME), (3, 2, SAME), (2, 1, AFTER), (5, 1, ((2, 2),) * 2), (3, 3, SAME)],
)
def test_gradients_of_a_convolution_equal_lax(shape, size, stride, padding):
    x, kernel = normal(0, *shape), normal(1, size, size, shape[-1], 4)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS)

    want, derived = jax.vjp(plain, x, kernel)
    got, pull = jax.vjp(lambda *inputs: conv2d(*inputs, stride, padding), x, kernel)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(pull(want), derived(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_in_a_loop_gradients_are_convolutions_that_a_cpu_is_fast_at():
    """Any other order of axes is computed by a plain loop, 30 times slower."""
    x, kernel = normal(0, 2, 8, 8, 4), normal(1, 3, 3, 4, 4)

    def loss(kernel, x):
        down = conv2d(conv2d(x, kernel, 1, SAME), kernel, 2, SAME)
        return jnp.sum(upsample_conv2d(down, kernel) ** 2)

    def steps(kernel, images):
        def step(kernel, x):
            return kernel - 1e-3 * jax.grad(loss)(kernel, x[None]), None

        return lax.scan(step, kernel, images)[0]

    compiled = jax.jit(steps).lower(kernel, x).compile().as_text()
    orders = re.findall(r" convolution\(.*dim_labels=([^ ,]+)", compiled)
    assert len(orders) >= 8
    assert set(orders) == {"b01f_01io->b01f"}


@pytest.mark.parametrize("samples", [1, 3])
def test_gradient_of_an_offset_is_a_sum_over_pixels(samples):
    x, gradient = normal(0, 3, 5, 4, 2), normal(1, 3, 5, 4, 2)
    offset = normal(2, samples, 1, 1, 2)
    got, pull = jax.vjp(add_offset, x, offset)
    np.testing.assert_array_equal(got, x + offset)
    of_x, of_offset = pull(gradient)
    np.testing.assert_array_equal(of_x, gradient)
    axes = (1, 2) if samples == 3 else (0, 1, 2)
    np.testing.assert_allclose(of_offset, gradient.sum(axes, keepdims=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "kernels"), [(1, 2), (3, 2), (3, 1), (7, 1)])
def test_depthwise_and_its_gradients_equal_lax(size, kernels, dtype):
    x, kernel = normal(0, 2, 5, 6, 3, dtype=dtype), normal(1, kernels, size, size, 3, dtype=dtype)
    cotangent = normal(2, 2, 5, 6, 3, dtype=dtype)
    with in_precision(dtype):
        x, kernel, cotangent = (jnp.asarray(a) for a in (x, kernel, cotangent))
        got, pull = jax.vjp(depthwise_conv2d, x, kernel)
        want, pull_lax = jax.vjp(depthwise_by_lax, x, kernel)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, atol=10 * TOLERANCE[dtype])
        for mine, theirs in zip(pull(cotangent), pull_lax(cotangent), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=20 * TOLERANCE[dtype])


def test_depthwise_gradients_of_one_sample():
    """With B = 1 a shared kernel and a kernel of the sample are the same shape, and the same gradient."""
    x, kernel = jnp.asarray(normal(0, 1, 5, 6, 3)), jnp.asarray(normal(1, 1, 3, 3, 3))
    got = jax.grad(lambda k: jnp.sum(depthwise_conv2d(x, k) ** 2))(kernel)
    want = jax.grad(lambda k: jnp.sum(depthwise_by_lax(x, k) ** 2))(kernel)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
