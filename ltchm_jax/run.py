"""A training run from first to last step: data in, checkpoints, metrics and the model out."""

import contextlib
import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ltchm_jax import data, metrics, processes
from ltchm_jax.checkpoints import INTERVALS, RunCheckpoints, differing, fields_of, lasting
from ltchm_jax.command import INTERRUPTED, outcome
from ltchm_jax.devices import check_platforms
from ltchm_jax.errors import tell
from ltchm_jax.files import claimed
from ltchm_jax.fitting import Report, fit_entropy_model, fit_synthesis
from ltchm_jax.linear_start import check_model, linear_start
from ltchm_jax.model import Y_STRIDE, Z_STRIDE, ModelConfig
from ltchm_jax.model_file import Model, ModelError, load_model, make_model, save_model
from ltchm_jax.monitor import MetricWriter, Progress, say, share_of_peak
from ltchm_jax.signals import interrupts, stop_on_signals
from ltchm_jax.sources import Tolerant
from ltchm_jax.training import Trainer, TrainState, check_finite

# Fields of a configuration that count something.
COUNTS = (
    "steps", "batch_size", "accumulate", "log_every", "validate_every", "checkpoint_every",
    "checkpoints_to_keep", "entropy_images", "entropy_crop",
)  # fmt: skip
MAY_BE_ZERO = (
    "seed", "real_bytes_every", "linear_start", "entropy_fit", "entropy_refit", "synthesis_refit",
    "warmup", "decay_at", "clip_value", "clip_norm",
)  # fmt: skip
MOST = 1 << 31  # of a count: JAX's integers have 32 bits
CODERS = ("tensorflow_compression_ops", "tensorflow_compression")  # either will do
DATA_COUNTS = ("crop", "crops_per_image", "validation_images", "threads", "prefetch")


def check(config: Any) -> None:
    """Raises ValueError for what a run would fail of later, perhaps after its last step.

    That is a count or a share out of range, crops that a fit can't use, or no range coder for real bytes.
    """
    check_counts(config)
    fits_entropy = config.entropy_fit or config.entropy_refit
    crops = [
        ("data.crop", config.data.crop, Z_STRIDE, "linear_start", config.linear_start),
        ("data.crop", config.data.crop, Y_STRIDE, "synthesis_refit", config.synthesis_refit),
        ("entropy_crop", config.entropy_crop, Z_STRIDE, "entropy_fit and entropy_refit", fits_entropy),
    ]
    for name, crop, stride, fit_name, on in crops:
        if on and crop % stride:
            raise ValueError(f"`{name}` must be a multiple of {stride} for {fit_name}, got {crop}.")
    if config.distortion != "mse" and (config.linear_start or config.synthesis_refit):
        raise ValueError(
            "`linear_start` and `synthesis_refit` lower squared error: set both to 0 for `distortion` "
            f"{config.distortion}."
        )
    if config.init_from and config.linear_start:
        raise ValueError(
            "`init_from` and `linear_start` are two beginnings: set --config.linear_start=0 for the first."
        )
    if config.entropy_fit and not (config.linear_start or config.init_from):
        raise ValueError(
            "`entropy_fit` needs weights to fit to: set `linear_start`, `init_from`, or `entropy_refit`."
        )
    if config.real_bytes_every and not any(map(importlib.util.find_spec, CODERS)):
        raise ValueError("`real_bytes_every` needs tensorflow-compression-ops: install it, or set it to 0.")


def check_counts(config: Any) -> None:
    """Raises ValueError for a count or a share out of range."""
    counts = {name: config[name] for name in COUNTS} | {
        f"data.{name}": config.data[name] for name in DATA_COUNTS
    }
    for name, value in counts.items():
        if not 1 <= value < MOST:
            raise ValueError(f"`{name}` must be 1 to 2^31 - 1, got {value}.")
    for name in MAY_BE_ZERO:
        if not 0 <= config[name] < MOST:
            raise ValueError(f"`{name}` must be 0 or more, less than 2^31, got {config[name]}.")
    for name in ("lmbda", "learning_rate"):
        if not 0 < config[name] < math.inf:
            raise ValueError(f"`{name}` must be a number above 0, got {config[name]}.")
    if not 0 <= config.ema < 1:
        raise ValueError(f"`ema` must be 0 (off) or more, less than 1, got {config.ema}.")
    if not 0 < config.synthesis_refit_share <= 1:
        raise ValueError(
            f"`synthesis_refit_share` must be above 0 and at most 1, got {config.synthesis_refit_share}."
        )


