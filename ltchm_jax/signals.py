"""Ctrl-C and terminations of a run: when it ends, and in what order."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """A list that holds the signal once Ctrl-C or a termination came; the run then ends in good order.

    The second of a kind has the effect that it had before.
    """
    asked: list[int] = []

    def ask(number: Any, _: Any) -> None:
        asked.append(number)
        signal.signal(number, old[number])
        os.write(2, b"\nends after this step, which will be kept; once more ends it at once\n")

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def kill_interrupts() -> Iterator[None]:
    """Within it a termination is what Ctrl-C is, KeyboardInterrupt."""
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
