"""Runs from first to last step: what they write, how they stop, and that they go on where they were."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.jax_utils
import jax
import numpy as np
import pytest
from small_model import small_config, write_photos

from ltchm_jax import metrics, run
from ltchm_jax.checkpoints import RunCheckpoints
from ltchm_jax.data import open_source, training_batches
from ltchm_jax.linear_start import linear_start
from ltchm_jax.model import init_variables
from ltchm_jax.model_file import load_model, make_model, save_model
from ltchm_jax.signals import STOPS, interrupts, stop_on_signals
from ltchm_jax.training import Recipe, Trainer, TrainState, init_state, make_optimizer

ROOT = Path(__file__).resolve().parents[1]
COUNTS = (
    "steps", "batch_size", "accumulate", "log_every", "validate_every", "checkpoint_every",
    "checkpoints_to_keep", "entropy_images", "entropy_crop", "data.crop", "data.crops_per_image",
    "data.validation_images", "data.threads", "data.prefetch",
)  # fmt: skip
PATIENCE = 300  # seconds until a process counts as hung


@functools.cache
def first_state() -> TrainState:
    config = small_config()
    return jax.device_get(init_state(Recipe.from_config(config), make_optimizer(config)))


class CheapTrainer(Trainer):
    """Steps that need no compiler: the weights follow the data and the order in which it came."""

    before_step: dict[int, object] = {}  # noqa: RUF012  what to call before a step, or while validating as -1
    validation_losses: dict[int, float] = {}  # noqa: RUF012  by step; else 1

    def init(self, variables: dict | None = None) -> TrainState:
        return jax.tree.map(np.copy, first_state()) if variables is None else super().init(variables)

    def step(self, state: TrainState, images: np.ndarray) -> tuple[TrainState, dict]:
        host = flax.jax_utils.unreplicate(jax.device_get(state))
        factor = self.before_step.get(int(host.step) + 1, lambda: 1)() or 1
        light = np.float32(images.mean() / 255)
        host = host.replace(
            step=host.step + 1, weights=(host.weights * np.float32(0.9) + light / 99) * factor
        )
        row = {"loss": light * factor, "bpp": light, "psnr": light}
        return self.replicate(host), {name: np.full(2, value) for name, value in row.items()}

    def validate(self, state: TrainState, batches: list[np.ndarray]) -> dict[str, float]:
        self.before_step.get(-1, lambda: 1)()
        return {"loss": self.validation_losses.get(int(state.step), 1.0)}


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setitem(sys.modules, "clu", None)  # TensorBoard would only cost time
    monkeypatch.setattr(run, "Trainer", CheapTrainer)
    monkeypatch.setattr(CheapTrainer, "before_step", {})
    monkeypatch.setattr(CheapTrainer, "validation_losses", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 5)


def config_of(folder: Path, **fields):
    usual = {
        "steps": 9,
        "log_every": 2,
        "checkpoint_every": 4,
        "validate_every": 6,
        "data.folder": str(folder),
    }
    return small_config(**(usual | fields))


def rows_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def kept(workdir: Path, config) -> tuple[TrainState, dict]:
    checkpoints = RunCheckpoints(workdir, config, 3)
    state = checkpoints.restore(first_state())
    checkpoints.close()
    return state


def assert_same_end(one: Path, other: Path, config) -> None:
    """The same model file, byte for byte, and the same last state and position."""
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    (state, position), (state2, position2) = kept(one, config), kept(other, config)
    jax.tree.map(np.testing.assert_array_equal, state, state2)
    assert int(state.step) == config.steps
    assert position == position2


@pytest.mark.parametrize(("step", "heard"), [(3, False), (4, True)])
def test_several_processes_stop_together_where_they_log(folder, tmp_path, monkeypatch, step, heard):
    """A signal that only another process got."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(run.processes, "any_of", lambda mine: not mine)
    received: list[int] = []
    stopping = run.Run(config_of(folder), tmp_path, *[None] * 6, received)  # type: ignore[arg-type]
    assert stopping.stops(step) is heard


