"""Atomic writing: the whole file or none of it."""

import gzip
import io
import os
import subprocess
import sys

import pytest

from ltchm_jax import files
from ltchm_jax.files import atomic_write, open_input, path_of


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    with atomic_write(tmp_path / "a") as file:
        file.write(b"whole")
        assert "a" not in names(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, failure):
    (tmp_path / "a").write_bytes(b"old")

    def write_half() -> None:
        with atomic_write(tmp_path / "a") as file:
            file.write(b"half")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_the_mode_of_the_old_file_stays(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o640)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_devices_are_written_to_and_folders_refused(tmp_path):
    with atomic_write(os.devnull) as file:
        file.write(b"gone")
    assert not os.path.isfile(os.devnull)
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path):
        pass
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "a"):
        pass


def test_long_names_fit(tmp_path):
    with atomic_write(tmp_path / ("n" * 255)) as file:
        file.write(b"x")
    assert names(tmp_path) == ["n" * 255]


class Standard:
    """Stands in for sys.stdin and sys.stdout."""

    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)


def test_a_pipe_that_has_a_name_can_be_sought():
    reading, writing = os.pipe()
    with open(writing, "wb") as pipe:
        pipe.write(b"data")
    with open(reading, "rb"), open_input(f"/dev/fd/{reading}") as file:
        assert file.seek(2) == 2
        assert file.read() == b"ta"
        assert file.seek(0) == 0
        assert file.read() == b"data"


def test_a_file_is_not_read_ahead(tmp_path):
    (tmp_path / "a").write_bytes(b"data")
    with open_input(tmp_path / "a") as file:
        assert file.name == str(tmp_path / "a")
    assert file.closed


def test_only_an_open_file_has_a_name_to_open_it_again(tmp_path):
    path = tmp_path / "a"
    with gzip.open(path, "wb") as packed:
        packed.write(b"data")
    with gzip.open(path, "rb") as unpacked, open(path, "r+b") as changing, open(path, "rb", 0) as raw:
        for file in (unpacked, changing, raw, io.BytesIO()):
            assert path_of(file) is None
    with open(path, "rb") as file:
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(b"another")
        assert path_of(file).read_bytes() == data


def test_a_dash_is_standard_input_and_output(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", Standard(b"data"))
    monkeypatch.setattr(sys, "stdout", Standard())
    with open_input("-") as file:
        assert file.seekable()
        assert file.read() == b"data"
    with atomic_write("-") as file:
        file.write(b"out")
    assert sys.stdout.buffer.getvalue() == b"out"
    assert names(tmp_path) == []


def test_a_folder_is_claimed_by_one_process(tmp_path):
    code = (
        "import sys, pathlib\nfrom ltchm_jax.files import claimed\n"
        "try:\n    with claimed(pathlib.Path(sys.argv[1]), '--out'): print('mine')\n"
        "except ValueError as error: print(error)"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with files.claimed(tmp_path / "run", "--out"):
        assert "A run needs a --out of its own, another process writes to" in other()
    assert other() == "mine\n"
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match="must be a folder to write to"),
        files.claimed(tmp_path / "file" / "run", "--out"),
    ):
        pass
