import json
from pathlib import Path

import pytest
from toy_codec import ToyCodec, write_pictures

from ltchm_jax.evaluation.contenders import baseline, of_codec
from ltchm_jax.evaluation.pictures import list_pictures
from ltchm_jax.evaluation.run import Options, compare, run


def test_run_writes_all_results(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set" / "test", (40, 50), (5, 9), (40, 30))
    (folder / "notes.txt").write_text("no picture")
    (folder / "bad.png").write_bytes(b"no picture either")
    pictures, others = list_pictures([folder])
    competitors = [of_codec(ToyCodec(qualities=(64.0, 16.0))), baseline("jpeg2000", wide=False)]
    options = Options((str(folder),), tmp_path / "out", examples=2)
    summary = compare(options, pictures, others, competitors, {"bpg": "BPG is skipped"})
    written = {path.name for path in options.out.iterdir()}
    assert written == {
        "rows.csv", "summary.json", "tables.md", "report.html", "rd-set-test.png", "rd-set-test.svg",
        "crops-set-test-p0.png.png", "crops-set-test-p2.png.png",
    }  # fmt: skip
    assert json.loads((options.out / "summary.json").read_text()) == summary
    assert summary["datasets"]["set/test"]["pictures"] == 3
    assert summary["datasets"]["set/test"]["left_out"] == ["bad.png"]
    assert summary["other_files"] == ["set/test/notes.txt"]


def test_any_name_can_be_shown(tmp_path: Path) -> None:
    """Signs of a formula, bytes that are no UTF-8, and two names that look alike in a file's name."""
    folder = write_pictures(tmp_path / "a$\\frac" / "b$", (12, 12), (12, 12))
    names = ["$1.5M_$2.png", "x y.png", "x-y.png"]
    pixels = (folder / "p0.png").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    for name in names:
        (folder / name).write_bytes(pixels)
    pictures, _ = list_pictures([folder])
    command = ("python", "eval.py", "--folder", "Stra\udcdfe und Weg")
    options = Options((str(folder),), tmp_path / "out", examples=3, command=command)
    compare(options, pictures, [], [of_codec(ToyCodec(qualities=(64.0, 16.0)))], {})
    assert len(list(options.out.glob("crops-*.png"))) == 3
    assert "'Stra\\udcdfe und Weg'" in (options.out / "tables.md").read_text()


def test_one_picture_and_one_point_are_enough(tmp_path: Path) -> None:
    pictures, _ = list_pictures([write_pictures(tmp_path / "in", (1, 1))])
    options = Options((), tmp_path / "out")
    summary = compare(options, pictures, [], [of_codec(ToyCodec())], {})
    (data,) = summary["datasets"].values()
    assert data["pictures"] == 1
    assert data["bd"] == {}


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    pictures, _ = list_pictures([tmp_path / "in"])
    with pytest.raises(ValueError, match="nothing could be measured, the first reason is: pictures are read"):
        compare(Options((), tmp_path / "out"), pictures, [], [of_codec(ToyCodec())], {})


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"examples": -1}])
def test_wrong_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"--{min(wrong)} must be . or more, got"):
        run(Options((str(tmp_path),), tmp_path / "out", **wrong))
