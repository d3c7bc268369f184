"""What travels with a picture besides its pixels, and how a stream stores it. Standard library only."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple

from ltchm_jax.container.wire import Cursor, Malformed, counted, inflate, varint

# Of one kind of metadata, inflated: both bound what a small stream can make a reader hold.
MAX_BYTES = 1 << 24
MAX_ENTRIES = 4096  # a parsed entry takes a hundred bytes and more, however short it is

TEXT, ICC, EXIF, TIFF = b"t", b"i", b"e", b"g"  # chunk types: lower case, so a reader may skip them


class TiffTag(NamedTuple):
    """One entry of a TIFF directory.

    Attributes:
      number: 0 to 65535; 33550, 33922, 34264 and 34735 to 34737 are GeoTIFF's.
      kind: the TIFF field type, such as 2 (ASCII), 3 (SHORT), 12 (DOUBLE).
      data: the values, little-endian.
    """

    number: int
    kind: int
    data: bytes


@dataclass(frozen=True)
class Metadata:
    """Everything but pixels; all of it may be empty.

    Attributes:
      text: free keys and values, at most `MAX_ENTRIES`.
      icc: an ICC colour profile.
      exif: an EXIF block as in a JPEG file, from `Exif\\0\\0` on.
      tiff: directory entries to write back to a TIFF file, georeferencing among them; each number once, at
        most `MAX_ENTRIES`.
    """

    text: Mapping[str, str] = field(default_factory=dict)
    icc: bytes = b""
    exif: bytes = b""
    tiff: tuple[TiffTag, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.icc or self.exif or self.tiff)

    def to_chunks(self) -> list[tuple[bytes, bytes]]:
        """Chunk types and bodies, for the kinds that are there.

        Raises:
          Malformed: a kind has more than `MAX_BYTES` or `MAX_ENTRIES`, or a TIFF tag is there twice.
        """
        kinds = (
            (TEXT, _text_bytes(self.text)),
            (ICC, self.icc),
            (EXIF, self.exif),
            (TIFF, _tiff_bytes(self.tiff)),
        )
        return [(kind, _deflated(plain)) for kind, plain in kinds if plain]

    @classmethod
    def from_chunks(cls, chunks: Mapping[bytes, bytes]) -> "Metadata":
        """The metadata among a stream's chunks.

        Raises:
          BitstreamError: a body breaks a rule of the format.
        """
        plain = {kind: _inflated(chunks[kind]) for kind in (TEXT, ICC, EXIF, TIFF) if kind in chunks}
        text, tiff = _parse_text(plain.get(TEXT, b"")), _parse_tiff(plain.get(TIFF, b""))
        return cls(text, plain.get(ICC, b""), plain.get(EXIF, b""), tiff)


def _deflated(plain: bytes) -> bytes:
    if len(plain) > MAX_BYTES:
        raise Malformed(
            f"metadata of one kind has at most {MAX_BYTES} bytes, got {len(plain)}: leave some out"
        )
    return varint(len(plain)) + zlib.compress(plain, 9)


def _inflated(body: bytes) -> bytes:
    cursor = Cursor(BytesIO(body), len(body))
    size = cursor.varint("metadata size")
    if size > MAX_BYTES:
        raise Malformed(
            f"metadata of one kind has at most {MAX_BYTES} bytes, the stream says {size}: it is damaged"
        )
    return inflate(cursor.take(cursor.remaining, "metadata"), size, "metadata")


def _check_keys(keys: Sequence[str] | Sequence[int], what: str) -> None:
    if len(keys) > MAX_ENTRIES:
        raise Malformed(
            f"metadata has at most {MAX_ENTRIES} {what}s, got {len(keys)} or more: write fewer of them"
        )
    if len(set(keys)) < len(keys):
        raise Malformed(f"metadata has each {what} once, got one again: write it once")


def _text_bytes(text: Mapping[str, str]) -> bytes:
    _check_keys(list(text), "text key")
    return b"".join(counted(part.encode()) for pair in text.items() for part in pair)


def _parse_text(plain: bytes) -> dict[str, str]:
    cursor = Cursor(BytesIO(plain), len(plain))
    pairs: list[tuple[str, str]] = []
    while cursor.remaining and len(pairs) <= MAX_ENTRIES:
        key, value = cursor.counted("text key"), cursor.counted("text value")
        try:
            pairs.append((key.decode(), value.decode()))
        except UnicodeDecodeError:
            raise Malformed(
                "text metadata must be UTF-8, got bytes that are not: the stream is damaged"
            ) from None
    _check_keys([key for key, _ in pairs], "text key")
    return dict(pairs)


def _tiff_bytes(tags: tuple[TiffTag, ...]) -> bytes:
    _check_keys([tag.number for tag in tags], "TIFF tag")
    return b"".join(varint(tag.number) + varint(tag.kind) + counted(tag.data) for tag in tags)


def _parse_tiff(plain: bytes) -> tuple[TiffTag, ...]:
    cursor = Cursor(BytesIO(plain), len(plain))
    tags: list[TiffTag] = []
    while cursor.remaining and len(tags) <= MAX_ENTRIES:
        number, kind = cursor.varint("TIFF tag number"), cursor.varint("TIFF tag type")
        if number >= 2**16 or kind >= 2**16:
            raise Malformed(
                f"TIFF tags and types are below 65536, got {number} and {kind}: the stream is damaged"
            )
        tags.append(TiffTag(number, kind, cursor.counted("TIFF tag")))
    _check_keys([tag.number for tag in tags], "TIFF tag")
    return tuple(tags)
