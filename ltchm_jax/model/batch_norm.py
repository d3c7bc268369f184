"""Batch normalisation over all devices of a step (Ioffe & Szegedy 2015), with its gradient written out."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ltchm_jax.model.convolutions import alike
from ltchm_jax.model.layers import Array, param

EPSILON = 1e-5
MOMENTUM = 0.9  # of the running statistics


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with statistics shared by the devices of `axis_name`.

    Unlike Flax's own it tracks the unbiased variance, as the authors' framework does. `repeats` applies the
    update of the running statistics that many times, for an input that the reference normalises twice.
    """

    train: bool
    axis_name: str | None = None
    repeats: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = param(self, "scale", nn.initializers.ones, shape)
        bias = param(self, "bias", nn.initializers.zeros, shape)
        if not self.train:
            return affine(x, scale, bias, mean.value, var.value)
        if self.is_initializing():
            return x
        out, batch_mean, batch_var = normalise(*alike(x, scale, bias), self.axis_name)
        count = x.size // x.shape[-1] * (1 if self.axis_name is None else lax.psum(1, self.axis_name))
        keep, unbias = MOMENTUM**self.repeats, count / max(count - 1, 1)
        mean.value = keep * mean.value + (1 - keep) * batch_mean
        var.value = keep * var.value + (1 - keep) * unbias * batch_var
        return out


def affine(x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    """x [..., C] with its mean [C] taken to `bias` [C] and its variance [C] to the square of `scale` [C].

    In float32 at least: in bfloat16 a mean of 30 deviations would leave an error of a tenth of one.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    gain = scale * lax.rsqrt(var + EPSILON)
    return (wide * _like(gain, wide) + _like(bias - mean * gain, wide)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x: Array, scale: Array, bias: Array, axis_name: str | None) -> tuple[Array, Array, Array]:
    """`affine` of x [..., C] with the mean and the biased variance of this batch, and these two, float32 [C].

    The statistics pass no gradient of their own. Written out, the gradient keeps three arrays for a derived
    one's eleven, each of which is one more function to compile where units are stacked.
    """
    return _normalise_forward(x, scale, bias, axis_name)[0]


def _normalise_forward(x: Array, scale: Array, bias: Array, axis_name: str | None) -> tuple:
    wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    mean = _shared(jnp.mean(wide, axes), axis_name)
    var = _shared(jnp.mean(jnp.square(wide - _like(mean, wide)), axes), axis_name)
    return (affine(x, scale, bias, mean, var), mean, var), (x, scale, mean, lax.rsqrt(var + EPSILON))


def _normalise_backward(axis_name: str | None, saved: tuple, cotangents: tuple) -> tuple[Array, Array, Array]:
    x, scale, mean, rate = saved
    wide, gradient, axes = x.astype(jnp.float32), cotangents[0].astype(jnp.float32), tuple(range(x.ndim - 1))
    unit = (wide - _like(mean, wide)) * _like(rate, wide)
    along, level = jnp.sum(gradient * unit, axes), jnp.sum(gradient, axes)
    means = _shared(jnp.stack([along, level]) / (x.size // x.shape[-1]), axis_name)
    centred = gradient - unit * _like(means[0], wide) - _like(means[1], wide)
    return (centred * _like(scale * rate, wide)).astype(x.dtype), along, level


normalise.defvjp(_normalise_forward, _normalise_backward)


def _shared(row: Array, axis_name: str | None) -> Array:
    """The mean over the devices of the axis, if there is one."""
    return row if axis_name is None else lax.pmean(row, axis_name)


def _like(row: Array, x: Array) -> Array:
    """[C] -> [1, ..., 1, C], of the rank and the type of x."""
    return row.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
