"""The attention modules that DAM is compared with (paper Table 5): SAM, WAM and SWAtten. NHWC.

SAM      Cheng et al. 2020, static convolutions only
WAM      Zou et al. 2022 (WACNN), SAM with window attention in front of the mask
SWAtten  Liu et al. 2023 (TCM), SAM at a reduced width with a Swin pair in front of the mask
"""

from collections.abc import Callable

import flax.linen as nn

from ltchm_jax.model.layers import Array, Conv, Linear, exact_gelu, layer_norm, relu
from ltchm_jax.model.window_attention import WindowAttention

UNITS = 3  # residual units in each branch


class SqueezedUnit(nn.Module):
    """act(x + conv1x1(act(conv3x3(act(conv1x1(x)))))), at half the width inside."""

    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = self.activation(Conv(x.shape[-1] // 2, 1, name="squeeze")(x))
        hidden = self.activation(Conv(x.shape[-1] // 2, 3, name="middle")(hidden))
        return self.activation(x + Conv(x.shape[-1], 1, name="expand")(hidden))


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
        return gated(x, x, relu)


class WAM(nn.Module):
    """Window attention module of Zou et al. 2022: [B, H, W, C] kept, C a multiple of `heads`."""

    heads: int = 8
    window: int = 8
    shift: int = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        attention = WindowAttention(self.heads, self.window, self.shift, name="attention")
        return gated(x, x + attention(x), exact_gelu)


class SwinBlock(nn.Module):
    """Pre-norm transformer block: x + MSA(LN(x)), then x + MLP(LN(x)) with a fourfold width and GELU."""

    heads: int
    window: int
    shift: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        attention = WindowAttention(self.heads, self.window, self.shift, name="attention")
        x = x + attention(layer_norm(x, "norm1"))
        hidden = exact_gelu(Linear(4 * x.shape[-1], name="expand")(layer_norm(x, "norm2")))
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
        return Conv(x.shape[-1], 1, name="expand")(gated(hidden, attended, relu))