def test_a_wrong_validation_folder_is_refused_before_the_first_weights(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "initial_variables", None)  # would fail if it were called
    config = config_of(folder, **{"data.validation_folder": str(tmp_path / "missing")})
    assert "missing" in error_of(config, tmp_path / "run", capsys)


def test_images_left_out_are_counted(folder, tmp_path):
    photos = write_photos(tmp_path / "photos", 12)
    (photos / "0.png").write_bytes(b"no picture")
    run.main(config_of(photos, steps=24, log_every=6), str(tmp_path / "run"))
    counts = [row["images_left_out"] for row in rows_of(tmp_path / "run") if "loss" in row]
    assert counts[-1] == 1  # after four epochs still the one file


def test_a_run_writes_rows_checkpoints_and_a_model(folder, tmp_path, capsys):
    config = config_of(folder)
    assert run.main(config, str(tmp_path)) == 0
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8, 9]
    assert [row["step"] for row in rows if "validation/loss" in row] == [6, 9]
    assert all({"images_per_second", "input_wait"} < set(row) for row in rows if "loss" in row)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["6", "8", "9"]
    model = load_model(tmp_path / "model.safetensors")
    assert model.notes["steps"] == "9"
    assert json.loads(model.notes["training"])["seed"] == config.seed
    want = kept(tmp_path, config)[0].weights.astype(np.float16).astype(np.float32)
    leaves = jax.tree.leaves(model.variables["params"])
    np.testing.assert_array_equal(np.concatenate([leaf.ravel() for leaf in leaves]), want)
    assert "step 9/9 loss" in capsys.readouterr().err


def test_a_finished_run_stays_finished_and_a_longer_one_goes_on(folder, tmp_path):
    assert run.main(config_of(folder), str(tmp_path / "a")) == 0
    before = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert run.main(config_of(folder), str(tmp_path / "a")) == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == before
    longer = config_of(folder, steps=12)
    assert run.main(longer, str(tmp_path / "a")) == 0
    assert run.main(longer, str(tmp_path / "b")) == 0
    assert_same_end(tmp_path / "a", tmp_path / "b", longer)


def test_a_finished_run_is_not_finished_again(folder, tmp_path, monkeypatch, capsys):
    """Unless its result is gone, or that of another configuration."""
    config = config_of(folder)
    assert run.main(config, str(tmp_path)) == 0
    monkeypatch.setattr(run, "finish", None)  # would fail if it were called
    assert run.main(config, str(tmp_path)) == 0
    assert "complete: " in capsys.readouterr().err
    finished = []
    monkeypatch.setattr(run, "finish", lambda config, model, source: finished.append(1) or model)
    assert run.main(config_of(folder, entropy_refit=1), str(tmp_path)) == 0
    assert run.main(config_of(folder, entropy_refit=1, log_every=3), str(tmp_path)) == 0  # the same
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    assert run.main(config, str(tmp_path)) == 0
    (tmp_path / "model.safetensors").unlink()
    assert run.main(config, str(tmp_path)) == 0
    assert len(finished) == 3


def test_a_finished_run_older_than_a_field_stays_finished(folder, tmp_path, monkeypatch):
    config, path = config_of(folder), tmp_path / "model.safetensors"
    assert run.main(config, str(tmp_path)) == 0
    model = load_model(path)
    training = json.loads(model.notes["training"])
    del training["rate_balance"]
    notes = model.notes | {"training": json.dumps(training)}
    save_model(path, make_model(model.config, model.variables, notes))
    monkeypatch.setattr(run, "finish", None)  # would fail if it were called
    assert run.main(config, str(tmp_path)) == 0


def test_fewer_steps_than_were_made_are_refused(folder, tmp_path, capsys):
    assert run.main(config_of(folder), str(tmp_path)) == 0
    before = (tmp_path / "config.json").read_text()
    assert "`steps` must be 9 or more" in error_of(config_of(folder, steps=4), tmp_path, capsys)
    assert (tmp_path / "config.json").read_text() == before
    assert load_model(tmp_path / "model.safetensors").notes["steps"] == "9"


