"""TIFF directories in and files out, checked against Pillow."""

import io
import struct

import numpy as np
import pytest
from PIL import Image as pillow
from PIL import TiffImagePlugin

from ltchm_jax.container.metadata import TiffTag
from ltchm_jax.imagery import tiff

DOUBLES = TiffTag(33550, 12, struct.pack("<3d", 0.5, 0.25, 0.0))
KEYS = TiffTag(34735, 3, struct.pack("<4H", 1, 1, 0, 0))
NAME = TiffTag(34737, 2, b"WGS 84|\0")
RATIONAL = TiffTag(282, 5, struct.pack("<2L", 72, 1))
TAGS = (DOUBLES, KEYS, NAME, RATIONAL, TiffTag(42113, 2, b"0\0"))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def written(pixels: np.ndarray, **options) -> io.BytesIO:
    file = io.BytesIO()
    tiff.write(file, pixels.shape, [pixels], **({"colour": False, "alpha": False} | options))
    return file


@pytest.mark.parametrize(
    ("bands", "colour", "alpha", "mode"),
    [(1, False, False, "L"), (3, True, False, "RGB"), (4, True, True, "RGBA")],
)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (700, 301)])
def test_pillow_reads_what_was_written(bands, colour, alpha, mode, size):
    pixels = noise(*size, bands)
    with pillow.open(written(pixels, colour=colour, alpha=alpha)) as opened:
        assert opened.mode == mode
        np.testing.assert_array_equal(np.array(opened).reshape(pixels.shape), pixels)


def test_smooth_pictures_get_smaller():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    assert len(written(ramp).getvalue()) < ramp.size / 50


def test_tags_return_through_the_reader_and_through_pillow():
    file = written(noise(9, 8, 3), colour=True, tags=TAGS)
    found = tiff.read_tags(file)
    assert [found[tag.number] for tag in TAGS] == list(TAGS)
    with pillow.open(file) as opened:
        assert opened.tag_v2[33550] == (0.5, 0.25, 0.0)
        assert opened.tag_v2[34737] == "WGS 84|"
        assert opened.tag_v2[282] == 72


@pytest.mark.parametrize(
    "tag",
    [
        TiffTag(322, 3, b"\1\0"),
        TiffTag(33550, 99, b"12345678"),
        TiffTag(33550, 12, b"odd"),
        TiffTag(270, 2, b""),
    ],
)
def test_tags_that_could_break_the_file_are_left_out(tag):
    pixels = noise(9, 8, 1)
    file = written(pixels, tags=(tag,))
    assert tag.number not in tiff.read_tags(file)
    with pillow.open(file) as opened:
        np.testing.assert_array_equal(np.array(opened), pixels[:, :, 0])


def test_structure_wins_over_tags():
    assert tiff.numbers(
        tiff.read_tags(written(noise(9, 8, 1), tags=(TiffTag(256, 4, bytes(4)),))), 256, ()
    ) == (8,)


def doubles(number: int, *values: float) -> TiffTag:
    return TiffTag(number, 12, struct.pack(f"<{len(values)}d", *values))


def values(tag: TiffTag) -> np.ndarray:
    return np.frombuffer(tag.data, "<f8")


LEFT, TOP = 37, 1001
CORNER = np.array([LEFT, TOP])
PLACED = np.array([[0, 0], [5, 3], [11, 250]])  # column and row of pixels in the window


def test_tiepoints_move_with_a_window():
    """Where a pixel lies, from any tiepoint: X = x + (column - I) * scale, and downwards Y."""
    points = doubles(33922, 0, 0, 0, 5e5, 4e6, 0, 100.5, 2000.25, 7, 5e5 + 50.25, 4e6 - 500.0625, 9)
    scale, moved = tiff.shifted((DOUBLES, points), LEFT, TOP)
    assert scale == DOUBLES
    for before, after in zip(values(points).reshape(-1, 6), values(moved).reshape(-1, 6), strict=True):
        where = before[3:5] + (PLACED + CORNER - before[:2]) * (0.5, -0.25)
        np.testing.assert_array_equal(after[3:5] + (PLACED - after[:2]) * (0.5, -0.25), where)
        np.testing.assert_array_equal(after[2:], before[2:])


