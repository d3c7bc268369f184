"""The opacity plane of a picture: stored losslessly behind the blocks, described in the head."""

import zlib
from io import BytesIO

from ltchm_jax.container.header import Header
from ltchm_jax.container.wire import U32, Cursor, Malformed, inflate, varint


def deflate(header: Header, plane: bytes | None) -> bytes:
    """The plane as a zlib stream; empty where the layout has none.

    Raises:
      Malformed: the layout and the plane don't fit each other.
    """
    expected = header.width * header.height if header.layout.has_alpha else None
    found = None if plane is None else len(plane)
    if found != expected:
        raise Malformed(
            f"layout {header.layout.label} needs alpha of {expected or 'no'} bytes, got {found or 'none'}"
        )
    return b"" if plane is None else zlib.compress(plane, 9)


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
