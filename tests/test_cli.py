"""The command as a user types it: files in, files out; one line and status 2 for what can't be done."""

import dataclasses
import io
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from drawn_model import drawn_model
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ltchm_jax import bitstream, block_coder, cli
from ltchm_jax.container.metadata import TiffTag
from ltchm_jax.imagery import tiff
from ltchm_jax.imagery.scenes import draw_scene
from ltchm_jax.model import ModelConfig, init_variables
from ltchm_jax.model_file import make_model, save_model

pytest.importorskip("tensorflow_compression_ops")

SMALL = ModelConfig(width=32, attention="none", hyper_attention="none", parameter_width=32)
KEEP = cli.keep_compiled_functions  # which `conftest` replaces
MODES = {"grey": "L", "rgb": "RGB", "rgba": "RGBA", "palette": "P"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, pictures of every kind, and a stream."""
    folder = tmp_path_factory.mktemp("cli")
    save_model(folder / "m.safetensors", make_model(SMALL, init_variables(SMALL, jax.random.key(0))))
    for name, mode in MODES.items():
        Image.fromarray(draw_scene(31, 17, 0)).convert(mode).save(folder / f"{name}.png")
    assert run("compress", folder / "rgb.png", folder / "rgb.ltc", "--model", folder / "m.safetensors") == 0
    return folder


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def refusal(capsys, *arguments):
    """The line of an error; nothing else may be printed."""
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ltchm: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_kind_of_picture_comes_back_in_its_size(folder, tmp_path, name, suffix):
    model = ("--model", folder / "m.safetensors")
    assert run("compress", folder / f"{name}.png", tmp_path / "s.ltc", *model) == 0
    assert run("decompress", tmp_path / "s.ltc", tmp_path / f"out{suffix}", *model) == 0
    back = Image.open(tmp_path / f"out{suffix}")
    assert back.size == (17, 31)
    assert back.mode == {"grey": "L", "rgba": "RGBA"}.get(name, "RGB")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"out{suffix}", "s.ltc"])


def as_a_process(cache, cores, *arguments):
    run = subprocess.run(
        ["taskset", "--cpu-list", cores, sys.executable, "-m", "ltchm_jax", *map(str, arguments)],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes can't be pinned here")
def test_processes_on_other_cores_and_with_kept_functions_agree(folder, tmp_path):
    """One core writes, two read, and the other way round; the second loads what the first compiled."""
    every = sorted(os.sched_getaffinity(0))
    one, all_of_them = str(every[0]), ",".join(map(str, every))
    config = dataclasses.replace(
        SMALL, attention="dam", attention_at_analysis=(16,), attention_at_synthesis=(16,)
    )
    config = dataclasses.replace(
        config, idconv_norm="none", hyper_attention="hpham", hyper_attention_at=(32,)
    )
    save_model(tmp_path / "m.safetensors", drawn_model(config))
    model, cache = ("--model", tmp_path / "m.safetensors"), tmp_path / "cache"
    Image.fromarray(draw_scene(70, 130, 1)).save(tmp_path / "scene.png")
    for name, cores in {"a": one, "b": all_of_them}.items():
        as_a_process(cache, cores, "compress", tmp_path / "scene.png", tmp_path / f"{name}.ltc", *model)
    for name, cores in {"a": all_of_them, "b": one}.items():
        stream = tmp_path / f"{name}.ltc"
        as_a_process(cache, cores, "decompress", stream, tmp_path / f"{name}.png", *model)
        as_a_process(cache, cores, "decompress", "--exact", stream, tmp_path / f"{name}-exact.png", *model)
    assert (tmp_path / "a-exact.png").read_bytes() == (tmp_path / "b-exact.png").read_bytes()
    kept = list((cache / "ltchm-jax").iterdir())
    assert len(kept) > 2
    assert run("decompress", tmp_path / "b.ltc", tmp_path / "fresh.png", *model) == 0
    fresh, kept_a, kept_b = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("fresh", "a", "b"))
    assert np.abs(fresh.astype(int) - kept_b).max() <= 1  # float32 on other cores may round the other way
    assert np.abs(fresh.astype(int) - kept_a).max() <= 1


def test_a_process_killed_while_it_kept_a_function_does_not_stop_the_next(tmp_path):
    """The first compiles and keeps; the second finds one entry without its time, and must still keep."""
    script = (
        "import jax, numpy, sys; from ltchm_jax.cli import keep_compiled_functions;"
        "keep_compiled_functions(); jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0);"
        "jax.jit(lambda x: x * float(sys.argv[1]))(numpy.ones(3))"
    )
    folder = tmp_path / "ltchm-jax"

    def kept_by(number: str) -> set[Path]:
        command = [sys.executable, "-c", script, number]
        env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
        subprocess.run(command, env=env, cwd=Path(__file__).parent.parent, check=True, timeout=300)
        return set(folder.glob("*-cache"))

    (first,) = kept_by("2")
    first.with_name(first.name.removesuffix("-cache") + "-atime").unlink()
    (second,) = kept_by("3")
    assert second != first
    assert {first, second} == kept_by("2")


@pytest.mark.parametrize("picture", ["rgb", "grey"])
def test_the_fingerprint_is_printed(folder, capsys, picture):
    assert run("fingerprint", folder / f"{picture}.png", "--model", folder / "m.safetensors") == 0
    rows = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert rows["encoder"] == rows["decoder"] != rows["latents"]
    assert all(len(value) == 16 for value in rows.values())


def test_blocks_of_a_given_size(folder, tmp_path, capsys):
    """Any codec of the model reads them; an impossible size is refused."""
    picture, stream, model = folder / "rgb.png", tmp_path / "s.ltc", ("--model", folder / "m.safetensors")
    assert run("compress", picture, stream, "--block-size", "16", *model) == 0
    grid = bitstream.read(stream.read_bytes()).header.grid
    assert (grid.count, grid.shape) == (6, (13, 11))
    assert run("decompress", stream, tmp_path / "o.png", *model) == 0
    capsys.readouterr()
    assert "block size must be" in refusal(capsys, "compress", picture, stream, "--block-size", "8", *model)


def test_effort_makes_another_stream_that_is_read_as_any_other(folder, tmp_path, capsys):
    config = dataclasses.replace(SMALL, scale_min=2.0, lmbdas=(128.0, 2048.0))
    save_model(tmp_path / "m.safetensors", drawn_model(config))
    picture, model = folder / "rgb.png", ("--model", tmp_path / "m.safetensors")
    assert run("compress", picture, tmp_path / "0.ltc", *model) == 0
    assert run("compress", picture, tmp_path / "3.ltc", "--effort", "3", *model) == 0
    assert (tmp_path / "0.ltc").read_bytes() != (tmp_path / "3.ltc").read_bytes()
    assert run("decompress", tmp_path / "3.ltc", tmp_path / "o.png", *model) == 0
    with Image.open(tmp_path / "o.png") as out:
        assert out.size == (17, 31)


def test_an_impossible_effort_is_refused(folder, tmp_path, capsys):
    picture, model = folder / "rgb.png", ("--model", folder / "m.safetensors")
    said = refusal(capsys, "compress", picture, tmp_path / "s.ltc", "--effort", "-1", *model)
    assert "`effort` must be an integer of 0 to 1000, got -1" in said
    said = refusal(capsys, "compress", picture, tmp_path / "s.ltc", "--effort", "1", *model)
    assert "file says its lambda" in said
    assert not list(tmp_path.iterdir())


def test_several_inputs_go_to_a_folder(folder, tmp_path):
    model = ("--model", folder / "m.safetensors")
    compiled = block_coder.analyse._cache_size()
    assert (
        run("compress", folder / "rgb.png", folder / "grey.png", folder / "palette.png", tmp_path, *model)
        == 0
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grey.ltc", "palette.ltc", "rgb.ltc"]
    assert block_coder.analyse._cache_size() == compiled  # they have the size of what was compressed before


def test_a_rate_is_chosen_by_quality_bits_or_bytes(folder, tmp_path):
    config = dataclasses.replace(SMALL, lmbdas=(128.0, 512.0, 2048.0), scale_min=2.0)
    variables = init_variables(config, jax.random.key(1))
    kernel = variables["params"]["g_a"]["down16"]["kernel"]
    variables["params"]["g_a"]["down16"]["kernel"] = kernel * 20  # so that there is something to code
    save_model(tmp_path / "m.safetensors", make_model(config, variables))
    Image.fromarray(draw_scene(64, 48, 0)).save(tmp_path / "x.png")

    def stream(*how):
        target = tmp_path / "x.ltc"
        assert run("compress", tmp_path / "x.png", target, "--model", tmp_path / "m.safetensors", *how) == 0
        return target.read_bytes()

    def quality(data):
        return bitstream.read(data).header.quality / 256

    assert quality(stream("--quality", 1.5)) == 1.5
    least, most = stream("--quality", 0), stream("--quality", 2)
    allowed = (len(least) + len(most)) // 2
    found = stream("--max-bytes", allowed)
    assert len(least) < len(found) <= allowed
    assert 0 < quality(found) < 2
    assert stream("--target-bpp", 8 * allowed / (64 * 48)) == found


def test_a_window_is_cut_out(folder, tmp_path):
    model = ("--model", folder / "m.safetensors")
    assert run("decompress", folder / "rgb.ltc", tmp_path / "all.png", *model) == 0
    assert run("decompress", folder / "rgb.ltc", tmp_path / "part.png", "--window", "2,5,10,20", *model) == 0
    whole, part = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("all", "part"))
    np.testing.assert_array_equal(part, whole[5:25, 2:12])


def test_what_a_file_holds_beside_its_pixels_is_kept_or_named(folder, tmp_path, capsys):
    text = PngInfo()
    text.add_text("Place", "Wuhan")
    Image.open(folder / "rgba.png").save(tmp_path / "a.png", pnginfo=text, icc_profile=bytes(128))
    command = ("compress", tmp_path / "a.png", tmp_path / "a.ltc", "--model", folder / "m.safetensors")
    for extra, end in [((), "; --metadata keeps its text, ICC profile\n"), (("--metadata",), " bpp\n")]:
        assert run(*command, *extra) == 0
        said = capsys.readouterr().err
        assert said.startswith(f"{tmp_path / 'a.png'}: 17 x 31 x 4 (RGBA), ")
        assert said.endswith(end)


def cut_out(folder, tmp_path, *tags):
    """The entries of a picture's file after compression, and those of a window 2, 5 of it."""
    with open(tmp_path / "scene.tif", "wb") as file:
        tiff.write(file, (31, 17, 3), [draw_scene(31, 17, 0)], colour=True, alpha=False, tags=tags)
    model = ("--model", folder / "m.safetensors")
    assert run("compress", tmp_path / "scene.tif", tmp_path / "s.ltc", "--metadata", *model) == 0
    assert run("decompress", tmp_path / "s.ltc", tmp_path / "all.tif", *model) == 0
    assert run("decompress", tmp_path / "s.ltc", tmp_path / "part.tif", *model, "--window", "2,5,10,20") == 0
    return [tiff.read_tags(io.BytesIO((tmp_path / f"{name}.tif").read_bytes())) for name in ("all", "part")]


def test_a_window_keeps_its_place_on_the_map(folder, tmp_path):
    scale = TiffTag(33550, 12, struct.pack("<3d", 0.5, 0.25, 0))
    point = TiffTag(33922, 12, struct.pack("<6d", 1, 2, 0, 5e5, 4e6, 0))
    whole, part = cut_out(folder, tmp_path, scale, point)
    assert (whole[33550], whole[33922]) == (scale, point)
    assert part[33550] == scale
    assert struct.unpack("<6d", part[33922].data) == (1 - 2, 2 - 5, 0, 5e5, 4e6, 0)
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(tmp_path / "all.tif") as all_, rasterio.open(tmp_path / "part.tif") as cut:
        old, new = all_.transform, cut.transform
        assert (new.c, new.f) == (old.c + 2 * old.a, old.f + 5 * old.e)


def test_a_malformed_place_is_dropped_from_a_window_and_reported(folder, tmp_path, capsys):
    point = TiffTag(33922, 12, bytes(40))
    whole, part = cut_out(folder, tmp_path, point)
    assert whole[33922] == point
    assert 33922 not in part
    said = [line for line in capsys.readouterr().err.splitlines() if "can't keep" in line]
    assert said == [f"{tmp_path / 'part.tif'}: this kind of file can't keep malformed TIFF tags"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("compress", "a.png", "b.ltc", "--quality", "1", "--max-bytes", "3"),
        ("decompress", "a.ltc", "b.png", "--window", "1,2"),
        ("complexity", "--size", "big"),
        ("compress", "a.png", "b.ltc", "--target-bpp", "inf"),
        ("compress", "a.png", "b.ltc", "--target-bpp", "nan"),
        ("compress", "a.png", "b.ltc", "--target-bpp", "0"),
        ("compress", "a.png", "b.ltc", "--target-bpp", "1e308"),
        ("compress", "a.png", "b.ltc", "--target-bpp", "much"),
        ("compress", "a.png", "b.ltc", "--max-pixels", "0"),
        ("fingerprint", "a.png", "--max-pixels", "-5"),
        ("nothing",),
        (),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("ltchm: ")
    assert said.count("\n") == 1


def test_memory_that_runs_out_on_a_device_is_one_line(capsys, monkeypatch):
    def exhausted(_: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nfor 9 bytes")

    hint = ", take a smaller --block-size"  # which `info` has not
    for command, advice in ((["compress", "x.png", "x.ltc"], hint), (["info", "x.ltc"], "")):
        monkeypatch.setattr(cli, f"run_{command[0]}", exhausted)
        assert cli.main(command) == 2
        said = f"ltchm: out of memory{advice}: RESOURCE_EXHAUSTED: Out of memory for 9 bytes\n"
        assert capsys.readouterr().err == said


def test_info_says_what_a_stream_holds(folder, capsys):
    assert run("info", folder / "rgb.ltc") == 0
    out = capsys.readouterr().out
    assert "17 x 31" in out
    assert f"{(folder / 'rgb.ltc').stat().st_size} (" in out


@pytest.mark.parametrize("arguments", [("info", "rgb.ltc"), ("--help",), ("compress", "--help")])
def test_info_and_help_load_no_jax(folder, arguments):
    code = (
        "import sys; from ltchm_jax import cli\n"
        "try: status = cli.main(sys.argv[1:])\n"
        "except SystemExit as stop: status = stop.code\n"
        "assert not status\n"
        "assert not {'jax', 'numpy', 'tensorflow'} & set(sys.modules)"
    )
    given = [str(folder / a) if a.endswith(".ltc") else a for a in arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


SHELL = shutil.which("bash")


def in_a_shell(command: str, **names: object) -> subprocess.CompletedProcess:
    """`ltchm` in a shell, its output buffered as it usually is."""
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment = usual | {name: str(value) for name, value in names.items()}
    script = f'ltchm() {{ {sys.executable} -m ltchm_jax "$@"; }}; {command}'
    root = Path(__file__).parent.parent
    return subprocess.run([SHELL, "-c", script], env=environment, cwd=root, capture_output=True, text=True)


@pytest.mark.skipif(SHELL is None, reason="no bash here")
@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("ltchm info $S > /dev/full", "ltchm: No space left on device\n"),
        ("ltchm info - <&-", "ltchm: Standard input is closed\n"),
        ("ltchm decompress missing.ltc - >&-", "ltchm: No such file or directory: 'missing.ltc'\n"),
        ("ltchm info missing.ltc 2>&-", ""),
    ],
)
def test_broken_standard_streams_end_in_one_line(folder, command, error):
    done = in_a_shell(command, S=folder / "rgb.ltc")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)


@pytest.mark.skipif(SHELL is None, reason="no bash here")
def test_a_reader_that_has_enough_is_no_error(folder):
    command = "(sleep 0.5; ltchm info $S) | true; exit ${PIPESTATUS[0]}"
    done = in_a_shell(command, S=folder / "rgb.ltc")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.skipif(SHELL is None, reason="no bash here")
@pytest.mark.parametrize("command", ["- 2>&- | cat >", "/dev/stdout | cat >", ">(cat >"])
def test_pipes_take_the_stream_and_nothing_else(folder, tmp_path, command):
    command = f"ltchm compress $P {command} $O"
    done = in_a_shell(
        command.replace("$P", "--model $M $P") + (") && sleep 1" if "(" in command else ""),
        P=folder / "rgb.png",
        M=folder / "m.safetensors",
        O=tmp_path / "o.ltc",
        XDG_CACHE_HOME=folder / "cache",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.ltc").read_bytes() == (folder / "rgb.ltc").read_bytes()


def test_a_cache_that_cant_be_used_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "ltchm-jax").mkdir()
    (tmp_path / "ltchm-jax" / "x-cache").mkdir()  # can't be removed as a file
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    KEEP()
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize("given", [None, "true"])
def test_memory_of_accelerators_is_taken_as_needed_unless_told_otherwise(given, monkeypatch, capsys):
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    assert run("info", "no such file") == 2
    assert os.environ[name] == (given or "false")
    capsys.readouterr()


def test_a_cache_that_jax_was_given_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    settings = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
    before = [getattr(jax.config, name) for name in settings]
    KEEP()
    assert [getattr(jax.config, name) for name in settings] == before


def test_info_takes_pictures_that_are_too_large_to_decode(tmp_path, capsys):
    header = bitstream.Header(bytes(8), 40_000, 40_000, bitstream.Layout.RGB, 3, block_size=4096)
    blocks = [bitstream.Block(b"", 0)] * header.grid.count
    (tmp_path / "large.ltc").write_bytes(bitstream.pack(header, blocks))
    assert run("info", tmp_path / "large.ltc") == 0
    assert "40000 x 40000" in capsys.readouterr().out
    said = refusal(capsys, "decompress", tmp_path / "large.ltc", tmp_path / "o.png")
    assert "raise max_pixels (--max-pixels)" in said


def test_the_limit_on_pixels_can_be_set_for_either_direction(folder, tmp_path, capsys):
    model = ("--model", folder / "m.safetensors")
    compress = ("compress", folder / "rgb.png", tmp_path / "s.ltc", *model, "--max-pixels")
    decompress = ("decompress", folder / "rgb.ltc", tmp_path / "o.png", *model, "--max-pixels")
    for command in (compress, decompress):
        assert "up to 526 pixels" in refusal(capsys, *command, "526")
        assert run(*command, "527") == 0


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"\xccLT\r\n"])
def test_what_is_no_stream_is_refused(folder, tmp_path, capsys, content):
    (tmp_path / "bad.ltc").write_bytes(content)
    refusal(
        capsys, "decompress", tmp_path / "bad.ltc", tmp_path / "o.png", "--model", folder / "m.safetensors"
    )
    refusal(capsys, "info", tmp_path / "bad.ltc")
    assert not (tmp_path / "o.png").exists()


