"""What is wrong, in one line."""

import argparse
from typing import NoReturn


def one_line(error: BaseException) -> str:
    """An exception's message on one line, its kind where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename is not None else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for those of libraries, which may go on for pages."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2."""
        self.exit(2, f"{self.prog.split()[0]}: {message}; see {self.prog} --help\n")
