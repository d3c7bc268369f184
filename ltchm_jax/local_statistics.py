"""Windowed statistics of a pair of images, on a canvas that is larger than the pair.

A canvas is a little larger than the images on it and its sides come from a short list; the true height and
width are passed as data. A folder of images of many sizes thus costs few compilations.
Filters are sums of shifted arrays rather than convolutions: on a GPU a convolution may round its inputs.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Taps = tuple[float, ...]


def _canvas_side(side: int) -> int:
    """The smallest of 48, 56, 64, 80, 96, 112, 128, 160, ... (four an octave) that is not below `side`."""
    side = max(side, 48)
    step = 2 ** ((side - 1).bit_length() - 3)
    return -(-side // step) * step


def canvas(original: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Both images on one larger canvas, uint8 [2, Hc, Wc, C]; what lies outside the images is not used."""
    height, width, bands = original.shape
    pair = np.zeros((2, _canvas_side(height), _canvas_side(width), bands), np.uint8)
    pair[0, :height, :width] = original
    pair[1, :height, :width] = output
    return pair


@functools.lru_cache
def gaussian(size: int, sigma: float) -> Taps:
    """Weights of a Gaussian at `size` whole steps about its centre; their sum is 1."""
    offsets = np.arange(size) - (size - 1) / 2
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    return tuple((taps / taps.sum()).tolist())


def _filter(term: Callable[[jax.Array], jax.Array], taps: Taps) -> jax.Array:
    """Sum over taps of tap * term(index). A loop, which compiles faster than an unrolled sum."""
    weights = jnp.asarray(taps, jnp.float32)
    start = weights[0] * term(jnp.asarray(0))
    return jax.lax.fori_loop(1, len(taps), lambda i, total: total + weights[i] * term(i), start)


def _window(image: jax.Array, index: jax.Array, count: int, axis: int) -> jax.Array:
    """The window of `image` along `axis` that starts at `index`: one of the `count` that a filter adds up."""
    return jax.lax.dynamic_slice_in_dim(image, index, image.shape[axis] - count + 1, axis)


def blur(image: jax.Array, taps: Taps) -> jax.Array:
    """Separable filter over the last two axes, without padding: [..., H, W] -> [..., H-k+1, W-k+1]."""
    for axis in (-1, -2):
        window = functools.partial(_window, image, count=len(taps), axis=axis)
        image = _filter(window, taps)
    return image


def moments(pair: jax.Array, taps: Taps) -> tuple[jax.Array, jax.Array]:
    """Local statistics of pairs [2, ..., H, W]: means [2, ..., H', W'], (var x, var y, cov) [3, ..., H', W'].

    One axis at a time: the variance in a window is the mean of the variances of its lines plus the variance
    of their means. The mean of squares less the square of the mean would lose most float32 digits where an
    image is smooth.
    """
    mean, spread = pair, jnp.zeros((3, *pair.shape[1:]), pair.dtype)
    for axis in (-1, -2):
        mean, spread = _join_lines(mean, spread, taps, axis)
    return mean, spread


def _join_lines(means: jax.Array, spreads: jax.Array, taps: Taps, axis: int) -> tuple[jax.Array, jax.Array]:
    """Statistics of windows along `axis` from those of the lines they hold."""
    window = functools.partial(_window, count=len(taps), axis=axis)
    mean = _filter(lambda i: window(means, i), taps)

    def about_mean(i: jax.Array) -> jax.Array:
        u, v = window(means, i) - mean
        return window(spreads, i) + jnp.stack([u * u, v * v, u * v])

    return mean, _filter(about_mean, taps)


def inside(shape: tuple[int, ...], height: jax.typing.ArrayLike, width: jax.typing.ArrayLike) -> jax.Array:
    """True within the given height and width of the last two axes; bool of the whole shape [..., H, W]."""
    rows = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 2)
    columns = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    return (rows < height) & (columns < width)
