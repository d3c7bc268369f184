"""How the tensors of the authors' PyTorch state dict map to Flax variables: one table for both directions.

Each entry names a Flax variable, the reference tensors it is made of, and the layout that carries one to the
other. Ours are HWIO kernels, transposed ones flipped with their channels swapped, and stacks of what repeats.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ltchm_jax.model.priors import CAUSAL_TAPS

Path = tuple[str, ...]
Map = Callable[[np.ndarray], np.ndarray]


class Layout(NamedTuple):
    """A bijection between the reference's array and ours (for `causal`: on the taps that the mask shows)."""

    to_flax: Map
    to_reference: Map


def causal_mask() -> np.ndarray:
    """The 5x5 mask of type A, float32: ones above and to the left of the centre."""
    mask = np.zeros((5, 5), np.float32)
    for row, column in CAUSAL_TAPS:
        mask[row + 2, column + 2] = 1
    return mask


def _causal_to_flax(weight: np.ndarray) -> np.ndarray:
    taps = [weight[:, :, row + 2, column + 2].T for row, column in CAUSAL_TAPS]
    return np.concatenate(taps)  # [12 * M, O], tap by tap


def _causal_to_reference(kernel: np.ndarray) -> np.ndarray:
    taps = kernel.reshape(len(CAUSAL_TAPS), -1, kernel.shape[-1])
    weight = np.zeros((taps.shape[2], taps.shape[1], 5, 5), kernel.dtype)
    for tap, (row, column) in zip(taps, CAUSAL_TAPS, strict=True):
        weight[:, :, row + 2, column + 2] = tap.T
    return weight


LAYOUTS = {
    "same": Layout(lambda w: w, lambda w: w),
    "transposed": Layout(lambda w: w.T, lambda w: w.T),  # matrices: [out, in] <-> [in, out]
    "conv": Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)),  # OIHW <-> HWIO
    "deconv": Layout(  # IOHW <-> HWIO, flipped
        lambda w: w.transpose(2, 3, 0, 1)[::-1, ::-1], lambda w: w[::-1, ::-1].transpose(2, 3, 0, 1)
    ),
    "pointwise": Layout(lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None]),  # OI11 <-> IO
    "depthwise": Layout(lambda w: w[:, 0].transpose(1, 2, 0), lambda w: w.transpose(2, 0, 1)[:, None]),
    "kernels": Layout(lambda w: w.transpose(0, 2, 3, 1), lambda w: w.transpose(0, 3, 1, 2)),  # GCHW <-> GHWC
    "offsets": Layout(lambda w: w[:, None, None, :], lambda w: w[:, 0, 0, :]),  # GC <-> G11C
    "channels": Layout(lambda w: w[0], lambda w: w[None]),  # 1C11 <-> C11
    "causal": Layout(_causal_to_flax, _causal_to_reference),
}

BRANCHES, UNITS = ("trunk", "attention"), 3  # the leading axes of what a DAM stacks


