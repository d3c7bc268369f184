"""The opacity plane: lossless, and bounded by the picture."""

import zlib

import pytest

from ltchm_jax.container import alpha
from ltchm_jax.container.header import Header, Layout
from ltchm_jax.container.wire import Malformed, Truncated

RGBA = Header(bytes(8), 6, 5, Layout.RGBA, 3)
RGB = Header(bytes(8), 6, 5, Layout.RGB, 3)
PLANE = bytes(range(30))


def test_the_plane_returns():
    stored = alpha.deflate(RGBA, PLANE)
    assert alpha.inflate_plane(RGBA, stored) == PLANE
    assert alpha.parse_entry(alpha.entry(stored)) == (len(stored), zlib.crc32(stored))


def test_a_plane_may_come_in_parts():
    assert alpha.deflate(RGBA, iter([PLANE[:7], b"", PLANE[7:]])) == alpha.deflate(RGBA, PLANE)
    with pytest.raises(Malformed, match="alpha of 30 bytes, got 29"):
        alpha.deflate(RGBA, [PLANE[:7], PLANE[8:]])


def test_no_plane_costs_nothing():
    assert alpha.deflate(RGB, None) == b"" == alpha.entry(b"")


@pytest.mark.parametrize(
    ("header", "plane"), [(RGB, PLANE), (RGBA, None), (RGBA, PLANE[:-1]), (RGBA, b""), (RGB, b"")]
)
def test_layout_and_plane_must_fit(header, plane):
    with pytest.raises(Malformed, match=f"layout {header.layout.label} needs alpha of (30|no) bytes"):
        alpha.deflate(header, plane)


def test_a_plane_of_another_size_is_refused():
    with pytest.raises(Malformed, match="inflate to 30 bytes"):
        alpha.inflate_plane(RGBA, zlib.compress(PLANE + b"x"))


def test_a_damaged_entry_is_refused():
    entry = alpha.entry(alpha.deflate(RGBA, PLANE))
    for short in (entry[:-1], b""):
        with pytest.raises(Truncated):
            alpha.parse_entry(short)
    with pytest.raises(Malformed, match="1 bytes more"):
        alpha.parse_entry(entry + b"x")
