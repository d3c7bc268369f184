"""Picture files to arrays and back.

Rules, so that nothing about a picture is guessed:
- The first page of a file is read, 8 bits a sample. 1, 2 and 4-bit grey become grey; more bits are refused.
- A palette becomes RGB, or RGBA where it has transparent entries. A transparent colour becomes alpha, too.
- CMYK becomes RGB as `R = (255 - C)(255 - K) / 255` and so on (the ICC profile, made for inks, is dropped);
  YCbCr becomes RGB as in JFIF (ITU-R BT.601, full range). Lab is refused.
- EXIF orientation is applied to the pixels and taken out of the EXIF block (and of XMP). It is refused in a
  georeferenced TIFF, whose coordinates belong to the stored rows and columns. An EXIF block that can't be
  read is dropped, and turns nothing.
- Alpha is straight. A TIFF whose extra samples are not alpha is a picture of bands. It is read with rasterio,
  as are sparse files, in which tiles are absent, planes that Pillow misreads, WebP and LERC. The mask of a
  TIFF without alpha becomes its alpha.
- PNG keeps text (of one key, the last), ICC profile and EXIF; TIFF keeps the ICC profile and TIFF tags,
  georeferencing among them. GDAL's nodata follows grey samples that were scaled or inverted to 8 bits, and is
  dropped where samples became other colours; what else GDAL says of samples (scale, names), in both cases.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image as pillow
from PIL import ImageOps, PngImagePlugin

from ltchm_jax.bitstream import MAX_PIXELS
from ltchm_jax.container.header import Layout
from ltchm_jax.container.metadata import Metadata, TiffTag
from ltchm_jax.files import atomic_write, check_folder, open_input
from ltchm_jax.imagery import tiff
from ltchm_jax.imagery.reading import FORMATS, ImageError, check_size, decoding, our_limits
from ltchm_jax.imagery.tiff_pictures import (
    StoredRows,
    carried_tags,
    check_tiff,
    comes_in_rows,
    is_bands,
    is_beyond_pillow,
    read_mask,
)

PLAIN = tuple(kind for kind in FORMATS if kind != "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
LAYOUTS = {1: Layout.GREY, 2: Layout.GREY_ALPHA, 3: Layout.RGB, 4: Layout.RGBA}
MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
MODES |= {"CMYK": "RGB", "YCbCr": "RGB"}
EXIF_MARK = b"Exif\0\0"
EXIF_TEXT = "Raw profile type exif"
TURNED_TEXT = {EXIF_TEXT, "XML:com.adobe.xmp"}  # keys of text that may hold an orientation
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# What is wrong with a file is said by ImageError alone.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Image:
    """A picture.

    Attributes:
      pixels: uint8 `[H, W, bands]`, alpha last where the layout has it.
      layout: what the bands mean.
      metadata: what else the file holds.

    Raises:
      ImageError: pixels and layout don't fit each other.
    """

    pixels: np.ndarray
    layout: Layout
    metadata: Metadata = field(default_factory=Metadata)

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or len(shape) != 3 or 0 in shape:
            raise ImageError(
                f"pixels must be uint8 [H, W, bands], got {dtype} {list(shape)}: convert them first"
            )
        if self.layout is not Layout.BANDS and LAYOUTS.get(shape[2]) != self.layout:
            raise ImageError(f"layout {self.layout.label} can't have {shape[2]} bands: use layout bands")


@dataclass(frozen=True)
class StoredImage:
    """A picture in an open file: `pixels[top:stop]` decodes some of its rows; the rest is as for `Image`."""

    pixels: StoredRows
    layout: Layout
    metadata: Metadata


AnyImage = Image | StoredImage


@dataclass(frozen=True)
class Rows:
    """A picture that comes as bands of rows from top to bottom, once; the rest is as for `Image`.

    Attributes:
      shape: of the whole, `[H, W, bands]`.
      bands_of_rows: uint8 `[rows, W, bands]`, H rows together.
    """

    shape: tuple[int, ...]
    bands_of_rows: Iterable[np.ndarray]
    layout: Layout
    metadata: Metadata = field(default_factory=Metadata)

    def image(self) -> Image:
        """All of it."""
        pixels, top = np.empty(self.shape, np.uint8), 0
        for band in self.bands_of_rows:
            pixels[top : top + len(band)] = band
            top += len(band)
        return Image(pixels, self.layout, self.metadata)


def is_picture(path: Path) -> bool:
    """Whether a path in a folder is a picture by its name: a file with one of `SUFFIXES`, not hidden.

    Hidden are, among others, the `._name.png` that some systems put beside each file.
    """
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_image(path: str | Path | BinaryIO, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Reads PNG, JPEG, TIFF, WebP or BMP by the rules above.

    Args:
      path: a file name, `-` for standard input, or a file that can seek, read from its start.
      max_pixels: refuse larger pictures.

    Raises:
      ImageError: the file is no such picture, is damaged, too large, or breaks a rule.
      OSError: the file can't be opened.
    """
    if not isinstance(path, str | Path):
        return _read(path, "the file", max_pixels)
    with open_input(path) as file:
        return _read(file, str(path), max_pixels)


