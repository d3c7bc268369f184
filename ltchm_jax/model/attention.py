"""The attention modules that DAM is compared with (paper Table 5): SAM, WAM and SWAtten. NHWC.

SAM      Cheng et al. 2020, static convolutions only
WAM      Zou et al. 2022 (WACNN), SAM with window attention in front of the mask
SWAtten  Liu et al. 2023 (TCM), SAM at a reduced width with a Swin pair in front of the mask
"""

from collections.abc import Callable
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.model.hpham import Linear, layer_norm
from ltchm_jax.model.layers import Array, Conv, param

AnyArray = TypeVar("AnyArray", Array, np.ndarray)
UNITS = 3  # residual units in each branch


def attention_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """Which token of a window may attend which: bool [windows, window^2, window^2].

    Tokens that the cyclic shift brought together from opposite sides of a map of this height and width do not
    see each other, nor do real tokens and those that pad the map to whole windows.
    """

    def regions(size: int) -> np.ndarray:
        padded = -(-size // window) * window
        position = np.arange(padded)
        return 2 * (position >= padded - shift) + ((position + shift) % padded >= size)

    region = 4 * regions(height)[:, None] + regions(width)[None, :]
    tokens = _to_windows(region[None, :, :, None], window)[0, :, :, 0]
    return tokens[:, :, None] == tokens[:, None, :]


def _to_windows(x: AnyArray, window: int) -> AnyArray:
    """[B, H, W, C], sides multiples of the window -> [B, windows, window^2, C], both orders row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, window * window, channels)


def _from_windows(tokens: Array, height: int, width: int, window: int) -> Array:
    """The inverse of `_to_windows`."""
    batch, channels = tokens.shape[0], tokens.shape[-1]
    x = tokens.reshape(batch, height // window, width // window, window, window, channels)
    return x.swapaxes(2, 3).reshape(batch, height, width, channels)


class WideWindowAttention(nn.Module):
    """Multi-head self-attention in windows, shifted by `shift`, with a learned bias of relative position."""

    heads: int
    window: int = 8
    shift: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width, channels = x.shape[1:]
        bottom, right = (-n % self.window for n in (height, width))
        x = jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
        x = jnp.roll(x, (-self.shift, -self.shift), (1, 2))
        tokens = _to_windows(x, self.window)
        qkv = Linear(3 * channels, name="qkv")(tokens)
        q, k, v = jnp.moveaxis(qkv.reshape(*tokens.shape[:-1], 3, self.heads, -1), -3, 0)
        mask = attention_mask(height, width, self.window, self.shift)
        out = Linear(channels, name="out")(self._attend(q, k, v, mask).reshape(tokens.shape))
        out = _from_windows(out, height + bottom, width + right, self.window)
        return jnp.roll(out, (self.shift, self.shift), (1, 2))[:, :height, :width]

    def _attend(self, q: Array, k: Array, v: Array, mask: np.ndarray) -> Array:
        """q, k, v [B, windows, tokens, heads, d] -> the same shape."""
        span, size = 2 * self.window - 1, self.window
        bias = param(self, "bias", nn.initializers.truncated_normal(0.02), (self.heads, span, span))
        row, column = np.divmod(np.arange(size * size), size)
        rows, columns = (p[:, None] - p[None, :] + size - 1 for p in (row, column))
        logits = jnp.einsum("bnqhd,bnkhd->bnhqk", q, k) * q.shape[-1] ** -0.5
        logits += bias.astype(q.dtype)[:, rows, columns][None, None]
        logits = jnp.where(jnp.asarray(mask)[None, :, None], logits, -jnp.inf)
        return jnp.einsum("bnhqk,bnkhd->bnqhd", jax.nn.softmax(logits), v)


class SqueezedUnit(nn.Module):
    """act(x + conv1x1(act(conv3x3(act(conv1x1(x)))))), at half the width inside."""

    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = self.activation(Conv(x.shape[-1] // 2, 1, name="squeeze")(x))
        hidden = self.activation(Conv(x.shape[-1] // 2, 3, name="middle")(hidden))
        return self.activation(x + Conv(x.shape[-1], 1, name="expand")(hidden))


def _exact_gelu(x: Array) -> Array:
    return nn.gelu(x, approximate=False)


def gated(x: Array, mask_input: Array, activation: Callable[[Array], Array]) -> Array:
    """x + sigmoid(conv1x1(units(mask_input))) * units(x). Call inside `nn.compact`."""
    trunk, mask = x, mask_input
    for i in range(1, UNITS + 1):
        trunk = SqueezedUnit(activation, name=f"trunk{i}")(trunk)
        mask = SqueezedUnit(activation, name=f"mask{i}")(mask)
    return x + nn.sigmoid(Conv(x.shape[-1], 1, name="mask")(mask)) * trunk


class SAM(nn.Module):
    """Simplified attention module of Cheng et al. 2020: [B, H, W, C] kept."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return gated(x, x, nn.relu)


class WAM(nn.Module):
    """Window attention module of Zou et al. 2022: [B, H, W, C] kept, C a multiple of `heads`."""

    heads: int = 8
    window: int = 8
    shift: int = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        attention = WideWindowAttention(self.heads, self.window, self.shift, name="attention")
        return gated(x, x + attention(x), _exact_gelu)


class SwinBlock(nn.Module):
    """Pre-norm transformer block: x + MSA(LN(x)), then x + MLP(LN(x)) with a fourfold width and GELU."""

    heads: int
    window: int
    shift: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        attention = WideWindowAttention(self.heads, self.window, self.shift, name="attention")
        x = x + attention(layer_norm(x, "norm1"))
        hidden = _exact_gelu(Linear(4 * x.shape[-1], name="expand")(layer_norm(x, "norm2")))
        return x + Linear(x.shape[-1], name="join")(hidden)


class SWAtten(nn.Module):
    """Swin attention module of Liu et al. 2023: [B, H, W, C] kept; inside it works on `inner` channels."""

    inner: int = 128
    head_dim: int = 16
    window: int = 8

    @nn.compact
    def __call__(self, x: Array) -> Array:
        heads = self.inner // self.head_dim
        hidden = Conv(self.inner, 1, name="squeeze")(x)
        attended = SwinBlock(heads, self.window, 0, name="block1")(hidden)
        attended = SwinBlock(heads, self.window, self.window // 2, name="block2")(attended)
        return Conv(x.shape[-1], 1, name="expand")(gated(hidden, attended, nn.relu))
