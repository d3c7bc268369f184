"""Reference states as files: .npz, .safetensors, and PyTorch's .pt, .pth, .pth.tar where torch is installed.

Files are hostile input: nothing is unpickled but what torch's own restricted loader allows, and a file that
would unpack to more than `MAX_BYTES` is refused before it is read.
"""

import pickle
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ltchm_jax.files import atomic_write
from ltchm_jax.interop import State

MAX_BYTES = 4 << 30  # a state of width 512 takes 1 GiB
TORCH = (".pt", ".pth", ".pth.tar")
SUFFIXES = (".npz", ".safetensors", *TORCH)
DAMAGE = (  # what the readers raise on bad bytes
    OSError, ValueError, TypeError, AttributeError, OverflowError, EOFError, KeyError, RuntimeError,
    MemoryError, zipfile.BadZipFile, zlib.error, tokenize.TokenError, SafetensorError, pickle.UnpicklingError,
)  # fmt: skip


def read_arrays(path: str | Path) -> State:
    """All arrays of a file by name, as they are stored.

    Raises:
      OSError: it can't be opened.
      ValueError: another kind of file, too large, damaged, or not a plain dict of tensors.
      ImportError: a PyTorch file where torch is not installed.
    """
    path, suffix = Path(path), _suffix(path)
    reader = _read_torch if suffix in TORCH else _read_npz if suffix == ".npz" else load_file
    with open(path, "rb"):
        pass  # absent or unreadable is another error than damaged
    try:
        _check_size(path)
        return reader(path)
    except DAMAGE as error:
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise ValueError(f"A weights file must hold named tensors only, {path} does not: {reason}") from error


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays in the format that the suffix names; a file of that name is replaced in one step.

    Raises:
      ValueError: for another suffix.
      ImportError: a PyTorch file where torch is not installed.
    """
    suffix = _suffix(path)
    if suffix in TORCH:
        _torch(path)  # fails before any file is touched
    with atomic_write(path) as file:
        if suffix == ".npz":
            np.savez(file, **arrays)
        elif suffix == ".safetensors":
            file.write(save({name: np.ascontiguousarray(value) for name, value in arrays.items()}))
        else:
            torch = _torch(path)
            torch.save({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}, file)


def _suffix(path: str | Path) -> str:
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise ValueError(f"A weights file must end in one of {', '.join(SUFFIXES)}, got {name}; convert it.")


def _check_size(path: Path) -> None:
    """Bounds what a file unpacks to: the sizes that its archive states, or its own."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(member.file_size for member in archive.infolist()))
    if size > MAX_BYTES:
        raise ValueError(f"it unpacks to {size} bytes, more than the {MAX_BYTES} that are read")


def _read_npz(path: Path) -> State:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not an archive")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for name, array in arrays.items():
        if not (isinstance(array, np.ndarray) and array.dtype.kind in "fiub"):
            raise ValueError(f"{name!r} is no array of numbers")
    return arrays


def _read_torch(path: Path) -> State:
    torch = _torch(path)
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]  # a training checkpoint: the rest of it says nothing of the model
    if not isinstance(tensors, dict):
        raise ValueError(f"it holds a {type(tensors).__name__}")
    bad = [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if bad:
        raise ValueError(f"{bad[0]!r} is a {type(tensors[bad[0]]).__name__}")
    prefix = "module." if all(str(name).startswith("module.") for name in tensors) else ""  # DataParallel's
    return {str(name).removeprefix(prefix): tensor.detach().numpy() for name, tensor in tensors.items()}


def _torch(path: str | Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} needs PyTorch, which is not installed: install torch or convert the file."
        ) from error
    return torch