def test_a_signal_while_processes_agree_ends_before_the_last_fits(folder, tmp_path, monkeypatch, capsys):
    """They heard of none yet."""

    received = []

    def agree(mine: bool) -> bool:
        received.append(mine)
        if len(received) == 2:  # the first is whether the run is complete
            terminate()
        return False

    monkeypatch.setattr(run.processes, "any_of", agree)
    monkeypatch.setattr(run, "finish", None)  # would fail if it were called
    assert run.main(config_of(folder), str(tmp_path)) == 130
    assert "ended; the same command goes on" in capsys.readouterr().err


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("moment", "step"), [(5, 5), (1, 1), (-1, 6), (9, 9)])
def test_a_run_that_is_told_to_stop_keeps_its_last_step_and_goes_on(folder, tmp_path, capsys, moment, step):
    """Before a step between two checkpoints, the first, or the last; while validating after step 6."""
    config = config_of(folder)
    assert run.main(config, str(tmp_path / "whole")) == 0
    CheapTrainer.before_step = {moment: terminate}
    assert run.main(config, str(tmp_path / "cut")) == 130
    assert f"ended at step {step} of 9; the same command goes on" in capsys.readouterr().err
    assert int(kept(tmp_path / "cut", config)[0].step) == step
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    CheapTrainer.before_step = {}
    assert run.main(config, str(tmp_path / "cut")) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "cut", config)


def test_the_best_model_is_kept_whenever_validation_improves(folder, tmp_path):
    """Its checkpoint outlives the last three, and a run that is stopped leaves a model."""
    CheapTrainer.validation_losses = {2: 0.7, 4: 0.5, 6: 0.6, 8: 0.5}
    CheapTrainer.before_step = {19: terminate}
    config = config_of(folder, steps=30, validate_every=2, checkpoint_every=3)
    assert run.main(config, str(tmp_path)) == 130
    best = load_model(tmp_path / "best.safetensors")
    assert best.notes["steps"] == "4"
    assert best.notes["validation_loss"] == "0.5"
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [4, 15, 18, 19]
    CheapTrainer.before_step, CheapTrainer.validation_losses = {}, {22: 0.55, 24: 0.4}
    assert run.main(config, str(tmp_path)) == 0
    assert load_model(tmp_path / "best.safetensors").notes["steps"] == "24"
    assert load_model(tmp_path / "model.safetensors").notes["steps"] == "30"


def test_a_run_begins_with_the_weights_of_a_model_file(folder, tmp_path, capsys, monkeypatch):
    assert run.main(config_of(folder), str(tmp_path / "a")) == 0
    path = tmp_path / "a" / "model.safetensors"
    config = config_of(folder, init_from=str(path), ema=0.5)
    state = Trainer(config).init(run.initial_variables(config, load_model(path).config, None))
    leaves = jax.tree.leaves(load_model(path).variables["params"])
    np.testing.assert_array_equal(np.concatenate([leaf.ravel() for leaf in leaves]), state.weights)
    np.testing.assert_array_equal(state.ema, state.weights)
    assert int(state.step) == 0
    fit = config_of(folder, init_from=str(path), entropy_fit=1, entropy_images=2, entropy_crop=64)
    monkeypatch.setattr(run, "fit", lambda *given, noisy: (given[-1], noisy))
    assert run.initial_variables(fit, load_model(path).config, None) == (1, True)
    other = config_of(folder, init_from=str(path), **{"model.scale_min": 0.2})
    assert "`init_from` must be a model of the configuration" in error_of(other, tmp_path / "b", capsys)
    missing = config_of(folder, init_from="nowhere")
    assert "No such file" in error_of(missing, tmp_path / "c", capsys)


