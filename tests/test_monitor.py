"""What is seen of a run: rows that are JSON, none of them twice."""

import json
import sys
import time
import types

import jax
import numpy as np
import pytest
from small_model import small_config, small_model

from ltchm_jax import monitor
from ltchm_jax.complexity import model_layers, total
from ltchm_jax.monitor import MetricWriter, Progress, drop_rows_after, operations, peak, share_of_peak


@pytest.fixture(autouse=True)
def _no_board(monkeypatch):
    monkeypatch.setitem(sys.modules, "clu", None)


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(3, {"loss": float("nan"), "bpp": 0.5})
    (row,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(row) == {"step": 3, "loss": None, "bpp": 0.5}


@pytest.mark.parametrize(
    ("step", "kept"), [(0, []), (1, [1]), (4, [1, 4, 4]), (9, [1, 4, 4, 6]), (5, [1, 4, 4])]
)
def test_rows_up_to_a_step_are_kept(tmp_path, step, kept):
    path = tmp_path / "metrics.jsonl"
    rows = "".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in (1, 4, 4, 6))
    path.write_text(rows + 'no row\n[3]\n{"loss": 1}\n{"step": 2, "loss"')
    drop_rows_after(path, step)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == kept


def test_a_file_without_such_rows_is_not_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    drop_rows_after(path, 3)
    assert not path.exists()
    path.write_text('{"step": 3}\n')
    before = path.stat().st_ino
    drop_rows_after(path, 3)
    assert path.stat().st_ino == before


class Board:
    """A board that remembers."""

    def __init__(self) -> None:
        self.scalars, self.images, self.closed = [], [], False

    def write_scalars(self, step: int, scalars: dict) -> None:
        self.scalars.append((step, scalars))

    def write_images(self, step: int, images: dict) -> None:
        self.images.append((step, images))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("bands", "shown"), [(1, 1), (2, 1), (3, 3), (4, 3), (12, 3)])
def test_a_board_gets_scalars_and_pictures_beside_their_reconstructions(tmp_path, monkeypatch, bands, shown):
    board = Board()
    writers = types.SimpleNamespace(create_default_writer=lambda *_, **__: board)
    monkeypatch.setitem(sys.modules, "clu", types.SimpleNamespace(metric_writers=writers))
    monkeypatch.setattr(monitor, "small_tensorflow", lambda: None)  # need not be installed
    originals, made = np.zeros((2, 4, 6, bands), np.uint8), np.ones((2, 4, 6, bands), np.uint8)
    with MetricWriter(tmp_path) as writer:
        assert writer.shows_pictures
        writer.write(5, {"loss": 2.0})
        writer.write_pictures(5, originals, made)
    assert board.closed
    assert board.scalars == [(5, {"loss": 2.0})]
    ((step, images),) = board.images
    assert (step, list(images)) == (5, ["validation/pictures"])
    want = np.concatenate([originals, made], 2)[..., :shown]
    np.testing.assert_array_equal(images["validation/pictures"], want)


class FullDisk(Exception):
    """TensorFlow's errors have a root of their own."""


@pytest.mark.parametrize("moment", ["scalars", "pictures", "close"])
def test_a_board_that_fails_does_not_end_a_run(tmp_path, monkeypatch, capsys, moment):
    def fail(*_: object) -> None:
        raise FullDisk("No space left on device\nand so on")

    board = Board()
    method = {"scalars": "write_scalars", "pictures": "write_images", "close": "close"}[moment]
    monkeypatch.setattr(board, method, fail)
    writers = types.SimpleNamespace(create_default_writer=lambda *_, **__: board)
    monkeypatch.setitem(sys.modules, "clu", types.SimpleNamespace(metric_writers=writers))
    monkeypatch.setattr(monitor, "small_tensorflow", lambda: None)
    with MetricWriter(tmp_path) as writer:
        for step in (1, 2):
            writer.write(step, {"loss": 2.0})
            writer.write_pictures(step, *np.zeros((2, 1, 4, 6, 3), np.uint8))
        assert writer.shows_pictures == (moment == "close")
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
    said = "no TensorBoard any more, metrics.jsonl has all numbers: No space left on device\n"
    assert capsys.readouterr().err == ("" if moment == "close" else said)


def test_without_a_board_there_are_no_pictures(tmp_path):
    with MetricWriter(tmp_path) as writer:
        assert not writer.shows_pictures


@pytest.mark.slow
def test_tensorboard_has_the_pictures(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "clu")
    pytest.importorskip("clu.metric_writers")
    pytest.importorskip("tensorflow")
    images = np.zeros((2, 16, 16, 3), np.uint8)
    with MetricWriter(tmp_path) as writer:
        writer.write_pictures(1, images, images)
    (events,) = tmp_path.glob("events*")
    assert b"validation/pictures" in events.read_bytes()


