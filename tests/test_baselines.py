import io
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltchm_jax import baselines, metrics

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "rsscn7" / "test"
HERE = [name for name, found in baselines.BASELINES.items() if not found.tool.missing()]
# Means over the 70 pictures, measured before with another program: (codec, setting, bpp, dB).
KNOWN = [
    ("jpeg2000", 160, 0.148, 26.63),
    ("jpeg2000", 60, 0.397, 29.66),
    ("jpeg2000", 30, 0.797, 32.84),
    ("jpeg2000", 20, 1.196, 35.46),
    ("avif", 30, 0.298, 28.96),
    ("avif", 10, 0.123, 26.43),
]


def picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_wide_grid_holds_the_settings_of_the_paper(name: str) -> None:
    found = baselines.BASELINES[name]
    assert set(found.settings) < set(found.wide)
    assert len(set(found.wide)) == len(found.wide)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("size", [(1, 1), (7, 40), (65, 33)])
def test_any_size_comes_back(name: str, size: tuple[int, int]) -> None:
    found, x = baselines.find(name), picture(*size)
    for setting in (found.wide[0], found.wide[-1]):
        x_hat = found.decode(found.encode(x, setting))
        assert x_hat.shape == x.shape
        assert x_hat.dtype == np.uint8


@pytest.mark.parametrize("name", HERE)
def test_pictures_beyond_the_limit_of_pillow_come_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    found = baselines.find(name)
    data = found.encode(picture(33, 40), found.settings[0])
    assert found.decode(data).shape == (33, 40, 3)


@pytest.mark.parametrize("name", HERE)
def test_settings_trade_bytes_for_quality(name: str) -> None:
    found, x = baselines.find(name), picture(96, 96)
    points = []
    for setting in (found.settings[0], found.settings[-1]):
        data = found.encode(x, setting)
        points.append((len(data), metrics.psnr(x, found.decode(data))))
    assert min(points) < max(points)
    assert min(points)[1] < max(points)[1]


def markers(data: bytes) -> tuple[int, int]:
    """(multiple component transform, wavelet) of the COD marker: wavelet 0 is 9/7, 1 is 5/3."""
    start = data.index(b"\xff\x52") + 4  # marker and length
    return data[start + 4], data[start + 9]


@pytest.mark.parametrize(
    ("name", "expected"), [("jpeg2000-paper", (1, 1)), ("jpeg2000", (1, 0)), ("jpeg2000-pillow", (0, 1))]
)
def test_jpeg2000_transforms_are_in_the_stream(name: str, expected: tuple[int, int]) -> None:
    assert markers(baselines.find(name).encode(picture(64, 64), 20)) == expected


def test_pillow_default_is_the_variant_named_after_it() -> None:
    x, buffer = picture(64, 64), io.BytesIO()
    Image.fromarray(x).save(buffer, "JPEG2000", quality_mode="rates", quality_layers=[20])
    assert buffer.getvalue() == baselines.find("jpeg2000-pillow").encode(x, 20)


def test_unknown_and_missing_codecs_have_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="codec must be one of"):
        baselines.find("jpeg3000")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(baselines.MissingEncoder, match="BPG is skipped: not on PATH: bpgenc, bpgdec"):
        baselines.find("bpg")


def test_bpg_runs_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins that copy the file show what is called with what."""
    script = f"#!{sys.executable}\nimport shutil, sys\na = sys.argv\n"
    encoder = script + "assert a[1:4] == ['-q', '30', '-o'], a\nshutil.copy(a[5], a[4])\n"
    decoder = script + "assert a[1] == '-o', a\nshutil.copy(a[3], a[2])\n"
    for name, text in (("bpgenc", encoder), ("bpgdec", decoder)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    x = picture(20, 30)
    found = baselines.find("bpg")
    assert np.array_equal(found.decode(found.encode(x, 30)), x)
    assert found.tool.version().startswith("bpgenc sha256 ")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the RSSCN7 test pictures")
@pytest.mark.parametrize(("name", "setting", "rate", "quality"), KNOWN)
def test_figures_measured_before(name: str, setting: float, rate: float, quality: float) -> None:
    found, rates, values = baselines.find(name), [], []
    for path in sorted(SHARED.iterdir()):
        x = np.asarray(Image.open(path).convert("RGB"))
        data = found.encode(x, setting)
        rates.append(metrics.bpp(len(data), *x.shape[:2]))
        values.append(metrics.psnr(x, found.decode(data)))
    assert np.mean(rates) == pytest.approx(rate, abs=0.001)
    assert np.mean(values) == pytest.approx(quality, abs=0.02)