def test_a_run_begins_with_a_linear_start_from_its_crops(folder, tmp_path, capsys):
    config = config_of(folder, linear_start=5, entropy_fit=1, entropy_images=3, entropy_crop=64)
    source, model = open_source(config, "train"), Recipe.from_config(config).model
    variables = run.initial_variables(config, model, source)
    batches = training_batches(source, config)
    crops = np.concatenate([next(batches) for _ in range(3)])  # of two
    want = linear_start(model, crops, config.lmbda, jax.random.key(config.seed))
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["g_a"], want["params"]["g_a"])
    assert "fit of the entropy model 1/1 bpp" in capsys.readouterr().err
    alone = config_of(folder, entropy_fit=1)
    assert "`entropy_fit` needs weights to fit to" in error_of(alone, tmp_path, capsys)


def test_crops_of_another_size_leave_the_configuration_as_it_is(folder):
    config = config_of(folder)
    crops = run.first_crops(config, open_source(config, "train"), 3, 128)
    assert crops.shape == (4, 128, 128, 3)
    assert config.data.crop == 64


def test_an_interrupted_fit_ends_the_run_in_good_order(folder, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    config = config_of(folder, synthesis_refit=1)
    with monkeypatch.context() as patch:
        patch.setattr(run, "finish", interrupted)
        assert run.main(config, str(tmp_path)) == 130
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.setattr(run, "finish", lambda config, model, source: model)
    assert run.main(config, str(tmp_path)) == 0
    assert (tmp_path / "model.safetensors").exists()


def test_what_is_exported_has_its_halves_fitted_again(folder, capsys):
    config = config_of(folder, synthesis_refit=2, entropy_refit=2, entropy_images=2, entropy_crop=64)
    model = Recipe.from_config(config).model
    plain = make_model(model, jax.device_get(init_variables(model, jax.random.key(0))), {"steps": "9"})
    source = open_source(config, "train")
    fitted, again = (run.finish(config, plain, source) for _ in range(2))
    params, before = fitted.variables["params"], plain.variables["params"]
    jax.tree.map(np.testing.assert_array_equal, params["g_a"], before["g_a"])
    for part in ("g_s", "prior_y"):
        assert not jax.tree.all(jax.tree.map(np.array_equal, params[part], before[part]))
    assert (fitted.digest, fitted.notes) == (again.digest, plain.notes)
    said = capsys.readouterr().err
    assert "fit of the synthesis 1/2 psnr" in said
    assert "fit of the entropy model 2/2 bpp" in said
    half = run.finish(config_of(folder, synthesis_refit=2, synthesis_refit_share=0.5), plain, source)
    means = jax.tree.map(lambda a, b: (a + b) / 2, before["g_s"], params["g_s"])
    rounded = functools.partial(np.testing.assert_allclose, rtol=2**-10, atol=1e-7)  # to float16
    jax.tree.map(rounded, half.variables["params"]["g_s"], means)


def test_the_synthesis_is_fitted_in_the_memory_of_a_step(folder, monkeypatch):
    found = []

    def look(model, variables, batches, steps, key, report, parts, remat):
        found.append((len(next(batches)), parts, remat))
        return variables

    monkeypatch.setattr(run, "fit_synthesis", look)
    fields = {"batch_size": 4 * jax.device_count(), "accumulate": 2, "remat": True}
    config = config_of(folder, synthesis_refit=2, **fields)
    model = Recipe.from_config(config).model
    plain = make_model(model, jax.device_get(init_variables(model, jax.random.key(0))))
    run.finish(config, plain, open_source(config, "train"))
    assert found == [(4 * jax.device_count(), 2 * jax.device_count(), True)]


def test_weights_are_float32_whatever_the_environment_says(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "train", lambda *_: not jax.config.jax_enable_x64)
    jax.config.update("jax_enable_x64", True)
    try:
        assert run.main(config_of(folder), str(tmp_path)) == 0
    finally:
        jax.config.update("jax_enable_x64", False)


def test_a_fit_that_is_not_finite_ends_the_run(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "fit_entropy_model", lambda *given, **_: given[-1](1, float("nan")))
    config = config_of(folder, entropy_refit=2, entropy_images=2, entropy_crop=64)
    assert run.main(config, str(tmp_path)) == 2
    assert "bpp not finite" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "model.safetensors").exists()


