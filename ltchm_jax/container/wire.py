"""Numbers in byte strings, read with suspicion.

Streams are hostile input: the cursor cannot run past the end, a varint cannot grow, inflation is bounded
before it starts, and what is wrong ends in a `BitstreamError` whose class names it. Standard library only.
"""

import struct
import zlib
from typing import BinaryIO

U32 = struct.Struct("<I")
LIMIT = 2**32  # every number in a stream is below this


class BitstreamError(ValueError):
    """A stream that can't be decoded, or can't be written. The message is one line."""


class NotAStream(BitstreamError):
    """The bytes are something else, or were changed in transfer before the first field."""


class UnsupportedVersion(BitstreamError):
    """The stream's format version is not one that this code reads."""


class UnsupportedSamples(BitstreamError):
    """The stream holds samples of a type that is reserved by name but not coded yet."""


class Truncated(BitstreamError):
    """The bytes end before the stream does."""


class TrailingData(BitstreamError):
    """There are bytes after the end of the stream."""


class ChecksumMismatch(BitstreamError):
    """The bytes are not the ones that were written."""


class Malformed(BitstreamError):
    """A field breaks a rule of the format."""


class TooLarge(BitstreamError):
    """The picture is over the limit that the caller set."""


class UnknownChunk(BitstreamError):
    """The stream needs something that this code does not know."""


class ModelMismatch(BitstreamError):
    """The stream was written with another model than the one that would decode it."""


class LatentsMismatch(BitstreamError):
    """The latents came out differently here than at the encoder: the pixels would be wrong."""


def varint(value: int) -> bytes:
    """Little-endian base 128 in the shortest form, for `0 <= value < 2**32`.

    Raises:
      Malformed: the value is outside that range.
    """
    if not 0 <= value < LIMIT:
        raise Malformed(f"numbers in a stream are 0 to 2**32 - 1, got {value}: split the picture into blocks")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def counted(data: bytes) -> bytes:
    """`data` behind its length."""
    return varint(len(data)) + data


class Cursor:
    """Reads a file of known size forwards, and keeps the CRC-32 of what it has read."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.position = 0
        self.crc = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return self.size - self.position

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes. Nothing is allocated unless they are there.

        Raises:
          Truncated: fewer are left.
        """
        if count > self.remaining:
            raise Truncated(
                f"{what} needs {count} bytes, only {self.remaining} are left: fetch the file again"
            )
        data = self._file.read(count)
        if len(data) != count:
            raise Truncated(
                f"{what} needs {count} bytes, the file gave {len(data)}: it changed while being read"
            )
        self.position += count
        self.crc = zlib.crc32(data, self.crc)
        return data

    def varint(self, what: str) -> int:
        """The next varint; only the shortest form of a number below 2**32 is accepted.

        Raises:
          Malformed: five bytes do not end it, it is too large, or a shorter form exists.
        """
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1, what)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        if byte >= 0x80 or value >= LIMIT or (byte == 0 and shift):
            raise Malformed(
                f"{what} must be the shortest varint below 2**32, got a longer one: the stream is damaged"
            )
        return value

    def u32(self, what: str) -> int:
        """The next four bytes, little-endian."""
        return int(U32.unpack(self.take(4, what))[0])

    def counted(self, what: str) -> bytes:
        """A varint length, then that many bytes."""
        return self.take(self.varint(f"length of {what}"), what)


def inflate(data: bytes, size: int, what: str) -> bytes:
    """Undoes zlib where the result must have exactly `size` bytes; never makes more than `size + 1`.

    Raises:
      Malformed: `data` is not one whole zlib stream of that size.
    """
    decoder = zlib.decompressobj()
    try:
        plain = decoder.decompress(data, size + 1)
    except zlib.error as error:
        raise Malformed(f"{what} must be a zlib stream, got bytes that are not ({error})") from None
    if len(plain) != size or not decoder.eof or decoder.unused_data:
        raise Malformed(f"{what} must inflate to {size} bytes and end there: the stream is damaged")
    return plain


def check_crc(found: int, stored: int, what: str) -> None:
    """Compares two CRC-32 values.

    Raises:
      ChecksumMismatch: they differ.
    """
    if found != stored:
        raise ChecksumMismatch(
            f"{what} has CRC-32 {found:08x}, the stream says {stored:08x}: fetch the file again"
        )
