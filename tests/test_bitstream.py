"""The container: content returns, a second reader agrees, and hostile bytes end in a named error."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import page_reader
import pytest
from fuzz import sealed
from hypothesis import given, settings
from hypothesis import strategies as st

from ltchm_jax import bitstream as bs
from ltchm_jax.container.wire import varint

DIGEST = b"\x01model\xfe\xff"
PLAIN = bs.Header(DIGEST, 256, 256, bs.Layout.RGB, 3)
CUT = bs.Header(DIGEST, 100, 70, bs.Layout.RGBA, 3, quality=640, block_size=32, overlap=8)
METADATA = bs.Metadata(
    {"site": "Nördlingen"}, b"icc" * 9, b"Exif\0\0II*\0", (bs.TiffTag(33550, 12, bytes(24)),)
)


def blocks_of(header: bs.Header) -> list[bs.Block]:
    guards = {1: ((3, 1), (90, 0)), 7: ((0, 0),)}
    return [
        bs.Block(bytes([i]) * (i * 7 % 23), i * 2**20, guards.get(i, ())) for i in range(header.grid.count)
    ]


SMALL = bs.pack(PLAIN, [bs.Block(b"payload", 7)])
BIG = bs.pack(CUT, blocks_of(CUT), metadata=METADATA, alpha=bytes(range(100)) * 70)


def content(stream: bytes) -> tuple:
    """Everything a user can get out of a stream."""
    opened = bs.read(stream)
    return opened.header, tuple(opened), opened.metadata, opened.alpha()


def test_content_returns():
    assert content(BIG) == (CUT, tuple(blocks_of(CUT)), METADATA, bytes(range(100)) * 70)
    assert content(SMALL) == (PLAIN, (bs.Block(b"payload", 7),), bs.Metadata(), None)


def test_writing_is_deterministic():
    assert bs.pack(CUT, blocks_of(CUT), metadata=METADATA, alpha=bytes(range(100)) * 70) == BIG


@pytest.mark.parametrize("stream", [SMALL, BIG], ids=["small", "big"])
def test_the_reader_of_the_page_agrees(stream):
    ours, page = bs.read(stream), page_reader.read(stream)
    fields = ("digest", "width", "height", "layout", "bands", "quality", "block_size", "overlap")
    assert [getattr(page, f) for f in fields] == [getattr(ours.header, f) for f in fields]
    assert page.rects == [tuple(ours.grid.rect(i)) for i in range(len(ours))]
    assert page.blocks == [(b.payload, b.latents_crc, list(b.guards)) for b in ours]
    assert (page.metadata.text, page.metadata.icc) == (ours.metadata.text, ours.metadata.icc)
    assert (page.metadata.tiff, page.metadata.exif) == (list(ours.metadata.tiff), ours.metadata.exif)
    assert page.alpha == ours.alpha()


@pytest.mark.parametrize(("payload", "quality", "overhead"), [(200, 0, 36), (20000, 0, 37), (9000, 300, 37)])
def test_the_price_of_a_small_picture(payload, quality, overhead):
    stream = bs.pack(replace(PLAIN, quality=quality), [bs.Block(bytes(payload), 2**32 - 1)])
    assert len(stream) - payload == overhead
    assert bs.read(stream).payload_size == payload
    assert bs.read(stream).size == len(stream)


class Watched(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def test_one_block_is_read_without_the_others():
    header = bs.Header(DIGEST, 1000, 1000, bs.Layout.RGB, 3, block_size=128)
    blocks = [bs.Block(bytes([i]) * 5000, i) for i in range(header.grid.count)]
    file = Watched(b"before" + bs.pack(header, blocks))
    file.seek(6)
    opened = bs.read(file)
    assert file.count == opened.size - opened.payload_size
    assert opened.block(41) == blocks[41]
    assert file.count == opened.size - opened.payload_size + 5000


def test_a_damaged_block_leaves_the_others_readable():
    stream = BIG.replace(bytes([9]) * (63 % 23), bytes([8]) * (63 % 23))
    opened = bs.read(stream)
    assert opened.block(8) == blocks_of(CUT)[8]
    with pytest.raises(bs.ChecksumMismatch, match="block 9 has CRC-32"):
        opened.block(9)


def test_files_on_disk_and_pipes_are_read(tmp_path):
    (tmp_path / "a.ltchm").write_bytes(BIG)
    with open(tmp_path / "a.ltchm", "rb") as file:
        assert tuple(bs.read(file)) == tuple(blocks_of(CUT))

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise OSError("pipes don't seek")

    assert tuple(bs.read(Pipe(BIG))) == tuple(blocks_of(CUT))


def test_writing_needs_no_seeking():
    class Pipe(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    assert bs.write(pipe, PLAIN, [bs.Block(b"payload", 7)]) == len(SMALL)
    assert pipe.data == SMALL


@pytest.mark.parametrize("number", [-1, 1])
def test_blocks_that_are_not_there_are_refused(number):
    with pytest.raises(IndexError, match="0 to 0"):
        bs.read(SMALL).block(number)


@pytest.mark.parametrize("number", [0, 2])
def test_the_number_of_blocks_is_the_grids(number):
    with pytest.raises(bs.Malformed, match=f"1 blocks needs as many, got {number}"):
        bs.pack(PLAIN, [bs.Block(b"", 0)] * number)


def test_other_latents_are_refused():
    block = bs.read(SMALL).block(0)
    block.check_latents(7)
    with pytest.raises(bs.LatentsMismatch, match="00000008, the stream says 00000007"):
        block.check_latents(8)


@pytest.mark.parametrize("stream", [SMALL, BIG], ids=["small", "big"])
def test_every_cut_and_every_tail_is_refused(stream):
    for size in range(1, len(stream)):
        with pytest.raises(bs.Truncated):
            bs.read(stream[:size])
    with pytest.raises(bs.TrailingData, match="3 bytes more"):
        bs.read(stream + b"\r\n!")


@pytest.mark.parametrize("stream", [SMALL, BIG], ids=["small", "big"])
def test_every_flipped_bit_is_noticed(stream):
    for bit in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(bs.BitstreamError):
            content(bytes(damaged))


def test_unknown_chunks_are_skipped_or_refused_by_name():
    front, index = PLAIN.to_bytes(), varint(7) + struct.pack("<II", zlib.crc32(b"payload"), 7)
    assert content(sealed(front + b"z\x02ab\0" + index, b"payload")) == content(SMALL)
    with pytest.raises(bs.UnknownChunk, match="chunk type Z"):
        bs.read(sealed(front + b"Z\x02ab\0" + index, b"payload"))
    for chunks in (b"z\0z\0\0", b"9\0\0", b"\xe9\0\0"):
        with pytest.raises(bs.Malformed, match="chunk types are letters, each once"):
            bs.read(sealed(front + chunks + index, b"payload"))


def test_alpha_and_layout_go_together():
    index = varint(0) + struct.pack("<II", 0, 0)
    rgba = bs.Header(DIGEST, 4, 4, bs.Layout.RGBA, 3)
    with pytest.raises(bs.Malformed, match="alpha chunk must go together"):
        bs.read(sealed(rgba.to_bytes() + b"\0" + index))
    with pytest.raises(bs.Malformed, match="alpha chunk must go together"):
        bs.read(sealed(PLAIN.to_bytes() + b"A\x05\0\0\0\0\0\0" + index))


def test_a_chunk_of_no_guards_is_refused_by_both_readers():
    front, index = PLAIN.to_bytes(), varint(7) + struct.pack("<II", zlib.crc32(b"payload"), 7)
    for chunk in (b"G\0\0", b"G\2\0\0\0"):
        stream = sealed(front + chunk + index, b"payload")
        with pytest.raises(bs.Malformed, match="is empty"):
            bs.read(stream)
        with pytest.raises(page_reader.Refused, match="no guards"):
            page_reader.read(stream)


@pytest.mark.parametrize(
    ("side", "bands", "fits"), [(100, 4, True), (101, 4, False), (100, 5, False), (50, 16, True)]
)
def test_pictures_over_the_limit_are_refused(side, bands, fits):
    stream = bs.pack(bs.Header(DIGEST, side, side, bs.Layout.BANDS, bands), [bs.Block(b"", 0)])
    if fits:
        assert bs.read(stream, max_pixels=10000).header.width == side
    else:
        with pytest.raises(bs.TooLarge, match=r"raise max_pixels \(--max-pixels\)"):
            bs.read(stream, max_pixels=10000)
        assert bs.read(stream, max_pixels=None).header.width == side


def test_promises_cost_no_memory():
    many = bs.Header(DIGEST, 16384, 32768, bs.Layout.RGB, 3, block_size=16)
    hostile = [
        many.to_bytes() + b"\0" + bytes(1000),
        PLAIN.to_bytes() + b"x" + varint(2**32 - 1) + bytes(1000),
        sealed(PLAIN.to_bytes() + b"\0" + varint(2**32 - 1) + bytes(8)),
        sealed(
            bs.Header(DIGEST, 9, 9, bs.Layout.RGBA, 3).to_bytes()
            + b"A\x09\xff\xff\xff\xff\x0f\0\0\0\0\0"
            + bytes(9)
        ),
    ]
    tracemalloc.start()
    for stream in hostile:
        with pytest.raises(bs.Truncated):
            content(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


def test_messages_are_one_line():
    for stream in (
        b"",
        b"GIF89a",
        SMALL[:30],
        SMALL + b"x",
        SMALL.replace(b"LT2", b"LT9"),
        SMALL[:20] + SMALL,
    ):
        with pytest.raises(bs.BitstreamError) as caught:
            content(stream)
        assert str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_container_imports_neither_numpy_nor_jax():
    code = "import sys, ltchm_jax.bitstream; sys.exit(any(m in sys.modules for m in ('numpy', 'jax', 'PIL')))"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


GRIDS = st.sampled_from([(0, 0), (16, 0), (16, 4), (40, 7)])
LAYOUTS = st.sampled_from([(layout, layout.bands() or n) for n in (1, 13) for layout in bs.Layout])
GUARD_LISTS = st.dictionaries(st.integers(0, 2**31 - 1), st.integers(0, 1), max_size=5)


@st.composite
def contents(draw) -> tuple:
    (layout, bands), (size, overlap) = draw(LAYOUTS), draw(GRIDS)
    sides = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    header = bs.Header(DIGEST, *sides, layout, bands, draw(st.integers(0, 65535)), size, overlap)
    count, crc = header.grid.count, st.integers(0, 2**32 - 1)
    guards = st.one_of(st.just({}), GUARD_LISTS)
    one = st.builds(
        lambda p, c, g: bs.Block(p, c, tuple(sorted(g.items()))), st.binary(max_size=20), crc, guards
    )
    blocks = tuple(draw(st.lists(one, min_size=count, max_size=count)))
    tag = st.builds(bs.TiffTag, st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=9))
    text = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3)
    metadata = bs.Metadata(
        draw(text),
        draw(st.binary(max_size=5)),
        b"",
        tuple(draw(st.lists(tag, max_size=3, unique_by=lambda t: t.number))),
    )
    size = sides[0] * sides[1]
    alpha = (draw(st.binary(min_size=1, max_size=3)) * size)[:size] if layout.has_alpha else None
    return header, blocks, metadata, alpha


@settings(max_examples=60, deadline=None, derandomize=True)
@given(contents())
def test_any_content_returns(whole):
    header, blocks, metadata, alpha = whole
    stream = bs.pack(header, blocks, metadata=metadata, alpha=alpha)
    assert content(stream) == whole
    page = page_reader.read(stream)
    assert page.blocks == [(b.payload, b.latents_crc, list(b.guards)) for b in blocks]
    assert (page.metadata.text, page.alpha) == (metadata.text, alpha)


def outcome(stream: bytes) -> tuple | None:
    try:
        return content(stream)
    except bs.BitstreamError:
        return None


def page_outcome(stream: bytes) -> object:
    try:
        return page_reader.read(stream)
    except page_reader.Refused:
        return None


EDITS = st.lists(
    st.tuples(st.integers(0, len(BIG)), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=4
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from([SMALL, BIG]), EDITS, st.booleans())
def test_edited_streams_end_in_an_error_or_the_same_content(stream, edits, reseal):
    damaged, head = stream, bs.read(stream).head_size - 4
    for place, removed, added in edits:
        place %= head if reseal else len(stream)
        damaged = damaged[:place] + added + damaged[place + removed :]
    if reseal:  # past the checksum, the two readers must still accept and refuse the same streams
        head = min(head + len(damaged) - len(stream), len(damaged))
        damaged = sealed(damaged[:head], damaged[head + 4 :])
        assert (outcome(damaged) is None) == (page_outcome(damaged) is None)
    else:
        assert outcome(damaged) in (None, content(stream))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, len(BIG)), st.integers(0, len(SMALL)), st.booleans())
def test_spliced_streams_end_in_an_error_or_known_content(a, b, swap):
    first, second = (SMALL[:b], BIG[a:]) if swap else (BIG[:a], SMALL[b:])
    assert outcome(first + second) in (None, content(SMALL), content(BIG))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.sampled_from([0, 6, 14, len(PLAIN.to_bytes())]))
def test_random_bytes_end_in_an_error(tail, prefix):
    stream = PLAIN.to_bytes()[:prefix] + tail
    assert (outcome(stream) is None) == (page_outcome(stream) is None)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=60), st.sampled_from([14, 19, len(PLAIN.to_bytes())]))
def test_random_sealed_heads_are_judged_alike_by_both_readers(tail, prefix):
    stream = sealed(PLAIN.to_bytes()[:prefix] + tail)
    assert (outcome(stream) is None) == (page_outcome(stream) is None)
