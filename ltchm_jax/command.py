"""What all commands share: one line for what is wrong, exit statuses, and a process set up for JAX."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from ltchm_jax.errors import one_line, tell
from ltchm_jax.garbage import rarely_collected

FAILED, INTERRUPTED, UNREAD = 2, 130, 128 + signal.SIGPIPE  # exit statuses beside 0 and 1 for a failed check


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2."""
        self.exit(FAILED, f"{self.prog.split()[0]}: {message}; see {self.prog} --help\n")


def outcome(program: str, work: Callable[[], int | None], advice: str = "") -> int:
    """Does the work of a command and returns its exit status.

    That is what `work` returns (0 for None); 2 after a line of error; 130 for Ctrl-C or a termination; 141
    where nobody reads the output any more. `advice` is added to the line where memory of a device ran out.
    """
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  what is said there must not go elsewhere
    try:
        with rarely_collected():
            status = work() or 0
        if sys.stdout:
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # who reads has enough, as `head` has: no error
        _forget_output()
        return UNREAD
    except (ValueError, OSError, MemoryError, ImportError, RuntimeError) as error:  # XLA's own are the last
        spent = f"out of memory{advice}: " if "RESOURCE_EXHAUSTED" in str(error) else ""
        tell(f"{program}: {spent}{one_line(error)}")
        _forget_output()
        return FAILED


def share_accelerators() -> None:
    """Unless told otherwise JAX then takes of a GPU's memory what it needs, not three quarters at once."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _forget_output() -> None:
    """Drops what a broken standard output did not take: it would be tried again at exit, with a traceback."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
