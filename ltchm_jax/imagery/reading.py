"""What all readers of picture files share: their error, what becomes one, their limits, and silence."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

from PIL import Image as pillow
from PIL import PngImagePlugin

from ltchm_jax.container.metadata import MAX_BYTES
from ltchm_jax.errors import one_line

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")


class ImageError(ValueError):
    """A picture that can't be read or written. The message is one line."""


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever a decoder raises on a hostile file becomes an `ImageError` that names the file."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except pillow.UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        raise ImageError(
            f"{name}: pictures are read from {formats}, this is something else: convert it"
        ) from None
    except MemoryError:
        raise  # it is this machine's
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's: Pillow's own have no number
        reason = one_line(_root(error))[:200]
        raise ImageError(f"{name}: the picture must decode, got {reason!r}: fetch it again") from None


def _root(error: BaseException) -> BaseException:
    """What an error came from in the end: rasterio's say no more than that there was one before."""
    while error.__cause__:
        error = error.__cause__
    return error


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
