"""The parts of TIFF that Pillow leaves out: raw directory entries in and out, any number of bands out.

Entries are kept as little-endian bytes, so georeferencing survives a codec unchanged, whatever its tags mean.
Reference: TIFF 6.0 (1992), sections 2, 14 (predictor) and 18 (extra samples); GeoTIFF 1.1 (OGC 19-008r4).
"""

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from io import SEEK_END
from itertools import islice, pairwise
from typing import BinaryIO

import numpy as np

from ltchm_jax.container.metadata import TiffTag

BYTE, ASCII, SHORT, LONG, UNDEFINED, DOUBLE = 1, 2, 3, 4, 7, 12
# Field type -> (bytes of a number, numbers of a value); a rational is two numbers.
KINDS = {1: (1, 1), 2: (1, 1), 3: (2, 1), 4: (4, 1), 5: (4, 2), 6: (1, 1), 7: (1, 1), 8: (2, 1), 9: (4, 1)}
KINDS |= {10: (4, 2), 11: (4, 1), 12: (8, 1), 13: (4, 1), 16: (8, 1), 17: (8, 1), 18: (8, 1)}

BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, EXTRA, SAMPLE_FORMAT, ICC = 258, 262, 274, 277, 338, 339, 34675
COMPRESSION, STRIP_SIZES, TILE_SIZES, PLANES, SUBFILE = 259, 279, 325, 284, 254
STRIP_HEIGHT, TILE_WIDTH, TILE_HEIGHT = 278, 322, 323
GDAL_METADATA, NODATA = 42112, 42113
GEOREFERENCE = frozenset({33550, 33920, 33922, 34264, 34735, 34736, 34737, 50844})
# And description, resolution, date, artist, copyright, GDAL's.
CARRIED = GEOREFERENCE | {270, 282, 283, 296, 306, 315, 33432, GDAL_METADATA, NODATA}
# And width, height. The reader fetches no others.
READ = CARRIED | {256, 257, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, EXTRA, SAMPLE_FORMAT, ICC}
READ |= {COMPRESSION, STRIP_SIZES, TILE_SIZES, PLANES, STRIP_HEIGHT, TILE_WIDTH, TILE_HEIGHT}
MAX_DIRECTORIES = 256  # that are looked through for a mask
MASK = 4  # the subfile type of a mask of the picture itself
INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 16: "Q"}  # field type -> its code in `struct`
# Entries that speak of rows and columns -> the shape of their values. 33920 is GeoTIFF 0.2's 34264.
TIEPOINTS, MATRIX, RPC = (-1, 6), (4, 4), (1, 92)
PLACES = {33922: TIEPOINTS, 34264: MATRIX, 33920: MATRIX, 50844: RPC}

MAX_DATA = 1 << 24  # bytes of the entries that are read, together
STRIP = 1 << 18  # bytes, uncompressed
LIMIT = 2**32  # offsets have four bytes


def read_tags(file: BinaryIO) -> dict[int, TiffTag]:
    """Tag number to entry, for the first directory of a TIFF or BigTIFF file, either byte order.

    Only those of `READ`. Entries whose values lie outside the file, or of unknown type, or over `MAX_DATA`
    bytes, are left out. Of several with one number the first counts.

    Raises:
      ValueError: the file has no directory, or its entries have more than `MAX_DATA` bytes together.
    """
    return next(_directories(file, READ), {})


def has_mask(file: BinaryIO) -> bool:
    """Whether the file says in a directory of its own which pixels are valid; errors as above."""
    later = islice(_directories(file, {SUBFILE}), 1, MAX_DIRECTORIES)
    try:
        return any(numbers(tags, SUBFILE, (0,)) == (MASK,) for tags in later)
    except ValueError:  # what is damaged behind the first directory is nobody's concern
        return False


