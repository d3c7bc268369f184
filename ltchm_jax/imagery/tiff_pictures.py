"""TIFF files as pictures: which are taken, what goes along with the pixels, and those that need rasterio.

The rules are those of `images`.
"""

import contextlib
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ltchm_jax.container.metadata import TiffTag
from ltchm_jax.errors import one_line
from ltchm_jax.files import path_of
from ltchm_jax.imagery import tiff
from ltchm_jax.imagery.reading import ImageError, check_size, decoding, our_limits

LERC, WEBP, JPEG = 34887, 50001, 7  # compressions
# None, LZW, Deflate in two numbers, PackBits, Zstandard, LZMA: every reader decodes them alike.
LOSSLESS = {1, 5, 8, 32946, 32773, 50000, 34925}
WHOLE_PIXELS = 1 << 24  # pictures of up to so many pixels are decoded whole, which starts faster
MAX_BANDS = 1 << 12  # GDAL takes a time that grows with the square of their number: four seconds for 10,000
MAX_PART = 1 << 26  # bytes of a strip or tile that is decoded for a few of its rows


def check_tiff(tags: dict[int, TiffTag], masked: bool, max_pixels: int) -> None:
    """Raises ImageError for a TIFF, with a mask or without, that is too large or not taken by the rules."""
    width, height = _size(tags)
    (samples,) = tiff.numbers(tags, tiff.SAMPLES, (1,))
    check_size(width, height, samples, max_pixels)
    if samples > MAX_BANDS:
        raise ImageError(
            f"a TIFF may have {MAX_BANDS} bands, got {samples}: take some with gdal_translate -b"
        )
    tile_width, tile_height = (tiff.numbers(tags, e, (0,))[0] for e in (tiff.TILE_WIDTH, tiff.TILE_HEIGHT))
    check_size(tile_width, tile_height, samples, max_pixels)
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
    """Whether a TIFF is large, and rows of it can be decoded on their own, to the same pixels as whole."""
    width, height = _size(tags)
    plain = _bits(tags) == 8 and _is_as_stored(tags) and tiff.PHOTOMETRIC in tags
    known = is_bands(tags) or _has_plain_colours(tags)
    upright = _first(tags, tiff.ORIENTATION) == 1
    lossless = _first(tags, tiff.COMPRESSION) in LOSSLESS
    as_wanted = plain and known and upright and lossless and _has_all_parts(tags)
    return width * height > WHOLE_PIXELS and as_wanted and find_spec("rasterio") is not None


def _size(tags: dict[int, TiffTag]) -> tuple[int, int]:
    """Width and height; 0 where the file does not say."""
    return tiff.numbers(tags, 256, (0,))[0], tiff.numbers(tags, 257, (0,))[0]


def _has_all_parts(tags: dict[int, TiffTag]) -> bool:
    """Whether a file has as many strips or tiles as it takes, and none of them is large."""
    width, height = _size(tags)
    samples, planes = _first(tags, tiff.SAMPLES), _first(tags, tiff.PLANES)
    if tiff.TILE_WIDTH in tags:
        shape = _first(tags, tiff.TILE_HEIGHT), _first(tags, tiff.TILE_WIDTH)
        sizes = tiff.TILE_SIZES
    else:
        shape = min(tiff.numbers(tags, tiff.STRIP_HEIGHT, (height,))[0], height), width
        sizes = tiff.STRIP_SIZES
    if min(shape) < 1 or planes not in (1, 2):
        return False
    count = -(-height // shape[0]) * -(-width // shape[1]) * (samples if planes == 2 else 1)
    return len(tiff.numbers(tags, sizes, ())) == count and shape[0] * shape[1] * samples <= MAX_PART


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
    """The pixels of a TIFF that `check_tiff` took, uint8 `[H, W, bands]`, decoded as rows are asked for.

    Colours and alpha are as the rules for pictures ask for; a mask becomes alpha where there is none. Nothing
    is kept from one call to the next, so threads may share it. The file must stay open.

    Attributes:
      shape: `(H, W, bands)`.

    Raises:
      ImageError: the file is larger or of other samples than its entries say, or rasterio is not installed.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, file: BinaryIO, tags: dict[int, TiffTag], masked: bool, max_pixels: int, name: str = ""
    ) -> None:
        """`name` is that of the file, for errors of `rows[top:stop]`."""
        self._source, self._tags, self._name = _source(file), tags, name
        with _opened(self._source) as dataset:
            _check_samples(dataset, max_pixels)
            self._adds_mask = masked and dataset.count in (1, 3)
            self.shape = dataset.height, dataset.width, dataset.count + self._adds_mask

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows one after the other, from top to stop.

        Raises:
          ImageError: they don't decode.
        """
        top, stop, _ = rows.indices(self.shape[0])
        with decoding(self._name):
            return self.read(top, stop)

    def read(self, top: int, stop: int) -> np.ndarray:
        """The same, with whatever error rasterio raises."""
        window = (top, stop), (0, self.shape[1])
        with _opened(self._source) as dataset:
            pixels = np.moveaxis(dataset.read(window=window), 0, 2)
            pixels = pixels if is_bands(self._tags) else as_colours(pixels, self._tags)
            if self._adds_mask:
                mask = dataset.dataset_mask(window=window)
                pixels = np.concatenate([pixels, mask[:, :, None]], axis=2)
        return np.ascontiguousarray(pixels)


def _check_samples(dataset: Any, max_pixels: int) -> None:
    """Entries may be read otherwise by GDAL than by us."""
    check_size(dataset.width, dataset.height, dataset.count, max_pixels)
    if set(dataset.dtypes) != {"uint8"}:
        raise ImageError(f"samples must be unsigned, 8 bits, got {dataset.dtypes[0]}: scale them first")


def read_mask(file: BinaryIO, max_pixels: int) -> np.ndarray:
    """Which pixels of a TIFF are valid, by its own mask: uint8 `[H, W, 1]`, 255 or 0."""
    with _opened(_source(file)) as dataset:
        check_size(dataset.width, dataset.height, dataset.count, max_pixels)
        return dataset.dataset_mask()[:, :, None]


def _source(file: BinaryIO) -> Path | bytes:
    """What rasterio can open: the file where it lies, or all of it."""
    if path := path_of(file):
        return path
    file.seek(0)
    return file.read()


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[Any]:
    """A file as a data set of rasterio, without what may lie beside it."""
    try:
        import rasterio
    except ImportError as error:
        raise ImageError(
            f"a TIFF of bands, masked, sparse, WebP or LERC needs rasterio, got {one_line(error)!r}: "
            "pip install rasterio"
        ) from None
    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    with contextlib.ExitStack() as stack:
        stack.enter_context(our_limits())  # an open file that is not georeferenced warns
        stack.enter_context(rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"))
        if isinstance(source, Path):
            yield stack.enter_context(rasterio.open(source, driver="GTiff"))
        else:
            memory = stack.enter_context(rasterio.MemoryFile(source))
            yield stack.enter_context(memory.open(driver="GTiff"))