def test_a_truncated_stream_is_refused(folder, tmp_path, capsys):
    (tmp_path / "cut.ltc").write_bytes((folder / "rgb.ltc").read_bytes()[:-3])
    refusal(
        capsys, "decompress", tmp_path / "cut.ltc", tmp_path / "o.png", "--model", folder / "m.safetensors"
    )
    assert not (tmp_path / "o.png").exists()


def test_missing_files_and_models_are_refused(folder, tmp_path, capsys):
    model = ("--model", folder / "m.safetensors")
    assert "No such file" in refusal(capsys, "compress", tmp_path / "no.png", tmp_path / "o.ltc", *model)
    assert "No such file" in refusal(capsys, "decompress", tmp_path / "no.ltc", tmp_path / "o.png", *model)
    assert "'no-model'" in refusal(
        capsys, "compress", folder / "rgb.png", tmp_path / "o.ltc", "--model", "no-model"
    )
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_written_are_refused(folder, tmp_path, capsys):
    model = ("--model", folder / "m.safetensors")
    refusal(capsys, "compress", folder / "rgb.png", tmp_path / "no" / "o.ltc", *model)
    refusal(capsys, "decompress", folder / "rgb.ltc", tmp_path / "no" / "o.png", *model)
    assert ".png, .tif" in refusal(capsys, "decompress", folder / "rgb.ltc", tmp_path / "o.gif", *model)
    assert "folder" in refusal(
        capsys, "compress", folder / "rgb.png", folder / "grey.png", tmp_path / "x", *model
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["compress", "decompress", "fingerprint", "info"])
def test_a_folder_is_no_input(tmp_path, capsys, command):
    output = [tmp_path / "o"] if command.endswith("compress") else []
    assert f"the folder '{tmp_path}': name files in it" in refusal(capsys, command, tmp_path, *output)
    assert list(tmp_path.iterdir()) == []


