"""What all readers of picture files share: their error, their limits, and silence."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

from PIL import Image as pillow
from PIL import PngImagePlugin

from ltchm_jax.container.metadata import MAX_BYTES


class ImageError(ValueError):
    """A picture that can't be read or written. The message is one line."""


_lock, _readers, _changes = threading.Lock(), 0, contextlib.ExitStack()


@contextlib.contextmanager
def our_limits() -> Iterator[None]:
    """Within it Pillow has no limit on pixels and `MAX_BYTES` for text and profiles, and nothing warns.

    All that belongs to the process: of readers in several threads the first changes it, and the last one
    restores it.
    """
    global _readers
    with _lock:
        if not _readers:
            _changes.enter_context(_changed_process())
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if not _readers:
                _changes.close()


@contextlib.contextmanager
def _changed_process() -> Iterator[None]:
    before = pillow.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a file is said by `ImageError` alone
        pillow.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, MAX_BYTES
        try:
            yield
        finally:
            pillow.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before


def check_size(width: int, height: int, samples: int, max_pixels: int) -> None:
    """Raises ImageError for more than `max_pixels` pixels; more than four samples count in proportion."""
    if width * height * max(samples, 4) > 4 * max_pixels:
        shape = f"{width} x {height} pixels" + (f" of {samples} samples" if samples > 4 else "")
        raise ImageError(
            f"pictures of up to {max_pixels} pixels are read, got {shape}: cut it up, or raise max_pixels "
            "(--max-pixels of `ltchm`)"
        )