@contextmanager
def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[AnyImage]:
    """As `read_image`, but of a large TIFF rows are decoded as they are asked for, while the context lasts.

    Large are more than 2^24 pixels. The TIFF is of 8 bits, grey, RGB (either with straight alpha) or bands,
    upright and compressed without loss; and rasterio is installed. All else is read whole. What is wrong with
    rows is raised when they are asked for.

    Raises:
      ImageError, OSError: as `read_image`.
    """
    with open_input(path) as file:
        yield _open(file, str(path), max_pixels)


def ending_for(layout: Layout, metadata: Metadata) -> str:
    """Of the kind of picture file that keeps most: .tif for bands and TIFF tags, else .png."""
    return ".tif" if layout is Layout.BANDS or metadata.tiff else ".png"


def check_writable(path: str | Path, layout: Layout, suffix: str | None = None) -> str:
    """The ending in lower case of a picture file that can be written there, before the work is done.

    Raises:
      ImageError: the kind of file is not known, or can't hold the picture.
      OSError: its folder does not exist.
    """
    suffix = (suffix or Path(path).suffix).lower()
    if suffix not in (".png", ".tif", ".tiff"):
        raise ImageError(f"pictures are written as .png, .tif or .tiff, got {str(path)!r}: change the ending")
    if suffix == ".png" and layout is Layout.BANDS:
        raise ImageError("PNG holds grey or RGB with or without alpha, got a picture of bands: write .tif")
    check_folder(path)
    return suffix


def write_image(path: str | Path, image: Image | Rows, *, suffix: str | None = None) -> tuple[str, ...]:
    """Writes PNG or TIFF; a file of that name is replaced only when the new one is complete.

    A picture that comes in rows is written to a TIFF file as it comes, and only then.

    Args:
      path: ends in .png, .tif or .tiff, or is `-` for standard output.
      image: the picture.
      suffix: the kind of file where the path does not say it, such as ".png".

    Returns:
      The kinds of metadata that this kind of file can't keep, for the caller to tell the user.

    Raises:
      ImageError: the kind of file is not known or can't hold the picture.
      OSError: the file can't be written.
    """
    suffix = check_writable(path, image.layout, suffix)
    if suffix == ".png":
        encode, lost = (
            _encode_png,
            {"TIFF tags": bool(image.metadata.tiff), "text": not _png_text(image.metadata)[1]},
        )
    else:
        encode, lost = _encode_tiff, {"text": bool(image.metadata.text), "EXIF": bool(image.metadata.exif)}
    with atomic_write(path) as file:
        encode(file, image)
    return tuple(kind for kind, is_lost in lost.items() if is_lost)


def _read(file: BinaryIO, name: str, max_pixels: int) -> Image:
    with decoding(name), our_limits():
        if not _is_tiff(file):
            return _read_plain(file, max_pixels)
        return _read_tiff(file, *_tiff_entries(file, max_pixels), max_pixels)


def _open(file: BinaryIO, name: str, max_pixels: int) -> AnyImage:
    with decoding(name), our_limits():
        if not _is_tiff(file):
            return _read_plain(file, max_pixels)
        tags, masked = _tiff_entries(file, max_pixels)
        if comes_in_rows(tags):
            with suppress(Exception):  # whether it can be read whole, and if not why, is said below
                rows = StoredRows(file, tags, masked, max_pixels, name)
                return StoredImage(rows, _tiff_layout(tags, rows.shape), _tiff_metadata(tags))
        return _read_tiff(file, tags, masked, max_pixels)


def _is_tiff(file: BinaryIO) -> bool:
    file.seek(0)
    mark = file.read(4)
    file.seek(0)
    return mark in TIFF_MARKS


def _read_plain(file: BinaryIO, max_pixels: int) -> Image:
    with pillow.open(file, formats=PLAIN) as opened:
        check_size(*opened.size, 4, max_pixels)
        if isinstance(opened, PngImagePlugin.PngImageFile) and any(";16" in str(t.args) for t in opened.tile):
            raise ImageError("samples must have 8 bits, got 16: scale the picture first")
        _scale_transparent_grey(opened)
        opened.load()  # before its text is asked for: for that Pillow runs through all frames of an animation
        text = {str(key): str(value) for key, value in getattr(opened, "text", {}).items()}
        upright = _upright(opened)
        text |= {key: str(upright.info[key]) for key in TURNED_TEXT & text.keys() & upright.info.keys()}
        if "exif" in opened.info:  # which then alone was turned
            text.pop(EXIF_TEXT, None)
        return Image(*_pixels(upright), Metadata(text, _icc(opened), _exif(upright)))


def _tiff_entries(file: BinaryIO, max_pixels: int) -> tuple[dict[int, TiffTag], bool]:
    """The entries of a TIFF that is taken by the rules, and whether it has a mask."""
    tags, masked = tiff.read_tags(file), tiff.has_mask(file)
    check_tiff(tags, masked, max_pixels)
    return tags, masked


