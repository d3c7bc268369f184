"""Ctrl-C and terminations of a command or a run: when it ends, and in what order."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a lost terminal
MOMENT = 0.02  # seconds


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """Within it all of `STOPS` are KeyboardInterrupt; the list that it gives holds them.

    Where Python can't raise it, as in a callback of the garbage collector, of which JAX has one, it is raised
    a moment later.
    """
    received: list[int] = []

    def interrupt(number: Any, frame: Any) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    with _handled(interrupt), _nothing_lost(received):
        yield received


@contextlib.contextmanager
def stop_on_signals(received: list[int]) -> Iterator[None]:
    """Within it all of `STOPS` are only added to the list; the run then ends in good order.

    The second of a kind has the effect that it had before, save for a lost terminal: several may tell of it.
    """

    def ask(number: Any, _: Any) -> None:
        received.append(number)
        if number != signal.SIGHUP:
            signal.signal(number, old[number])
        with contextlib.suppress(OSError):
            os.write(2, b"\nends after this step, which will be kept; once more ends it at once\n")

    with _handled(ask) as old:
        yield


@contextlib.contextmanager
def _nothing_lost(received: list[int]) -> Iterator[None]:
    """Within it the last signal of the list comes again where Python had to drop its KeyboardInterrupt."""
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if received and issubclass(lost.exc_type, KeyboardInterrupt):
            threading.Timer(MOMENT, _thread.interrupt_main, (received[-1],)).start()
        else:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


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
