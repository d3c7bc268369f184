"""What all readers of picture files share: their error, the limit on pixels, and silence."""

import contextlib
import threading
import warnings
from collections.abc import Iterator


class ImageError(ValueError):
    """A picture that can't be read or written. The message is one line."""


_PROCESS_STATE = threading.Lock()


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """What is wrong with a file is said by `ImageError` alone. Filters are the process's, hence the lock."""
    with _PROCESS_STATE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_size(width: int, height: int, samples: int, max_pixels: int) -> None:
    if width * height * max(samples, 4) > 4 * max_pixels:
        shape = f"{width} x {height} pixels of {samples} samples"
        raise ImageError(
            f"pictures of up to {max_pixels} pixels are read, got {shape}: cut it up, or raise max_pixels "
            "(--max-pixels of `ltchm compress`)"
        )
