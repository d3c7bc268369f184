"""What `ltchm verify` rests on: both files are read before anything is computed, and faults are one line."""

import numpy as np
import pytest

from ltchm_jax.parity import verification
from ltchm_jax.parity.comparison import Row
from ltchm_jax.parity.verification import verify

ROWS = [Row("y", 0.0, 0.0, 1e-4, True)], [Row("out/loss", 1.0, 1.0, 1e-4, False)]


@pytest.fixture
def files(tmp_path):
    paths = tmp_path / "golden.npz", tmp_path / "train.npz"
    np.savez(paths[0], **{"state/a": np.ones(1)})
    np.savez(paths[1], **{"in/lmbda": np.ones(())})
    return paths


@pytest.fixture
def parts(monkeypatch):
    """The three parts, replaced by recorders; they have tests of their own."""
    calls = []

    def record(name, result):
        return lambda *arguments: (calls.append((name, arguments)), result)[1]

    monkeypatch.setattr(verification, "import_state", record("import", "imported"))
    monkeypatch.setattr(verification, "forward_rows", record("forward", ROWS[0]))
    monkeypatch.setattr(verification, "training_rows", record("training", ROWS[1]))
    return calls


def test_the_step_is_optional(files, parts):
    assert verify(files[0]) == ROWS[0]
    assert [name for name, _ in parts] == ["import", "forward"]


def test_forward_rows_come_first_and_both_get_the_same_model(files, parts):
    assert verify(*files) == ROWS[0] + ROWS[1]
    assert [name for name, _ in parts] == ["import", "forward", "training"]
    assert parts[1][1][0] == parts[2][1][0] == "imported"
    assert list(parts[2][1][1]) == ["in/lmbda"]


def test_a_missing_second_file_is_noticed_before_the_first_is_computed(files, parts):
    with pytest.raises(FileNotFoundError):
        verify(files[0], files[1].with_name("absent.npz"))
    assert parts == []


def test_a_file_without_a_state_is_refused(files):
    with pytest.raises(ValueError, match="reference state must have"):
        verify(files[1])
