"""The guard lists of a stream: which values the encoder settled, so that the decoder need not.

A value of the entropy model that lies within a hair of a rounding boundary could be rounded either way on
another machine. The encoder lists its position and the side it took. Without any there is no chunk.
"""

from collections.abc import Sequence
from io import BytesIO

from ltchm_jax.container.wire import Cursor, Malformed, counted, varint

MAX_POSITION = 2**31  # the step to a position and its side share one varint
MAX_GUARDS = 2**16  # of one block: a list this long means that something else is wrong

Guards = tuple[tuple[int, int], ...]  # (flat position, side 0 or 1), positions rising


def to_bytes(lists: Sequence[Guards]) -> bytes:
    """The body of the guard chunk for the guard lists of all blocks; empty when all lists are.

    Raises:
      Malformed: positions don't rise or are too large, a side is not 0 or 1, or a list is too long.
    """
    body, expected = b"", 0
    for number, guards in enumerate(lists):
        if guards:
            body += varint(number - expected) + counted(_list_bytes(guards))
            expected = number + 1
    return body


def split(body: bytes, count: int) -> dict[int, bytes]:
    """Block number to the bytes of its list, for a picture of `count` blocks.

    Raises:
      BitstreamError: the body breaks a rule of the format.
    """
    cursor, number, lists = Cursor(BytesIO(body), len(body)), -1, {}
    while cursor.remaining:
        number += 1 + cursor.varint("block number of a guard list")
        if number >= count:
            raise Malformed(
                f"guard lists are for blocks 0 to {count - 1}, got {number}: the stream is damaged"
            )
        lists[number] = cursor.counted("guard list")
        if not lists[number]:
            raise Malformed(
                f"a guard list has a guard, that of block {number} is empty: the stream is damaged"
            )
    return lists


def parse(data: bytes) -> Guards:
    """One block's list.

    Raises:
      BitstreamError: it breaks a rule of the format.
    """
    cursor, position, guards = Cursor(BytesIO(data), len(data)), -1, []
    while cursor.remaining:
        step = cursor.varint("guard")
        position += 1 + (step >> 1)
        guards.append((position, step & 1))
        if position >= MAX_POSITION or len(guards) > MAX_GUARDS:
            raise Malformed(
                f"a block has at most {MAX_GUARDS} guards, below {MAX_POSITION}: the stream is damaged"
            )
    return tuple(guards)


def _list_bytes(guards: Guards) -> bytes:
    out, expected = bytearray(), 0
    for position, side in guards:
        if not expected <= position < MAX_POSITION or side not in (0, 1):
            raise Malformed(
                f"guards have rising positions below {MAX_POSITION} and sides 0 or 1, got {position, side}"
            )
        out += varint((position - expected) << 1 | side)
        expected = position + 1
    if len(guards) > MAX_GUARDS:
        raise Malformed(
            f"a block has at most {MAX_GUARDS} guards, got {len(guards)}: the entropy model is unstable"
        )
    return bytes(out)
