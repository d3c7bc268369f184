"""Checkpoints of a training run (Orbax): state and position in the data."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from ltchm_jax.errors import first_line, one_line
from ltchm_jax.files import atomic_write
from ltchm_jax.training import TrainState


class CheckpointError(ValueError):
    """A checkpoint can't be written or read."""


class RunCheckpoints:
    """Checkpoints of one run in `workdir`: state and position in the data, written in the background.

    The last `keep` of them stay, and the one with the lowest validation loss, which is `best_loss`: infinite
    as long as there was no validation.

    Raises:
      CheckpointError: the folder holds a run of another configuration, or can't be written.
    """

    def __init__(self, workdir: Path, config: Any, keep: int) -> None:
        policies = ocp.checkpoint_managers
        best = policies.BestN(get_metric_fn=_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=_loss,
            best_mode="min",
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(n=keep), best]),
            enable_async_checkpointing=True,
        )
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager((workdir / "checkpoints").resolve(), options=options)
            self._check_config(workdir / "config.json", config)
        except CheckpointError:
            raise
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"--workdir must be a folder to write to, got {str(workdir)!r}: {error}."
            ) from error
        step = self._manager.best_step()
        metrics = None if step is None else self._manager.metrics(step)
        self.best_loss = math.inf if metrics is None else _loss(metrics)

    def _check_config(self, path: Path, config: Any) -> None:
        """Compares the configuration with that of the run found here, and keeps it."""
        text = config.to_json_best_effort(indent=2, sort_keys=True)
        if (self.latest_step() or 0) > config.steps:
            raise CheckpointError(
                f"`steps` must be {self.latest_step()} or more, as many as this run has made, got "
                f"{config.steps}: raise it, or choose another --workdir."
            )
        if self.latest_step() is not None and path.exists():
            old, new = fields_of(_read_config(path)), fields_of(json.loads(text))
            all_made = self.latest_step() == config.steps  # then nothing but a last fit can heed a change
            fixed = lasting(new).keys() - LAST_FITS - MEMORY if all_made else STATEFUL
            changed = differing(old, new, fixed)
            if changed:
                rule = (
                    "A run that has made its steps can't heed other settings"
                    if all_made
                    else "A run goes on only with the configuration it began with"
                )
                raise CheckpointError(
                    f"{rule}; {', '.join(changed)} differ from {str(path)!r}: restore them or choose another "
                    "--workdir."
                )
        with atomic_write(path) as file:
            file.write(text.encode())

    def latest_step(self) -> int | None:
        """The last step that was kept, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data_state: dict, loss: float = math.inf) -> None:
        """Keeps a host state and the position in the data; `loss`: of a validation, if there was one.

        One that is not finite counts as none: it must not pass for the best.

        Raises:
          CheckpointError: this one, or the one before, could not be written.
        """
        loss = loss if math.isfinite(loss) else math.inf
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state))
        with self._named_failure():
            self._manager.save(step, args=items, metrics={"loss": loss})
        self.best_loss = min(self.best_loss, loss)

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """The last state, shaped `like`, and the position in the data."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        try:
            kept = self._manager.restore(self.latest_step(), args=items)
        except (ValueError, KeyError, OSError) as error:
            raise CheckpointError(
                f"Step {self.latest_step()} could not be restored: {first_line(error)}; delete it."
            ) from error
        return kept.state, kept.data

    def close(self) -> None:
        """Waits until all is written.

        Raises:
          CheckpointError: something could not be written.
        """
        with self._named_failure():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _named_failure(self) -> Iterator[None]:
        """What Orbax says when it can't write, in one line."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            text = one_line(error)
            full = os.strerror(errno.ENOSPC)
            reason = full if full in text else text[:200]
            raise CheckpointError(
                f"A checkpoint could not be written to {str(self._manager.directory)!r}: {reason}; those "
                "before it are whole."
            ) from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{str(path)!r} must be the configuration that a run wrote, it can't be read ({error}): restore "
            "it or choose another --workdir."
        ) from None


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration, and those of its data as `data.NAME`."""
    data = config.get("data")
    return config | {f"data.{name}": v for name, v in data.items()} if isinstance(data, dict) else config


def lasting(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that the model of a run depends on: not where data were, nor what is logged."""
    return {
        name: value
        for name, value in fields.items()
        if name not in UNSEEN and (not name.startswith("data") or name in CROPS)
    }


def differing(old: dict[str, Any], new: dict[str, Any], names: Set[str]) -> list[str]:
    """Those of the named fields that differ, sorted. Where one side lacks a field, it is older than that."""
    return sorted(name for name in names & old.keys() & new.keys() if old[name] != new[name])


def _loss(metrics: dict[str, float]) -> float:
    return float(metrics["loss"])


# Fields of a configuration that a run can't change half-way; steps, data folders and intervals it can.
STATEFUL = frozenset(
    {
        "model", "seed", "lmbda", "distortion", "rounding", "batch_size", "accumulate", "schedule", "dtype",
        "rate_balance", "ema", "clip_value", "clip_norm", "data.crops_per_image",
    }
)  # fmt: skip
CROPS = frozenset({"data.crop", "data.crops_per_image", "data.resized_crops", "data.flips"})
INTERVALS = ("real_bytes_every", "validate_every", "checkpoint_every")  # which pause the steps
UNSEEN = frozenset({"log_every", "checkpoints_to_keep", *INTERVALS})
MEMORY = frozenset({"accumulate", "remat"})  # the last fits need less with them, and come out alike
LAST_FITS = frozenset(
    {"steps", "entropy_refit", "synthesis_refit", "synthesis_refit_share", "entropy_images", "entropy_crop"}
)
