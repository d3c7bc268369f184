"""A training run from first to last step: data in, checkpoints, metrics and the model out."""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.jax_utils
import jax
import numpy as np

from ltchm_jax import data
from ltchm_jax.checkpoints import CheckpointError, RunCheckpoints, load_model, make_model, save_model
from ltchm_jax.model import ModelConfig
from ltchm_jax.training import NonFiniteLoss, Trainer, TrainState, check_finite


class MetricWriter:
    """Scalars to `metrics.jsonl`, and through CLU to TensorBoard where TensorFlow is installed."""

    def __init__(self, workdir: Path) -> None:
        self._file = (workdir / "metrics.jsonl").open("a")
        self._board = None
        with contextlib.suppress(
            Exception
        ):  # the newest JAX breaks the import, a missing TensorFlow the writer
            from clu import metric_writers

            self._board = metric_writers.create_default_writer(str(workdir), asynchronous=False)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One row; in the file a number that is not finite is null."""
        row = {k: v if np.isfinite(v) else None for k, v in scalars.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        if self._board is not None:
            self._board.write_scalars(step, scalars)
            self._board.flush()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """A list that holds the signal once Ctrl-C or a termination came; the run then ends in good order."""
    asked: list[int] = []
    old = {
        s: signal.signal(s, lambda number, _: asked.append(number)) for s in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


# Fields of a configuration that count something.
COUNTS = (
    "steps", "batch_size", "accumulate", "log_every", "validate_every", "checkpoint_every",
    "checkpoints_to_keep",
)  # fmt: skip
DATA_COUNTS = ("crop", "validation_images", "threads", "prefetch")


def check_counts(config: Any) -> None:
    """Raises ValueError for a count below 1."""
    counts = {name: config[name] for name in COUNTS} | {
        f"data.{name}": config.data[name] for name in DATA_COUNTS
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")


def train(config: Any, workdir: Path) -> TrainState:
    """Trains up to `config.steps` from the last checkpoint in workdir, if there is one.

    Writes checkpoints, `metrics.jsonl`, TensorBoard events and at the end `model.safetensors`.

    Raises:
      DataError, CheckpointError, NonFiniteLoss, ValueError: one line each.
    """
    check_counts(config)
    trainer = Trainer(config)
    source = data.open_source(config, "train")
    batches = data.training_batches(source, config, jax.process_index(), jax.process_count())
    checkpoints = RunCheckpoints(workdir, config, config.checkpoints_to_keep)
    host = trainer.init(initial_variables(config, trainer.recipe.model))
    if checkpoints.latest_step() is not None:
        host, position = checkpoints.restore(host)
        batches.set_state(position)
        print(f"goes on from step {int(host.step)}", file=sys.stderr)
    try:
        with stop_on_signals() as asked:
            host = _loop(trainer, config, workdir, host, batches, checkpoints, asked)
    finally:
        checkpoints.close()
    if int(host.step) >= config.steps:
        export(workdir / "model.safetensors", trainer, host, config)
    return host


def initial_variables(config: Any, model: ModelConfig) -> dict | None:
    """The variables of the model file that `init_from` names, or None.

    Raises:
      CheckpointError: it can't be read, or is a model of another configuration.
    """
    if not config.init_from:
        return None
    given = load_model(config.init_from)
    if given.config != model:
        raise CheckpointError(
            f"`init_from` must be a model of the configuration that is trained; {config.init_from!r} differs."
        )
    return given.variables


def _loop(
    trainer: Trainer,
    config: Any,
    workdir: Path,
    host: TrainState,
    batches: Any,
    checkpoints: RunCheckpoints,
    asked: list[int],
) -> TrainState:
    writer, progress = MetricWriter(workdir), Progress(config)
    validation = data.validation_batches(data.open_source(config, "validation"), config)
    state, step, waiting = trainer.replicate(host), int(host.step), []
    while step < config.steps and not asked:
        state, metrics = trainer.step(state, progress.timed(batches))
        waiting.append(metrics)
        step += 1
        if step % config.log_every == 0 or step == config.steps:
            means = progress.close(step, flax.jax_utils.unreplicate(_mean(waiting)))
            check_finite(means, step - len(waiting) + 1, step)
            writer.write(step, means)
            waiting = []
        if step % config.checkpoint_every == 0:
            checkpoints.save(step, _finite(_host(state)), batches.get_state())
        if step % config.validate_every == 0 or step == config.steps:
            host = _host(state)
            means = {f"validation/{k}": v for k, v in trainer.validate(host, validation).items()}
            writer.write(step, means)
            print("\n" + " ".join(f"{k} {v:.4f}" for k, v in means.items()), file=sys.stderr, flush=True)
    host = _finite(_host(state))
    if checkpoints.latest_step() != step:  # the last step, or whenever a signal came
        checkpoints.save(step, host, batches.get_state())
    return host


def _host(state: TrainState) -> TrainState:
    return jax.device_get(flax.jax_utils.unreplicate(state))


def _finite(host: TrainState) -> TrainState:
    """The state itself; what is not finite must never be kept, or a run could not go on from it."""
    if not np.isfinite(host.weights).all():
        check_finite({"weights": np.nan}, 1, int(host.step))
    return host


def _mean(rows: list[dict]) -> dict:
    return jax.tree.map(lambda *values: np.mean(jax.device_get(values), axis=0), *rows)


class Progress:
    """The line seen while it runs: loss, bpp, PSNR, images/s, share of waiting for data, time left."""

    def __init__(self, config: Any) -> None:
        self._config, self._began, self._waited = config, time.perf_counter(), 0.0
        self._step: int | None = None  # where the last interval ended

    def timed(self, batches: Any) -> np.ndarray:
        """The next batch; the time it takes counts as waiting."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def close(self, step: int, means: dict) -> dict[str, float]:
        """Ends an interval: prints it, and returns its metrics with the rates of work."""
        now = time.perf_counter()
        steps = self._config.log_every if self._step is None else step - self._step
        seconds = now - self._began
        values = {k: float(v) for k, v in means.items()}
        values["images_per_second"] = steps * self._config.batch_size / seconds
        values["input_wait"] = self._waited / seconds
        left = (self._config.steps - step) * seconds / steps
        line = (
            f"step {step}/{self._config.steps} loss {values['loss']:.4f} bpp {values['bpp']:.4f} "
            f"psnr {values['psnr']:.2f} {values['images_per_second']:.1f} images/s "
            f"wait {100 * values['input_wait']:.1f}% left {left / 3600:.2f} h"
        )
        print(line, file=sys.stderr, flush=True)
        self._began, self._waited, self._step = now, 0.0, step
        return values


def export(path: Path, trainer: Trainer, state: TrainState, config: Any) -> None:
    """Writes the (averaged) weights of a host state as a model file."""
    variables = {"params": trainer.params(state)}
    if state.batch_stats:
        variables["batch_stats"] = state.batch_stats
    notes = {"steps": str(int(state.step)), "training": config.to_json_best_effort()}
    save_model(path, make_model(trainer.recipe.model, variables, notes))


def main(config: Any, workdir: str) -> int:
    """What `train.py` does; returns the exit status: 0, 2 for one line of error, 130 when interrupted."""
    try:
        state = train(config, Path(workdir))
    except (data.DataError, CheckpointError, NonFiniteLoss, ValueError, OSError) as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0 if int(state.step) >= config.steps else 130