def test_rows_that_will_be_written_again_are_dropped(folder, tmp_path):
    """As a kill after step 7 leaves them: rows of steps that no checkpoint holds, and half a row."""
    config = config_of(folder, log_every=1)
    CheapTrainer.before_step = {5: terminate}
    assert run.main(config, str(tmp_path)) == 130
    path = tmp_path / "metrics.jsonl"
    before = path.read_text()
    path.write_text(before + '{"step": 6, "loss": 9}\n{"step": 7, "loss": 9}\n{"step": 8, "lo')
    CheapTrainer.before_step = {}
    assert run.main(config, str(tmp_path)) == 0
    assert path.read_text().startswith(before)
    assert [row["step"] for row in rows_of(tmp_path) if "loss" in row] == list(range(1, 10))
    assert all(row.get("loss") != 9 for row in rows_of(tmp_path))


def test_real_bytes_are_counted_every_so_often(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "real_rates", lambda model, images: {"real/bpp": float(len(images))})
    monkeypatch.setattr(run, "CODERS", ("numpy",))
    assert run.main(config_of(folder, real_bytes_every=4), str(tmp_path)) == 0
    assert [row["step"] for row in rows_of(tmp_path) if "real/bpp" in row] == [4, 8]


def test_real_bytes_need_a_range_coder(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "CODERS", ("no_such_module",))
    assert "tensorflow-compression-ops" in error_of(config_of(folder, real_bytes_every=4), tmp_path, capsys)
    assert "must be 0 or more, less than 2^31, got -1" in error_of(
        config_of(folder, real_bytes_every=-1), tmp_path, capsys
    )


@pytest.mark.slow
def test_real_rates_are_close_to_what_the_entropy_model_says():
    """All but the head of a stream; and the decoded pictures are those of the pass."""
    pytest.importorskip("tensorflow_compression_ops")
    config = small_config(**{"data.crop": 128})
    trainer = Trainer(config)
    state = trainer.init()
    images = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    got = run.real_rates(run.model_of(trainer, state, config), images)
    want = trainer.validate(state, [images])
    assert 0 <= got["real/bpp"] - want["bpp"] < 8 * 60 / 128**2 + 0.01 * want["bpp"]
    made = trainer.reconstruct(state, images)
    assert got["real/psnr"] == pytest.approx(metrics.psnr(images[0], made[0]), abs=0.01)


