"""The fixed fields: they return, and each rule has a name."""

import dataclasses
from io import BytesIO

import pytest

from ltchm_jax.container.header import Header, Layout, SampleType, signature
from ltchm_jax.container.wire import (
    Cursor,
    Malformed,
    ModelMismatch,
    NotAStream,
    Truncated,
    UnsupportedSamples,
    UnsupportedVersion,
)

DIGEST = bytes(range(8))
HEADERS = [
    Header(DIGEST, 1, 1, Layout.GREY, 1),
    Header(DIGEST, 256, 255, Layout.RGB, 3, quality=65535),
    Header(DIGEST, 20000, 7, Layout.RGBA, 3, block_size=512, overlap=32),
    Header(DIGEST, 2**32 - 1, 2**32 - 1, Layout.BANDS, 65535, 300, 4096, 1024),
    Header(DIGEST, 5, 4, Layout.GREY_ALPHA, 1, block_size=16),
]


def parse(data: bytes) -> Header:
    return Header.from_cursor(Cursor(BytesIO(data), len(data)))


@pytest.mark.parametrize("header", HEADERS)
def test_headers_return(header):
    assert parse(header.to_bytes()) == header
    assert 19 <= len(header.to_bytes()) <= 35


def test_the_fields_are_where_the_page_says():
    header = Header(DIGEST, 300, 200, Layout.BANDS, 12, quality=512, block_size=128, overlap=16)
    expected = "cc4c54320d0a 0001020304050607 ac02 c801 04 0c 8004 8001 10"
    assert header.to_bytes().hex() == expected.replace(" ", "")


@pytest.mark.parametrize("header", HEADERS)
def test_every_cut_is_truncated_or_not_a_stream(header):
    data = header.to_bytes()
    for size in range(len(data)):
        with pytest.raises(NotAStream if size == 0 else Truncated):
            parse(data[:size])


def test_samples_count_alpha():
    assert [h.samples_per_pixel for h in HEADERS] == [1, 3, 4, 65535, 2]


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(30), b"\xccLS2\r\n" + bytes(30), b"LT2\r\n"]
)
def test_other_files_are_not_streams(data):
    with pytest.raises(NotAStream, match="not an LTCHM stream: one starts with cc 4c 54 32 0d 0a"):
        parse(data)


@pytest.mark.parametrize("change", [(b"\r\n", b"\n"), (b"\n", b"\r\n"), (b"\r\n", b"\n\n")])
def test_changed_line_endings_are_named(change):
    data = HEADERS[1].to_bytes().replace(*change, 1)
    with pytest.raises(NotAStream, match="binary mode"):
        parse(data)


def test_a_stripped_top_bit_is_not_a_stream():
    with pytest.raises(NotAStream):
        parse(bytes(b & 127 for b in HEADERS[1].to_bytes()))


def test_other_versions_are_refused_by_number():
    data = HEADERS[1].to_bytes().replace(b"LT2", b"LT3")
    with pytest.raises(UnsupportedVersion, match="versions 1 and 2, got b'3'"):
        parse(data)


def test_the_first_version_is_read_and_written_as_such():
    old = dataclasses.replace(HEADERS[1], version=1)
    assert old.to_bytes() == HEADERS[1].to_bytes().replace(b"LT2", b"LT1")
    assert parse(old.to_bytes()) == old


@pytest.mark.parametrize("samples", [SampleType.UINT16, SampleType.INT16])
def test_reserved_samples_are_refused_by_name(samples):
    data = Header(DIGEST, 9, 9, Layout.RGB, 3, samples=samples).to_bytes()
    with pytest.raises(UnsupportedSamples, match=samples.name.lower()):
        parse(data)


@pytest.mark.parametrize("form", [5, 7, 3 << 3, 0x82, 0xFF])
def test_unknown_forms_are_refused(form):
    data = signature() + DIGEST + b"\x09\x09" + bytes([form]) + b"\0\0"
    with pytest.raises(Malformed, match="sample form"):
        parse(data)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"digest": b"short"}, "digest has 8 bytes"),
        ({"width": 0}, "at least one pixel"),
        ({"height": 2**32, "block_size": 512}, "below 2"),
        ({"quality": 65536}, "quality must be"),
        ({"quality": -1}, "quality must be"),
        ({"bands": 4}, "use layout bands"),
        ({"layout": Layout.BANDS, "bands": 0}, "can't have 0"),
        ({"layout": Layout.BANDS, "bands": 65536}, "can't have 65536"),
        ({"block_size": 8}, "block size must be"),
        ({"block_size": 64, "overlap": 17}, "overlap must be"),
        ({"width": 4097}, "give a block size"),
    ],
)
def test_each_rule_has_its_line(fields, rule):
    base = {"digest": DIGEST, "width": 9, "height": 9, "layout": Layout.RGB, "bands": 3}
    with pytest.raises(Malformed, match=rule) as caught:
        Header(**(base | fields))
    assert "\n" not in str(caught.value)


def test_another_model_is_refused_with_both_names():
    HEADERS[0].check_model(DIGEST)
    with pytest.raises(ModelMismatch, match="0001020304050607, got 0909090909090909"):
        HEADERS[0].check_model(bytes([9] * 8))
