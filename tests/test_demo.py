"""The demonstration: its files are what they are called, its numbers those of the files."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from toy_codec import ToyCodec, picture

from ltchm_jax import baselines, demo
from ltchm_jax.evaluation import matching

needs_encoders = pytest.mark.skipif(
    not all(features.check(name) for name in ("jpg_2000", "webp", "avif")),
    reason="a Pillow without an encoder",
)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


@needs_encoders
def test_files_and_table(tmp_path, capsys):
    x, codec = picture(100, 120), ToyCodec()
    results = demo.run(codec, x, tmp_path / "new" / "folder")
    out = tmp_path / "new" / "folder"
    np.testing.assert_array_equal(read(out / "scene.png"), x)
    np.testing.assert_array_equal(
        read(out / "decoded.png"), codec.decompress((out / "scene.ltc").read_bytes())
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.png", "decoded.png", "scene.ltc", "scene.png",
    ]  # fmt: skip
    size = (out / "scene.ltc").stat().st_size
    assert [result.title for result in results] == ["LTCHM", "JPEG 2000 (9/7)", "WebP", "AVIF"]
    assert results[0].num_bytes == size
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["codec", "setting", "bytes", "bpp", "PSNR", "dB", "MS-SSIM", "dB"]
    mse = np.mean((x.astype(float) - codec.decompress((out / "scene.ltc").read_bytes())) ** 2)
    own = ["LTCHM", "default", str(size), f"{8 * size / 12000:.3f}", f"{10 * np.log10(255**2 / mse):.2f}"]
    assert printed[1].split()[:5] == own
    assert len({len(line) for line in printed[:5]}) == 1


@needs_encoders
def test_settings_in_the_table_make_those_bytes(tmp_path):
    x = picture(64, 64)
    results = demo.run(ToyCodec(qualities=(16.0, 64.0)), x, tmp_path, quality=16, effort=3)
    assert results[0].setting == "quality 16, effort 3"
    webp = next(result for result in results if result.title == "WebP")
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, "WEBP", quality=int(webp.setting.removeprefix("quality ")))
    assert len(buffer.getvalue()) == webp.num_bytes


def test_a_missing_encoder_is_said_and_left_out(tmp_path, capsys, monkeypatch):
    real = baselines.find

    def find(name):
        if name == "avif":
            raise baselines.MissingEncoder("AVIF is skipped: none here")
        return real(name)

    monkeypatch.setattr(baselines, "find", find)
    results = demo.run(ToyCodec(), picture(40, 40), tmp_path)
    assert [result.title for result in results] == ["LTCHM", "JPEG 2000 (9/7)", "WebP"]
    assert capsys.readouterr().err == "AVIF is skipped: none here\n"


def test_the_image_is_read_and_shown(tmp_path, monkeypatch):
    x = picture(48, 56)
    Image.fromarray(x).save(tmp_path / "x.png")
    monkeypatch.setattr(demo, "open_codec", lambda name, effort: ToyCodec())
    assert demo.main([str(tmp_path / "x.png"), "--out", str(tmp_path / "out")]) == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "scene.png"), x)


@pytest.mark.parametrize("kind", ["absent", "no picture", "no model", "in the way"])
def test_errors_are_one_line(kind, tmp_path, capsys, monkeypatch):
    image, out, model = tmp_path / "x.png", tmp_path / "out", []
    if kind != "absent":
        Image.fromarray(picture(48, 56)).save(image)
    if kind == "no picture":
        image.write_bytes(b"text")
    if kind == "no model":
        model = ["--model", str(tmp_path / "none.safetensors")]
    else:
        monkeypatch.setattr(demo, "open_codec", lambda name, effort: ToyCodec())
    if kind == "in the way":
        out.write_bytes(b"")
    assert demo.main([str(image), "--out", str(out), *model]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ltchm_jax.demo: ")
    assert error.count("\n") == 1


def test_wrong_arguments_are_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        demo.main(["--bogus"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_an_image_a_scene_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "open_codec", lambda name, effort: ToyCodec())
    monkeypatch.setattr(demo, "SCENE", (40, 60, 1))
    assert demo.main(["--out", str(tmp_path)]) == 0
    assert read(tmp_path / "scene.png").shape == (40, 60, 3)


@needs_encoders
def test_a_codec_that_cant_take_the_picture_is_left_out(tmp_path, monkeypatch, capsys):
    def match_size(baseline, x, num_bytes):
        if baseline.title == "WebP":  # of a picture that is too wide
            x = picture(11, 16_400)
        return matching.match_size(baseline, x, num_bytes)

    monkeypatch.setattr(demo, "match_size", match_size)
    results = demo.run(ToyCodec(), picture(32, 40), tmp_path)
    assert [result.title for result in results] == ["LTCHM", "JPEG 2000 (9/7)", "AVIF"]
    assert (tmp_path / "comparison.png").exists()
    said = capsys.readouterr().err
    assert said.startswith("WebP can't take this picture: ")
    assert said.count("\n") == 1


def test_no_plots_are_needed(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; import ltchm_jax.demo"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True)
    assert done.returncode == 0, done.stderr
