"""What is kept on disk: the state of a run (Orbax), and a trained model (one safetensors file)."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from ltchm_jax.files import atomic_write
from ltchm_jax.model import ModelConfig, abstract_variables
from ltchm_jax.training import TrainState

FORMAT = "ltchm-model-1"
MAX_MODEL_BYTES = 1 << 31


class CheckpointError(ValueError):
    """A checkpoint or a model can't be written or read."""


class RunCheckpoints:
    """Checkpoints of one run in `workdir`: state and position in the data, written in the background.

    Raises:
      CheckpointError: the folder holds a run of another configuration, or can't be written.
    """

    def __init__(self, workdir: Path, config: Any, keep: int) -> None:
        self._check_config(workdir, config)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager((workdir / "checkpoints").resolve(), options=options)

    @staticmethod
    def _check_config(workdir: Path, config: Any) -> None:
        path, text = workdir / "config.json", config.to_json_best_effort(indent=2, sort_keys=True)
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                with atomic_write(path) as file:
                    file.write(text.encode())
            old = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"--workdir must be a folder to write to, got {str(workdir)!r}: {error}.") from error
        new = json.loads(text)
        changed = sorted(k for k in old.keys() | new.keys() if k in STATEFUL and old.get(k) != new.get(k))
        if changed:
            raise CheckpointError(
                f"A run goes on only with the configuration it began with; {', '.join(changed)} differ from "
                f"{str(path)!r}: restore them or choose another --workdir."
            )

    def latest_step(self) -> int | None:
        """The last step that was kept, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data_state: dict) -> None:
        """Keeps a host state and the position in the data."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state))
        self._manager.save(step, args=items)

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """The last state, shaped `like`, and the position in the data."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        try:
            kept = self._manager.restore(self.latest_step(), args=items)
        except (ValueError, KeyError, OSError) as error:
            line = str(error).splitlines()[0]
            raise CheckpointError(f"Step {self.latest_step()} could not be restored: {line}; delete it.") from error
        return kept.state, kept.data

    def close(self) -> None:
        """Waits until all is written."""
        self._manager.wait_until_finished()
        self._manager.close()


# Fields of a configuration that a run can't change half-way; steps, data folders and intervals it can.
STATEFUL = frozenset({"model", "seed", "lmbda", "batch_size", "schedule", "dtype", "ema", "clip_value", "clip_norm"})


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model: `variables` hold float32 arrays; `notes` say where it comes from."""

    config: ModelConfig
    variables: dict
    notes: dict[str, str]
    digest: bytes  # 8 bytes of SHA-256 over configuration and weights: a stream names its model by this


def model_digest(config: ModelConfig, flat: dict[str, np.ndarray]) -> bytes:
    """8 bytes that change with any weight, any name and any field of the configuration."""
    sha = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name in sorted(flat):
        array = np.ascontiguousarray(flat[name], np.dtype("<f4"))
        sha.update(f"{name}{array.shape}".encode() + array.tobytes())
    return sha.digest()[:8]


def make_model(config: ModelConfig, variables: dict, notes: dict[str, str] | None = None) -> Model:
    """A model from variables in memory, rounded to float16 as a file would keep them."""
    flat = {k: np.asarray(v, np.float16) for k, v in flatten_dict(jax.device_get(variables), sep="/").items()}
    return _from_flat(config, flat, notes or {})


def _from_flat(config: ModelConfig, flat: dict[str, np.ndarray], notes: dict[str, str]) -> Model:
    wide = {k: v.astype(np.float32) for k, v in flat.items()}
    return Model(config, unflatten_dict(wide, sep="/"), notes, model_digest(config, wide))


def save_model(path: str | Path, model: Model) -> None:
    """Writes one safetensors file: float16 weights, configuration and notes in its metadata."""
    from safetensors.numpy import save

    flat = {k: np.asarray(v, np.float16) for k, v in flatten_dict(model.variables, sep="/").items()}
    metadata = {"format": FORMAT, "config": json.dumps(model.config.to_dict()), "digest": model.digest.hex()}
    with atomic_write(path) as file:
        file.write(save(flat, metadata | {f"note:{k}": v for k, v in model.notes.items()}))


def load_model(path: str | Path) -> Model:
    """Reads what `save_model` wrote.

    Raises:
      CheckpointError: no such file, not a model, weights that do not fit the configuration, or a wrong digest.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if Path(path).stat().st_size > MAX_MODEL_BYTES:
            raise CheckpointError(f"A model has at most {MAX_MODEL_BYTES} bytes, {str(path)!r} has more.")
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"A model file says format {FORMAT}, {str(path)!r} says {metadata.get('format')!r}.")
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise CheckpointError(f"A model is a safetensors file written by this package; {str(path)!r}: {error}.") from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"The configuration in {str(path)!r} can't be read: {error}") from error
    check_weights(config, flat, str(path))
    notes = {k.removeprefix("note:"): v for k, v in metadata.items() if k.startswith("note:")}
    model = _from_flat(config, flat, notes)
    if model.digest.hex() != metadata.get("digest"):
        raise CheckpointError(f"The digest of {str(path)!r} does not match its weights; get the file again.")
    return model


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of a configuration."""
    return {k: v.shape for k, v in flatten_dict(abstract_variables(config), sep="/").items()}


def check_weights(config: ModelConfig, flat: dict[str, np.ndarray], name: str) -> None:
    """Raises CheckpointError, with all that is wrong in one line, unless the weights are those of `config`."""
    want, have = expected_shapes(config), {k: v.shape for k, v in flat.items()}
    wrong = [f"{k} missing" for k in sorted(want.keys() - have.keys())]
    wrong += [f"{k} unknown" for k in sorted(have.keys() - want.keys())]
    wrong += [f"{k} is {have[k]}, not {want[k]}" for k in sorted(want.keys() & have.keys()) if want[k] != have[k]]
    wrong += [f"{k} not finite" for k in sorted(flat) if not np.isfinite(flat[k]).all()]
    if wrong:
        raise CheckpointError(f"The weights of {name!r} do not fit its configuration: {'; '.join(wrong[:8])}.")