@dataclasses.dataclass(frozen=True)
class Entry:
    """One Flax variable and the reference tensors that it holds."""

    target: Path  # collection first
    sources: tuple[str, ...]
    layout: str
    join: str = "one"  # one | stack: along new axes (branch, unit) | concatenate: along the last axis

    def to_flax(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Arrays in the order of `sources` -> the variable."""
        parts = [LAYOUTS[self.layout].to_flax(value) for value in values]
        if self.join == "stack":
            return np.stack(parts).reshape(len(BRANCHES), UNITS, *parts[0].shape)
        return np.concatenate(parts, axis=-1)

    def to_reference(self, value: np.ndarray) -> list[np.ndarray]:
        """The inverse of `to_flax`."""
        if self.join == "stack":
            parts = list(value.reshape(-1, *value.shape[2:]))
        else:
            parts = np.split(value, len(self.sources), axis=-1)
        return [LAYOUTS[self.layout].to_reference(part) for part in parts]


def _pair(target: Path, source: str, layout: str, bias: bool = True) -> Iterator[Entry]:
    """Kernel and bias of one layer."""
    yield Entry(("params", *target, "kernel"), (f"{source}.weight",), layout)
    if bias:
        yield Entry(("params", *target, "bias"), (f"{source}.bias",), "same")


def _gdn(target: Path, source: str) -> Iterator[Entry]:
    yield Entry(("params", *target, "beta"), (f"{source}.beta",), "same")
    yield Entry(("params", *target, "gamma"), (f"{source}.gamma",), "transposed")


def _residual(target: Path, source: str, layout: str) -> Iterator[Entry]:
    yield from _pair((*target, "conv1"), f"{source}_layer0", layout)
    yield from _pair((*target, "conv2"), f"{source}_layer1", layout)


def _resample(target: Path, source: str, layout: str) -> Iterator[Entry]:
    norm = ("gdn", "GDN") if layout == "conv" else ("igdn", "igdn")
    yield from _pair((*target, "conv1"), f"{source}_layer2", layout)
    yield from _pair((*target, "conv2"), f"{source}_layer3", layout)
    yield from _gdn((*target, norm[0]), f"{source}_layer3_{norm[1]}")
    yield from _pair((*target, "skip"), f"{source}_shortcut", layout)


_IDCONV = (  # collection, path under the input-dependent convolution, reference name, layout
    ("params", ("weight",), "weight", "kernels"),
    ("params", ("bias",), "bias", "offsets"),
    ("params", ("proj", "squeeze", "kernel"), "proj.0.conv.weight", "conv"),
    ("params", ("proj", "norm", "scale"), "proj.0.bn.weight", "same"),
    ("params", ("proj", "norm", "bias"), "proj.0.bn.bias", "same"),
    ("batch_stats", ("proj", "norm", "mean"), "proj.0.bn.running_mean", "same"),
    ("batch_stats", ("proj", "norm", "var"), "proj.0.bn.running_var", "same"),
    ("params", ("proj", "expand", "kernel"), "proj.1.weight", "conv"),
    ("params", ("proj", "expand", "bias"), "proj.1.bias", "same"),
)


def _dam(target: Path, source: str) -> Iterator[Entry]:
    yield from _pair((*target, "mask"), f"{source}.conv1", "conv")
    units = [f"{source}.{b}_ResBlock{i}" for b, i in itertools.product(BRANCHES, range(1, UNITS + 1))]
    for i, (collection, path, name, layout) in itertools.product((1, 2, 3), _IDCONV):
        sources = tuple(f"{unit}.conv{i}.{name}" for unit in units)
        yield Entry((collection, *target, "branches", f"idconv{i}", *path), sources, layout, "stack")


def _hyper_stage(target: Path, source: str) -> Iterator[Entry]:
    block = f"{source}.trans_block"
    yield from _pair((*target, "split"), f"{block}.conv1_1", "conv")
    yield from _pair((*target, "join"), f"{block}.conv1_2", "conv")
    yield from _pair((*target, "out"), f"{source}.conv1_2", "conv")
    for i in (1, 2):
        yield Entry(("params", *target, f"norm{i}", "scale"), (f"{block}.ln{i}.weight",), "same")
        yield Entry(("params", *target, f"norm{i}", "bias"), (f"{block}.ln{i}.bias",), "same")
    squeezes = tuple(f"{block}.SaE.fc{i}.0.weight" for i in (1, 2, 3, 4))
    yield Entry(("params", *target, "channels", "squeeze", "kernel"), squeezes, "transposed", "concatenate")
    yield from _pair((*target, "channels", "excite"), f"{block}.SaE.fc.0", "transposed", bias=False)
    yield from _pair((*target, "attention", "qkv"), f"{block}.msa.embedding_layer", "transposed")
    yield from _pair((*target, "attention", "out"), f"{block}.msa.linear", "transposed")
    bias = f"{block}.msa.relative_position_params"
    yield Entry(("params", *target, "attention", "bias"), (bias,), "same")
    yield from _pair((*target, "ffn", "expand"), f"{block}.mlp.fc1", "conv")
    for size in (1, 3, 5, 7):
        yield from _pair((*target, "ffn", f"depthwise{size}"), f"{block}.mlp.dw_conv{size}", "depthwise")
    yield from _pair((*target, "ffn", "join"), f"{block}.mlp.fc2", "conv")


def _analysis() -> Iterator[Entry]:
    for i, stride in enumerate((2, 4, 8)):
        yield from _resample(("g_a", f"down{stride}"), f"Encoder.b{i}", "conv")
        yield from _residual(("g_a", f"residual{stride}"), f"Encoder.b{i + 1}", "conv")
    yield from _pair(("g_a", "down16"), "Encoder.b3_layer2", "conv", bias=False)
    yield from _dam(("g_a", "attention4"), "Encoder.attention1")
    yield from _dam(("g_a", "attention16"), "Encoder.attention2")


def _synthesis() -> Iterator[Entry]:
    for i, stride in enumerate((16, 8, 4)):
        yield from _residual(("g_s", f"residual{stride}"), f"Decoder.b{i}", "deconv")
        yield from _resample(("g_s", f"up{stride}"), f"Decoder.b{i}", "deconv")
    yield from _residual(("g_s", "residual2"), "Decoder.b3", "deconv")
    yield from _pair(("g_s", "up2"), "Decoder.b3_layer2", "deconv")
    yield from _dam(("g_s", "attention16"), "Decoder.attention1")
    yield from _dam(("g_s", "attention4"), "Decoder.attention2")


def _hyper() -> Iterator[Entry]:
    for ours, theirs, layout in (("h_a", "priorEncoder", "conv"), ("h_s", "priorDecoder", "deconv")):
        for i in range(1, 6):
            yield from _pair((ours, f"conv{i}"), f"{theirs}.conv{i}", layout)
        for i in (0, 1):
            yield from _hyper_stage((ours, "hpham32", f"stage{i + 1}"), f"{theirs}.TCM.{i}")


def _priors() -> Iterator[Entry]:
    for i, name in itertools.product(range(4), (("matrix", "h"), ("bias", "b"), ("factor", "a"))):
        if (i, name[1]) != (3, "a"):
            source = f"bitEstimator_z.f{i + 1}.{name[1]}"
            yield Entry(("params", "prior_z", f"{name[0]}{i}"), (source,), "channels")
    yield from _pair(("prior_y", "context"), "entropy.maskedconv", "causal")
    yield from _pair(("prior_y", "hidden1"), "entropy.conv1", "pointwise")
    yield from _pair(("prior_y", "hidden2"), "entropy.conv2", "pointwise")
    yield from _pair(("prior_y", "parameters"), "entropy.conv3", "pointwise", bias=False)


TABLE: tuple[Entry, ...] = (*_analysis(), *_synthesis(), *_hyper(), *_priors())
