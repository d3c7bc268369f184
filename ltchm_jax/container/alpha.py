"""The opacity plane of a picture: stored losslessly behind the blocks, described in the head."""

import zlib
from collections.abc import Iterable
from io import BytesIO

from ltchm_jax.container.header import Header
from ltchm_jax.container.wire import U32, Cursor, Malformed, inflate, varint


def deflate(header: Header, plane: bytes | Iterable[bytes] | None) -> bytes:
    """The plane, whole or in parts, as a zlib stream; empty where the layout has none.

    Raises:
      Malformed: the layout and the plane don't fit each other.
    """
    has_alpha = header.layout.has_alpha
    expected = header.width * header.height if has_alpha else 0
    found, stored, deflater = 0, b"", zlib.compressobj(9)
    for part in [plane] if isinstance(plane, bytes | bytearray | memoryview) else plane or ():
        found += len(part)
        stored += deflater.compress(part)
    if found != expected or has_alpha == (plane is None):
        raise Malformed(
            f"layout {header.layout.label} needs alpha of {expected or 'no'} bytes, got {found or 'none'}"
        )
    return stored + deflater.flush() if found else b""


def entry(stored: bytes) -> bytes:
    """The chunk that says where the stored plane ends and how to check it; empty without one."""
    return varint(len(stored)) + U32.pack(zlib.crc32(stored)) if stored else b""


def parse_entry(body: bytes) -> tuple[int, int]:
    """Length and CRC-32 of the stored plane.

    Raises:
      BitstreamError: the chunk breaks a rule of the format.
    """
    cursor = Cursor(BytesIO(body), len(body))
    fields = cursor.varint("length of the alpha plane"), cursor.u32("checksum of the alpha plane")
    if cursor.remaining:
        raise Malformed(
            f"chunk A has a varint and a CRC-32, got {cursor.remaining} bytes more: it is damaged"
        )
    return fields


def inflate_plane(header: Header, stored: bytes) -> bytes:
    """`height * width` bytes, row by row.

    Raises:
      Malformed: the stored plane does not inflate to that size.
    """
    return inflate(stored, header.width * header.height, "the alpha plane")
