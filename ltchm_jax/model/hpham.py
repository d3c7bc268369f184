"""Hybrid parallel hyper-attention: (shifted) window beside channel attention (paper 2.3-2.5, Fig. 3-5).

Two ways to put the same parts together: `HPHAMStage` is eq. 6 of the paper, `ReleasedStage` what the
authors' code computes. Both keep the shape [B, H, W, 2C] and send the first C channels to channel attention,
the last C to window attention.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from ltchm_jax.model.layers import Array, Conv, DepthwiseConv, Linear, layer_norm, leaky_relu, relu
from ltchm_jax.model.window_attention import WindowAttention

HEAD_DIM = 32
WINDOW = 4


class GCA(nn.Module):
    """Grouped channel attention (section 2.3, Fig. 3): scales each channel of [B, H, W, C] by 0..1.

    The global average is split in four groups, each through a 1x1 convolution and its gate u * sigmoid(u),
    then joined by one more 1x1 convolution. The final sigmoid follows the authors' code; the paper shows
    none.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        groups = jnp.split(jnp.mean(x, (1, 2), keepdims=True), 4, axis=-1)
        gated = [nn.silu(Linear(channels // 4, name=f"group{i}")(group)) for i, group in enumerate(groups)]
        return x * nn.sigmoid(Linear(channels, name="join")(jnp.concatenate(gated, -1)))


class SaE(nn.Module):
    """Squeeze-and-aggregate attention of the released code: four bottlenecks of the whole average."""

    reduction: int = 32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        squeezed = jnp.mean(x, (1, 2), keepdims=True)
        # The four have the same input: side by side they are one matrix product.
        hidden = relu(Linear(4 * (channels // self.reduction), use_bias=False, name="squeeze")(squeezed))
        return x * nn.sigmoid(Linear(channels, use_bias=False, name="excite")(hidden))


class MSBFFN(nn.Module):
    """Multi-scale branch feed-forward network (section 2.5, Fig. 4): [B, H, W, D] kept.

    1x1 to 4D, four branches with depthwise 1x1, 3x3, 5x5, 7x7 convolutions, each fed the sum of its own
    quarter and the branch before it, joined by 1x1 to D. `released` adds a rectifier after the join and its
    own residual.
    """

    released: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dim = x.shape[-1]
        quarters = jnp.split(leaky_relu(Conv(4 * dim, 1, name="expand")(x)), 4, axis=-1)
        branches = [DepthwiseConv(1, name="depthwise1")(quarters[0])]
        for size, quarter in zip((3, 5, 7), quarters[1:], strict=True):
            branches.append(DepthwiseConv(size, name=f"depthwise{size}")(quarter + branches[-1]))
        joined = Conv(dim, 1, name="join")(jnp.concatenate(branches, -1))
        return x + leaky_relu(joined) if self.released else joined


def parallel_attention(x: Array, channel_attention: nn.Module | None, shifted: bool) -> Array:
    """Channel attention on the first half of x [B, H, W, 2C], window attention on the last; then joined."""
    first, last = jnp.split(x, 2, axis=-1)
    if channel_attention is not None:
        first = channel_attention(first)
    attention = WindowAttention(
        last.shape[-1] // HEAD_DIM, WINDOW, WINDOW // 2 if shifted else 0, name="attention"
    )
    return jnp.concatenate([first, attention(last)], -1)


class HPHAMStage(nn.Module):
    """One stage of eq. 6: X' = conv(GCA | MSA of conv(LN(X))) + X; X' + MSB-FFN(LN(X'))."""

    shifted: bool
    channel_attention: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dim = x.shape[-1]
        hidden = Conv(dim, 1, name="split")(layer_norm(x, "norm1"))
        gca = GCA(name="channels") if self.channel_attention else None
        x = x + Conv(dim, 1, name="join")(parallel_attention(hidden, gca, self.shifted))
        return x + MSBFFN(name="ffn")(layer_norm(x, "norm2"))


class ReleasedStage(nn.Module):
    """One stage as released: the 1x1 before the norm, the residual from its output, one more 1x1."""

    shifted: bool
    channel_attention: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dim = x.shape[-1]
        base = Conv(dim, 1, name="split")(x)
        sae = SaE(name="channels") if self.channel_attention else None
        joined = parallel_attention(layer_norm(base, "norm1"), sae, self.shifted)
        mid = base + Conv(dim, 1, name="join")(joined)
        mid = mid + MSBFFN(released=True, name="ffn")(layer_norm(mid, "norm2"))
        return x + Conv(dim, 1, name="out")(mid)


class HPHAM(nn.Module):
    """Two stages, W-MSA then SW-MSA, each of the form `stage`: `HPHAMStage` or `ReleasedStage`."""

    stage: Callable[..., nn.Module] = HPHAMStage
    channel_attention: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = self.stage(False, self.channel_attention, name="stage1")(x)
        return self.stage(True, self.channel_attention, name="stage2")(x)
