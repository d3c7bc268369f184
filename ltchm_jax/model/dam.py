"""Input-dependent convolution and the dynamic attention module (paper section 2.2, Fig. 2, eq. 5)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ltchm_jax.model.convolutions import add_offset, depthwise_conv2d
from ltchm_jax.model.layers import Array, Conv, normal_init, param
from ltchm_jax.model.pooling import adaptive_average_pool

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9


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
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale = param(self, "scale", nn.initializers.ones, (channels,))
        bias = param(self, "bias", nn.initializers.zeros, (channels,))
        if self.train:
            batch_mean, batch_var, unbias = self._statistics(x.astype(jnp.float32))
            if not self.is_initializing():
                keep = BATCH_NORM_MOMENTUM**self.repeats
                mean.value = keep * mean.value + (1 - keep) * batch_mean
                var.value = keep * var.value + (1 - keep) * unbias * batch_var
        else:
            batch_mean, batch_var = mean.value, var.value
        gain = scale * lax.rsqrt(batch_var + BATCH_NORM_EPSILON)
        offset = bias - batch_mean * gain
        shape = (1,) * (x.ndim - 1) + (channels,)
        return x * gain.astype(x.dtype).reshape(shape) + offset.astype(x.dtype).reshape(shape)

    def _statistics(self, x: Array) -> tuple[Array, Array, float]:
        axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
        mean = jnp.mean(x, axes)
        if self.axis_name is not None and not self.is_initializing():
            mean = lax.pmean(mean, self.axis_name)
            count *= lax.psum(1, self.axis_name)
        var = jnp.mean(jnp.square(x - mean.reshape((1,) * (x.ndim - 1) + (-1,))), axes)
        if self.axis_name is not None and not self.is_initializing():
            var = lax.pmean(var, self.axis_name)
        return mean, var, count / max(count - 1, 1)


class IDConv(nn.Module):
    """Input-dependent depthwise convolution (eq. 5): [B, H, W, C] -> the same shape.

    G kernels and biases are mixed, for every sample and channel, by a softmax over G of what a bottleneck of
    reduction r says of the adaptively pooled input. `norm` is 'batch' or 'none' (batch statistics of one
    value a sample are poor for small batches).
    """

    kernel_size: int
    reduction: int
    norm: str
    train: bool
    axis_name: str | None = None
    kernels: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, size = x.shape[-1], self.kernel_size
        init = normal_init(0.02)
        weight = param(self, "weight", init, (self.kernels, size, size, channels)).astype(x.dtype)
        bias = param(self, "bias", init, (self.kernels, 1, 1, channels)).astype(x.dtype)
        # A 1x1 kernel is made from the same mean as the bias: one projection serves both, and counts twice.
        project = Bottleneck(
            self.reduction,
            self.kernels,
            self.norm,
            self.train,
            self.axis_name,
            2 if size == 1 else 1,
            name="proj",
        )
        mean = adaptive_average_pool(x, 1)
        kernel_mix = self._softmax(
            project(mean if size == 1 else adaptive_average_pool(x, size))
        )  # [B, G, K, K, C]
        bias_mix = kernel_mix if size == 1 else self._softmax(project(mean))  # [B, G, 1, 1, C]
        kernel, offset = jnp.sum(kernel_mix * weight[None], 1), jnp.sum(bias_mix * bias[None], 1)
        return add_offset(depthwise_conv2d(x, kernel), offset)

    def _softmax(self, logits: Array) -> Array:
        logits = logits.reshape(*logits.shape[:-1], self.kernels, -1)
        return jax.nn.softmax(jnp.moveaxis(logits, -2, 1), axis=1)


class Bottleneck(nn.Module):
    """1x1 to C/r, normalisation, GELU, 1x1 to G*C: the logits of the G kernels."""

    reduction: int
    kernels: int
    norm: str
    train: bool
    axis_name: str | None
    repeats: int

    @nn.compact
    def __call__(self, pooled: Array) -> Array:
        channels = pooled.shape[-1]
        hidden = Conv(channels // self.reduction, 1, use_bias=self.norm == "none", name="squeeze")(pooled)
        if self.norm == "batch":
            hidden = BatchNorm(self.train, self.axis_name, self.repeats, name="norm")(hidden)
        return Conv(self.kernels * channels, 1, name="expand")(nn.gelu(hidden, approximate=False))


class ResidualUnit(nn.Module):
    """x + ID1(ReLU(ID3(ReLU(ID1(x))))) with input-dependent convolutions of sizes 1, 3, 1."""

    reduction: int
    norm: str
    train: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        options = (self.reduction, self.norm, self.train, self.axis_name)
        residual = nn.relu(IDConv(1, *options, name="idconv1")(x))
        residual = nn.relu(IDConv(3, *options, name="idconv2")(residual))
        return x + IDConv(1, *options, name="idconv3")(residual)


BRANCHES, UNITS = 2, 3  # trunk and mask; residual units in each


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

        def step(x: Array, variables: dict) -> Any:  # the next x, and the statistics of this unit
            return unit.apply(variables, x, mutable=["batch_stats"])

        def branch(variables: dict) -> tuple[Array, dict]:
            return lax.scan(step, x, variables)

        # What depends on the variables alone would be computed, and compiled, while they are made.
        (trunk, mask), updates = ((x, x), {}) if self.is_initializing() else jax.vmap(branch)(stacked)
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
