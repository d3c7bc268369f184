"""Files that are written whole or not at all; `-` is standard input or output. Standard library only."""

import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO

STANDARD = "-"


@contextmanager
def open_input(path: str | Path) -> Iterator[BinaryIO]:
    """A file open for reading and seeking. Standard input, or a pipe, is read into memory first.

    Raises:
      OSError: it can't be opened.
    """
    if str(path) == STANDARD:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "Standard input is closed")
        yield BytesIO(sys.stdin.buffer.read())
        return
    with open(path, "rb") as file:
        yield file if file.seekable() else BytesIO(file.read())


def path_of(file: BinaryIO) -> Path | None:
    """A name under which the same bytes can be opened again while a file open for reading stays open.

    None for one in memory or in an archive, and where the system gives no such names.
    """
    if type(file) is not BufferedReader or not isinstance(file.raw, FileIO):
        return None
    path = Path("/dev/fd", str(file.fileno()))
    return path if path.exists() else None


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and below, sorted; through links too, but each folder once."""
    found: list[Path] = []
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += (path for name in names if (path := Path(here, name)).is_file())
    return sorted(found)


def check_folder(path: str | Path) -> None:
    """Raises FileNotFoundError unless the folder of a file that is to be written exists."""
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(Path(path).parent))


@contextmanager
def claimed(folder: Path, flag: str) -> Iterator[None]:
    """Makes a folder and holds it, so that no other process writes its results there at the same time.

    Raises:
      ValueError: another process holds it, or it can't be written to; `flag` is what names it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"A run needs a {flag} of its own, another process writes to {str(folder)!r}: wait until it "
            "ends, or choose another."
        ) from None
    except NotImplementedError:  # some network folders have no locks
        pass
    except OSError as error:
        raise ValueError(f"{flag} must be a folder to write to, got {str(folder)!r}: {error}.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A file open for writing that takes its name only when the `with` block ends well.

    The bytes go to a new file in the same folder, reach the disk, and then replace what had the name. When
    the block raises, or is interrupted, the new file is removed and the old one is as it was. A link is
    followed; a device or a pipe is written to directly.

    Raises:
      OSError: the folder or the file can't be written.
    """
    target = Path(path)
    if str(path) == STANDARD:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "Standard output is closed")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif target.exists() and not target.is_file():
        with open(target, "wb") as file:
            yield file
    else:
        yield from _write_and_rename(Path(os.path.realpath(target)))


def _write_and_rename(target: Path) -> Iterator[BinaryIO]:
    temporary = target.with_name(f".ltchm-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:  # an interrupt, too, must leave nothing behind
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(target)  # the name that the caller knows
        raise
