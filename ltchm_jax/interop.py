"""PyTorch weights of the authors' released model <-> Flax variables of the preset `released`.

A reference state is a plain dict of NumPy arrays under the reference's own names; `reference_table` says how
each maps. Of the masked convolution only the causal taps are taken, which is the same as multiplying it by
its mask: a trained state may hold anything in the others.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ltchm_jax.model import PRESETS, ModelConfig
from ltchm_jax.model.ltchm import abstract_variables
from ltchm_jax.reference_table import TABLE, Path, causal_mask

State = dict[str, np.ndarray]

MASK, MASKED = "entropy.maskedconv.mask", "entropy.maskedconv.weight"
COUNTER = ".num_batches_tracked"  # of BatchNorm; no result depends on it
# Built by the released code but never called (84 tensors).
_DEAD = r"conv1_1|conv_block|trans_block\.(proj|scconv)"
UNUSED = re.compile(rf"phi[12]\.|prior(En|De)coder\.TCM\.\d\.({_DEAD})\.")


class Imported(NamedTuple):
    """What `import_state` gives."""

    config: ModelConfig  # 'released' at the width found
    variables: dict[str, Any]  # {'params': ..., 'batch_stats': ...}, float32
    skipped: tuple[str, ...]  # names that were there and not needed


def import_state(state: Mapping[str, np.ndarray]) -> Imported:
    """Flax variables of a reference state. Names may start with `state/`; other names are then left out.

    Raises:
      ValueError: tensors are missing, unexpected, of a wrong shape or not finite; all of them are listed.
    """
    state = plain_names(state)
    skipped = tuple(name for name in state if UNUSED.match(name) or name.endswith(COUNTER))
    used = {name: value for name, value in state.items() if name not in set(skipped)}
    config = _config_of(used)
    _check(used, reference_shapes(config))
    variables: dict[str, Any] = {}
    for entry in TABLE:
        value = entry.to_flax([used[name] for name in entry.sources])
        _put(variables, entry.target, np.array(value, np.float32, order="C"))
    return Imported(config, variables, skipped)


def check_released(config: ModelConfig) -> None:
    """Raises ValueError for what the released code can't be configured as; width and bands are free."""
    ours = dataclasses.asdict(config)
    theirs = dataclasses.asdict(PRESETS["released"]) | {name: ours[name] for name in ("width", "bands")}
    other = [f"{name} {ours[name]!r} for {theirs[name]!r}" for name in theirs if ours[name] != theirs[name]]
    if other:
        raise ValueError(
            f"Only models of preset released have PyTorch names, this one differs: {', '.join(other)}."
        )


def export_state(variables: Mapping[str, Any]) -> State:
    """The reference state of Flax variables: every tensor that the released forward pass reads.

    Hidden taps of the masked convolution and BatchNorm counters are zero. The unused tensors are absent, so
    the released code loads the state with `strict=False`.
    """
    state = to_reference(variables)
    state[MASK] = np.broadcast_to(causal_mask(), state[MASKED].shape).copy()
    means = [name for name in state if name.endswith(".running_mean")]
    return state | {name.replace(".running_mean", COUNTER): np.zeros((), np.int64) for name in means}


def to_reference(variables: Mapping[str, Any]) -> State:
    """Any tree shaped like the variables, or some of their collections, under reference names and layouts.

    Gradients may be given as {'params': gradients}: all layouts are permutations, so they carry over.
    """
    state: State = {}
    for entry in TABLE:
        if entry.target[0] in variables:
            parts = entry.to_reference(np.asarray(_get(variables, entry.target)))
            # Copies: views of a flipped axis have negative strides, which PyTorch does not take.
            copies = [np.array(part, order="C") for part in parts]
            state |= dict(zip(entry.sources, copies, strict=True))
    return state


def reference_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a reference state must have, the mask apart."""
    variables = abstract_variables(config)
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in TABLE:
        empty = np.broadcast_to(np.float32(0), _get(variables, entry.target).shape)
        parts = entry.to_reference(empty)
        shapes |= {name: part.shape for name, part in zip(entry.sources, parts, strict=True)}
    return shapes


def plain_names(arrays: Mapping[str, np.ndarray]) -> State:
    """Without the prefix `state/` if any name has it; what lacks it is then no part of the state."""
    prefix = "state/" if any(name.startswith("state/") for name in arrays) else ""
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def _config_of(state: State) -> ModelConfig:
    """Reads width and bands off the first convolution."""
    first = state.get("Encoder.b0_layer2.weight")
    if first is None or first.ndim != 4 or first.shape[0] % 32 or not 32 <= first.shape[0] <= 512:
        found = "nothing of that name" if first is None else f"shape {first.shape}"
        raise ValueError(
            "A reference state must have Encoder.b0_layer2.weight [N, bands, 3, 3], N a multiple of 32 up to "
            f"512, got {found}; give the state dict of the released model."
        )
    return dataclasses.replace(PRESETS["released"], width=first.shape[0], bands=first.shape[1])


def _check(state: State, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compares names, shapes and values with what must be there, and lists all faults in one error."""
    there = {name: value for name, value in state.items() if name in shapes}
    faults = {
        "missing": [name for name in shapes if name not in state],
        "unexpected": [name for name in state if name not in shapes and name != MASK],
        "of a wrong shape": [
            f"{name} {value.shape} for {shapes[name]}"
            for name, value in there.items()
            if value.shape != shapes[name]
        ],
        "not of finite numbers": [name for name, value in there.items() if not _finite(value)],
    }
    mask = state.get(MASK)
    if mask is not None and not (mask.shape == shapes[MASKED] and (mask == causal_mask()).all()):
        faults["not the 5x5 mask of type A"] = [MASK]
    found = [f"{len(names)} {fault}: {', '.join(names)}" for fault, names in faults.items() if names]
    if found:
        raise ValueError(f"A reference state must match the released model; {'; '.join(found)}.")


def _finite(value: np.ndarray) -> bool:
    with np.errstate(over="ignore"):  # of a float64 too large for float32
        return value.dtype.kind in "fiu" and bool(np.isfinite(value.astype(np.float32)).all())


def _get(tree: Any, path: Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _put(tree: dict[str, Any], path: Path, value: np.ndarray) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