def train(config: Any, workdir: Path, received: list[int]) -> bool:
    """Trains up to `config.steps` from the last checkpoint in workdir, if there is one.

    Writes checkpoints, `metrics.jsonl`, TensorBoard events, `best.safetensors` whenever the validation loss
    falls, and at the end, after what fits halves of the model alone, `model.safetensors`.

    The configuration has passed `check`. `received` holds a signal to stop once there is one.

    Returns:
      Whether the run is complete: False if a signal ended it before. Of a complete one nothing is done again.

    Raises:
      DataError, CheckpointError, NonFiniteLoss, ValueError: one line each.
    """
    result = workdir / "model.safetensors"
    if processes.any_of(processes.is_first() and is_of(config, result)):
        say(f"complete: {str(result)!r} is this run's; remove it to have its last fits again")
        return True
    trainer = Trainer(config)
    if jax.process_count() > 1:
        say(f"{jax.device_count()} devices in {jax.process_count()} processes")
    source = data.open_source(config, "train")
    source.check()
    validation = data.validation_batches(data.open_source(config, "validation"), config)
    if data.validates_on_training_images(config):
        say("validates on training images: --config.data.split=True or .validation_folder=DIR takes others")
    batches = data.training_batches(source, config, jax.process_index(), jax.process_count())
    checkpoints = RunCheckpoints(workdir, config, config.checkpoints_to_keep)
    goes_on = checkpoints.latest_step() is not None
    host = trainer.init(None if goes_on else initial_variables(config, trainer.recipe.model, source))
    if goes_on:
        host, position = checkpoints.restore(host)
        batches.set_state(position)
        say(f"goes on from step {int(host.step)}")
    else:
        host = processes.tree_from_first(host)
    try:
        with stop_on_signals(received), MetricWriter(workdir, int(host.step)) as writer:
            run = Run(config, workdir, trainer, checkpoints, writer, source, batches, validation, received)
            host = run.loop(host)
            stopped = int(host.step) < config.steps or processes.any_of(bool(received))
    finally:
        checkpoints.close()
    if stopped:
        say(f"ended at step {int(host.step)} of {config.steps}; the same command goes on")
        return False
    with processes.leaving_together():
        if received:  # while they agreed on it
            raise KeyboardInterrupt
        model = finish(config, model_of(trainer, host, config), source)  # by all, so that none waits for long
        if processes.is_first():
            save_model(result, model)
    return True


def is_of(config: Any, path: Path) -> bool:
    """Whether the model file is the result of a run of this configuration, wherever its data were."""
    try:
        notes = load_model(path, check_shapes=False).notes  # its digest says that it is whole
        made = fields_of(dict(json.loads(notes["training"])))
    except (KeyError, OSError, TypeError, ValueError):
        return False
    asked_for = lasting(fields_of(json.loads(config.to_json_best_effort())))
    return notes.get("steps") == str(config.steps) and not differing(made, asked_for, asked_for.keys())


def finish(config: Any, model: Model, source: Tolerant) -> Model:
    """The model with its synthesis, then its entropy model fitted alone, as the configuration says."""
    variables, key = model.variables, jax.random.key(config.seed)
    if config.synthesis_refit:
        batches, steps = data.training_batches(source, config), config.synthesis_refit
        report = report_of_fit("synthesis", "psnr", steps)
        parts = jax.device_count() * config.accumulate  # one device does it all, in the memory of a step
        fitted = fit_synthesis(model.config, variables, batches, steps, key, report, parts, config.remat)
        variables = optax.incremental_update(fitted, variables, config.synthesis_refit_share)
    if config.entropy_refit:
        variables = fit(config, model.config, variables, source, config.entropy_refit)
    return model if variables is model.variables else make_model(model.config, variables, model.notes)


