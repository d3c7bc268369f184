"""Weights files: what is written is read, and hostile files end in one line."""

import pickle
import sys
import zipfile

import numpy as np
import pytest

from ltchm_jax.parity import reference_files
from ltchm_jax.parity.reference_files import read_arrays, write_arrays

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "b": np.float16([1.5, -2.5]),
    "count": np.array(3, np.int64),
}


class Touch:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def torch_or_skip(suffix: str) -> None:
    if suffix.startswith(".p"):
        pytest.importorskip("torch")


@pytest.mark.parametrize("suffix", reference_files.SUFFIXES)
def test_round_trip(tmp_path, suffix):
    torch_or_skip(suffix)
    path = tmp_path / f"iter_1{suffix}"
    write_arrays(path, ARRAYS)
    got = read_arrays(path)
    assert set(got) == set(ARRAYS)
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(got[name], value)
        assert got[name].dtype == value.dtype
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", reference_files.SUFFIXES)
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, keep):
    torch_or_skip(suffix)
    path = tmp_path / f"x{suffix}"
    write_arrays(path, ARRAYS)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match="must hold named tensors only") as error:
        read_arrays(path)
    assert "\n" not in str(error.value)


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    path = tmp_path / "x.npz"
    with open(path, "wb") as file:
        np.savez_compressed(file, **ARRAYS)
    whole = path.read_bytes()
    refused = 0
    for i in range(0, len(whole), 5):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :])
        try:
            read_arrays(path)
        except ValueError:
            refused += 1
    assert refused > len(whole) // 20  # dates and the like may change unnoticed


def test_members_that_are_no_arrays_of_numbers_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array(["text"]))
    with pytest.raises(ValueError, match="'a' is no array of numbers"):
        read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b", b"plain bytes")
    with pytest.raises(ValueError, match="'b' is no array of numbers"):
        read_arrays(path)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_nothing_is_unpickled(tmp_path, suffix):
    torch_or_skip(suffix)
    path, trap = tmp_path / f"x{suffix}", tmp_path / "trap"
    if suffix == ".npz":
        np.savez(path, a=np.array([Touch(trap)], dtype=object))
    else:
        path.write_bytes(pickle.dumps({"a": Touch(trap)}))
    with pytest.raises(ValueError, match="must hold named tensors only"):
        read_arrays(path)
    assert not trap.exists()


def test_a_bare_array_is_refused(tmp_path):
    with open(tmp_path / "x.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="not an archive"):
        read_arrays(tmp_path / "x.npz")


def test_an_archive_that_unpacks_to_too_much_is_refused_before_reading(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros(1 << 20))
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].compress_size < 20_000
    monkeypatch.setattr(reference_files, "MAX_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="more than the 1048576 that are read"):
        read_arrays(path)


@pytest.mark.parametrize("name", ["x.bin", "x", "x.npz.txt"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in one of \.npz"):
        read_arrays(tmp_path / name)
    with pytest.raises(ValueError, match=r"must end in one of \.npz"):
        write_arrays(tmp_path / name, ARRAYS)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "x.npz")


def test_without_torch_its_files_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(ImportError, match="install torch or convert"):
        read_arrays(tmp_path / "x.pth")
    with pytest.raises(ImportError, match="install torch or convert"):
        write_arrays(tmp_path / "y.pth", ARRAYS)
    assert not (tmp_path / "y.pth").exists()


def test_tensors_in_another_structure_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for content, found in (([torch.zeros(1)], "it holds a list"), ({"epoch": 3}, "'epoch' is a int")):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=found):
            read_arrays(tmp_path / "x.pt")


def test_a_training_checkpoint_gives_its_state_without_the_prefix_of_data_parallel(tmp_path):
    torch = pytest.importorskip("torch")
    state = {f"module.{name}": torch.from_numpy(np.array(value)) for name, value in ARRAYS.items()}
    torch.save(
        {"epoch": 3, "state_dict": state, "loss": 0.5, "optimizer": {"state": {}}}, tmp_path / "x.pth.tar"
    )
    read = read_arrays(tmp_path / "x.pth.tar")
    assert read.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(read[name], value)