def _read_tiff(file: BinaryIO, tags: dict[int, TiffTag], masked: bool, max_pixels: int) -> Image:
    metadata = _tiff_metadata(tags)
    if is_bands(tags) or is_beyond_pillow(tags):
        rows = StoredRows(file, tags, masked, max_pixels)
        pixels = rows.read(0, rows.shape[0])
    else:
        file.seek(0)
        with pillow.open(file, formats=FORMATS) as opened:
            check_size(*opened.size, 4, max_pixels)
            opened.info.pop("xmp", None)  # in which Pillow looks for an orientation; a TIFF has a tag for it
            (pixels, layout), metadata = _pixels(opened), replace(metadata, icc=_icc(opened))
        if masked and not layout.has_alpha:
            pixels = np.concatenate([pixels, read_mask(file, max_pixels)], axis=2)
    return Image(pixels, _tiff_layout(tags, pixels.shape), metadata)


def _tiff_layout(tags: dict[int, TiffTag], shape: tuple[int, ...]) -> Layout:
    return Layout.BANDS if is_bands(tags) else LAYOUTS[shape[2]]


def _tiff_metadata(tags: dict[int, TiffTag]) -> Metadata:
    return Metadata(icc=tags[tiff.ICC].data if tiff.ICC in tags else b"", tiff=carried_tags(tags))


def _scale_transparent_grey(opened: pillow.Image) -> None:
    """Brings the transparent grey of a PNG of 2 or 4 bits to 8 bits, as Pillow does with its samples."""
    grey = opened.info.get("transparency")
    if isinstance(opened, PngImagePlugin.PngImageFile) and isinstance(grey, int) and opened.tile:
        opened.info["transparency"] = grey * {"L;2": 85, "L;4": 17}.get(str(opened.tile[0].args), 1)


def _upright(opened: pillow.Image) -> pillow.Image:
    """The picture turned as its EXIF block says; as it is where that can't be read."""
    try:
        return ImageOps.exif_transpose(opened)
    except Exception:  # a damaged block fails in many ways
        return opened


def _pixels(opened: pillow.Image) -> tuple[np.ndarray, Layout]:
    """Decodes, and converts by the rules of this file."""
    opened.load()
    mode = MODES.get(opened.mode)
    if mode is None:
        raise ImageError(
            f"samples must be grey, RGB or CMYK of 8 bits, got mode {opened.mode}: convert the picture"
        )
    if opened.has_transparency_data and not mode.endswith("A"):
        mode = {"L": "LA", "RGB": "RGBA"}[mode]
    pixels = np.array(opened if opened.mode == mode else opened.convert(mode))
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return pixels, LAYOUTS[pixels.shape[2]]


def _icc(opened: pillow.Image) -> bytes:
    return b"" if opened.mode == "CMYK" else opened.info.get("icc_profile") or b""


def _exif(opened: pillow.Image) -> bytes:
    """The EXIF block of a picture with its mark in front; none where it can't be read."""
    block = opened.info.get("exif") or b""
    block = block if not block or block.startswith(EXIF_MARK) else EXIF_MARK + block
    try:
        pillow.Exif().load(block)
    except Exception:  # a damaged block fails in many ways
        return b""
    return block


def _encode_png(file: BinaryIO, image: Image | Rows) -> None:
    image = image.image() if isinstance(image, Rows) else image
    pixels = image.pixels[:, :, 0] if image.layout is Layout.GREY else image.pixels
    extra = {"icc_profile": image.metadata.icc, "exif": image.metadata.exif}
    text, _ = _png_text(image.metadata)
    pillow.fromarray(pixels).save(file, "PNG", pnginfo=text, **{k: v for k, v in extra.items() if v})


def _png_text(metadata: Metadata) -> tuple[PngImagePlugin.PngInfo, bool]:
    """The text that PNG can hold (keys are 1 to 79 Latin-1 characters), and whether that is all of it."""
    text = PngImagePlugin.PngInfo()
    fits = [key for key in metadata.text if 0 < len(key) < 80 and key.isprintable() and max(key) < "\u0100"]
    for key in fits:
        text.add_itxt(key, metadata.text[key])
    return text, len(fits) == len(metadata.text)


def _encode_tiff(file: BinaryIO, image: Image | Rows) -> None:
    colour = image.layout in (Layout.RGB, Layout.RGBA)
    icc = (TiffTag(tiff.ICC, tiff.UNDEFINED, image.metadata.icc),) if image.metadata.icc else ()
    rows = image if isinstance(image, Rows) else Rows(image.pixels.shape, [image.pixels], image.layout)
    target = file if file.seekable() else BytesIO()
    tags, alpha = (*image.metadata.tiff, *icc), image.layout.has_alpha
    try:
        tiff.write(target, rows.shape, rows.bands_of_rows, colour=colour, alpha=alpha, tags=tags)
    except tiff.TooLong as error:
        raise ImageError(str(error)) from None
    if isinstance(target, BytesIO) and target is not file:
        file.write(target.getbuffer())
