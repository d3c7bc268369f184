"""What is seen of a run: rows that are JSON, none of them twice."""

import json
import sys

import pytest

from ltchm_jax.monitor import MetricWriter, drop_rows_after


@pytest.fixture(autouse=True)
def _no_board(monkeypatch):
    monkeypatch.setitem(sys.modules, "clu", None)


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    writer = MetricWriter(tmp_path)
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