@pytest.mark.parametrize("number", [34264, 33920])
def test_matrices_move_with_a_window(number):
    matrix = doubles(number, 0.5, 0.125, 0, 5e5, 0.25, -0.5, 0, 4e6, 0, 0, 2, 3, 0, 0, 0, 1)
    (moved,) = tiff.shifted((matrix,), LEFT, TOP)
    rest = [[4, 5, 6], [1, 1, 1]]  # depth, 1
    before, after = values(matrix).reshape(4, 4), values(moved).reshape(4, 4)
    np.testing.assert_array_equal(after @ [*PLACED.T, *rest], before @ [*(PLACED + CORNER).T, *rest])


def test_rational_polynomials_move_with_a_window():
    """They give (row - LINE_OFF) / LINE_SCALE and (column - SAMP_OFF) / SAMP_SCALE of a place."""
    old = doubles(50844, 0.5, 0.25, 3000.5, 2000.25, *range(88))
    (moved,) = tiff.shifted((old,), LEFT, TOP)
    expected = doubles(50844, 0.5, 0.25, 3000.5 - TOP, 2000.25 - LEFT, *range(88))
    assert moved == expected


def test_what_speaks_of_no_pixel_stays():
    assert tiff.shifted(TAGS, LEFT, TOP) == TAGS


@pytest.mark.parametrize("number", [33922, 34264, 33920, 50844])
@pytest.mark.parametrize("wrong", ["type", "more", "fewer", "odd", "none"])
def test_malformed_places_are_left_out(number, wrong):
    data = bytes(8 * {33922: 12, 50844: 92}.get(number, 16))
    kind = 11 if wrong == "type" else 12
    data = {"more": data + bytes(8), "fewer": data[:-8], "odd": data[:-1], "none": b""}.get(wrong, data)
    assert tiff.shifted((KEYS, TiffTag(number, kind, data)), LEFT, TOP) == (KEYS,)


@pytest.mark.filterwarnings("error")
def test_values_without_a_number_move_silently():
    worst = doubles(34264, *[np.inf, np.nan, -np.inf, 1e308] * 4)
    assert len(tiff.shifted((worst,), LEFT, TOP)) == 1


class Counted(io.BytesIO):
    """Counts the bytes that are read."""

    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.total += len(data)
        return data


