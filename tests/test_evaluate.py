import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from lpips_weights import lpips_weights
from toy_codec import ToyCodec, write_pictures

from ltchm_jax.evaluation import evaluate as evaluation
from ltchm_jax.evaluation import rows
from ltchm_jax.evaluation.contenders import baseline, of_codec
from ltchm_jax.evaluation.pictures import list_pictures


def without_times(table: list[rows.Row]) -> list[rows.Row]:
    return [dataclasses.replace(row, encode_seconds=0, decode_seconds=0, workers=0, lpips=0) for row in table]


def test_every_point_gets_a_row_in_order(tmp_path: Path) -> None:
    pictures, _ = list_pictures([write_pictures(tmp_path / "in", (20, 30), (9, 5))])
    competitors = [of_codec(ToyCodec(qualities=(64.0, 32.0))), baseline("webp", wide=False)]
    outcome = evaluation.evaluate(tmp_path / "rows.csv", pictures, competitors)
    expected = [(p.name, c.curve, s) for p in pictures for c in competitors for s in c.settings]
    assert [(row.image, row.codec, row.setting) for row in outcome.rows] == expected
    assert without_times(rows.read_rows(tmp_path / "rows.csv")) == without_times(outcome.rows)


def test_work_is_not_done_twice_but_again_where_something_changed(tmp_path: Path) -> None:
    folder, table = write_pictures(tmp_path / "in", (20, 30), (20, 30)), tmp_path / "rows.csv"
    pictures, _ = list_pictures([folder])
    evaluation.evaluate(table, pictures, [of_codec(ToyCodec())])
    again = ToyCodec()
    evaluation.evaluate(table, pictures, [of_codec(again)])
    assert again.calls == 0
    write_pictures(folder, (20, 31))  # another p0.png
    evaluation.evaluate(table, pictures, [of_codec(again)])
    assert again.calls == 2  # one warm-up, one measured
    newer = ToyCodec()
    outcome = evaluation.evaluate(table, pictures, [of_codec(newer, version="retrained")])
    assert newer.calls == 4
    assert {row.codec_version for row in outcome.rows} == {"retrained"}


class Broken(ToyCodec):
    def compress(self, array: np.ndarray, quality: float | None = None) -> bytes:
        raise ValueError("broken")


def test_what_was_measured_of_another_codec_or_picture_is_no_result(tmp_path: Path) -> None:
    folder, table = write_pictures(tmp_path / "in", (20, 30), (20, 30)), tmp_path / "rows.csv"
    pictures, _ = list_pictures([folder])
    evaluation.evaluate(table, pictures, [of_codec(ToyCodec())])
    first, second = pictures
    first.path.unlink()
    outcome = evaluation.evaluate(table, pictures, [of_codec(ToyCodec())])
    assert [row.image for row in outcome.rows] == [second.name]
    assert [failure.image for failure in outcome.failures] == [first.name]
    outcome = evaluation.evaluate(table, pictures, [of_codec(Broken(), version="retrained")])
    assert outcome.rows == []
    assert rows.read_rows(table) == []


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    pictures, _ = list_pictures([write_pictures(tmp_path / "in", (20, 30), (20, 30), (20, 30))])
    whole = evaluation.evaluate(table, pictures, [of_codec(ToyCodec())])
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:2]) + lines[2][:20])  # killed while it wrote the second row
    codec = ToyCodec()
    resumed = evaluation.evaluate(table, pictures, [of_codec(codec)])
    assert codec.calls == 2 + 1
    assert without_times(resumed.rows) == without_times(whole.rows)


def test_rows_of_others_are_kept(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    pictures, _ = list_pictures([write_pictures(tmp_path / "in", (20, 30))])
    evaluation.evaluate(table, pictures, [of_codec(ToyCodec("first"))])
    outcome = evaluation.evaluate(table, pictures, [of_codec(ToyCodec("second"))])
    assert [row.codec for row in outcome.rows] == ["second"]
    assert sorted(row.codec for row in rows.read_rows(table)) == ["first", "second"]


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    pictures, _ = list_pictures([write_pictures(tmp_path / "in", (20, 30), (41, 50))])
    competitors = [baseline("webp", wide=False)]
    alone = evaluation.evaluate(tmp_path / "1.csv", pictures, competitors)
    shared = evaluation.evaluate(tmp_path / "2.csv", pictures, competitors, workers=2)
    assert without_times(shared.rows) == without_times(alone.rows)
    assert {row.workers for row in shared.rows} == {2}


def test_lpips_of_other_weights_is_measured_anew(tmp_path: Path) -> None:
    table, codec = tmp_path / "rows.csv", ToyCodec()
    pictures, _ = list_pictures([write_pictures(tmp_path / "in", (20, 30))])
    for seed in (1, 2):
        np.savez(tmp_path / f"{seed}.npz", **lpips_weights("alex", seed))  # type: ignore[arg-type]
    first, second = (evaluation.LpipsFiles("alex", (str(tmp_path / f"{seed}.npz"),)) for seed in (1, 2))
    (one,) = evaluation.evaluate(table, pictures, [of_codec(codec)], first).rows
    (other,) = evaluation.evaluate(table, pictures, [of_codec(codec)], second).rows
    assert one.lpips != other.lpips
    calls = codec.calls
    evaluation.evaluate(table, pictures, [of_codec(codec)], second)
    evaluation.evaluate(table, pictures, [of_codec(codec)])  # without LPIPS any will do
    assert codec.calls == calls


def test_unusable_lpips_weights_stop_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", x=np.zeros(3))
    pictures, _ = list_pictures([write_pictures(tmp_path / "in", (20, 30))])
    codec = ToyCodec()
    files = evaluation.LpipsFiles("alex", (str(tmp_path / "w.npz"),))
    with pytest.raises(ValueError, match="needs the tensor"):
        evaluation.evaluate(tmp_path / "rows.csv", pictures, [of_codec(codec)], files)
    assert codec.calls == 0


def backends() -> str:
    return jax.config.jax_platforms


def test_workers_leave_accelerators_alone(monkeypatch) -> None:
    monkeypatch.delenv("JAX_PLATFORMS")  # of these tests, or the workers would inherit it
    context = multiprocessing.get_context("spawn")
    for initializer, expected in ((None, None), (evaluation.leave_accelerators, "cpu")):
        with ProcessPoolExecutor(1, mp_context=context, initializer=initializer) as pool:
            assert pool.submit(backends).result() == expected