@pytest.mark.parametrize(
    ("kind", "dtype", "want"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12), ("NVIDIA H100 80GB HBM3", "float32", 494e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12), ("NVIDIA A100-SXM4-40GB", "float32", 156e12),
        ("NVIDIA L4", "bfloat16", 121e12), ("NVIDIA L40S", "bfloat16", 362e12),
        ("TPU v5 lite", "bfloat16", 197e12), ("TPU v5p", "bfloat16", 459e12),
        ("NVIDIA L40", "bfloat16", None), ("NVIDIA A10G", "bfloat16", None), ("cpu", "float32", None),
    ],
)  # fmt: skip
def test_peaks_are_known_or_not(kind, dtype, want):
    assert peak(kind, dtype) == want


def test_utilisation_counts_three_passes_of_two_operations(monkeypatch, capsys):
    model, config = small_model(), small_config(batch_size=2, log_every=1)
    assert share_of_peak(config, model) is None  # on a CPU
    assert operations(model, 64) == 6 * total(model_layers(model, 64, 64)).macs
    monkeypatch.setitem(monitor.PEAKS, "cpu", (8, 4))
    share = share_of_peak(config, model)
    assert share == pytest.approx(operations(model, 64) / (2 * 4e12))
    means = {"loss": 1.0, "bpp": 1.0, "psnr": 1.0}
    values = progress_after(0, config, share).close(1, means)
    assert values["model_flop_utilisation"] == pytest.approx(share * values["images_per_second"])
    assert "model_flop_utilisation" not in progress_after(0, config).close(1, means)


def progress_after(step: int, *given) -> Progress:
    progress = Progress(*given)
    progress.start(step)
    return progress


@pytest.fixture
def clock(monkeypatch):
    """A list whose last number is the time."""
    seconds = [10.0]
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: seconds[-1])
    return seconds


MEANS = {"loss": 1.0, "bpp": 1.0, "psnr": 1.0}


def test_rates_are_those_of_the_steps_of_an_interval(clock, capsys):
    """40 steps in 8 s; then 50 in 4, besides 6 s of validation."""
    progress = progress_after(1010, small_config(batch_size=2, log_every=50, steps=1200))
    clock.append(18.0)
    values = [progress.close(1050, MEANS)]
    clock.append(20.0)
    with progress.pause(None):
        clock.append(26.0)
    clock.append(28.0)
    values.append(progress.close(1100, MEANS))
    assert [row["images_per_second"] for row in values] == [10.0, 25.0]
    assert f"25.0 images/s wait 0.0% left {100 * 4 / 50 / 3600:.2f} h" in capsys.readouterr().err


def test_an_interval_without_a_step_has_no_rates(clock, capsys):
    """The first step compiles; where each is logged, nothing is left of the first interval."""
    assert progress_after(1, small_config(log_every=1)).close(1, MEANS) == MEANS
    assert capsys.readouterr().err == f"step 1/{small_config().steps} loss 1.0000 bpp 1.0000 psnr 1.00\n"


@pytest.mark.parametrize(("done", "share"), [(9.0, 0.75), (12.0, 0.25), (None, 0.0)])
def test_waiting_counts_where_the_devices_wait_too(clock, monkeypatch, capsys, done, share):
    """The batch is waited for from second 10 to 13, the last step done before, meanwhile, or after."""

    def batches():
        clock.append(clock[-1] + 3)
        yield "batch"

    monkeypatch.setattr(monitor, "is_done", lambda step: done is not None)
    monkeypatch.setattr(monitor, "_time_when_done", lambda step: done)
    progress = progress_after(1, small_config())
    assert progress.next_batch(batches(), None) == "batch"
    clock.append(clock[-1] + 1)
    assert progress.close(2, MEANS)["input_wait"] == share


def test_a_step_is_timed_when_its_arrays_are_there():
    before = time.perf_counter()
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: y @ x, x))(jax.numpy.eye(512))
    when = monitor._time_when_done({"loss": slow})
    assert monitor.is_done(slow)
    assert before < when <= time.perf_counter()


def test_a_step_is_done_once_its_arrays_are_there():
    assert monitor.is_done(None)
    assert monitor.is_done({"loss": np.zeros(2)})
    metrics = {"loss": jax.block_until_ready(jax.numpy.zeros(2))}
    assert monitor.is_done(metrics)
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: y @ x, x))(jax.numpy.eye(512))
    assert not monitor.is_done({"loss": slow})
    jax.block_until_ready(slow)
    assert monitor.is_done({"loss": slow})


def test_why_there_is_no_board_is_said(tmp_path, capsys):
    MetricWriter(tmp_path)
    assert capsys.readouterr().err.startswith("no TensorBoard, metrics.jsonl has all numbers: ")