def sharing(*tags: int) -> Counted:
    """A file whose entries all name the same 2 MiB."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHLL", number, 1, 1 << 21, start) for number in sorted(tags))
    return Counted(b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + bytes(1 << 21))


def test_entries_that_nobody_needs_are_not_fetched():
    file = sharing(*range(43000, 43100))
    assert tiff.read_tags(file) == {}
    assert file.total < 1 << 20


@pytest.mark.parametrize("tags", [sorted(tiff.CARRIED), [270] * 100])
def test_entries_that_share_bytes_have_one_budget(tags):
    assert len(tiff.read_tags(sharing(*tags[:8]))) == len(set(tags[:8]))
    file = sharing(*tags)
    with pytest.raises(ValueError, match="TIFF file have at most 16777216 bytes together"):
        tiff.read_tags(file)
    assert file.total < 2 * tiff.MAX_DATA


def test_directories_have_one_budget_together():
    size = tiff.MAX_DATA // 3
    entry = struct.pack("<HHLL", tiff.SUBFILE, 1, size, 26)
    file = Counted(b"II*\0" + struct.pack("<LH", 8, 1) + entry + struct.pack("<L", 8) + bytes(size))
    assert not tiff.has_mask(file)
    assert file.total < 2 * tiff.MAX_DATA


def pillow_directory(header: bytes) -> io.BytesIO:
    directory = TiffImagePlugin.ImageFileDirectory_v2(header)
    for number, kind, value in (
        (256, 4, 300),
        (258, 3, (8, 8, 8)),
        (33550, 12, (0.5, 0.25, 0.0)),
        (34737, 2, "a|"),
    ):
        directory.tagtype[number] = kind
        directory[number] = value
    file = io.BytesIO()
    directory.save(file)
    return file


@pytest.mark.parametrize("header", [b"II*\0" + bytes(4), b"MM\0*" + bytes(4), b"II+\0" + bytes(12)])
def test_directories_written_by_pillow_in_each_form(header):
    found = tiff.read_tags(pillow_directory(header))
    assert tiff.numbers(found, 256, ()) == (300,)
    assert tiff.numbers(found, 258, ()) == (8, 8, 8)
    assert (found[33550], found[34737].data) == (DOUBLES, b"a|\0")


def test_a_big_endian_bigtiff_written_by_hand():
    entries = struct.pack(">HHQHHHH", 258, 3, 3, 8, 8, 8, 0) + struct.pack(">HHQQ", 33550, 12, 3, 16 + 8 + 40)
    data = b"MM\0+" + struct.pack(">HHQQ", 8, 0, 16, 2) + entries + struct.pack(">3d", 0.5, 0.25, 0.0)
    found = tiff.read_tags(io.BytesIO(data))
    assert (tiff.numbers(found, 258, ()), found[33550]) == ((8, 8, 8), DOUBLES)


def test_of_entries_with_one_number_the_first_counts():
    data = bytearray(written(noise(3, 4, 1), colour=False, alpha=False).getvalue())
    height, width = (data.index(struct.pack("<HHL", number, 4, 1)) for number in (257, 256))
    struct.pack_into("<H", data, max(height, width), 256)
    assert tiff.numbers(tiff.read_tags(io.BytesIO(data)), 256, ()) == (4,)


def test_values_outside_the_file_are_left_out():
    data = bytearray(written(noise(9, 8, 1), tags=(DOUBLES,)).getvalue())
    entry = data.index(struct.pack("<HHL", 33550, 12, 3))
    data[entry + 8 : entry + 12] = struct.pack("<L", len(data) - 23)
    assert 33550 not in tiff.read_tags(io.BytesIO(data))
    data[entry + 4 : entry + 8] = struct.pack("<L", 2**32 - 1)
    assert 33550 not in tiff.read_tags(io.BytesIO(data))


@pytest.mark.parametrize(
    "data", [b"", b"PK\3\4", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II+\0" + b"\xff" * 12]
)
def test_files_without_a_directory_are_refused(data):
    with pytest.raises(ValueError, match="TIFF"):
        tiff.read_tags(io.BytesIO(data))


def test_what_lies_far_behind_the_end_is_not_looked_for(tmp_path):
    """A disk refuses to seek where a file in memory does not."""
    data = b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + struct.pack("<QHHQQQ", 1, 256, 4, 1, 7, 2**60)
    (tmp_path / "a.tif").write_bytes(data)
    with open(tmp_path / "a.tif", "rb") as file:
        assert tiff.numbers(tiff.read_tags(file), 256, ()) == (7,)
        assert not tiff.has_mask(file)


class Long(bytes):
    """A strip that says to be of 2 GiB."""

    def __len__(self) -> int:
        return 2**31 - 1


@pytest.mark.parametrize("strips", [2, 3])
def test_four_gigabytes_are_refused(strips, monkeypatch):
    """In the last strip or before it."""
    monkeypatch.setattr(tiff, "_strip", lambda rows: Long())
    monkeypatch.setattr(tiff, "STRIP", 1)
    with pytest.raises(tiff.TooLong, match="below 4 GiB"):
        tiff.write(io.BytesIO(), (strips, 1, 1), [noise(strips, 1, 1)], colour=False, alpha=False)


@pytest.mark.parametrize("cuts", [[], [1], [100, 101, 150], [0, 87, 87, 200], range(300)])
def test_however_rows_come_the_file_is_the_same(cuts):
    """A strip has 87 of these rows."""
    pixels = noise(300, 1000, 3)
    file = io.BytesIO()
    tiff.write(file, pixels.shape, np.split(pixels, list(cuts)), colour=True, alpha=False)
    assert file.getvalue() == written(pixels, colour=True).getvalue()


def test_rows_are_written_as_they_come():
    file, seen = io.BytesIO(), []

    def bands_of_rows():
        for _ in range(4):
            yield noise(87, 1000, 3)
            seen.append(len(file.getvalue()))

    tiff.write(file, (348, 1000, 3), bands_of_rows(), colour=True, alpha=False)
    assert sorted(set(seen)) == seen
    assert seen[0] > 87 * 1000


def test_random_files_end_in_tags_or_a_value_error():
    random = np.random.default_rng(2)
    data = written(noise(9, 8, 3), tags=TAGS).getvalue()
    for _ in range(500):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 8):
            damaged[place] = random.integers(256)
        try:
            assert isinstance(tiff.read_tags(io.BytesIO(damaged)), dict)
        except ValueError as error:
            assert "TIFF" in str(error)  # noqa: PT017
