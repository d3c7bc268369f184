"""Checkpoints of a run: all comes back, and one line for every way in which a folder can be wrong."""

import json

import jax
import numpy as np
import optax
import pytest
from small_model import small_config

from ltchm_jax.checkpoints import CheckpointError, RunCheckpoints
from ltchm_jax.training import Recipe, TrainState, init_state


def state_of(config, step: int) -> TrainState:
    recipe, optimizer = Recipe.from_config(config), optax.adam(1e-3)
    state = jax.device_get(init_state(recipe, optimizer))
    return state.replace(step=np.array(step, np.int32), weights=state.weights + np.float32(step))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_state_and_its_position_come_back(tmp_path, ema):
    config = small_config(ema=ema)
    kept = RunCheckpoints(tmp_path, config, keep=2)
    assert kept.latest_step() is None
    for step in (1, 2, 3):
        kept.save(step, state_of(config, step), {"next": step})
    kept.close()
    folders = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert sorted(folders) == ["2", "3"]
    again = RunCheckpoints(tmp_path, config, keep=2)
    assert again.latest_step() == 3
    state, position = again.restore(state_of(config, 0))
    again.close()
    assert position == {"next": 3}
    want = state_of(config, 3)
    assert jax.tree.structure(state) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, state, want)


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    config = small_config()
    kept = RunCheckpoints(tmp_path, config, keep=2)
    assert kept.best_loss == np.inf
    for step, loss in enumerate((np.inf, 5.0, np.inf, 3.0, 4.0, np.inf, np.nan)):
        kept.save(step, state_of(config, step), {}, loss)
    kept.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "5", "6"]
    again = RunCheckpoints(tmp_path, config, keep=2)
    assert again.best_loss == 3.0
    assert again.latest_step() == 6
    again.close()


def begun(workdir, config) -> None:
    """A run that has one step behind it."""
    kept = RunCheckpoints(workdir, config, keep=1)
    kept.save(1, state_of(config, 1), {})
    kept.close()


def test_a_run_that_is_older_than_a_field_goes_on(tmp_path):
    begun(tmp_path, small_config())
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["accumulate"]
    path.write_text(json.dumps(old))
    RunCheckpoints(tmp_path, small_config(accumulate=2), keep=1).close()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"lmbda": 1.0}, "lmbda"),
        ({"model.scale_min": 0.5}, "model"),
        ({"seed": 1, "batch_size": 4, "ema": 0.5}, "batch_size, ema, seed"),
        ({"distortion": "ms_ssim"}, "distortion"),
        ({"rounding": "straight"}, "rounding"),
        ({"accumulate": 2}, "accumulate"),
        ({"schedule": "step"}, "schedule"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"clip_value": 1.0, "clip_norm": 0.5}, "clip_norm, clip_value"),
        ({"data.crops_per_image": 2}, "data.crops_per_image"),
    ],
)
def test_a_run_keeps_its_configuration(tmp_path, fields, names):
    RunCheckpoints(tmp_path, small_config(steps=1, **fields), keep=1).close()  # it made no step
    begun(tmp_path, small_config())
    with pytest.raises(CheckpointError, match=f"began with; {names} differ") as caught:
        RunCheckpoints(tmp_path, small_config(**fields), keep=1)
    assert "\n" not in str(caught.value)


def test_length_intervals_and_folders_may_change(tmp_path):
    begun(tmp_path, small_config())
    RunCheckpoints(
        tmp_path, small_config(steps=9, log_every=3, **{"data.folder": "elsewhere"}), keep=1
    ).close()
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 9  # what the run now goes by


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a\nb " * 99)])
def test_what_cant_be_written_is_one_line(tmp_path, monkeypatch, error):
    checkpoints = RunCheckpoints(tmp_path, small_config(), keep=1)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(CheckpointError, match="could not be written to") as caught:
        checkpoints.save(1, None, {})
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    assert ("No space" in str(caught.value)) == isinstance(error, OSError)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"3", b"[" * 100_000, b"[1]"])
def test_a_damaged_record_of_the_configuration_is_refused(tmp_path, content):
    begun(tmp_path, small_config())
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="workdir") as caught:
        RunCheckpoints(tmp_path, small_config(), keep=1)
    assert "\n" not in str(caught.value)


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="must be a folder to write to"):
        RunCheckpoints(tmp_path / "file", small_config(), keep=1)


def test_a_damaged_checkpoint_is_named(tmp_path):
    config = small_config()
    kept = RunCheckpoints(tmp_path, config, keep=1)
    kept.save(4, state_of(config, 4), {})
    kept.close()
    for path in (tmp_path / "checkpoints" / "4" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    again = RunCheckpoints(tmp_path, config, keep=1)
    with pytest.raises(CheckpointError, match=r"Step 4 could not be restored.*delete") as caught:
        again.restore(state_of(config, 0))
    again.close()
    assert "\n" not in str(caught.value)


def test_a_run_that_has_made_its_steps_heeds_last_fits_alone(tmp_path):
    config = small_config(steps=2)
    made = RunCheckpoints(tmp_path, config, 3)
    made.save(2, state_of(config, 2), {})
    made.close()
    for name, value in (("learning_rate", 0.05), ("data.crop", 128), ("linear_start", 64)):
        with pytest.raises(CheckpointError, match=f"can't heed other settings; {name} differ"):
            RunCheckpoints(tmp_path, small_config(**{"steps": 2, name: value}), 3)
    for name, value in (("synthesis_refit", 5), ("log_every", 7), ("data.folder", "elsewhere")):
        RunCheckpoints(tmp_path, small_config(**{"steps": 2, name: value}), 3).close()
    RunCheckpoints(tmp_path, small_config(steps=3, learning_rate=0.05), 3).close()
