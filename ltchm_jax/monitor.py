"""What is seen of a run while it runs: rows of metrics, TensorBoard, and the line of progress."""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ltchm_jax import processes
from ltchm_jax.complexity import model_layers, total
from ltchm_jax.entropy.range_coder import small_tensorflow
from ltchm_jax.errors import first_line, tell
from ltchm_jax.files import atomic_write
from ltchm_jax.model import ModelConfig


def say(line: str) -> None:
    """Prints a line where a run is watched, once for all its processes."""
    if processes.is_first():
        tell(line)


class MetricWriter:
    """Scalars to `metrics.jsonl`, and through CLU to TensorBoard where TensorFlow is installed.

    Rows of steps after `step`, from which the run goes on, are dropped: they will be written again.
    Of several processes only the first writes. To be used in a `with`, which closes both.
    """

    def __init__(self, workdir: Path, step: int = 0) -> None:
        path = workdir / "metrics.jsonl" if processes.is_first() else Path(os.devnull)
        drop_rows_after(path, step)
        self._file = path.open("a")
        self._board = None
        if not processes.is_first():
            return
        try:
            small_tensorflow()
            from clu import metric_writers

            self._board = metric_writers.create_default_writer(str(workdir), asynchronous=False)
        except Exception as error:  # TensorFlow or CLU is not installed; the newest JAX breaks CLU's import
            tell(f"no TensorBoard, metrics.jsonl has all numbers: {first_line(error)}")

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            with contextlib.suppress(Exception):  # each write was flushed
                self._board.close()

    def _show(self, write: Callable[[Any], None]) -> None:
        """Writes to a board that is there. One that fails is left alone from then on; a run goes on."""
        if self._board is None:
            return
        try:
            write(self._board)
            self._board.flush()
        except Exception as error:  # TensorFlow's own, of a full disk for one
            self._board = None
            tell(f"no TensorBoard any more, metrics.jsonl has all numbers: {first_line(error)}")

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One row; in the file a number that is not finite is null."""
        row = {k: v if np.isfinite(v) else None for k, v in scalars.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        self._show(lambda board: board.write_scalars(step, scalars))

    @property
    def shows_pictures(self) -> bool:
        """Whether pictures are seen anywhere; to make them costs time."""
        return self._board is not None

    def write_pictures(self, step: int, originals: np.ndarray, reconstructions: np.ndarray) -> None:
        """Originals, uint8 [B, H, W, bands], and beside each its reconstruction, as a board can show them."""
        pairs = np.concatenate([originals, reconstructions], 2)
        bands = 3 if pairs.shape[-1] >= 3 else 1
        self._show(lambda board: board.write_images(step, {"validation/pictures": pairs[..., :bands]}))


def drop_rows_after(path: Path, step: int) -> None:
    """Keeps the whole rows of a metrics file up to a step; what a kill cut off is no row."""
    if not path.is_file():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        with atomic_write(path) as file:
            file.write("".join(kept).encode())


def _step_of(line: str) -> float:
    """Of one row; infinite if it is none."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else np.inf
    except (ValueError, KeyError, TypeError):
        return np.inf


# Dense peaks in 1e12 operations a second from vendors' data sheets, by the beginning of JAX's name of the
# device: with inputs of bfloat16, and of float32 as JAX multiplies it by default (TF32; on a TPU bfloat16).
PEAKS = {
    "NVIDIA H200": (989, 494),
    "NVIDIA H100 80GB HBM3": (989, 494),
    "NVIDIA H100 NVL": (835, 417),
    "NVIDIA H100 PCIe": (756, 378),
    "NVIDIA A100": (312, 156),
    "NVIDIA L40S": (362, 183),
    "NVIDIA L4": (121, 60),
    "TPU v4": (275, 275),
    "TPU v5 lite": (197, 197),
    "TPU v5": (459, 459),
    "TPU v5p": (459, 459),
    "TPU v6 lite": (918, 918),
}


def peak(kind: str, dtype: str) -> float | None:
    """Operations a second that a device of this kind can do, None where that is not known."""
    for name, (half, single) in PEAKS.items():
        if re.match(rf"{name}(?!\w)", kind):
            return 1e12 * (half if dtype == "bfloat16" else single)
    return None


def operations(model: ModelConfig, size: int) -> int:
    """Of one size x size image in a training step: two for each true multiply-add, and twice that backwards.

    What rematerialisation does again does not count.
    """
    return 6 * total(model_layers(model, size, size)).macs


def share_of_peak(config: Any, model: ModelConfig) -> float | None:
    """Model FLOP utilisation at one image a second; None where the device's peak is not known."""
    known = peak(jax.devices()[0].device_kind, config.dtype)
    return None if known is None else operations(model, config.data.crop) / (known * jax.device_count())


class Progress:
    """The line seen while it runs: loss, bpp, PSNR, images/s, share of waiting for data, time left.

    Its rates are those of steps alone: what compiles them does not count (`start` comes after the first), nor
    does what is done between them (`pause`). `share` is what `share_of_peak` gives: with it, model FLOP
    utilisation is seen, too.
    """

    def __init__(self, config: Any, share: float | None = None) -> None:
        self._config, self._share = config, share
        self._watcher = ThreadPoolExecutor(1, "progress")

    def start(self, step: int, last: Any = None) -> None:
        """Begins an interval after this step, which is waited for; `last` are its metrics."""
        jax.block_until_ready(last)
        self._step, self._began, self._waited = step, time.perf_counter(), 0.0

    def next_batch(self, batches: Any, last: Any) -> np.ndarray:
        """The next batch. The time it takes counts as waiting from when the `last` step is done."""
        start = time.perf_counter()
        idle = self._watcher.submit(_time_when_done, last)
        batch = next(batches)
        now = time.perf_counter()
        if is_done(last):
            self._waited += now - min(max(start, idle.result()), now)
        return batch

    @contextlib.contextmanager
    def pause(self, last: Any) -> Iterator[None]:
        """Waits for the `last` step; what is done within does not count."""
        jax.block_until_ready(last)
        start = time.perf_counter()
        yield
        self._began += time.perf_counter() - start

    def close(self, step: int, means: dict) -> dict[str, float]:
        """Ends an interval: prints it, and returns its metrics with the rates of work, if it had a step."""
        values = {k: float(v) for k, v in means.items()}
        line = f"step {step}/{self._config.steps}" + "".join(
            f" {name} {values[name]:.{digits}f}" for name, digits in (("loss", 4), ("bpp", 4), ("psnr", 2))
        )
        if step > self._step:
            rates, left = self._rates(step)
            values |= rates
            line += f" {rates['images_per_second']:.1f} images/s wait {100 * rates['input_wait']:.1f}%"
            line += f" left {left / 3600:.2f} h"
        say(line)
        self.start(step)
        return values

    def _rates(self, step: int) -> tuple[dict[str, float], float]:
        """The rates since the last line, and how many seconds all steps that follow will take."""
        seconds = (time.perf_counter() - self._began) / (step - self._step)
        rates = {
            "images_per_second": self._config.batch_size / seconds,
            "input_wait": self._waited / (seconds * (step - self._step)),
        }
        if self._share is not None:
            rates["model_flop_utilisation"] = rates["images_per_second"] * self._share
        return rates, seconds * (self._config.steps - step)


def _time_when_done(step: Any) -> float:
    jax.block_until_ready(step)
    return time.perf_counter()


def is_done(step: Any) -> bool:
    """Whether no device is at work on these metrics of a step any more."""
    return all(leaf.is_ready() for leaf in jax.tree.leaves(step) if hasattr(leaf, "is_ready"))