def initial_variables(config: Any, model: ModelConfig, source: Tolerant) -> dict | None:
    """The variables of the model file that `init_from` names, or of a linear start, or None.

    Of either, the entropy model is fitted first if the configuration says so.

    Raises:
      ModelError: the file can't be read, or is a model of another configuration.
      ValueError: a linear start for a model or crops that have none.
    """
    if config.init_from:
        variables = given_variables(config.init_from, model)
    elif config.linear_start:
        check_model(model)
        images = first_crops(config, source, config.linear_start, config.data.crop)
        variables = linear_start(model, images, config.lmbda, jax.random.key(config.seed))
    else:
        return None
    if not config.entropy_fit:
        return variables
    return fit(config, model, variables, source, config.entropy_fit, noisy=True)


def given_variables(path: str, model: ModelConfig) -> dict:
    """The variables of a model file. ModelError if it can't be read, or is of another configuration."""
    given = load_model(path)
    if given.config != model:
        raise ModelError(
            f"`init_from` must be a model of the configuration that is trained; {path!r} differs."
        )
    return given.variables


def fit(
    config: Any, model: ModelConfig, variables: dict, source: Tolerant, steps: int, noisy: bool = False
) -> dict:
    """The variables with their entropy model fitted to the first training crops."""
    images = first_crops(config, source, config.entropy_images, config.entropy_crop)
    key = jax.random.key(config.seed)
    report = report_of_fit("entropy model", "bpp", steps)
    return fit_entropy_model(
        model, variables, images, steps, key, noisy, report, rate_balance=config.rate_balance
    )


def report_of_fit(half: str, measure: str, steps: int) -> Report:
    """Prints how far a fit is; raises NonFiniteLoss once what it finds is not finite."""

    def report(step: int, found: float) -> None:
        check_finite({measure: found}, 1, step)
        say(f"fit of the {half} {step}/{steps} {measure} {found:.4f}")

    return report