@pytest.fixture
def signals_are_heard():
    """Ctrl-C is not by what a shell starts in the background, nor a lost terminal by what nohup does."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_are_heard")
def test_the_second_ctrl_c_ends_a_run_at_once(capfd):
    with interrupts() as received, stop_on_signals(received):
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "once more ends it at once" in capfd.readouterr().err


@pytest.mark.usefixtures("signals_are_heard")
def test_a_lost_terminal_is_one_request_however_many_tell():
    """And there is no standard error any more."""
    kept = os.dup(2)
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 2)
    try:
        with interrupts() as received, stop_on_signals(received):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert received == [signal.SIGHUP] * 2
    finally:
        os.dup2(kept, 2)


def test_a_termination_before_the_first_step_is_status_130(folder, tmp_path, monkeypatch):
    def init(*_: object) -> None:
        while True:  # one may come while Python collects garbage
            terminate()
            time.sleep(0.01)

    monkeypatch.setattr(CheapTrainer, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    assert run.main(config_of(folder), str(tmp_path)) == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_whose_interrupt_was_lost_ends_the_run_at_its_first_step(folder, tmp_path, capsys):
    """As what is raised in a callback of the garbage collector is."""
    config = config_of(folder)
    with interrupts() as received:
        with contextlib.suppress(KeyboardInterrupt):
            terminate()
        assert not run.train(config, tmp_path, received)
    assert "ended at step 0 of 9" in capsys.readouterr().err
    assert run.main(config, str(tmp_path)) == 0


@pytest.mark.usefixtures("signals_are_heard")
def test_an_interrupt_outlives_the_garbage_collector():
    """Python drops what is raised while it calls a finaliser."""

    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def collect() -> None:
        del kept[:]
        kept.append(None)  # the interrupt of the finaliser did not end this
        time.sleep(10)

    kept = [Finalised()]
    with pytest.raises(KeyboardInterrupt), interrupts() as received:
        collect()
    assert kept == [None]
    assert received == [signal.SIGINT] * 2


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts() as received:
            signal.raise_signal(signal.SIGINT)
        assert received == []
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_have_their_handlers_back():
    before = [signal.getsignal(number) for number in STOPS]
    with interrupts() as received, stop_on_signals(received):
        terminate()
        assert received == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in STOPS] == before


def error_of(config, workdir: Path, capsys) -> str:
    """The one line with which `main` ends; status 2."""
    capsys.readouterr()
    assert run.main(config, str(workdir)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_loss_that_is_not_finite_ends_the_run_and_is_never_kept(folder, tmp_path, capsys):
    """Whether a log line or a checkpoint comes first."""
    for log_every, line in ((2, "loss not finite between steps 5 and 6"), (100, "weights not finite")):
        CheapTrainer.before_step = {6: lambda: np.nan}
        config = config_of(folder, log_every=log_every, validate_every=100)
        workdir = tmp_path / str(log_every)
        assert line in error_of(config, workdir, capsys)
        state, _ = kept(workdir, config)
        assert int(state.step) == 4
        assert np.isfinite(state.weights).all()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"data.folder": ""}, "one source"),
        ({"data.folder": "nowhere"}, "must exist"),
        ({"data.tfds": "both"}, "one source"),
        ({"batch_size": 3}, "`batch_size` must be a multiple"),
        ({"schedule": "linear"}, "`schedule`"),
        ({"lmbda": -5.0}, "`lmbda` must be a number above 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a number above 0"),
        ({"seed": -1}, "`seed` must be 0 or more"),
        ({"seed": 2**63}, "`seed` must be 0 or more, less than 2^31"),
        ({"schedule": "step", "decay_at": 10**10}, "`decay_at` must be 0 or more, less than 2^31"),
        ({"schedule": "step", "warmup": 5}, "`warmup` is for the cosine"),
        ({"rate_balance": 0.5}, "`rate_balance` is for a model of several rates"),
        ({"data.folder": "", "data.dota": "x", "data.split": True}, "are for `data.folder`"),
        ({"data.folder": "", "data.tfds": "x", "data.validation_folder": "y"}, "are for `data.folder`"),
        ({"ema": 1.0}, "`ema` must be 0 (off) or more, less than 1"),
        ({"clip_norm": float("nan")}, "`clip_norm` must be 0 or more"),
        ({"decay_at": -1}, "`decay_at` must be 0 or more"),
        ({"model.width": 40}, "`width`"),
        ({"synthesis_refit_share": 0.0}, "`synthesis_refit_share` must be above 0"),
        ({"model.bands": 4}, "4 bands"),
        ({"linear_start": 5, "data.crop": 96}, "`data.crop` must be a multiple of 64 for linear_start"),
        ({"synthesis_refit": 5, "data.crop": 72}, "`data.crop` must be a multiple of 16 for synthesis_refit"),
        ({"synthesis_refit": 5, "distortion": "ms_ssim"}, "`synthesis_refit` lower squared error"),
        ({"linear_start": 5, "init_from": "x"}, "`init_from` and `linear_start` are two beginnings"),
        ({"entropy_refit": 5, "entropy_crop": 32}, "`entropy_crop` must be a multiple of 64"),
        *[({name: 0}, f"`{name}` must be 1 to 2^31 - 1, got 0") for name in COUNTS],
    ],
)
def test_errors_are_one_line_and_status_two(folder, tmp_path, capsys, fields, line):
    assert line in error_of(config_of(folder, **fields), tmp_path, capsys)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_changed_configuration_is_refused(folder, tmp_path, capsys):
    assert run.main(config_of(folder), str(tmp_path)) == 0
    assert "lmbda differ" in error_of(config_of(folder, lmbda=5.0), tmp_path, capsys)
    other = config_of(folder, **{"data.crops_per_image": 2})
    assert "data.crops_per_image differ" in error_of(other, tmp_path, capsys)


def test_the_last_fits_may_be_had_in_less_memory(folder, tmp_path, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    parts = []
    monkeypatch.setattr(run, "fit_synthesis", fail)
    config = config_of(folder, batch_size=2 * jax.device_count(), synthesis_refit=2)
    assert "RESOURCE_EXHAUSTED" in error_of(config, tmp_path, capsys)
    monkeypatch.setattr(run, "fit_synthesis", lambda *given: parts.append(given[-2:]) or given[1])
    config.accumulate, config.remat = 2, True
    assert run.main(config, str(tmp_path)) == 0
    assert parts == [(2 * jax.device_count(), True)]


def test_a_damaged_picture_ends_the_run(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 3)
    (photos / "bad.png").write_bytes(b"")
    assert "bad.png" in error_of(config_of(photos), tmp_path / "run", capsys)


DRIVER = """
import json, sys
sys.modules["clu"] = None
sys.path[:0] = [{tests!r}, {root!r}]
from small_model import small_config
from ltchm_jax import run
sys.exit(run.main(small_config(**json.loads(sys.argv[1])), sys.argv[2]))
"""


def start(fields: dict, workdir: Path) -> subprocess.Popen:
    """A run of the real trainer in a process of its own, on one device; it speaks to `WORKDIR.log`."""
    driver = DRIVER.format(tests=str(ROOT / "tests"), root=str(ROOT))
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-c", driver, json.dumps(fields), str(workdir)]
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, env=environment, stderr=log, cwd=workdir.parent)


def wait_for_steps(workdir: Path, process: subprocess.Popen, count: int) -> None:
    """Returns once the run has logged `count` steps."""
    path, deadline = workdir / "metrics.jsonl", time.monotonic() + PATIENCE
    while process.poll() is None and (not path.exists() or path.read_text().count("\n") < count):
        assert time.monotonic() < deadline, f"no {count} steps in {PATIENCE} s"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical_to_one_that_was_not(folder, tmp_path):
    fields = {"steps": 40, "log_every": 1, "checkpoint_every": 3, "validate_every": 1000, "ema": 0.9}
    fields |= {"data.folder": str(folder)}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(fields, whole).wait(PATIENCE) == 0
    process = start(fields, cut)
    wait_for_steps(cut, process, 11)
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert start(fields, cut).wait(PATIENCE) == 0
    assert "goes on from step" in cut.with_suffix(".log").read_text()
    config = small_config(**fields)
    like = jax.device_get(init_state(Recipe.from_config(config), make_optimizer(config)))
    ends = []
    for workdir in (whole, cut):
        checkpoints = RunCheckpoints(workdir, config, 3)
        ends.append(checkpoints.restore(like))
        checkpoints.close()
    (state, position), (state2, position2) = ends
    jax.tree.map(np.testing.assert_array_equal, state, state2)
    assert int(state.step) == 40
    assert position == position2
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--config.data.folder=nowhere"], "train.py: The data folder must exist"),
        (["--config.model.width=40"], "train.py: `width` must be a multiple of 32"),
        (["--config.nothing=1"], "train.py: A flag is unknown"),
        (["--config=none.py"], "train.py: Configuration is not available"),
        (
            [f"--config={ROOT}/configs/ltchm.py:paper,300"],
            "train.py: A flag is unknown or has a wrong value: A config",
        ),
        (["--nothing=1"], "train.py: A flag is unknown"),
        (["--config.steps=many"], "train.py: A flag is unknown"),
        (["--config.data.flips", "False"], "train.py: 'False' is no flag"),
    ],
)
def test_the_command_ends_with_status_two_and_one_line(tmp_path, flags, line):
    command = [sys.executable, str(ROOT / "train.py"), "--workdir", str(tmp_path / "run")]
    if not flags[0].startswith("--config="):
        command += ["--config", str(ROOT / "configs" / "ltchm.py")]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
