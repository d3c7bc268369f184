import dataclasses
import math
from pathlib import Path

import pytest

from ltchm_jax.evaluation import rows
from ltchm_jax.evaluation.rows import Row

ROW = Row(
    "set/test",
    "a, b.png",
    "0" * 16,
    8,
    9,
    "jpeg2000",
    "20",
    "v1",
    100,
    0.1,
    30.5,
    0.9,
    10.0,
    0.5,
    0.25,
    "alex@0",
    0.01,
    0.02,
    1,
)


def variants() -> list[Row]:
    return [ROW, dataclasses.replace(ROW, setting="30", psnr=math.inf, bpp=1 / 3)]


def test_rows_survive_a_file_exactly(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows.write_rows(path, variants()[:1])
    rows.append_rows(path, variants()[1:])
    assert rows.read_rows(path) == variants()


def test_lpips_that_was_not_measured_is_an_empty_field(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows.write_rows(path, [dataclasses.replace(ROW, lpips=math.nan, lpips_version="")])
    assert math.isnan(rows.read_rows(path)[0].lpips)
    assert "nan" not in path.read_text()


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert rows.read_rows(tmp_path / "none.csv") == []


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_ignored(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.csv"
    rows.write_rows(path, variants())
    path.write_bytes(path.read_bytes()[:-cut])
    assert rows.read_rows(path) == variants()[:1]


def test_the_last_row_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    newer = dataclasses.replace(ROW, psnr=31.0)
    rows.write_rows(path, [ROW, newer])
    assert rows.read_rows(path) == [newer]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a,b\n1,2\n", "must start with the columns"),
        (",".join(rows.COLUMNS) + "\n1,2\n", "needs 19 fields in line 2"),
        (",".join(rows.COLUMNS) + "\n" + "x," * 18 + "x\n", "can't be read in line 2"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, text: str, rule: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(rows.RowsError, match=rule):
        rows.read_rows(path)


def test_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe\n")
    with pytest.raises(rows.RowsError, match="UTF-8"):
        rows.read_rows(tmp_path / "rows.csv")
