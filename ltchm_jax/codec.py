"""Pictures to streams and back with one model: the library's front door.

A picture is cut into overlapping blocks, each padded to the model's stride and coded on its own
(`block_coder`), so that a window can be read alone and no picture is too large.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ltchm_jax import bitstream
from ltchm_jax.bitstream import Container, Header, Layout
from ltchm_jax.block_coder import QUALITY_STEPS, BlockCoder, latent_shape
from ltchm_jax.container.blocks import blend_rows, cut_blocks
from ltchm_jax.container.grid import MAX_BLOCK, MIN_BLOCK, Grid, Rect
from ltchm_jax.entropy.wavefront import longest_step
from ltchm_jax.files import atomic_write, open_input
from ltchm_jax.imagery import tiff
from ltchm_jax.imagery.images import LAYOUTS, AnyImage, Image, Rows, open_image, write_image
from ltchm_jax.model_file import Model, load_model
from ltchm_jax.weights import SHIPPED, find_model

BLOCK_SIZE, OVERLAP = 1024, 4
STEP_ROWS = 64  # positions that a decoder evaluates at once, of as many blocks as it takes

Progress = Callable[[Iterable, int], Iterable]  # wraps the blocks of a picture, told how many there are
Window = tuple[int, int, int, int]  # a Rect, or its four numbers


def _silent(blocks: Iterable, _: int) -> Iterable:
    return blocks


class Codec:
    """One model, ready to code. May be shared by threads; functions compile once for each shape of block.

    A picture with a side above `block_size` pixels is cut into blocks of at most that, which share `overlap`
    pixels with their neighbours, by default 4. With an `effort` the encoder refines the latents of every
    block in so many passes (see `refinement`): fewer bytes for the same quality, in more time. Any codec of
    the model decodes all of them: to the same latents on every machine and, where it is `exact`, to the same
    pixels, in more time and memory; else a pixel may differ by 1 of 255.

    Raises:
      ValueError: `block_size` is not 16 to 4096, `overlap` more than a quarter of it, `effort` not 0 to
        1,000, or the model can't be refined.
    """

    def __init__(
        self, model: Model, name: str = "unnamed", *,
        block_size: int = BLOCK_SIZE, overlap: int | None = None, effort: int = 0, exact: bool = False,
    ) -> None:  # fmt: skip
        if block_size < MIN_BLOCK:  # a grid would take 0 for one block of any size
            raise ValueError(
                f"block size must be {MIN_BLOCK} to {MAX_BLOCK}, got {block_size}: use {BLOCK_SIZE}"
            )
        self.model, self.name = model, f"{name}@{model.digest.hex()}"
        self.block_size = block_size
        self.overlap = OVERLAP if overlap is None else overlap
        Grid(1, 1, self.block_size, self.overlap)  # raises where they break its rules
        self.blocks = BlockCoder(model, effort, exact)

    def __reduce__(self) -> tuple:
        """For `pickle` and `copy`: the model and the options; functions compile anew in another process."""
        made = functools.partial(
            Codec, block_size=self.block_size, overlap=self.overlap, effort=self.blocks.effort,
            exact=self.blocks.exact,
        )  # fmt: skip
        return made, (self.model, self.name.rpartition("@")[0])

    @classmethod
    def load(cls, name_or_path: str | Path | None = None, **options: Any) -> "Codec":
        """The codec of a model file, of a name that ships, or (no argument) of the default model.

        `options` are `block_size`, `overlap`, `effort` and `exact`, as for `Codec`.

        Raises:
          ModelError: it can't be found or read.
          ValueError: an option breaks its rule.
        """
        path = find_model(name_or_path)
        # The tests compare the shapes of what ships: that need not cost seconds at each start.
        return cls(load_model(path, check_shapes=path.parent != SHIPPED), path.stem, **options)

    @property
    def qualities(self) -> tuple[float, ...]:
        """The rates a variable-rate model was trained for, 0 to L-1; all between can be used. Else empty."""
        return tuple(float(i) for i in range(len(self.model.config.lmbdas)))

    def compress(self, pixels: np.ndarray, quality: float | None = None) -> bytes:
        """A picture as a stream.

        Args:
          pixels: uint8 [H, W, bands]; the model's bands, 1 (grey), 2 (grey, alpha), 3 (RGB), 4 (RGB, alpha).
            2 or 4 are without alpha where the model has as many.
          quality: 0 (fewest bytes) to L-1 for a model of L rates, in steps of 1/256; by default its middle.

        Raises:
          ValueError: wrong type, shape, number of bands or quality.
        """
        pixels = np.asarray(pixels)
        return self.compress_image(Image(pixels, self._layout(pixels)), quality)

    def compress_image(
        self,
        image: AnyImage,
        quality: float | None = None,
        *,
        metadata: bool = False,
        progress: Progress = _silent,
    ) -> bytes:
        """A picture whose layout is known as a stream; `metadata` keeps what else its file held.

        Raises:
          ValueError: as `compress`.
        """
        header, bands = self._header(image, self.quality_steps(quality)), self.coded_bands(image)
        cuts = (block[..., :bands] for block in cut_blocks(header.grid, image.pixels))
        coming = (self.blocks.analyse(i, pixels, header.quality) for i, pixels in enumerate(cuts))
        latents = progress(ahead(coming, len(self.blocks.devices)), header.grid.count)
        blocks = [self.blocks.encode(y, z, header.quality) for y, z in latents]
        alpha = rows_of_alpha(image) if image.layout.has_alpha else None
        return bitstream.pack(header, blocks, metadata=image.metadata if metadata else None, alpha=alpha)

    def compress_within(
        self, image: AnyImage, max_bytes: int, *, metadata: bool = False, progress: Progress = _silent
    ) -> bytes:
        """The stream of the highest quality (to 1/64) found of at most `max_bytes` bytes, by Brent's method.

        Raises:
          ValueError: the lowest quality takes more, or the picture can't be coded, see `compress`.
        """
        from scipy.optimize import brentq  # late: a fifth of a second

        if not 1 <= max_bytes < math.inf:
            raise ValueError(f"`max_bytes` must be a finite number of 1 or more, got {max_bytes}.")

        sizes: dict[int, int] = {}
        best = 0, b""

        def excess(quality: float) -> float:
            """How many times `max_bytes` a quality in steps takes, the logarithm: it is almost straight."""
            nonlocal best
            steps = round(quality)
            if steps not in sizes:
                rate = steps / QUALITY_STEPS
                data = self.compress_image(image, rate, metadata=metadata, progress=progress)
                sizes[steps] = len(data)
                if len(data) <= max_bytes and steps >= best[0]:
                    best = steps, data
            return math.log(sizes[steps] / max_bytes)

        highest = max(len(self.model.config.lmbdas) - 1, 0) * QUALITY_STEPS
        if excess(0) > 0:
            raise ValueError(f"`max_bytes` must be {sizes[0]} or more for this picture, got {max_bytes}.")
        if excess(highest) > 0:
            brentq(excess, 0, highest, xtol=QUALITY_STEPS / 64)
        return best[1]

    def decompress(
        self, data: bytes, window: Window | None = None, *, max_pixels: int = bitstream.MAX_PIXELS
    ) -> np.ndarray:
        """The picture in a stream, uint8 [H, W, bands], or a window of it.

        Args:
          data: the stream.
          window: pixels, as `ltchm_jax.Rect` or (top, left, height, width).
          max_pixels: refuse larger pictures, see `bitstream.read`.

        Raises:
          BitstreamError: not a stream, damaged, of another model, or too large; see `bitstream`.
          ValueError: the window is not in the picture.
        """
        return self.decompress_image(data, window, max_pixels=max_pixels).pixels

    def decompress_image(
        self, source: bytes | BinaryIO, window: Window | None = None, *,
        max_pixels: int = bitstream.MAX_PIXELS, progress: Progress = _silent,
    ) -> Image:  # fmt: skip
        """The picture in a stream, or a window of it, with layout and metadata; as `decompress_rows`."""
        return self.decompress_rows(source, window, max_pixels=max_pixels, progress=progress).image()

    def decompress_rows(
        self, source: bytes | BinaryIO, window: Window | None = None, *,
        max_pixels: int = bitstream.MAX_PIXELS, progress: Progress = _silent,
    ) -> Rows:  # fmt: skip
        """The picture in a stream, or a window of it, as bands of rows, of which one is held at a time.

        Only the blocks that a window needs are read. Georeferencing is that of the window; TIFF tags too
        malformed for that are left out. What is wrong with a block is raised when its row comes.

        Raises:
          BitstreamError: as `decompress`.
          ValueError: the window is not in the picture.
        """
        container = bitstream.read(source, max_pixels=max_pixels)
        header = container.header
        self._check_header(header)
        metadata = container.metadata  # what is wrong with it is said before the work
        window = header.grid.whole if window is None else Rect(*window)
        numbers = list(header.grid.numbers_in(window))
        blocks = progress(self._decode(container, numbers), len(numbers))
        bands_of_rows = blend_rows(header.grid, blocks, window)
        if header.layout.has_alpha:
            plane = np.frombuffer(container.alpha() or b"", np.uint8).reshape(header.height, header.width, 1)
            bands_of_rows = with_alpha(bands_of_rows, plane[window.slices])
        if window != header.grid.whole:
            metadata = replace(metadata, tiff=tiff.shifted(metadata.tiff, window.left, window.top))
        shape = window.height, window.width, header.samples_per_pixel
        return Rows(shape, bands_of_rows, header.layout, metadata)

    @staticmethod
    def info(data: bytes) -> Header:
        """What the header of a stream of any size says: layout, bands, quality, model; needs no weights.

        Raises:
          BitstreamError: not a stream, or damaged.
        """
        return bitstream.read(data, max_pixels=None).header

    def compress_file(
        self, source: str | Path, target: str | Path, quality: float | None = None, *,
        metadata: bool = False, max_pixels: int = bitstream.MAX_PIXELS,
    ) -> int:  # fmt: skip
        """Reads a picture file, writes a stream (whole or not at all), and returns its length in bytes.

        `metadata` keeps what else the file holds: georeferencing, profile, EXIF and text.

        Raises:
          ValueError: as `compress`, or (ImageError) no picture that can be read.
          OSError: a file can't be read or written.
        """
        with open_image(source, max_pixels=max_pixels) as image:
            data = self.compress_image(image, quality, metadata=metadata)
        with atomic_write(target) as file:
            file.write(data)
        return len(data)

    def decompress_file(
        self, source: str | Path, target: str | Path, window: Window | None = None, *,
        max_pixels: int = bitstream.MAX_PIXELS,
    ) -> None:  # fmt: skip
        """Reads a stream, writes a picture file (.png, .tif; whole or not at all).

        Raises:
          BitstreamError: as `decompress`.
          ImageError: the kind of file is not known, or can't hold the picture.
          OSError: a file can't be read or written.
        """
        with open_input(source) as file:
            write_image(target, self.decompress_rows(file, window, max_pixels=max_pixels))

    def _layout(self, pixels: np.ndarray) -> Layout:
        """What the bands of an array mean: those of the model, or else a colour by their number."""
        bands = pixels.shape[-1] if pixels.ndim == 3 else 0
        own = bands == self.model.config.bands and bands not in (1, 3)
        return Layout.BANDS if own else LAYOUTS.get(bands, Layout.BANDS)

    def _header(self, image: AnyImage, quality: int) -> Header:
        height, width = image.pixels.shape[:2]
        cut = (self.block_size, self.overlap) if max(height, width) > self.block_size else (0, 0)
        bands = image.pixels.shape[2] - image.layout.has_alpha
        return Header(self.model.digest, width, height, image.layout, bands, quality, *cut)

    def coded_bands(self, image: AnyImage) -> int:
        """How many bands of a picture the model codes, the first: 1 or the model's own number.

        Raises:
          ValueError: the picture has another number of bands.
        """
        bands, want = image.pixels.shape[2] - image.layout.has_alpha, self.model.config.bands
        if bands not in (1, want):
            raise ValueError(
                f"Model {self.name} codes {want} bands (or grey), got {bands} of layout {image.layout.label}."
            )
        return bands

    def quality_steps(self, quality: float | None) -> int:
        """A quality in steps of 1/256, the middle where none is given.

        Raises:
          ValueError: the model has no such quality.
        """
        top = len(self.model.config.lmbdas) - 1
        if top < 0:
            if quality not in (None, 0):
                raise ValueError(f"Model {self.name} has a single rate and takes no quality, got {quality}.")
            return 0
        value = top / 2 if quality is None else float(quality)
        if not (math.isfinite(value) and 0 <= value <= top):
            raise ValueError(f"`quality` must be 0 to {top} for model {self.name}, got {quality}.")
        return round(value * QUALITY_STEPS)

    def _check_header(self, header: Header) -> None:
        header.check_model(self.model.digest)
        bands = self.model.config.bands
        if header.bands not in (1, bands):
            raise bitstream.Malformed(
                f"the model has {bands} bands (or grey), the stream says {header.bands} of layout "
                f"{header.layout.label}"
            )
        top = max(len(self.model.config.lmbdas) - 1, 0) * QUALITY_STEPS
        if header.quality > top:
            raise bitstream.Malformed(
                f"the model has qualities up to {top} / 256, the stream says {header.quality}"
            )

    def _decode(self, container: Container, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8 [h, w, bands] of some blocks: several decoded together while the last are synthesised."""
        header = container.header
        height, width = header.grid.shape
        together = max(1, STEP_ROWS // longest_step(*latent_shape(height, width, header.version)))
        groups = [numbers[i : i + together] for i in range(0, len(numbers), together)]
        latents = (self._decode_latents(container, group) for group in groups)
        coming = (
            self.blocks.synthesise(i, y, header.quality)
            for group, ys in zip(groups, latents, strict=True)
            for i, y in zip(group, ys, strict=True)
        )
        for block in ahead(coming, together):
            pixels = np.asarray(block)[:height, :width]
            grey = header.bands == 1 and pixels.shape[-1] > 1
            yield np.round(pixels.mean(-1, keepdims=True)).astype(np.uint8) if grey else pixels

    def _decode_latents(self, container: Container, numbers: Sequence[int]) -> np.ndarray:
        blocks, header = [container.block(i) for i in numbers], container.header
        shape = latent_shape(*header.grid.shape, header.version)
        return self.blocks.decode(blocks, numbers, shape, header.quality)


def rows_of_alpha(image: AnyImage) -> Iterator[bytes]:
    """The opacity plane of a picture that has one, some rows at a time."""
    for top in range(0, image.pixels.shape[0], BLOCK_SIZE):
        yield image.pixels[top : top + BLOCK_SIZE][..., -1].tobytes()


def with_alpha(bands_of_rows: Iterable[np.ndarray], plane: np.ndarray) -> Iterator[np.ndarray]:
    """Bands of rows with the same rows of a plane [H, W, 1] behind their samples."""
    top = 0
    for band in bands_of_rows:
        yield np.concatenate([band, plane[top : top + len(band)]], -1)
        top += len(band)


def ahead(items: Iterable[Any], count: int) -> Iterator[Any]:
    """Gives out each item when `count` more were asked for: devices compute those in the meantime."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
