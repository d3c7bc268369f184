from pathlib import Path

import numpy as np
import pytest
from lpips_weights import lpips_weights
from toy_codec import ToyCodec, picture, write_pictures

from ltchm_jax import metrics
from ltchm_jax.evaluation.contenders import Contender, of_codec
from ltchm_jax.evaluation.measurement import Job, measure, measure_picture
from ltchm_jax.evaluation.pictures import Picture
from ltchm_jax.lpips import Lpips


def job(path: Path, *codecs: ToyCodec) -> Job:
    contenders = [of_codec(codec) for codec in codecs]
    points = tuple((contender, setting) for contender in contenders for setting in contender.settings)
    return Job(Picture("set", path.name, path), "0" * 16, points)


def test_row_counts_the_bytes_of_the_file(tmp_path: Path) -> None:
    write_pictures(tmp_path, (20, 30))
    codec, x = ToyCodec(), picture(20, 30)
    (row,) = measure_picture(job(tmp_path / "p0.png", codec), None, set(), workers=1).rows
    data = codec.compress(x)
    assert row.num_bytes == len(data)
    assert row.bpp == 8 * len(data) / 600
    assert row.psnr == metrics.psnr(x, codec.decompress(data))
    assert row.ms_ssim_db == metrics.ms_ssim_db(row.ms_ssim)
    assert (row.height, row.width) == (20, 30)
    assert row.encode_seconds > 0


def test_models_are_warmed_once_for_each_size(tmp_path: Path) -> None:
    write_pictures(tmp_path, (20, 30), (20, 30), (30, 20))
    codec, warm = ToyCodec(qualities=(64.0, 32.0)), set[tuple[str, ...]]()
    for number in range(3):
        measure_picture(job(tmp_path / f"p{number}.png", codec), None, warm, workers=1)
    assert codec.calls == 3 * 2 + 2  # every point, and one more for each of two sizes


def test_unreadable_picture_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    outcome = measure_picture(job(tmp_path / "bad.png", ToyCodec()), None, set(), workers=1)
    assert outcome.rows == []
    assert outcome.failures[0].codec == ""
    assert str(tmp_path) not in outcome.failures[0].reason


def test_codec_that_raises_stops_nobody_else(tmp_path: Path) -> None:
    class Broken(ToyCodec):
        def compress(self, array: np.ndarray, quality: float | None = None) -> bytes:
            raise RuntimeError("out of\nluck")

    write_pictures(tmp_path, (20, 30))
    outcome = measure_picture(job(tmp_path / "p0.png", Broken("broken"), ToyCodec()), None, set(), workers=1)
    assert [failure.reason for failure in outcome.failures] == ["out of luck"]
    assert [row.codec for row in outcome.rows] == ["toy"]


def test_a_measure_that_fails_stops_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: np.ndarray) -> float:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    write_pictures(tmp_path, (20, 30))
    monkeypatch.setattr(metrics, "vif_p", fail)
    outcome = measure_picture(job(tmp_path / "p0.png", ToyCodec()), None, set(), workers=1)
    assert outcome.rows == []
    assert [failure.reason for failure in outcome.failures] == ["RESOURCE_EXHAUSTED: Out of memory"]


def test_lpips_fills_its_column(tmp_path: Path) -> None:
    write_pictures(tmp_path, (20, 30))
    lpips = Lpips("alex", lpips_weights("alex"))
    (row,) = measure_picture(job(tmp_path / "p0.png", ToyCodec()), lpips, set(), workers=1).rows
    assert row.lpips == lpips(picture(20, 30), ToyCodec().decompress(ToyCodec().compress(picture(20, 30))))
    assert row.lpips_version == lpips.version


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3), np.uint8), np.zeros((8, 9, 3), np.float32)])
def test_decoder_that_returns_something_else_is_refused(wrong: np.ndarray) -> None:
    contender = Contender("c", "c", "v", ("1",), lambda x, s: b"", lambda data: wrong, False)
    with pytest.raises(ValueError, match="decoding must give"):
        measure(contender, "1", picture(8, 9))
