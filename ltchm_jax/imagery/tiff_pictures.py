"""TIFF files as pictures: which are taken, what goes along with the pixels, and those that need rasterio.

The rules are those of `images`.
"""

import contextlib
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np

from ltchm_jax.container.metadata import TiffTag
from ltchm_jax.files import path_of
from ltchm_jax.imagery import tiff
from ltchm_jax.imagery.reading import ImageError, check_size, decoding

LERC, WEBP, JPEG = 34887, 50001, 7  # compressions
# None, LZW, Deflate in two numbers, PackBits, Zstandard, LZMA: every reader decodes them alike.
LOSSLESS = {1, 5, 8, 32946, 32773, 50000, 34925}
WHOLE_PIXELS = 1 << 24  # pictures of up to so many pixels are decoded whole, which starts faster
CACHE = 64  # MB that GDAL may keep of what it decoded


def check_tiff(tags: dict[int, TiffTag], masked: bool, max_pixels: int) -> None:
    """Raises ImageError for a TIFF, with a mask or without, that is too large or not taken by the rules."""
    (width,), (height,) = tiff.numbers(tags, 256, (0,)), tiff.numbers(tags, 257, (0,))
    (samples,) = tiff.numbers(tags, tiff.SAMPLES, (1,))
    check_size(width, height, samples, max_pixels)
    bits, forms = _bits(tags), tiff.numbers(tags, tiff.SAMPLE_FORMAT, (1,))
    if bits not in (1, 2, 4, 8) or set(forms) != {1}:
        kind = {2: "signed", 3: "float"}.get(max(forms), "unsigned")
        raise ImageError(
            f"samples must be unsigned, 8 bits, got {kind}, {bits} bits: scale the picture first"
        )
    by_rasterio = is_bands(tags) or is_beyond_pillow(tags)
    if by_rasterio and not (is_bands(tags) or _has_plain_colours(tags)):
        raise ImageError(
            "a TIFF that is sparse, of planes, WebP or LERC must be grey or RGB, its alpha straight: convert "
            "it with gdal_translate first"
        )
    if masked and is_bands(tags):
        raise ImageError("a TIFF of bands can't have a mask: make it a band with gdal_translate -b mask")
    fixed = tiff.GEOREFERENCE & tags.keys() or by_rasterio or masked
    turned = tiff.numbers(tags, tiff.ORIENTATION, (1,))
    if fixed and turned != (1,):
        raise ImageError(
            "a TIFF that is georeferenced, masked, sparse, of planes or bands must have orientation 1, got "
            f"{turned[0]}: warp it with gdalwarp first"
        )


def carried_tags(tags: dict[int, TiffTag]) -> tuple[TiffTag, ...]:
    """The entries that go along with the pixels, by number."""
    numbers = tiff.CARRIED & tags.keys() - (set() if _is_as_stored(tags) else {tiff.GDAL_METADATA})
    carried = (tags[number] for number in sorted(numbers))
    converted = (_nodata(tags) if tag.number == tiff.NODATA else tag for tag in carried)
    return tuple(tag for tag in converted if tag)


def _is_as_stored(tags: dict[int, TiffTag]) -> bool:
    """Whether samples are read as they are, so that what is said of their values stays true."""
    colours = _first(tags, tiff.PHOTOMETRIC) in (1, 2) or _becomes_rgb(tags)
    return is_bands(tags) or (_bits(tags) == 8 and colours)


def _nodata(tags: dict[int, TiffTag]) -> TiffTag | None:
    """GDAL's nodata of the samples as they are read; None where no sample stands for it."""
    tag, photometric = tags[tiff.NODATA], _first(tags, tiff.PHOTOMETRIC)
    if _is_as_stored(tags):
        return tag
    top = 2 ** _bits(tags) - 1
    text = tag.data.rstrip(b"\0 ")
    if photometric > 1 or not (text.isdigit() and len(text) < 4 and int(text) <= top):
        return None
    value = int(text) * 255 // top
    return tag._replace(data=b"%d\0" % (255 - value if photometric == 0 else value))


def is_bands(tags: dict[int, TiffTag]) -> bool:
    """Whether a pixel has other samples than a colour and perhaps its alpha."""
    (samples,) = tiff.numbers(tags, tiff.SAMPLES, (1,))
    colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(_first(tags, tiff.PHOTOMETRIC), 1)
    extra = tiff.numbers(tags, tiff.EXTRA, ())
    alpha = len(extra) == 1 and extra[0] in (1, 2)
    return samples != colours + alpha


def comes_in_rows(tags: dict[int, TiffTag]) -> bool:
    """Whether a TIFF is large and can be decoded row by row, to the same pixels as whole."""
    (width,), (height,) = tiff.numbers(tags, 256, (0,)), tiff.numbers(tags, 257, (0,))
    lossless = _first(tags, tiff.COMPRESSION) in LOSSLESS
    known = is_bands(tags) or _has_plain_colours(tags)
    return width * height > WHOLE_PIXELS and lossless and known and find_spec("rasterio") is not None


