"""What holds in every test: strict array ranks, two CPU devices, fixed seeds, quiet logs."""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

# Read when JAX starts. Tests compile for longer than they compute: unoptimised code halves their time.
XLA_FLAGS = {"xla_force_host_platform_device_count": 2, "xla_backend_optimization_level": 0}
given = os.environ.get("XLA_FLAGS", "")
added = [f"--{name}={value}" for name, value in XLA_FLAGS.items() if name not in given]
os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["JAX_PLATFORMS"] = "cpu"  # whose float32 is exact; what is marked gpu starts its own process

import absl.logging  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `configs`, wherever the tests are started
jax.config.update("jax_numpy_rank_promotion", "raise")
absl.logging.set_verbosity(absl.logging.ERROR)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_cache_of_compiled_functions() -> Iterator[None]:
    """The command keeps compiled functions for its whole process, which here is that of all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltchm_jax.cli.keep_compiled_functions", lambda: None)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared data are not here")
    return folder
