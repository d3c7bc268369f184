"""Hybrid parallel hyper-attention: (shifted) window beside channel attention (paper 2.3-2.5, Fig. 3-5).

Two ways to put the same parts together: `HPHAMStage` is eq. 6 of the paper, `ReleasedStage` what the
authors' code computes. Both keep the shape [B, H, W, 2C] and send the first C channels to channel attention,
the last C to window attention.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.model.layers import (
    Array,
    Conv,
    add_offset,
    bias_init,
    depthwise_conv2d,
    leaky_relu,
    mix_channels,
    normal_init,
    param,
)

HEAD_DIM = 32
WINDOW = 4


def layer_norm(x: Array, name: str) -> Array:
    """Normalises the channels of x in its dtype (statistics in float32 or better). Call in `nn.compact`."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=x.dtype, name=name)(x)


def window_mask(height: int, width: int, shift: int) -> np.ndarray | None:
    """Which token of a window may attend which: bool [windows, 16, 16], or None if all may.

    Height and width are those of the unpadded map. Tokens that the cyclic shift brought together from
    opposite sides do not see each other, nor do padded and real ones.
    """
    if not (shift or height % WINDOW or width % WINDOW):
        return None

    def regions(size: int) -> np.ndarray:
        padded = -(-size // WINDOW) * WINDOW
        position = np.arange(padded)
        wrapped = position >= padded - shift  # in the last window only
        outside = (position + shift) % padded >= size
        return np.stack([wrapped, outside], -1)

    rows, columns = regions(height), regions(width)
    region = 8 * rows[:, None, 0] + 4 * columns[None, :, 0] + (rows[:, None, 1] | columns[None, :, 1])
    windows = region.reshape(len(rows) // WINDOW, WINDOW, len(columns) // WINDOW, WINDOW)
    windows = windows.transpose(0, 2, 1, 3).reshape(-1, WINDOW * WINDOW)
    return windows[:, :, None] == windows[:, None, :]


def relative_offsets() -> tuple[np.ndarray, np.ndarray]:
    """Row and column offset of query from key, shifted to 0..6: two int arrays [16, 16]."""
    row, column = np.divmod(np.arange(WINDOW * WINDOW), WINDOW)
    return row[:, None] - row[None, :] + WINDOW - 1, column[:, None] - column[None, :] + WINDOW - 1


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


class WindowAttention(nn.Module):
    """Self-attention in 4x4 windows, shifted by 2 for SW-MSA (section 2.4, Fig. 5): [B, H, W, C] kept.

    Any H and W: the map is padded to whole windows and padded tokens are masked.
    """

    shifted: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        heads, shift = channels // HEAD_DIM, WINDOW // 2 if self.shifted else 0
        rows, columns = (-(-n // WINDOW) for n in (height, width))
        pads = (0, rows * WINDOW - height), (0, columns * WINDOW - width)
        x = jnp.roll(jnp.pad(x, ((0, 0), *pads, (0, 0))), (-shift, -shift), (1, 2))
        x = x.reshape(batch, rows, WINDOW, columns, WINDOW, channels).swapaxes(2, 3)
        tokens = x.reshape(batch, rows * columns, WINDOW * WINDOW, channels)
        qkv = Linear(3 * channels, name="qkv")(tokens)
        q, k, v = jnp.moveaxis(qkv.reshape(*tokens.shape[:-1], 3, heads, HEAD_DIM), -3, 0)
        attended = self._attend(q, k, v, window_mask(height, width, shift)).reshape(tokens.shape)
        x = Linear(channels, name="out")(attended)
        x = x.reshape(batch, rows, columns, WINDOW, WINDOW, channels).swapaxes(2, 3)
        x = x.reshape(batch, rows * WINDOW, columns * WINDOW, channels)
        return jnp.roll(x, (shift, shift), (1, 2))[:, :height, :width]

    def _attend(self, q: Array, k: Array, v: Array, mask: np.ndarray | None) -> Array:
        """q, k, v [B, windows, 16, heads, 32] -> the same shape."""
        span = 2 * WINDOW - 1
        bias = param(self, "bias", normal_init(0.02), (q.shape[-2], span, span))
        rows, columns = relative_offsets()
        logits = jnp.einsum("bnqhd,bnkhd->bnhqk", q, k) * HEAD_DIM**-0.5
        logits += bias.astype(q.dtype)[:, rows, columns][None, None]
        if mask is not None:
            logits = jnp.where(jnp.asarray(mask)[None, :, None], logits, -jnp.inf)
        return jnp.einsum("bnhqk,bnkhd->bnqhd", jax.nn.softmax(logits), v)


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
        hidden = nn.relu(Linear(4 * (channels // self.reduction), use_bias=False, name="squeeze")(squeezed))
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


def parallel_attention(x: Array, channel_attention: nn.Module | None, shifted: bool) -> Array:
    """Channel attention on the first half of x [B, H, W, 2C], window attention on the last; then joined."""
    first, last = jnp.split(x, 2, axis=-1)
    if channel_attention is not None:
        first = channel_attention(first)
    return jnp.concatenate([first, WindowAttention(shifted, name="attention")(last)], -1)


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
