"""Ctrl-C and terminations of a command or a run: when it ends, and in what order."""

import _thread
import contextlib
import gc
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)
MOMENT = 0.02  # seconds


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """Within it Ctrl-C and a termination are KeyboardInterrupt; the list that it gives holds them.

    What is raised while Python collects garbage is lost, so there it is put off for a moment.
    """
    asked: list[int] = []

    def interrupt(number: Any, frame: FrameType | None) -> None:
        asked.append(number)
        if _collects_garbage(frame):
            threading.Timer(MOMENT, _thread.interrupt_main, (number,)).start()
        else:
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


def _collects_garbage(frame: FrameType | None) -> bool:
    """Whether Python is in a callback of its garbage collector, of which JAX has one."""
    callbacks = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    return any(caller.f_code in callbacks for caller, _ in traceback.walk_stack(frame))


@contextlib.contextmanager
def _handled(handler: Callable[[Any, Any], None]) -> Iterator[dict[int, Any]]:
    """The handler for all that stops a run and is not ignored; those before, which it gives, come back."""
    heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    old = {int(number): signal.signal(number, handler) for number in heard}
    try:
        yield old
    finally:
        for number, before in old.items():
            signal.signal(number, before)
