"""Varints, the cursor and bounded inflation."""

import tracemalloc
import zlib
from io import BytesIO

import pytest

from ltchm_jax.container import wire


def cursor(data: bytes) -> wire.Cursor:
    return wire.Cursor(BytesIO(data), len(data))


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (2**32 - 1, b"\xff\xff\xff\xff\x0f"),
    ],
)
def test_varints_of_known_form(value, data):
    assert wire.varint(value) == data
    assert cursor(data + b"rest").varint("n") == value


@pytest.mark.parametrize("value", [0, 1, 2**7, 2**14 - 1, 2**14, 2**21, 2**28 - 1, 2**28, 2**32 - 1])
def test_varints_return(value):
    data = wire.varint(value)
    assert len(data) == max(1, -(-value.bit_length() // 7))
    assert cursor(data).varint("n") == value


@pytest.mark.parametrize("value", [-1, 2**32])
def test_numbers_outside_the_range_are_not_written(value):
    with pytest.raises(wire.Malformed, match=r"0 to 2\*\*32 - 1"):
        wire.varint(value)


@pytest.mark.parametrize(
    "data", [b"\x80\x00", b"\xff\x80\x00", b"\xff\xff\xff\xff\x10", b"\x80" * 5, b"\xff" * 9]
)
def test_longer_or_larger_varints_are_refused(data):
    with pytest.raises(wire.Malformed, match="shortest varint"):
        cursor(data).varint("n")


def test_a_cut_varint_is_truncated():
    with pytest.raises(wire.Truncated, match="width needs 1 bytes"):
        cursor(b"\x80").varint("width")


def test_the_cursor_keeps_the_checksum_of_what_it_read():
    data = bytes(range(50))
    c = cursor(data)
    c.take(3, "a"), c.u32("b"), c.counted("c")
    assert c.crc == zlib.crc32(data[: c.position])
    assert (c.position, c.remaining) == (15, 35)


def test_a_promised_length_is_not_allocated():
    tracemalloc.start()
    with pytest.raises(wire.Truncated):
        cursor(wire.varint(2**32 - 1) + b"x").counted("name")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**5


def test_a_file_that_shrinks_is_noticed():
    with pytest.raises(wire.Truncated, match="changed while being read"):
        wire.Cursor(BytesIO(b"abc"), 10).take(5, "block")


def test_inflation_stops_at_the_size():
    bomb = zlib.compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(wire.Malformed, match="inflate to 100 bytes"):
        wire.inflate(bomb, 100, "alpha")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


@pytest.mark.parametrize(
    "data",
    [
        zlib.compress(b"abcd"),
        zlib.compress(b"ab"),
        zlib.compress(b"abc")[:-1],
        zlib.compress(b"abc") + b"x",
        b"no",
        b"",
    ],
)
def test_other_than_one_whole_zlib_stream_is_refused(data):
    with pytest.raises(wire.Malformed):
        wire.inflate(data, 3, "alpha")


def test_inflation_undoes_zlib():
    assert wire.inflate(zlib.compress(b"abc"), 3, "alpha") == b"abc"
    assert wire.inflate(zlib.compress(b""), 0, "alpha") == b""