def is_beyond_pillow(tags: dict[int, TiffTag]) -> bool:
    """Whether Pillow could not decode the file, or would misread it: absent tiles, planes, WebP, LERC."""
    names = tiff.PLANES, tiff.SAMPLES, tiff.COMPRESSION, tiff.PHOTOMETRIC
    planes, samples, compression, photometric = (_first(tags, name) for name in names)
    sizes = tiff.numbers(tags, tiff.TILE_SIZES, ()) + tiff.numbers(tags, tiff.STRIP_SIZES, ())
    as_stored = photometric == 1 and tiff.numbers(tags, tiff.BITS, (1,)) == (8,)
    misread = planes == 2 and (samples == 2 or (samples == 1 and compression == 1 and not as_stored))
    return 0 in sizes or misread or compression in (LERC, WEBP)


def _has_plain_colours(tags: dict[int, TiffTag]) -> bool:
    """Whether rasterio gives the samples that the rules for pictures ask for: grey or RGB, straight alpha."""
    plain = _first(tags, tiff.PHOTOMETRIC) in (0, 1, 2) or _becomes_rgb(tags)
    return plain and tiff.numbers(tags, tiff.EXTRA, ()) != (1,)


def _becomes_rgb(tags: dict[int, TiffTag]) -> bool:
    """Whether luma and chroma are a matter of the compression, and samples are RGB to everybody else."""
    return _first(tags, tiff.PHOTOMETRIC) == 6 and _first(tags, tiff.COMPRESSION) in (JPEG, WEBP)


def _first(tags: dict[int, TiffTag], number: int) -> int:
    """The first value of an entry, or TIFF's default of all that are asked for here, 1."""
    return tiff.numbers(tags, number, (1,))[0]


def _bits(tags: dict[int, TiffTag]) -> int:
    return max(tiff.numbers(tags, tiff.BITS, (1,)))


def as_colours(pixels: np.ndarray, tags: dict[int, TiffTag]) -> np.ndarray:
    """Samples as rasterio reads them, uint8 [H, W, bands], in 8 bits, and grey so that white is 255."""
    pixels = pixels * np.uint8(255 // (2 ** _bits(tags) - 1))
    if _first(tags, tiff.PHOTOMETRIC) == 0:
        pixels[:, :, 0] = 255 - pixels[:, :, 0]
    return pixels


class StoredRows:
    """The pixels of a TIFF, uint8 `[H, W, bands]`, decoded as they are asked for: `rows[top:stop]`.

    Colours and alpha are as the rules for pictures ask for; a mask becomes alpha where there is none.

    Attributes:
      shape: `(H, W, bands)`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, dataset: Any, tags: dict[int, TiffTag], masked: bool, name: str) -> None:
        self._dataset, self._tags, self._name = dataset, tags, name
        self._adds_mask = masked and dataset.count in (1, 3)
        self.shape = dataset.height, dataset.width, dataset.count + self._adds_mask

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Some rows, one after the other.

        Raises:
          ImageError: they don't decode.
        """
        top, stop, _ = rows.indices(self.shape[0])
        window = (top, stop), (0, self.shape[1])
        with decoding(self._name):
            pixels = np.moveaxis(self._dataset.read(window=window), 0, 2)
            pixels = pixels if is_bands(self._tags) else as_colours(pixels, self._tags)
            if self._adds_mask:
                mask = self._dataset.dataset_mask(window=window)
                pixels = np.concatenate([pixels, mask[:, :, None]], axis=2)
        return np.ascontiguousarray(pixels)


@contextlib.contextmanager
def stored_rows(
    file: BinaryIO, tags: dict[int, TiffTag], masked: bool, max_pixels: int, name: str = "the file"
) -> Iterator[StoredRows]:
    """The pixels of a TIFF that `check_tiff` took, to be read while the context lasts.

    Raises:
      ImageError: it is larger or of other samples than its entries say, or rasterio is not installed.
    """
    with _opened(file) as dataset:
        check_size(dataset.width, dataset.height, dataset.count, max_pixels)  # entries may be read otherwise
        if set(dataset.dtypes) != {"uint8"}:
            raise ImageError(f"samples must be unsigned, 8 bits, got {dataset.dtypes[0]}: scale them first")
        yield StoredRows(dataset, tags, masked, name)


def read_mask(file: BinaryIO, max_pixels: int) -> np.ndarray:
    """Which pixels of a TIFF are valid, by its own mask: uint8 `[H, W, 1]`, 255 or 0."""
    with _opened(file) as dataset:
        check_size(dataset.width, dataset.height, dataset.count, max_pixels)
        return dataset.dataset_mask()[:, :, None]


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[Any]:
    """The file as a data set of rasterio, read from where it lies, without what may lie beside it."""
    try:
        import rasterio
    except ImportError:
        raise ImageError(
            "a TIFF of bands, masked, sparse, WebP or LERC needs rasterio, it is not installed: "
            "pip install rasterio"
        ) from None
    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    with contextlib.ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_CACHEMAX=CACHE))
        if path := path_of(file):
            yield stack.enter_context(rasterio.open(path, driver="GTiff"))
        else:
            file.seek(0)
            memory = stack.enter_context(rasterio.MemoryFile(file.read()))
            yield stack.enter_context(memory.open(driver="GTiff"))