def _directories(file: BinaryIO, wanted: Collection[int]) -> Iterator[dict[int, TiffTag]]:
    """Of each directory in turn the entries that are wanted; they have `MAX_DATA` bytes together.

    Directories may form a ring.
    """
    size = file.seek(0, SEEK_END)
    order = {b"II": "<", b"MM": ">"}.get(_at(file, 0, 2))
    if order is None:
        raise ValueError("a TIFF file starts with II or MM")
    big = _number(file, 2, 2, order) == 43
    width, entry = (8, 20) if big else (4, 12)
    start = _number(file, 8 if big else 4, width, order)
    left = MAX_DATA
    while start and left > 0:
        count, first = _number(file, start, 8 if big else 2, order), start + (8 if big else 2)
        table = _at(file, first, min(count * entry, size, left))
        left -= len(table)
        rows = struct.iter_unpack(f"{order}HH{'Q8s' if big else 'L4s'}", table[: len(table) // entry * entry])
        found, spent = _within_budget(_entry(file, size, order, *row) for row in rows if row[0] in wanted)
        left -= spent
        yield found
        start = _number(file, first + count * entry, width, order)


def numbers(tags: Mapping[int, TiffTag], number: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """The values of an entry of integers, or the default where there is none."""
    tag = tags.get(number)
    code = INTEGERS.get(tag.kind) if tag else None
    if not tag or not code:
        return default
    return struct.unpack(f"<{len(tag.data) // struct.calcsize('<' + code)}{code}", tag.data)


def shifted(tags: Iterable[TiffTag], left: int, top: int) -> tuple[TiffTag, ...]:
    """The entries for a window whose first pixel is in column `left` and row `top` of the picture.

    Tiepoints, transformations and RPC offsets move, so that a pixel keeps its place on the map; other entries
    stay. One that should move but has another type or number of values than its standard says is left out.
    Reference for 50844: "RPCs in GeoTIFF", http://geotiff.maptools.org/rpc_prop.html.
    """
    moved = (_shifted(tag, left, top) for tag in tags)
    return tuple(tag for tag in moved if tag)


class TooLong(ValueError):
    """A file would have 4 GiB or more."""


def write(
    file: BinaryIO,
    shape: tuple[int, ...],
    bands_of_rows: Iterable[np.ndarray],
    *,
    colour: bool,
    alpha: bool,
    tags: Iterable[TiffTag] = (),
) -> None:
    """Writes a TIFF file as its pixels come: deflate, horizontal differences, strips.

    Args:
      file: open for writing at its start, and for seeking.
      shape: of the picture, `[H, W, bands]`.
      bands_of_rows: uint8 `[rows, W, bands]` from top to bottom, H rows together.
      colour: whether the first three bands are red, green and blue.
      alpha: whether the last band is (straight) opacity.
      tags: further entries. Only the ICC profile and those of `CARRIED` are written, and only if whole: the
        others could contradict how the pixels are stored.

    Raises:
      TooLong: the file would have 4 GiB or more.
    """
    rows = max(1, STRIP // (shape[1] * shape[2]))
    file.write(b"II*\0" + bytes(4))
    offsets = [8]
    for pixels in _in_strips(bands_of_rows, rows):
        strip = _strip(pixels)
        offsets.append(offsets[-1] + len(strip))
        _check_size(offsets[-1])
        file.write(strip)
    entries = {t.number: t for t in tags if _fits(t)} | _structure(shape, rows, offsets, colour, alpha)
    start = offsets[-1] + offsets[-1] % 2
    directory = _directory(sorted(entries.values()), start)
    _check_size(start + len(directory))
    file.write(bytes(start - offsets[-1]) + directory)
    file.seek(4)
    file.write(struct.pack("<L", start))


def _in_strips(bands_of_rows: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same rows, so many at a time; the last time what is left."""
    rest: list[np.ndarray] = []
    for band in bands_of_rows:
        joined = np.concatenate([*rest, band])
        whole = len(joined) - len(joined) % rows
        yield from (joined[top : top + rows] for top in range(0, whole, rows))
        rest = [joined[whole:]]
    yield from (band for band in rest if len(band))


def _check_size(size: int) -> None:
    if size >= LIMIT:
        raise TooLong(f"a TIFF file is below 4 GiB, this one needs {size} bytes: write a window at a time")


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(min(offset, file.seek(0, SEEK_END)))  # what lies far behind the end, no file system seeks
    return file.read(count)


def _number(file: BinaryIO, offset: int, count: int, order: str) -> int:
    data = _at(file, offset, count)
    if len(data) != count:
        raise ValueError("the TIFF directory lies outside the file")
    return int.from_bytes(data, "little" if order == "<" else "big")


def _within_budget(tags: Iterable[TiffTag | None]) -> tuple[dict[int, TiffTag], int]:
    """Entries by number, and the bytes of all. They may share some, so a file's size does not bound them."""
    found: dict[int, TiffTag] = {}
    spent = 0
    for tag in filter(None, tags):
        spent += len(tag.data)
        if spent > MAX_DATA:
            raise ValueError(f"the entries of a TIFF file have at most {MAX_DATA} bytes together, got more")
        found.setdefault(tag.number, tag)
    return found, spent


def _entry(
    file: BinaryIO, size: int, order: str, number: int, kind: int, count: int, inline: bytes
) -> TiffTag | None:
    """The entry with its values fetched and little-endian, or None where that can't be done."""
    width, per_value = KINDS.get(kind, (0, 0))
    length = count * width * per_value
    if not width or length > MAX_DATA:
        return None
    if length <= len(inline):
        data = inline[:length]
    else:
        offset = int.from_bytes(inline, "little" if order == "<" else "big")
        data = _at(file, offset, length) if offset + length <= size else b""
    if len(data) != length:
        return None
    return TiffTag(
        number, kind, data if order == "<" else np.frombuffer(data, f">u{width}").byteswap().tobytes()
    )


def _shifted(tag: TiffTag, left: int, top: int) -> TiffTag | None:
    """The entry for a window, or None where its values are not what its number promises."""
    shape = PLACES.get(tag.number)
    if shape is None:
        return tag
    try:
        values = np.frombuffer(tag.data, "<f8").reshape(shape).copy()
    except ValueError:
        return None
    if tag.kind != DOUBLE or not values.size:
        return None
    with np.errstate(all="ignore"):  # any values may come from a file
        if shape == TIEPOINTS:  # I, J, K, X, Y, Z: column, row, depth and where they lie
            values[:, :2] -= left, top
        elif shape == MATRIX:  # of column, row, depth, 1
            values[:, 3] += values[:, 0] * left + values[:, 1] * top
        else:  # ERR_BIAS, ERR_RAND, LINE_OFF, SAMP_OFF and so on
            values[:, 2:4] -= top, left
    return tag._replace(data=values.tobytes())


def _fits(tag: TiffTag) -> bool:
    width, per_value = KINDS.get(tag.kind, (0, 0))
    return (
        tag.number in CARRIED | {ICC}
        and width > 0
        and len(tag.data) % (width * per_value) == 0 < len(tag.data)
    )


def _strip(rows: np.ndarray) -> bytes:
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]  # modulo 256
    return zlib.compress(differences.tobytes(), 6)


def _structure(
    shape: tuple[int, ...], rows: int, offsets: list[int], colour: bool, alpha: bool
) -> dict[int, TiffTag]:
    """The entries that say how the pixels are stored."""
    height, width, bands = shape
    extra = [0] * (bands - (3 if colour else 1))
    if alpha:
        extra[-1] = 2
    sizes = [stop - start for start, stop in pairwise(offsets)]
    longs = {256: [width], 257: [height], 273: offsets[:-1], 278: [rows], 279: sizes}
    shorts = {
        BITS: [8] * bands,
        COMPRESSION: [8],
        PHOTOMETRIC: [2 if colour else 1],
        SAMPLES: [bands],
        PLANES: [1],
        317: [2],
    }
    shorts |= {EXTRA: extra, SAMPLE_FORMAT: [1] * bands}
    entries = [TiffTag(n, LONG, struct.pack(f"<{len(v)}L", *v)) for n, v in longs.items()]
    entries += [TiffTag(n, SHORT, struct.pack(f"<{len(v)}H", *v)) for n, v in shorts.items() if v]
    return {tag.number: tag for tag in entries}


def _directory(tags: list[TiffTag], offset: int) -> bytes:
    """The directory as it stands at `offset`, values too long for an entry behind it."""
    table, values = struct.pack("<H", len(tags)), b""
    behind = offset + 2 + 12 * len(tags) + 4
    for tag in tags:
        width, per_value = KINDS[tag.kind]
        inline = tag.data.ljust(4, b"\0")
        if len(tag.data) > 4:
            inline = struct.pack("<L", behind + len(values))
            values += tag.data + bytes(len(tag.data) % 2)
        table += struct.pack("<HHL4s", tag.number, tag.kind, len(tag.data) // (width * per_value), inline)
    return table + bytes(4) + values
