"""Self-attention in windows, shifted or not (paper section 2.4, Fig. 5): W-MSA and SW-MSA. NHWC."""

from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.model.layers import Array, Linear, normal_init, param

AnyArray = TypeVar("AnyArray", Array, np.ndarray)


def attention_mask(height: int, width: int, window: int, shift: int) -> np.ndarray | None:
    """Which token of a window may attend which: bool [windows, window^2, window^2], or None if all may.

    Height and width are those of the unpadded map. Tokens that the cyclic shift brought together from
    opposite sides do not see each other, nor do padded and real ones.
    """
    if not (shift or height % window or width % window):
        return None

    def regions(size: int) -> np.ndarray:
        padded = -(-size // window) * window
        position = np.arange(padded)
        wrapped = position >= padded - shift  # in the last window only
        outside = (position + shift) % padded >= size
        return np.stack([wrapped, outside], -1)

    rows, columns = regions(height)[:, None], regions(width)[None, :]
    region = 4 * rows[..., 0] + 2 * columns[..., 0] + (rows[..., 1] | columns[..., 1])
    tokens = to_windows(region[None, :, :, None], window)[0, :, :, 0]
    return tokens[:, :, None] == tokens[:, None, :]


def to_windows(x: AnyArray, window: int) -> AnyArray:
    """[B, H, W, C], sides multiples of the window -> [B, windows, window^2, C], both orders row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, window * window, channels)


def from_windows(tokens: Array, height: int, width: int, window: int) -> Array:
    """The inverse of `to_windows`."""
    batch, channels = tokens.shape[0], tokens.shape[-1]
    x = tokens.reshape(batch, height // window, width // window, window, window, channels)
    return x.swapaxes(2, 3).reshape(batch, height, width, channels)


def relative_offsets(window: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column offset of query from key, from 0 on: two int arrays [window^2, window^2]."""
    row, column = np.divmod(np.arange(window * window), window)
    return row[:, None] - row[None, :] + window - 1, column[:, None] - column[None, :] + window - 1


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows, shifted by `shift`, with a learned bias of relative position.

    [B, H, W, C] is kept, C a multiple of `heads`. Any H and W: the map is padded to whole windows, and padded
    tokens are masked.
    """

    heads: int
    window: int
    shift: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width, channels = x.shape[1:]
        bottom, right = (-n % self.window for n in (height, width))
        x = jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
        tokens = to_windows(jnp.roll(x, (-self.shift, -self.shift), (1, 2)), self.window)
        qkv = Linear(3 * channels, name="qkv")(tokens)
        q, k, v = jnp.moveaxis(qkv.reshape(*tokens.shape[:-1], 3, self.heads, -1), -3, 0)
        mask = attention_mask(height, width, self.window, self.shift)
        out = Linear(channels, name="out")(self._attend(q, k, v, mask).reshape(tokens.shape))
        out = from_windows(out, height + bottom, width + right, self.window)
        return jnp.roll(out, (self.shift, self.shift), (1, 2))[:, :height, :width]

    def _attend(self, q: Array, k: Array, v: Array, mask: np.ndarray | None) -> Array:
        """q, k, v [B, windows, tokens, heads, d] -> the same shape."""
        span = 2 * self.window - 1
        bias = param(self, "bias", normal_init(0.02), (self.heads, span, span))
        rows, columns = relative_offsets(self.window)
        logits = jnp.einsum("bnqhd,bnkhd->bnhqk", q, k) * q.shape[-1] ** -0.5
        logits += bias.astype(q.dtype)[:, rows, columns][None, None]
        if mask is not None:
            logits = jnp.where(jnp.asarray(mask)[None, :, None], logits, -jnp.inf)
        return jnp.einsum("bnhqk,bnkhd->bnqhd", jax.nn.softmax(logits), v)
