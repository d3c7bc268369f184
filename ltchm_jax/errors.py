"""What is wrong, in one line."""

import contextlib
import sys


def tell(line: str) -> None:
    """Prints a line to standard error.

    Nobody may read it any more: a terminal was closed, `tee` got the same Ctrl-C. That is no reason to stop.
    """
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """An exception's message on one line, its kind where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename is not None else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for those of libraries, which may go on for pages."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
