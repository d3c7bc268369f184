"""Input-dependent convolution and the dynamic attention module (paper section 2.2, Fig. 2, eq. 5)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ltchm_jax.model.batch_norm import BatchNorm
from ltchm_jax.model.convolutions import add_offset, depthwise_conv2d
from ltchm_jax.model.layers import Array, Conv, exact_gelu, normal_init, param, relu
from ltchm_jax.model.pooling import adaptive_average_pool

KERNELS = 2  # that an input-dependent convolution mixes


class IDConv(nn.Module):
    """Input-dependent depthwise convolution (eq. 5): [B, H, W, C] -> the same shape.

    Two kernels and biases are mixed, for every sample and channel, by a softmax over the two of what a
    bottleneck of reduction r says of the adaptively pooled input. `norm` is 'batch' or 'none' (batch
    statistics of one value a sample are poor for small batches).
    """

    kernel_size: int
    reduction: int
    norm: str
    train: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, size = x.shape[-1], self.kernel_size
        init = normal_init(0.02)
        weight = param(self, "weight", init, (KERNELS, size, size, channels)).astype(x.dtype)
        bias = param(self, "bias", init, (KERNELS, 1, 1, channels)).astype(x.dtype)
        # A 1x1 kernel is made from the same mean as the bias: one projection serves both, and counts twice.
        repeats = 2 if size == 1 else 1
        project = Bottleneck(self.reduction, self.norm, self.train, self.axis_name, repeats, name="proj")
        mean = adaptive_average_pool(x, 1)
        logits = project(mean if size == 1 else adaptive_average_pool(x, size))
        kernel = mixed(weight, logits)
        offset = mixed(bias, logits if size == 1 else project(mean))
        return add_offset(depthwise_conv2d(x, kernel), offset)


def mixed(pair: Array, logits: Array) -> Array:
    """Of a pair [2, k, k, C] the mean by the softmax of logits [B, k, k, 2C] over the two: [B, k, k, C].

    Of two a softmax is a logistic function: one loop where sums over an axis are several.
    """
    first, second = jnp.split(logits, KERNELS, axis=-1)
    return pair[1:] + nn.sigmoid(first - second) * (pair[:1] - pair[1:])


class Bottleneck(nn.Module):
    """1x1 to C/r, normalisation, GELU, 1x1 to 2C: the logits of the two kernels."""

    reduction: int
    norm: str
    train: bool
    axis_name: str | None
    repeats: int

    @nn.compact
    def __call__(self, pooled: Array) -> Array:
        channels, narrow = pooled.shape[-1], pooled.shape[-1] // self.reduction
        if self.norm == "none":
            hidden = Conv(narrow, 1, name="squeeze")(pooled)
        else:  # which the released code's library begins with a normal kernel, by its outputs
            deviation = (2 / narrow) ** 0.5
            hidden = Conv(narrow, 1, use_bias=False, deviation=deviation, name="squeeze")(pooled)
            hidden = BatchNorm(self.train, self.axis_name, self.repeats, name="norm")(hidden)
        return Conv(KERNELS * channels, 1, name="expand")(exact_gelu(hidden))


class ResidualUnit(nn.Module):
    """x + ID1(ReLU(ID3(ReLU(ID1(x))))) with input-dependent convolutions of sizes 1, 3, 1."""

    reduction: int
    norm: str
    train: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        options = (self.reduction, self.norm, self.train, self.axis_name)
        residual = relu(IDConv(1, *options, name="idconv1")(x))
        residual = relu(IDConv(3, *options, name="idconv2")(residual))
        return x + IDConv(1, *options, name="idconv3")(residual)


BRANCHES, UNITS = 2, 3  # trunk and mask; residual units in each


# Where a model runs outside of `jit`, a loop would otherwise compile at every call.
@functools.partial(jax.jit, static_argnums=0)
def branches(unit: ResidualUnit, stacked: dict, x: Array) -> tuple[Array, dict]:
    """What each branch makes of x, [2, B, H, W, C], and the statistics of its units.

    `stacked` are the variables of the units, [2 (branch), 3 (unit), ...].
    """

    def step(x: Array, variables: dict) -> Any:  # the next x, and the statistics of this unit
        return unit.apply(variables, x, mutable=["batch_stats"])

    return jax.vmap(lambda variables: lax.scan(step, x, variables))(stacked)


class DAM(nn.Module):
    """Dynamic attention module (Fig. 2): x + sigmoid(conv1x1(mask(x))) * trunk(x).

    The trunk and the mask branch have the same shape, and so have the three units of each. The variables of
    `branches` are therefore stacked, [2 (trunk, mask), 3 (unit), ...], and one traced unit serves all six:
    the training step compiles in a fraction of the time that six copies take.
    """

    reduction: int
    norm: str
    train: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        unit = ResidualUnit(self.reduction, self.norm, self.train, self.axis_name, parent=None)
        stacked = self._stacked_variables(unit, x.shape[-1])
        # What depends on the variables alone would be computed, and compiled, while they are made.
        (trunk, mask), updates = ((x, x), {}) if self.is_initializing() else branches(unit, stacked, x)
        if self.train and updates:
            self.put_variable("batch_stats", "branches", updates["batch_stats"])
        return x + nn.sigmoid(Conv(x.shape[-1], 1, name="mask")(mask)) * trunk

    def _stacked_variables(self, unit: ResidualUnit, channels: int) -> dict:
        def init(key: Array, collection: str) -> dict:
            keys = jax.random.split(key, (BRANCHES, UNITS))
            x = jax.ShapeDtypeStruct((1, 3, 3, channels), jnp.float32)
            return jax.vmap(jax.vmap(lambda key: unit.lazy_init(key, x)[collection]))(keys)

        kept = self.has_variable("params", "branches")  # then the initialiser needs no trace
        params = self.get_variable("params", "branches") if kept else self.param("branches", init, "params")
        variables = {"params": params}
        if self.norm == "batch":
            # Means of 0 and variances of 1 whatever the key.
            stats = self.variable("batch_stats", "branches", init, jax.random.key(0), "batch_stats")
            variables["batch_stats"] = stats.value
        return variables
