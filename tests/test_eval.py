import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from toy_codec import write_pictures

SCRIPT = Path(__file__).resolve().parents[1] / "eval.py"


def load():  # the script as a module: its name is that of a builtin
    spec = importlib.util.spec_from_file_location("eval_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flags_become_options() -> None:
    flags = "--model a=low --model a=high --folder x --folder y --out z --codecs webp --grid paper "
    flags += "--qualities 1 2.5 --lpips-weights b.npz l.npz --lpips-net vgg --crop-bpp 0.3 --effort 0 4"
    options = load().parse(flags.split())
    assert options.models == ("a=low", "a=high")
    assert options.folders == ("x", "y")
    assert options.codecs == ("webp",)
    assert (options.wide, options.qualities, options.crop_bpp) == (False, (1.0, 2.5), 0.3)
    assert options.efforts == (0, 4)
    assert (options.lpips.net, options.lpips.paths) == ("vgg", ("b.npz", "l.npz"))
    assert options.command[:2] == ("python", "eval.py")


def test_defaults_show_both_jpeg2000_anchors() -> None:
    options = load().parse(["--folder", "x", "--out", "z"])
    assert options.codecs == ("jpeg2000-paper", "jpeg2000", "webp", "avif")
    assert options.wide


@pytest.mark.parametrize(
    "line",
    [
        "--folder none --out o",
        "--folder . --out o --codecs h264",
        "--out o",
        "--bad",
        "--folder . --out o --codecs webp --workers 0",
        "--folder . --out o --codecs webp --examples -1",
        "--folder . --out o --codecs webp --crop-bpp nan",
        "--folder . --out o --codecs webp --model a=",
    ],
)
def test_errors_are_one_line_and_status_two(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_pictures(tmp_path, (4, 5)))
    try:
        status = load().main(line.split())
    except SystemExit as stop:
        status = stop.code
    message = capsys.readouterr().err
    assert status == 2
    assert message.startswith("eval.py: ")
    assert message.count("\n") == 1
    assert len(message) < 300


@pytest.mark.slow
def test_anchors_alone_never_import_tensorflow(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", (20, 30))
    program = (
        "import runpy, sys; sys.argv = ['eval.py', *sys.argv[2:]]\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "assert not [name for name in sys.modules if name.startswith('tensorflow')]"
    )
    arguments = [
        "--folder",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--codecs",
        "webp",
        "--grid",
        "paper",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, "eval.py", *arguments],
        capture_output=True,
        text=True,
        cwd=SCRIPT.parent,
    )
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
