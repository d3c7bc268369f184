"""One training step against the authors' own: gradients, BatchNorm statistics and what the step leads to."""

from pathlib import Path

import numpy as np
import pytest

from ltchm_jax.interop import import_state
from ltchm_jax.parity.comparison import Row
from ltchm_jax.parity.reference_files import read_arrays
from ltchm_jax.parity.training_parity import CORRECTIONS, training_rows

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
pytestmark = [
    pytest.mark.slow,  # compiles the gradient of the whole model
    pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not here"),
]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    imported = import_state(read_arrays(GOLDEN / "released_n64.npz"))
    arrays = read_arrays(GOLDEN / "released_n64_train.npz")
    tampered = {
        "grad_norm/Encoder.b0_layer2.weight": arrays["grad_norm/Encoder.b0_layer2.weight"] * 1.01,
        "buffer/Encoder.attention1.trunk_ResBlock1.conv1.proj.0.bn.running_var": np.ones(16, np.float32),
    }
    return training_rows(imported, arrays | tampered)


def test_the_step_matches_but_for_what_was_tampered_with(rows):
    assert [row.tensor for row in rows if not row.ok] == [
        "grad_norm/Encoder.b0_layer2.weight",
        "buffer/Encoder.attention1.trunk_ResBlock1.conv1.proj.0.bn.running_var",
    ]


def test_every_kind_of_tensor_is_compared(rows):
    kinds = [row.tensor.split("/")[0] for row in rows]
    want = {"out": 4, "grad_norm": 757, "grad": 689, "buffer": 144, "after_step": 3}
    assert {kind: kinds.count(kind) for kind in want} == want


def test_a_corrected_norm_says_so(rows):
    noted = [row for row in rows if row.note]
    assert [row.tensor for row in noted] == [f"grad_norm/{name}" for name in CORRECTIONS]
    assert all(row.ok for row in noted)
