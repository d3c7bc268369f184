"""Python's garbage collector, which JAX's traces keep busy for nothing."""

import contextlib
import gc
from collections.abc import Iterator

THRESHOLDS = (50_000, 20, 100)


@contextlib.contextmanager
def rarely_collected() -> Iterator[None]:
    """Within it Python looks for garbage less often: a trace makes a million objects, most of which stay.

    To look took a sixth of a start of `ltchm`, and a third of the trace of a training step.
    """
    before = gc.get_threshold()
    if 0 < before[0] < THRESHOLDS[0]:  # 0 is never
        gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
