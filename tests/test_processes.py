"""One run on many devices and in several processes, and the line that says how they join."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small_model import small_config, write_photos

from ltchm_jax import processes
from ltchm_jax.checkpoints import RunCheckpoints
from ltchm_jax.model_file import load_model
from ltchm_jax.training import Recipe, init_state, make_optimizer

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds until a process counts as hung
HEAD = f"""
import sys
sys.modules["clu"] = None
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT)!r}]
"""


def start(code: str, *arguments: str, devices: int = 1) -> subprocess.Popen:
    """Python in a process of its own with so many CPU devices."""
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", HEAD + code, *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


EIGHT = """
import numpy as np
from small_model import small_config
from test_training import assert_same_steps, on_devices

config = small_config(batch_size=8)
assert_same_steps(on_devices(8, config, 3, batch=8), on_devices(1, config, 3, batch=8), config)
"""


@pytest.mark.slow
def test_eight_devices_take_the_steps_of_one():
    """On the same batches: losses of each step, and where the weights end."""
    process = start(EIGHT, devices=8)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors[-2000:]


RUN = """
import json
from small_model import small_config
from ltchm_jax import run

class Other(run.Trainer):  # begins elsewhere than the first process, which decides
    def init(self, variables=None):
        state = super().init(variables)
        return state.replace(weights=state.weights + 1)

if sys.argv[3:] and sys.argv[3].endswith(",1"):
    run.Trainer = Other
sys.exit(run.main(small_config(**json.loads(sys.argv[1])), sys.argv[2], *sys.argv[3:]))
"""


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.mark.slow
def test_two_processes_are_one_run(tmp_path):
    """The rows and the weights of a run in one process, written once; a checkpoint that either can read."""
    fields = {"steps": 3, "log_every": 1, "checkpoint_every": 2, "validate_every": 2, "batch_size": 4}
    fields |= {"data.folder": str(write_photos(tmp_path / "photos", 5))}
    one, two = tmp_path / "one", tmp_path / "two"
    address = f"127.0.0.1:{free_port()},2"
    runs = [start(RUN, json.dumps(fields), str(two), f"{address},{index}") for index in (0, 1)]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], "\n".join(text[-2000:] for text in errors)
    assert "step 3/3" in errors[0]
    assert "step" not in errors[1]
    alone = start(RUN, json.dumps(fields), str(one))
    assert alone.communicate(timeout=PATIENCE)[1].count("step 3/3") == 1
    rows, rows2 = ([json.loads(line) for line in (w / "metrics.jsonl").open()] for w in (one, two))
    assert [row["step"] for row in rows] == [row["step"] for row in rows2]
    for row, row2 in zip(rows, rows2, strict=True):
        same = [
            name for name in row if name.startswith("validation/") or name in ("loss", "mse", "grad_norm")
        ]
        np.testing.assert_allclose([row2[n] for n in same], [row[n] for n in same], rtol=2e-3)
    end, end2 = (final_weights(workdir) for workdir in (one, two))
    moved = np.linalg.norm(end - first_weights(fields))
    assert np.linalg.norm(end2 - end) < 0.02 * moved
    assert kept_step(two, fields) == 3


LEAVE = """
import sys, time
from ltchm_jax import processes

processes.join(sys.argv[1])
start = time.monotonic()
try:
    with processes.leaving_together():
        if processes.is_first():
            time.sleep(3)
        else:
            raise KeyboardInterrupt
except KeyboardInterrupt:
    assert time.monotonic() - start > 2  # the first had come to its end
    sys.exit(130)
"""


@pytest.mark.slow
def test_a_process_that_is_interrupted_waits_for_the_others():
    address = f"127.0.0.1:{free_port()},2"
    runs = [start(LEAVE, f"{address},{index}") for index in (0, 1)]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in runs]
    assert [process.returncode for process in runs] == [0, 130], "\n".join(text[-2000:] for text in errors)


def final_weights(workdir: Path) -> np.ndarray:
    leaves = jax.tree.leaves(load_model(workdir / "model.safetensors").variables["params"])
    return np.concatenate([leaf.ravel() for leaf in leaves])


def first_weights(fields: dict) -> np.ndarray:
    config = small_config(**fields)
    return np.asarray(init_state(Recipe.from_config(config), make_optimizer(config)).weights)


def kept_step(workdir: Path, fields: dict) -> int:
    config = small_config(**fields)
    checkpoints = RunCheckpoints(workdir, config, 3)
    like = jax.device_get(init_state(Recipe.from_config(config), make_optimizer(config)))
    state, _ = checkpoints.restore(like)
    checkpoints.close()
    return int(state.step)


@pytest.mark.parametrize(
    "text", ["yes", "host:1", "host:1,2", "host,2,0", "host:1,2,2", "host:1,2,-1", ":1,2,0", "host:p,2,0"]
)
def test_other_ways_to_join_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match="must be auto or HOST:PORT,COUNT,INDEX") as caught:
        processes.join(text)
    assert "\n" not in str(caught.value)


def test_one_process_agrees_with_itself():
    processes.join("")
    assert processes.is_first()
    assert processes.from_first(0.1) == 0.1
    assert [processes.any_of(flag) for flag in (True, False)] == [True, False]
