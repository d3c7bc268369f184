"""Metadata: it returns, and a small stream can't make a reader hold a large one."""

import zlib

import pytest

from ltchm_jax.container.metadata import EXIF, ICC, MAX_BYTES, MAX_ENTRIES, TEXT, TIFF, Metadata, TiffTag
from ltchm_jax.container.wire import BitstreamError, Cursor, Malformed, Truncated, counted, varint

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


def many(count: int) -> tuple[Metadata, ...]:
    """So many entries of text alone, and of TIFF alone."""
    tags = tuple(TiffTag(number, 1, b"") for number in range(count))
    return Metadata({str(number): "" for number in range(count)}), Metadata(tiff=tags)


@pytest.mark.parametrize("metadata", many(MAX_ENTRIES))
def test_as_many_entries_as_are_allowed_return(metadata):
    assert Metadata.from_chunks(dict(metadata.to_chunks())) == metadata


@pytest.mark.parametrize("metadata", many(MAX_ENTRIES + 1))
def test_more_entries_are_not_written(metadata):
    with pytest.raises(Malformed, match=r"at most 4096 (text key|TIFF tag)s, got 4097"):
        metadata.to_chunks()


def test_a_tag_that_is_there_twice_is_not_written():
    with pytest.raises(Malformed, match="each TIFF tag once"):
        Metadata(tiff=(TiffTag(1, 1, b"a"), TiffTag(1, 1, b"b"))).to_chunks()


DISTINCT = b"".join(counted(number.to_bytes(3, "little").hex().encode()) + b"\0" for number in range(5000))


@pytest.mark.parametrize("chunk", [{TIFF: stored(bytes(MAX_BYTES))}, {TEXT: stored(bytes(MAX_BYTES))},
                                   {TEXT: stored(DISTINCT)}])  # fmt: skip
def test_many_entries_in_few_bytes_are_refused_before_they_are_held(chunk, monkeypatch):
    taken = []
    take = Cursor.take
    monkeypatch.setattr(Cursor, "take", lambda *given: taken.append(given[1]) or take(*given))
    with pytest.raises(Malformed, match=r"at most 4096 (text key|TIFF tag)s"):
        Metadata.from_chunks(chunk)
    assert len(taken) < 6 * MAX_ENTRIES


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ({ICC: b""}, Truncated),
        ({ICC: varint(4) + zlib.compress(b"12345")}, Malformed),
        ({ICC: varint(5) + zlib.compress(b"12345")[:-2]}, Malformed),
        ({TEXT: stored(counted(b"key"))}, Truncated),
        ({TEXT: stored(counted(b"\xff") + counted(b"x"))}, Malformed),
        ({TEXT: stored(2 * (counted(b"key") + counted(b"value")))}, Malformed),
        ({TIFF: stored(2 * (varint(1) + varint(1) + counted(b"x")))}, Malformed),
        ({TIFF: stored(varint(65536) + varint(1) + counted(b""))}, Malformed),
        ({TIFF: stored(varint(1) + varint(65536) + counted(b""))}, Malformed),
        ({TIFF: stored(varint(1) + varint(1) + varint(9) + b"short")}, Truncated),
    ],
)
def test_damage_is_named(chunks, error):
    assert issubclass(error, BitstreamError)
    with pytest.raises(error):
        Metadata.from_chunks(chunks)
