"""Metadata: it returns, and a small stream can't make a reader hold a large one."""

import zlib

import pytest

from ltchm_jax.container.metadata import EXIF, ICC, MAX_BYTES, TEXT, TIFF, Metadata, TiffTag
from ltchm_jax.container.wire import BitstreamError, Malformed, Truncated, counted, varint

FULL = Metadata(
    text={"site": "Wadi Rum", "Größe": "50 cm", "": ""},
    icc=bytes(range(256)),
    exif=b"Exif\0\0MM\0*",
    tiff=(TiffTag(33550, 12, bytes(24)), TiffTag(42113, 2, b"0\0"), TiffTag(65535, 7, b"")),
)


def stored(plain: bytes) -> bytes:
    return varint(len(plain)) + zlib.compress(plain)


def test_metadata_return():
    assert Metadata.from_chunks(dict(FULL.to_chunks())) == FULL


def test_nothing_costs_nothing():
    assert Metadata().to_chunks() == []
    assert not Metadata()
    assert Metadata.from_chunks({}) == Metadata()


@pytest.mark.parametrize(
    "kind", [{"text": {"a": "b"}}, {"icc": b"x"}, {"exif": b"x"}, {"tiff": (TiffTag(1, 1, b""),)}]
)
def test_each_kind_stands_alone(kind):
    metadata = Metadata(**kind)
    assert metadata
    assert len(metadata.to_chunks()) == 1
    assert Metadata.from_chunks(dict(metadata.to_chunks())) == metadata


def test_kinds_over_the_limit_are_not_written():
    with pytest.raises(Malformed, match="leave some out"):
        Metadata(exif=bytes(MAX_BYTES + 1)).to_chunks()


@pytest.mark.parametrize("kind", [TEXT, ICC, EXIF, TIFF])
def test_promises_over_the_limit_are_refused(kind):
    with pytest.raises(Malformed, match="at most 16777216 bytes"):
        Metadata.from_chunks({kind: varint(MAX_BYTES + 1) + zlib.compress(b"")})


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ({ICC: b""}, Truncated),
        ({ICC: varint(4) + zlib.compress(b"12345")}, Malformed),
        ({ICC: varint(5) + zlib.compress(b"12345")[:-2]}, Malformed),
        ({TEXT: stored(counted(b"key"))}, Truncated),
        ({TEXT: stored(counted(b"\xff") + counted(b"x"))}, Malformed),
        ({TIFF: stored(varint(65536) + varint(1) + counted(b""))}, Malformed),
        ({TIFF: stored(varint(1) + varint(65536) + counted(b""))}, Malformed),
        ({TIFF: stored(varint(1) + varint(1) + varint(9) + b"short")}, Truncated),
    ],
)
def test_damage_is_named(chunks, error):
    assert issubclass(error, BitstreamError)
    with pytest.raises(error):
        Metadata.from_chunks(chunks)
