"""Analysis, synthesis and their hyper pair (paper Fig. 1, Tables 1-2). NHWC, any dtype (see `layers`).

Sides of an image are multiples of 16 here, those of y multiples of 4: y lies at 1/16, z at 1/64. C is
`config.width`, M is `config.latent_channels`; with `stage_widths` analysis and synthesis have those channels
instead of C.
"""

from typing import Any

import flax.linen as nn

from ltchm_jax.model.attention import SAM, WAM, SWAtten
from ltchm_jax.model.config import ModelConfig
from ltchm_jax.model.dam import DAM
from ltchm_jax.model.hpham import HPHAM, HPHAMStage, ReleasedStage
from ltchm_jax.model.layers import Array, Conv, DownBlock, ResidualBlock, UpBlock, UpsampleConv, leaky_relu


def block(kind: Any, remat: bool) -> Any:
    """A kind of module, or one of the same parameters whose inside is computed again for the gradient."""
    return nn.remat(kind) if remat else kind


def attend(
    x: Array, config: ModelConfig, train: bool, axis_name: str | None, name: str, remat: bool = False
) -> Array:
    """The attention module that the configuration names, on x [B, H, W, D] of any width D."""
    if config.attention == "none":
        return x
    if config.attention == "dam":
        dam = block(DAM, remat)
        return dam(config.idconv_reduction, config.idconv_norm, train, axis_name, name=name)(x)
    kind = {"sam": SAM, "wam": WAM, "swatten": SWAtten}[config.attention]
    return block(kind, remat)(name=name)(x)


def hyper_attend(x: Array, config: ModelConfig, name: str) -> Array:
    """HPHAM in the form of the variant, on x [B, H, W, D]."""
    if config.hyper_attention == "none":
        return x
    stage = HPHAMStage if config.variant == "paper" else ReleasedStage
    return HPHAM(stage, channel_attention=config.hyper_attention == "hpham", name=name)(x)


def hyper_width(config: ModelConfig) -> int:
    """Channels at 1/32: only hyper-attention needs 2C there; else they are C, as in plain hyper nets."""
    return config.width if config.hyper_attention == "none" else 2 * config.width


class Analysis(nn.Module):
    """g_a: x [B, H, W, bands] -> y [B, H/16, W/16, M]."""

    config: ModelConfig
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        config, places, remat = self.config, self.config.attention_at_analysis, self.remat
        for stride in (2, 4, 8):
            x = block(DownBlock, remat)(config.width_at(stride), name=f"down{stride}")(x)
            if stride in places:
                x = attend(x, config, train, self.axis_name, f"attention{stride}", remat)
            x = block(ResidualBlock, remat)(config.width_at(stride), name=f"residual{stride}")(x)
        y = Conv(config.latent_channels, stride=2, use_bias=config.variant == "paper", name="down16")(x)
        return attend(y, config, train, self.axis_name, "attention16", remat) if 16 in places else y


class Synthesis(nn.Module):
    """g_s: y_hat [B, H/16, W/16, M] -> x_hat [B, H, W, bands], not clipped."""

    config: ModelConfig
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, y_hat: Array, train: bool = False) -> Array:
        config, x, remat = self.config, y_hat, self.remat
        for stride in (16, 8, 4):
            if stride in config.attention_at_synthesis:
                x = attend(x, config, train, self.axis_name, f"attention{stride}", remat)
            x = block(ResidualBlock, remat)(config.width_at(stride), name=f"residual{stride}")(x)
            x = block(UpBlock, remat)(config.width_at(stride // 2), name=f"up{stride}")(x)
        x = block(ResidualBlock, remat)(config.width_at(2), name="residual2")(x)
        return UpsampleConv(config.bands, name="up2")(x)


class HyperAnalysis(nn.Module):
    """h_a: y [B, H/16, W/16, M] -> z [B, H/64, W/64, C]."""

    config: ModelConfig

    @nn.compact
    def __call__(self, y: Array) -> Array:
        config, width = self.config, self.config.width
        x = hyper_attend(y, config, "hpham16") if 16 in config.hyper_attention_at else y
        x = leaky_relu(Conv(width, name="conv1")(x))
        x = leaky_relu(Conv(width, name="conv2")(x))
        x = leaky_relu(Conv(hyper_width(config), stride=2, name="conv3")(x))
        x = hyper_attend(x, config, "hpham32") if 32 in config.hyper_attention_at else x
        x = leaky_relu(Conv(width, name="conv4")(x))
        return Conv(width, stride=2, name="conv5")(x)


class HyperSynthesis(nn.Module):
    """h_s: z_hat [B, H/64, W/64, C] -> psi [B, H/16, W/16, 2C].

    The paper widens after the first up-sampling, the released code in it.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, z_hat: Array) -> Array:
        config, width, transposed = self.config, self.config.width, self.config.variant == "released"
        if not transposed:
            x = leaky_relu(UpsampleConv(width, name="conv1")(z_hat))
            x = leaky_relu(Conv(hyper_width(config), name="conv2")(x))
        else:
            x = leaky_relu(Conv(width, name="conv1")(z_hat))
            x = leaky_relu(UpsampleConv(hyper_width(config), name="conv2")(x))
        x = hyper_attend(x, config, "hpham32") if 32 in config.hyper_attention_at else x
        x = leaky_relu(Conv(width * 3 // 2, transposed=transposed, name="conv3")(x))
        x = leaky_relu(UpsampleConv(width * 3 // 2, name="conv4")(x))
        psi = Conv(2 * width, transposed=transposed, name="conv5")(x)
        return hyper_attend(psi, config, "hpham16") if 16 in config.hyper_attention_at else psi
