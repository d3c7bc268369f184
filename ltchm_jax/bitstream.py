"""The container: header, optional chunks, block index, checksums, block payloads (`docs/bitstream.md`).

    signature | model digest | picture fields | chunks, 0 | block index | CRC-32 | payload 0, 1, ... | alpha

Everything before the payloads is the head. It is read and checked when a stream is opened; a payload is read
when its block is asked for, so one block of a large file costs one seek. A 256 x 256 picture of one block
pays 36 bytes for all this (one more from 16 KiB of payload on, up to two more with a quality of its own).

Standard library only: `ltchm info` starts without numpy or JAX.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import accumulate
from typing import BinaryIO

from ltchm_jax.container import alpha as alpha_plane
from ltchm_jax.container import guards as guard_lists
from ltchm_jax.container.grid import Grid
from ltchm_jax.container.guards import Guards
from ltchm_jax.container.header import Header, Layout, SampleType
from ltchm_jax.container.metadata import Metadata, TiffTag
from ltchm_jax.container.wire import (
    U32,
    BitstreamError,
    ChecksumMismatch,
    Cursor,
    LatentsMismatch,
    Malformed,
    ModelMismatch,
    NotAStream,
    TooLarge,
    TrailingData,
    Truncated,
    UnknownChunk,
    UnsupportedSamples,
    UnsupportedVersion,
    check_crc,
    counted,
    varint,
)

__all__ = [
    "MAX_PIXELS",
    "BitstreamError",
    "Block",
    "ChecksumMismatch",
    "Container",
    "Grid",
    "Header",
    "LatentsMismatch",
    "Layout",
    "Malformed",
    "Metadata",
    "ModelMismatch",
    "NotAStream",
    "SampleType",
    "TiffTag",
    "TooLarge",
    "TrailingData",
    "Truncated",
    "UnknownChunk",
    "UnsupportedSamples",
    "UnsupportedVersion",
    "pack",
    "read",
    "write",
]

MAX_PIXELS = 2 * 16384 * 16384
GUARDS, ALPHA = b"G", b"A"  # chunk types in upper case: a reader that doesn't know one must refuse the stream
REQUIRED = (GUARDS, ALPHA)
# CRC-32 of the payload, CRC-32 of the latents; a varint length precedes them.
INDEX_ENTRY = struct.Struct("<II")


@dataclass(frozen=True)
class Block:
    """One block, entropy coded.

    Attributes:
      payload: what the range coder wrote.
      latents_crc: CRC-32 of the block's decoded integers.
      guards: `(flat position, side)` of the values that lay too close to a rounding boundary to be left to
        the decoder's arithmetic; positions rise, sides are 0 or 1. Few or none.
    """

    payload: bytes
    latents_crc: int
    guards: Guards = ()

    def check_latents(self, latents_crc: int) -> None:
        """Refuses a block that decoded to other integers than were encoded.

        Raises:
          LatentsMismatch: the checksums differ.
        """
        if latents_crc != self.latents_crc:
            raise LatentsMismatch(
                f"the block's latents have CRC-32 {latents_crc:08x}, the stream says {self.latents_crc:08x}: "
                "this device computes the entropy model differently, decode on another one"
            )


def pack(
    header: Header,
    blocks: Sequence[Block],
    *,
    metadata: Metadata | None = None,
    alpha: bytes | Iterable[bytes] | None = None,
) -> bytes:
    """The stream as bytes; arguments and errors as for `write`."""
    file = BytesIO()
    write(file, header, blocks, metadata=metadata, alpha=alpha)
    return file.getvalue()


def write(
    file: BinaryIO,
    header: Header,
    blocks: Sequence[Block],
    *,
    metadata: Metadata | None = None,
    alpha: bytes | Iterable[bytes] | None = None,
) -> int:
    """Writes a stream front to back, without seeking, and returns the number of bytes.

    Args:
      file: open for writing bytes.
      header: the picture and its model.
      blocks: one for each block of `header.grid`, in its order.
      metadata: what else travels with the picture.
      alpha: the opacity plane, `height * width` bytes row by row (or parts of it), where the layout has one.

    Raises:
      Malformed: the arguments don't fit each other or the format.
    """
    if len(blocks) != header.grid.count:
        raise Malformed(f"a picture of {header.grid.count} blocks needs as many, got {len(blocks)}")
    plane = alpha_plane.deflate(header, alpha)
    chunks = [
        (GUARDS, guard_lists.to_bytes([block.guards for block in blocks])),
        (ALPHA, alpha_plane.entry(plane)),
    ]
    chunks += metadata.to_chunks() if metadata else []
    head = header.to_bytes() + b"".join(kind + counted(body) for kind, body in chunks if body) + b"\0"
    head += b"".join(map(_index_entry, blocks))
    parts = [head, U32.pack(zlib.crc32(head)), *(block.payload for block in blocks), plane]
    file.writelines(parts)
    return sum(map(len, parts))


def read(source: bytes | BinaryIO, *, max_pixels: int | None = MAX_PIXELS) -> "Container":
    """Opens a stream: reads and checks the head, leaves the payloads where they are.

    Args:
      source: the stream, or a file that holds it from its current position to its end. A file that can't seek
        is read whole. The file must stay open while the container is in use.
      max_pixels: refuse larger pictures. More than four samples a pixel count in proportion. None, where no
        pixels will be decoded: what the head takes depends on its bytes alone.

    Raises:
      BitstreamError: of the kind that fits what is wrong.
    """
    file = BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
    if not file.seekable():
        file = BytesIO(file.read())
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    return Container(file, start, Cursor(file, size), max_pixels)


class Container:
    """An open stream, from `read`. Blocks are read on demand; two threads must not share one container.

    Attributes:
      header: the picture and its model.
      size: bytes of the whole stream.
      head_size: bytes before the first payload.
      payload_size: bytes of all block payloads together.
    """

    def __init__(self, file: BinaryIO, start: int, cursor: Cursor, max_pixels: int | None) -> None:
        """Parses the head; `start` is where the stream begins in the file, `cursor` stands there."""
        self.header = Header.from_cursor(cursor)
        if max_pixels is not None:
            _check_size(self.header, max_pixels)
        chunks = _read_chunks(cursor)
        self._index = _read_index(cursor, self.grid.count)
        found = cursor.crc
        check_crc(found, cursor.u32("checksum of the head"), "the head")
        _check_chunks(self.header, chunks)
        self._file, self._chunks = file, chunks
        self._guards = guard_lists.split(chunks.get(GUARDS, b""), self.grid.count)
        self._alpha = alpha_plane.parse_entry(chunks[ALPHA]) if ALPHA in chunks else (0, 0)
        self.size, self.head_size = cursor.size, cursor.position
        self._offsets = list(accumulate((entry[0] for entry in self._index), initial=start + self.head_size))
        self.payload_size = self._offsets[-1] - self._offsets[0]
        _check_end(cursor.remaining, self.payload_size + self._alpha[0])

    @property
    def grid(self) -> Grid:
        """Where the blocks lie."""
        return self.header.grid

    @cached_property
    def metadata(self) -> Metadata:
        """What else travels with the picture.

        Raises:
          BitstreamError: it breaks a rule of the format.
        """
        return Metadata.from_chunks(self._chunks)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Block]:
        return map(self.block, range(len(self)))

    def block(self, number: int) -> Block:
        """Reads one block.

        Raises:
          IndexError: there is no such block.
          ChecksumMismatch: its payload is not what was written.
          BitstreamError: its guards break a rule of the format.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"blocks are numbered 0 to {len(self) - 1}, got {number}")
        length, payload_crc, latents_crc = self._index[number]
        payload = self._read_at(self._offsets[number], length, payload_crc, f"block {number}")
        return Block(payload, latents_crc, guard_lists.parse(self._guards.get(number, b"")))

    def alpha(self) -> bytes | None:
        """The opacity plane, `height * width` bytes row by row, or None where the layout has none.

        Raises:
          ChecksumMismatch: it is not what was written.
          Malformed: it does not inflate to the picture's size.
        """
        if not self.header.layout.has_alpha:
            return None
        plane = self._read_at(self._offsets[-1], *self._alpha, "the alpha plane")
        return alpha_plane.inflate_plane(self.header, plane)

    def _read_at(self, offset: int, length: int, crc: int, what: str) -> bytes:
        self._file.seek(offset)
        data = Cursor(self._file, length).take(length, what)
        check_crc(zlib.crc32(data), crc, what)
        return data


