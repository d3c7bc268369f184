"""A PyTorch twin of the authors' released LTCHM, written from its description, for parity tests only.

It computes what the released model computes and uses its state-dict names, so a state loads into both.
Modules that the released code builds but never calls are left out; `unused_keys` names their entries. NCHW.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_DIM, WINDOW, COMPONENTS = 32, 4, 3
UNUSED = re.compile(
    r"phi[12]\.|prior(En|De)coder\.TCM\.[01]\.(conv1_1|conv_block|trans_block\.(proj|scconv))\."
)


def unused_keys(names: Iterable[str]) -> list[str]:
    """The entries of a released state dict that no forward pass reads."""
    return [name for name in names if UNUSED.match(name)]


def lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.01)


def conv(cin: int, cout: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=bias)


def deconv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(cin, cout, kernel, stride, kernel // 2, output_padding=stride - 1)


def small_normal(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


class LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient also passes below the bound when it would push x up."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * ((x >= ctx.bound) | (grad < 0)), None


class GDN(nn.Module):
    """Generalised divisive normalisation, or its inverse."""

    pedestal = 2.0**-36

    def __init__(self, width: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.full((width,), (1 + self.pedestal) ** 0.5))
        self.gamma = nn.Parameter((0.1 * torch.eye(width) + self.pedestal).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        beta = LowerBound.apply(self.beta, (1e-6 + self.pedestal) ** 0.5) ** 2 - self.pedestal
        gamma = LowerBound.apply(self.gamma, self.pedestal**0.5) ** 2 - self.pedestal
        norm = F.conv2d(x * x, gamma[:, :, None, None], beta).sqrt()
        return x * norm if self.inverse else x / norm


class IDConv(nn.Module):
    """Depthwise convolution whose kernel and bias are mixed per image."""

    def __init__(self, width: int, kernel: int, groups: int = 2, reduction: int = 4) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        hidden = width // reduction
        self.weight = small_normal(groups, width, kernel, kernel)
        self.bias = small_normal(groups, width)
        first = nn.Module()
        first.conv, first.bn = conv(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        nn.init.kaiming_normal_(first.conv.weight, mode="fan_out", nonlinearity="relu")
        self.proj = nn.ModuleList([first, conv(hidden, groups * width, 1)])

    def mix(self, pooled: Tensor) -> Tensor:
        hidden = F.gelu(self.proj[0].bn(self.proj[0].conv(pooled)))
        logits = self.proj[1](hidden)
        return logits.unflatten(1, (self.groups, -1)).softmax(1)  # [B, G, C, k, k]

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, columns = x.shape
        weight = (self.mix(F.adaptive_avg_pool2d(x, self.kernel)) * self.weight).sum(1)
        bias = (self.mix(x.mean((2, 3), keepdim=True))[..., 0, 0] * self.bias).sum(1)
        weight = weight.reshape(batch * width, 1, self.kernel, self.kernel)
        rows = x.reshape(1, batch * width, height, columns)
        out = F.conv2d(rows, weight, bias.flatten(), padding=self.kernel // 2, groups=batch * width)
        return out.reshape(x.shape)


class DynamicUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (IDConv(width, kernel) for kernel in (1, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class DAM(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        for branch in ("trunk", "attention"):
            for i in (1, 2, 3):
                self.add_module(f"{branch}_ResBlock{i}", DynamicUnit(width))
        self.conv1 = conv(width, width, 1)

    def branch(self, name: str, x: Tensor) -> Tensor:
        for i in (1, 2, 3):
            x = getattr(self, f"{name}_ResBlock{i}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sigmoid(self.conv1(self.branch("attention", x))) * self.branch("trunk", x)


class Transform(nn.Module):
    """What the main encoder and decoder share: flat layer names, residual blocks, resampling blocks."""

    def residual(self, block: str, x: Tensor) -> Tensor:
        first, second = getattr(self, f"{block}_layer0"), getattr(self, f"{block}_layer1")
        return x + lrelu(second(lrelu(first(x))))

    def resample(self, block: str, norm: str, x: Tensor) -> Tensor:
        inner = getattr(self, f"{block}_layer3")(lrelu(getattr(self, f"{block}_layer2")(x)))
        return getattr(self, f"{block}_layer3_{norm}")(inner) + getattr(self, f"{block}_shortcut")(x)


class Encoder(Transform):
    def __init__(self, width: int, bands: int = 3) -> None:
        super().__init__()
        for i in range(4):
            cin = width if i else bands
            if i:
                self.add_module(f"b{i}_layer0", conv(width, width, 3))
                self.add_module(f"b{i}_layer1", conv(width, width, 3))
            if i < 3:
                self.add_module(f"b{i}_shortcut", conv(cin, width, 1, 2))
                self.add_module(f"b{i}_layer2", conv(cin, width, 3, 2))
                self.add_module(f"b{i}_layer3", conv(width, width, 3))
                self.add_module(f"b{i}_layer3_GDN", GDN(width))
        self.b3_layer2 = conv(width, width, 3, 2, bias=False)
        self.attention1, self.attention2 = DAM(width), DAM(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.resample("b0", "GDN", x)
        x = self.attention1(self.resample("b1", "GDN", self.residual("b1", x)))
        x = self.resample("b2", "GDN", self.residual("b2", x))
        return self.attention2(self.b3_layer2(self.residual("b3", x)))


class Decoder(Transform):
    def __init__(self, width: int, bands: int = 3) -> None:
        super().__init__()
        for i in range(4):
            self.add_module(f"b{i}_layer0", deconv(width, width, 3))
            self.add_module(f"b{i}_layer1", deconv(width, width, 3))
            if i < 3:
                self.add_module(f"b{i}_shortcut", deconv(width, width, 1, 2))
                self.add_module(f"b{i}_layer2", deconv(width, width, 3, 2))
                self.add_module(f"b{i}_layer3", deconv(width, width, 3))
                self.add_module(f"b{i}_layer3_igdn", GDN(width, inverse=True))
        self.b3_layer2 = deconv(width, bands, 3, 2)
        self.attention1, self.attention2 = DAM(width), DAM(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.resample("b0", "igdn", self.residual("b0", self.attention1(x)))
        x = self.attention2(self.resample("b1", "igdn", self.residual("b1", x)))
        x = self.resample("b2", "igdn", self.residual("b2", x))
        return self.b3_layer2(self.residual("b3", x))


class SaE(nn.Module):
    """Channel attention with four parallel squeezes."""

    def __init__(self, width: int, reduction: int = 32) -> None:
        super().__init__()
        hidden = width // reduction
        for i in (1, 2, 3, 4):
            self.add_module(f"fc{i}", nn.Sequential(nn.Linear(width, hidden, bias=False)))
        self.fc = nn.Sequential(nn.Linear(4 * hidden, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        squeezed = [F.relu(getattr(self, f"fc{i}")(pooled)) for i in (1, 2, 3, 4)]
        return x * torch.sigmoid(self.fc(torch.cat(squeezed, 1)))[:, :, None, None]


class WMSA(nn.Module):
    """(Shifted) window self-attention on [B, H, W, C]."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.shift, self.heads = shift, width // HEAD_DIM
        side = 2 * WINDOW - 1
        self.relative_position_params = small_normal(self.heads, side, side)
        self.embedding_layer = nn.Linear(width, 3 * width)
        self.linear = nn.Linear(width, width)

    def bias(self) -> Tensor:
        rows = torch.arange(WINDOW).repeat_interleave(WINDOW)
        columns = torch.arange(WINDOW).repeat(WINDOW)
        dr = rows[:, None] - rows[None] + WINDOW - 1
        dc = columns[:, None] - columns[None] + WINDOW - 1
        return self.relative_position_params[:, dr, dc]  # [heads, 16, 16]

    def mask(self, rows: int, columns: int) -> Tensor:
        """True where a query and a key come from opposite edges of the map: [rows, columns, 16, 16]."""
        late = torch.arange(WINDOW) >= WINDOW - self.shift
        crossing = late[:, None] != late[None]
        mask = torch.zeros(rows, columns, WINDOW, WINDOW, WINDOW, WINDOW, dtype=torch.bool)
        mask[-1] |= crossing[None, :, None, :, None]
        mask[:, -1] |= crossing[None, None, :, None, :]
        return mask.reshape(rows, columns, WINDOW**2, WINDOW**2)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, columns, width = x.shape
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        grid = (height // WINDOW, columns // WINDOW)
        windows = x.reshape(batch, grid[0], WINDOW, grid[1], WINDOW, width).transpose(2, 3)
        tokens = windows.reshape(batch, *grid, WINDOW**2, width)
        qkv = self.embedding_layer(tokens).unflatten(-1, (3, self.heads, HEAD_DIM))
        q, k, v = qkv.permute(4, 0, 1, 2, 5, 3, 6)  # each [B, rows, columns, heads, 16, 32]
        logits = q @ k.transpose(-1, -2) * HEAD_DIM**-0.5 + self.bias()
        if self.shift:
            logits = logits.masked_fill(self.mask(*grid)[:, :, None], float("-inf"))
        mixed = (logits.softmax(-1) @ v).transpose(-2, -3).flatten(-2)  # [B, rows, columns, 16, C]
        out = self.linear(mixed).reshape(batch, *grid, WINDOW, WINDOW, width).transpose(2, 3).reshape(x.shape)
        return out.roll((self.shift, self.shift), (1, 2)) if self.shift else out


class MSFFN(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = conv(width, 4 * width, 1), conv(4 * width, width, 1)
        for k in (1, 3, 5, 7):
            self.add_module(f"dw_conv{k}", nn.Conv2d(width, width, k, padding=k // 2, groups=width))

    def forward(self, x: Tensor) -> Tensor:
        branches: list[Tensor] = []
        for k, chunk in zip((1, 3, 5, 7), lrelu(self.fc1(x)).chunk(4, 1), strict=True):
            branches.append(getattr(self, f"dw_conv{k}")(chunk + branches[-1] if branches else chunk))
        return x + lrelu(self.fc2(torch.cat(branches, 1)))


class HybridBlock(nn.Module):
    """Channel attention on one half, window attention on the other, then the feed-forward net."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(2 * width), nn.LayerNorm(2 * width)
        self.conv1_1, self.conv1_2 = conv(2 * width, 2 * width, 1), conv(2 * width, 2 * width, 1)
        self.SaE, self.msa, self.mlp = SaE(width), WMSA(width, shift), MSFFN(2 * width)

    @staticmethod
    def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
        return layer(x.movedim(1, -1)).movedim(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = self.conv1_1(x)
        channel, spatial = self.norm(self.ln1, u).chunk(2, 1)
        attended = self.msa(spatial.movedim(1, -1)).movedim(-1, 1)
        v = u + self.conv1_2(torch.cat([self.SaE(channel), attended], 1))
        return v + self.mlp(self.norm(self.ln2, v))


class Stage(nn.Module):
    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.trans_block, self.conv1_2 = HybridBlock(width, shift), conv(2 * width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1_2(self.trans_block(x))


def stages(width: int) -> nn.Sequential:
    return nn.Sequential(Stage(width, 0), Stage(width, WINDOW // 2))


class PriorEncoder(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(n, n, 3), conv(n, n, 3), conv(n, 2 * n, 3, 2)
        self.TCM, self.conv4, self.conv5 = stages(n), conv(2 * n, n, 3), conv(n, n, 3, 2)

    def forward(self, y: Tensor) -> Tensor:
        x = lrelu(self.conv3(lrelu(self.conv2(lrelu(self.conv1(y))))))
        return self.conv5(lrelu(self.conv4(self.TCM(x))))


class PriorDecoder(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        wide = int(1.5 * n)
        self.conv1, self.conv2, self.TCM = deconv(n, n, 3), deconv(n, 2 * n, 3, 2), stages(n)
        self.conv3, self.conv4 = deconv(2 * n, wide, 3), deconv(wide, wide, 3, 2)
        self.conv5 = deconv(wide, 2 * n, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.TCM(lrelu(self.conv2(lrelu(self.conv1(z)))))
        return self.conv5(lrelu(self.conv4(lrelu(self.conv3(x)))))


class MaskedConv(nn.Conv2d):
    """5x5 causal convolution; as released, the mask overwrites the weight, so its gradient stays dense."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(cin, cout, 5, padding=2)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)
        mask = torch.zeros_like(self.weight)
        mask[:, :, :2] = 1
        mask[:, :, 2, :2] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class Entropy(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.maskedconv = MaskedConv(n, 2 * n)
        self.conv1, self.conv2 = conv(4 * n, 640, 1), conv(640, 640, 1)
        self.conv3 = conv(640, 9 * n, 1, bias=False)

    def forward(self, psi: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, scales and weights of the mixture, each [B, N, h, w, 3]."""
        x = torch.cat([self.maskedconv(y), psi], 1)
        x = self.conv3(lrelu(self.conv2(lrelu(self.conv1(x))))).unflatten(1, (COMPONENTS, 3, -1))
        probs, means, scales = x.permute(2, 0, 3, 4, 5, 1)
        return means, scales.abs().clamp(min=1e-4), probs.softmax(-1)


class BitEstimator(nn.Module):
    """Cumulative distribution of z, one per channel."""

    def __init__(self, n: int) -> None:
        super().__init__()
        for i in (1, 2, 3, 4):
            layer = nn.Module()
            for name in "hba" if i < 4 else "hb":
                layer.register_parameter(name, nn.Parameter(0.01 * torch.randn(1, n, 1, 1)))
            self.add_module(f"f{i}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.f1, self.f2, self.f3):
            t = x * F.softplus(layer.h) + layer.b
            x = t + t.tanh() * layer.a.tanh()
        return torch.sigmoid(x * F.softplus(self.f4.h) + self.f4.b)


def laplace_cdf(t: Tensor) -> Tensor:
    return 0.5 - 0.5 * t.sign() * torch.expm1(-t.abs())


def bits(probability: Tensor) -> Tensor:
    return (-torch.log2(probability + 1e-10)).clamp(0, 50).sum()


class TorchLTCHM(nn.Module):
    """The released model. Widths are multiples of 64, image sides multiples of 128."""

    def __init__(self, n: int = 128) -> None:
        super().__init__()
        self.Encoder, self.Decoder = Encoder(n), Decoder(n)
        self.priorEncoder, self.priorDecoder = PriorEncoder(n), PriorDecoder(n)
        self.bitEstimator_z, self.entropy = BitEstimator(n), Entropy(n)

    def load_reference(self, state: Mapping[str, Tensor]) -> list[str]:
        """Load a released state dict; returns the unused names it carried."""
        skipped = unused_keys(state)
        self.load_state_dict({name: value for name, value in state.items() if name not in set(skipped)})
        return skipped

    def forward(self, x: Tensor, noise: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """Every tensor and rate of a pass over x [B, 3, H, W] in 0..1; noise (y, z) replaces rounding."""
        y = self.Encoder(x)
        z = self.priorEncoder(y)
        y_hat, z_hat = (y + noise[0], z + noise[1]) if noise else (y.round(), z.round())
        psi = self.priorDecoder(z_hat)
        means, scales, weights = self.entropy(psi, y_hat)
        x_hat = self.Decoder(y_hat)
        offset = y_hat[..., None] - means
        upper, lower = laplace_cdf((offset + 0.5) / scales), laplace_cdf((offset - 0.5) / scales)
        p_y = (weights * (upper - lower)).sum(-1)
        p_z = self.bitEstimator_z(z_hat + 0.5) - self.bitEstimator_z(z_hat - 0.5)
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        rates = {"bpp_y": bits(p_y) / pixels, "bpp_z": bits(p_z) / pixels, "mse": F.mse_loss(x_hat, x)}
        latents = {"y": y, "z": z, "psi": psi, "means": means, "scales": scales, "weights": weights}
        return latents | {"x_hat_unclipped": x_hat} | rates
