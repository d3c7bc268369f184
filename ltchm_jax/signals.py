"""Ctrl-C and terminations of a run: when it ends, and in what order."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """Within it Ctrl-C and a termination are KeyboardInterrupt; the list that it gives holds them.

    It is for `stop_on_signals` to look at: what is raised while Python collects garbage is lost.
    """
    asked: list[int] = []

    def interrupt(number: Any, frame: Any) -> None:
        asked.append(number)
        signal.default_int_handler(number, frame)

    with _handled(interrupt):
        yield asked


@contextlib.contextmanager
def stop_on_signals(asked: list[int]) -> Iterator[None]:
    """Within it Ctrl-C and a termination are only added to the list; the run then ends in good order.

    The second of a kind has the effect that it had before.
    """

    def ask(number: Any, _: Any) -> None:
        asked.append(number)
        signal.signal(number, old[number])
        os.write(2, b"\nends after this step, which will be kept; once more ends it at once\n")

    with _handled(ask) as old:
        yield


@contextlib.contextmanager
def _handled(handler: Callable[[Any, Any], None]) -> Iterator[dict[int, Any]]:
    """The handler for all that stops a run; those before, which it gives, come back."""
    old = {int(number): signal.signal(number, handler) for number in STOPS}
    try:
        yield old
    finally:
        for number, before in old.items():
            signal.signal(number, before)