def _index_entry(block: Block) -> bytes:
    return varint(len(block.payload)) + INDEX_ENTRY.pack(zlib.crc32(block.payload), block.latents_crc)


def _read_index(cursor: Cursor, count: int) -> list[tuple[int, int, int]]:
    """Payload length, payload CRC-32 and latents CRC-32 of each block."""
    need = count * (1 + INDEX_ENTRY.size)
    if need > cursor.remaining:
        raise Truncated(f"an index of {count} blocks needs {need} bytes, only {cursor.remaining} are left")
    return [
        (cursor.varint("payload length"), *INDEX_ENTRY.unpack(cursor.take(INDEX_ENTRY.size, "index entry")))
        for _ in range(count)
    ]


def _check_size(header: Header, max_pixels: int) -> None:
    cost = header.width * header.height * max(header.samples_per_pixel, 4)
    if cost > 4 * max_pixels:
        shape = f"{header.width} x {header.height} pixels of {header.samples_per_pixel} samples"
        raise TooLarge(
            f"pictures of up to {max_pixels} pixels are decoded, got {shape}: raise max_pixels (--max-pixels)"
        )


def _read_chunks(cursor: Cursor) -> dict[bytes, bytes]:
    chunks: dict[bytes, bytes] = {}
    while (kind := cursor.take(1, "chunk type")) != b"\0":
        if not kind.isalpha() or kind in chunks:
            raise Malformed(
                f"chunk types are letters, each once, got {kind!r} (again): the stream is damaged"
            )
        chunks[kind] = cursor.counted(f"chunk {kind.decode()}")
    return chunks


def _check_chunks(header: Header, chunks: Mapping[bytes, bytes]) -> None:
    for kind in chunks:
        if kind.isupper() and kind not in REQUIRED:
            raise UnknownChunk(f"the stream needs chunk type {kind.decode()}, unknown here: update ltchm-jax")
    if header.layout.has_alpha != (ALPHA in chunks):
        raise Malformed(
            f"layout {header.layout.label} and alpha chunk must go together: the stream is damaged"
        )
    if chunks.get(GUARDS) == b"":
        raise Malformed("a chunk of guards lists some, this one is empty: the stream is damaged")


def _check_end(found: int, expected: int) -> None:
    """Lengths in the head and bytes in the file must agree to the byte."""
    if found < expected:
        raise Truncated(f"the payloads need {expected} bytes, only {found} are left: fetch the file again")
    if found > expected:
        raise TrailingData(
            f"a stream ends after its payloads, got {found - expected} bytes more: cut them off"
        )