def first_crops(config: Any, source: Tolerant, count: int, crop: int) -> np.ndarray:
    """uint8 [N, crop, crop, bands]: the first `count` crops of that size, and the rest of their batch."""
    other = config.copy_and_resolve_references()
    other.data.crop = crop
    batches = data.training_batches(source, other)
    return np.concatenate([next(batches) for _ in range(-(-count // config.batch_size))])


@dataclasses.dataclass
class Run:
    """What a run holds between its first and its last step."""

    config: Any
    workdir: Path
    trainer: Trainer
    checkpoints: RunCheckpoints
    writer: MetricWriter
    source: Tolerant
    batches: Any
    validation: list[np.ndarray]
    received: list[int]  # a signal to stop, once there is one

    def loop(self, host: TrainState) -> TrainState:
        """From a host state to the last step, or to where a signal stops it; returns that state, kept."""
        config, trainer = self.config, self.trainer
        progress = Progress(config, share_of_peak(config, trainer.recipe.model))
        state, step, waiting, metrics = trainer.replicate(host), int(host.step), [], None
        progress.start(step)
        while step < config.steps and not self.stops(step):
            state, metrics = trainer.step(state, progress.next_batch(self.batches, metrics))
            waiting.append(metrics)
            step += 1
            if step == int(host.step) + 1:  # it has compiled
                progress.start(step, metrics)
            if step % config.log_every == 0 or step == config.steps:
                means = progress.close(step, _mean(waiting))
                means["images_left_out"] = float(len(self.source.left_out))
                check_finite(means, step - len(waiting) + 1, step)
                self.writer.write(step, means)
                waiting = []
            if step == config.steps or self.is_due(step, *INTERVALS):
                with progress.pause(metrics):
                    self.keep(step, _finite(_host(state)))
        if self.checkpoints.latest_step() != step:  # the last step, or whenever a signal came
            self.checkpoints.save(step, _finite(_host(state)), self.batches.get_state())
        return _host(state)

    def stops(self, step: int) -> bool:
        """Whether a signal came; several processes agree on it where they log."""
        if jax.process_count() == 1:
            return bool(self.received)
        return step % self.config.log_every == 0 and processes.any_of(bool(self.received))

    def is_due(self, step: int, *intervals: str) -> bool:
        """Whether something that is done every so many steps, 0 being never, is done after this one."""
        return any(self.config[name] and step % self.config[name] == 0 for name in intervals)

    def keep(self, step: int, host: TrainState) -> None:
        """Real bytes, validation and checkpoint, if this step has any; the best model is exported."""
        loss, best = np.inf, self.checkpoints.best_loss
        if self.is_due(step, "real_bytes_every") and processes.is_first():
            model = model_of(self.trainer, host, self.config)
            self.writer.write(step, real_rates(model, self.validation[0]))
        if self.is_due(step, "validate_every") or step == self.config.steps:
            loss = self.validate(host)
            if loss < best and processes.is_first():
                export(self.workdir / "best.safetensors", self.trainer, host, self.config, loss)
        if loss < best or self.is_due(step, "checkpoint_every"):
            self.checkpoints.save(step, host, self.batches.get_state(), loss)

    def validate(self, host: TrainState) -> float:
        """The loss on the validation images; all that is found goes to the metrics."""
        means = self.trainer.validate(host, self.validation)
        named = {f"validation/{name}": value for name, value in means.items()}
        self.writer.write(int(host.step), named)
        if self.writer.shows_pictures:
            images = self.validation[0]
            self.writer.write_pictures(int(host.step), images, self.trainer.reconstruct(host, images))
        say(" ".join(f"{k} {v:.4f}" for k, v in named.items()))
        return processes.from_first(means["loss"])


def _host(state: TrainState) -> TrainState:
    return jax.device_get(jax.tree.map(_first, state))


def _first(leaf: Any) -> Any:
    """What the first device of this process holds of an array with an axis over all devices."""
    if not isinstance(leaf, jax.Array):
        return leaf[0]
    return leaf.addressable_data(0).reshape(leaf.shape[1:])


def _finite(host: TrainState) -> TrainState:
    """The state itself; what is not finite must never be kept, or a run could not go on from it."""
    if not np.isfinite(host.weights).all():
        check_finite({"weights": np.nan}, 1, int(host.step))
    return host


def _mean(rows: list[dict]) -> dict:
    """Of metrics of steps, which all devices share."""
    rows = jax.device_get(jax.tree.map(_first, rows))
    return jax.tree.map(lambda *values: np.mean(values), *rows)


def export(
    path: Path, trainer: Trainer, state: TrainState, config: Any, validation_loss: float | None = None
) -> None:
    """Writes the (averaged) weights of a host state as a model file."""
    save_model(path, model_of(trainer, state, config, validation_loss))


def model_of(trainer: Trainer, state: TrainState, config: Any, validation_loss: float | None = None) -> Model:
    """The (averaged) weights of a host state as a model."""
    variables = {"params": trainer.params(state)}
    if state.batch_stats:
        variables["batch_stats"] = state.batch_stats
    notes = {"steps": str(int(state.step)), "training": config.to_json_best_effort()}
    if validation_loss is not None:
        notes["validation_loss"] = f"{validation_loss:.6g}"
    return make_model(trainer.recipe.model, variables, notes)


def real_rates(model: Model, images: np.ndarray) -> dict[str, float]:
    """Mean bpp and PSNR of uint8 images [B, H, W, bands] that were coded and decoded, at every rate in turn.

    All bytes of a stream count: of a small crop the head is a noticeable part.
    """
    from ltchm_jax.codec import Codec

    codec, rows = Codec(model), []
    for quality in codec.qualities or (None,):
        for image in images:
            stream = codec.compress(image, quality)
            decoded = codec.decompress(stream)
            rows.append((metrics.bpp(len(stream), *image.shape[:2]), metrics.psnr(image, decoded)))
    bpp, psnr = np.mean(rows, 0)
    return {"real/bpp": float(bpp), "real/psnr": float(psnr)}


def main(config: Any, workdir: str, distributed: str = "") -> int:
    """What `train.py` does; returns the exit status, see `outcome`."""
    jax.config.update("jax_enable_x64", False)  # weights are float32, whatever the environment says
    return outcome("train.py", lambda: start(config, Path(workdir), distributed))


def start(config: Any, workdir: Path, distributed: str) -> int:
    """Joins the other processes, takes hold of the folder and trains; 0, or 130 if a signal ended it."""
    try:
        processes.join(distributed)
        check_platforms()
        with contextlib.ExitStack() as held:
            # Not before: JAX listens for terminations where it joins processes.
            received = held.enter_context(interrupts())
            check(config)
            if processes.is_first():
                held.enter_context(claimed(workdir, "--workdir"))
            return 0 if train(config, workdir, received) else INTERRUPTED
    except KeyboardInterrupt:  # before the first step or after the last: what was kept is whole
        tell("ended; the same command goes on from what was kept")
        return INTERRUPTED