def test_a_text_file_is_no_picture(folder, tmp_path, capsys):
    (tmp_path / "a.png").write_text("not a picture")
    refusal(capsys, "compress", tmp_path / "a.png", tmp_path / "o.ltc", "--model", folder / "m.safetensors")
    assert not (tmp_path / "o.ltc").exists()


def test_complexity_prints_a_preset(capsys):
    assert (
        run("complexity", "--preset", "released", "--width", "64", "--attention", "none", "--size", "64x64")
        == 0
    )
    assert "g_a" in capsys.readouterr().out
    assert "attention" in refusal(capsys, "complexity", "--preset", "paper", "--attention", "nothing")


def test_what_can_not_change_the_tables_of_the_paper_is_refused(capsys):
    said = refusal(capsys, "complexity", "--width", "192", "--size", "512x512")
    assert said == "ltchm: --width, --size can't change the paper's tables: add --preset paper or released.\n"
    assert "--hyper-attention can't" in refusal(capsys, "complexity", "--hyper-attention", "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.png", "b.JPG"), "A stream ends in .ltc, not as a picture"),
        (("a.png", ""), "A file needs a name"),
        (("", "b.ltc"), "A file needs a name"),
        (("c", "c"), "An output takes no input's place"),
        (("c", "./d"), "An output takes no input's place"),
        (("c", "e/"), "This needs an existing folder to go to"),
    ],
)
def test_a_stream_never_takes_the_place_of_a_picture(
    arguments, message, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = (folder / "rgb.png").read_bytes()
    for name in ("a.png", "b.JPG", "c"):
        Path(name).write_bytes(before)
    Path("d").symlink_to("c")
    assert cli.main(["compress", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"ltchm: {message}")
    assert sorted(os.listdir()) == ["a.png", "b.JPG", "c", "d"]
    assert all(Path(name).read_bytes() == before for name in os.listdir())


def test_a_folder_gets_the_ending_that_keeps_all(folder, tmp_path):
    model = ("--model", folder / "m.safetensors")
    tags = (TiffTag(42113, 2, b"7\0"),)
    with open(tmp_path / "geo.tif", "wb") as file:
        tiff.write(file, (31, 17, 3), [draw_scene(31, 17, 0)], colour=True, alpha=False, tags=tags)
    (tmp_path / "out").mkdir()
    assert run("compress", tmp_path / "geo.tif", tmp_path / "geo.ltc", "--metadata", *model) == 0
    assert run("decompress", tmp_path / "geo.ltc", folder / "rgb.ltc", tmp_path / "out", *model) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["geo.tif", "rgb.png"]
    assert tiff.read_tags(io.BytesIO((tmp_path / "out" / "geo.tif").read_bytes()))[42113] == tags[0]
