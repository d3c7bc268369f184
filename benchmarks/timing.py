"""The clock that the benchmarks share."""

import time
from collections.abc import Callable


def seconds(job: Callable[[], object] | None) -> float:
    """Wall time of one call; nan where there is nothing to call."""
    if job is None:
        return float("nan")
    start = time.perf_counter()
    job()
    return time.perf_counter() - start
