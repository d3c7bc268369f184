"""TIFF files of other programs: what GDAL reads, by the rules of `images`."""

import io
import os
import struct
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from ltchm_jax.container.header import Layout
from ltchm_jax.imagery import tiff
from ltchm_jax.imagery.images import Image, ImageError, StoredImage, open_image, read_image

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def gdal_file(pixels: np.ndarray, windows: tuple = (None,), **options) -> bytes:
    """A GeoTIFF of uint8 [bands, H, W] by GDAL, of which only some windows are written."""
    bands, height, width = pixels.shape
    shape = {"width": width, "height": height, "count": bands, "dtype": "uint8"}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape, **options) as file:
            for window in windows:
                part = pixels if window is None else pixels[(slice(None), *window.toslices())]
                file.write(part, window=window)
        return memory.read()


def read_by_gdal(data: bytes) -> np.ndarray:
    """uint8 [H, W, bands]."""
    with rasterio.MemoryFile(data) as memory, memory.open() as file:
        return np.moveaxis(file.read(), 0, 2)


def first_structure(data: bytes, number: int) -> int:
    """Where the (little-endian) entry of a number starts."""
    (start,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    places = range(start + 2, start + 2 + 12 * count, 12)
    return next(place for place in places if struct.unpack_from("<H", data, place) == (number,))


SPARSE = {"sparse_ok": True, "tiled": True, "blockxsize": 64, "blockysize": 64}


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw", "jpeg"])
@pytest.mark.parametrize("bands", [1, 3])
def test_absent_tiles_are_empty(compress, bands):
    corner = rasterio.windows.Window(0, 0, 64, 64)
    data = gdal_file(noise(bands, 200, 130), (corner,), compress=compress, **SPARSE)
    image = read_image(io.BytesIO(data))
    assert image.layout is (Layout.GREY if bands == 1 else Layout.RGB)
    np.testing.assert_array_equal(image.pixels, read_by_gdal(data))
    assert not image.pixels[64:].any()


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw"])
def test_alpha_in_a_plane_of_its_own_is_kept(compress):
    pixels = noise(2, 20, 30)
    data = gdal_file(pixels, compress=compress, interleave="band", alpha="yes")
    image = read_image(io.BytesIO(data))
    assert image.layout is Layout.GREY_ALPHA
    np.testing.assert_array_equal(image.pixels, np.moveaxis(pixels, 0, 2))


@pytest.mark.parametrize("compress", ["webp", "lerc"])
def test_compressions_that_pillow_lacks(compress):
    options = {"webp_lossless": "yes"} if compress == "webp" else {}
    pixels = noise(3, 20, 30)
    image = read_image(io.BytesIO(gdal_file(pixels, compress=compress, **options)))
    assert image.layout is Layout.RGB
    np.testing.assert_array_equal(image.pixels, np.moveaxis(pixels, 0, 2))


def test_sparse_files_of_other_samples_are_refused():
    corner = rasterio.windows.Window(0, 0, 64, 64)
    data = gdal_file(noise(1, 200, 130), (corner,), photometric="palette", **SPARSE)
    with pytest.raises(ImageError, match="convert it with gdal_translate"):
        read_image(io.BytesIO(data))


@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("compress", ["none", "deflate"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_grey_of_any_depth_and_polarity(nbits, photometric, compress, interleave):
    stored = noise(1, 20, 30) >> (8 - nbits)
    options = {"nbits": nbits} if nbits < 8 else {}
    data = gdal_file(stored, photometric=photometric, compress=compress, interleave=interleave, **options)
    grey = stored[0] * (255 // (2**nbits - 1))
    image = read_image(io.BytesIO(data))
    assert image.layout is Layout.GREY
    np.testing.assert_array_equal(image.pixels[:, :, 0], 255 - grey if photometric == "miniswhite" else grey)


@pytest.mark.parametrize("nbits", [3, 5, 6, 7])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_grey_of_odd_depths_is_refused(nbits, interleave):
    data = gdal_file(noise(1, 20, 30) >> (8 - nbits), nbits=nbits, interleave=interleave)
    with pytest.raises(ImageError, match=f"8 bits, got unsigned, {nbits} bits"):
        read_image(io.BytesIO(data))


def test_nodata_of_luma_and_chroma_that_the_compression_made_is_kept():
    data = gdal_file(noise(3, 64, 64), compress="jpeg", photometric="ycbcr", nodata=0)
    (tag,) = (tag for tag in read_image(io.BytesIO(data)).metadata.tiff if tag.number == tiff.NODATA)
    assert tag.data.rstrip(b"\0") == b"0"


def test_orientation_in_xmp_does_not_turn_a_tiff():
    pixels = noise(20, 30, 1)
    scale = tiff.TiffTag(33550, tiff.DOUBLE, bytes(24))
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    file = io.BytesIO()
    tiff.write(file, pixels.shape, [pixels], colour=False, alpha=False, tags=(scale,))
    data = bytearray(file.getvalue())
    entry, behind = first_structure(data, tiff.SAMPLE_FORMAT), len(data)  # becomes XMP, behind the file
    struct.pack_into("<HHLL", data, entry, 700, 1, len(xmp), behind)
    image = read_image(io.BytesIO(bytes(data) + xmp))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.metadata.tiff == (scale,)


@pytest.mark.parametrize(
    ("options", "nodata", "expected"),
    [
        ({}, 255, b"255"),
        ({"photometric": "miniswhite"}, 255, b"0"),
        ({"photometric": "miniswhite"}, 7, b"248"),
        ({"nbits": 1}, 1, b"255"),
        ({"nbits": 4}, 7, b"119"),
        ({"nbits": 4}, 100, None),
    ],
)
def test_nodata_follows_the_samples(options, nodata, expected):
    pixels = noise(1, 20, 30) >> (8 - options.get("nbits", 8))
    image = read_image(io.BytesIO(gdal_file(pixels, nodata=nodata, **options)))
    values = [tag.data.rstrip(b"\0") for tag in image.metadata.tiff if tag.number == tiff.NODATA]
    assert values == ([] if expected is None else [expected])
    if 0 <= nodata < 2 ** options.get("nbits", 8):
        np.testing.assert_array_equal(image.pixels[:, :, 0] == int(expected), pixels[0] == nodata)


def test_nodata_of_a_palette_is_dropped():
    pixels = noise(1, 20, 30) % 8
    with rasterio.MemoryFile() as memory:
        shape = {"width": 30, "height": 20, "count": 1, "dtype": "uint8", "nodata": 7}
        with memory.open(driver="GTiff", photometric="palette", **shape) as file:
            file.write(pixels)
            file.write_colormap(1, {n: (30 * n, 255 - 30 * n, 9, 255) for n in range(8)})
        image = read_image(io.BytesIO(memory.read()))
    assert image.layout is Layout.RGB
    np.testing.assert_array_equal(image.pixels[:, :, 0], 30 * pixels[0])
    assert [tag for tag in image.metadata.tiff if tag.number == tiff.NODATA] == []


def test_the_profile_of_bands_is_kept():
    file = io.BytesIO()
    profile = tiff.TiffTag(tiff.ICC, tiff.UNDEFINED, b"a profile")
    tiff.write(file, (4, 4, 5), [noise(4, 4, 5)], colour=False, alpha=False, tags=(profile,))
    assert read_image(file).metadata.icc == b"a profile"


def test_sizes_in_signed_numbers_are_numbers():
    data = bytearray(gdal_file(noise(5, 300, 300)))
    for number in (256, 257):  # SHORT becomes SLONG, of the same four bytes
        struct.pack_into("<H", data, first_structure(data, number) + 2, 9)
    with pytest.raises(ImageError, match="up to 1000 pixels"):
        read_image(io.BytesIO(data), max_pixels=1000)


def test_what_gdal_finds_is_checked_again(monkeypatch):
    data = gdal_file(noise(5, 300, 300))
    monkeypatch.setattr("ltchm_jax.imagery.images.check_tiff", lambda tags, masked, max_pixels: None)
    with pytest.raises(ImageError, match="up to 1000 pixels"):
        read_image(io.BytesIO(data), max_pixels=1000)
    data = bytearray(data)
    bits = first_structure(data, tiff.BITS)
    (offset,) = struct.unpack_from("<L", data, bits + 8)
    struct.pack_into("<5H", data, offset, *[16] * 5)
    with pytest.raises(ImageError, match="8 bits, got uint16"):
        read_image(io.BytesIO(data))


@pytest.mark.parametrize(
    ("options", "stays"),
    [({}, True), ({"nbits": 4}, False), ({"photometric": "miniswhite"}, False), ({"compress": "webp"}, True)],
)
def test_what_gdal_says_of_samples_goes_with_them(options, stays):
    """A scale for samples of 4 bits is wrong for the same in 8."""
    bands = 3 if "compress" in options else 1
    with rasterio.MemoryFile() as memory:
        shape = {"width": 30, "height": 20, "count": bands, "dtype": "uint8"}
        with memory.open(driver="GTiff", **shape, **options) as file:
            file.write(noise(bands, 20, 30) >> 4)
            file.scales = (0.5,) * bands
        image = read_image(io.BytesIO(memory.read()))
    assert any(tag.number == tiff.GDAL_METADATA for tag in image.metadata.tiff) == stays


def masked_file(pixels: np.ndarray, mask: np.ndarray, **options) -> bytes:
    """A TIFF of uint8 [bands, H, W] with a mask bool [H, W] in a directory of its own."""
    bands, height, width = pixels.shape
    shape = {"width": width, "height": height, "count": bands, "dtype": "uint8"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape, **options) as file:
            file.write(pixels)
            file.write_mask(mask)
        return memory.read()


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("options", [{}, {"compress": "webp"}, {"compress": "jpeg"}, {"bigtiff": "yes"}])
def test_a_mask_becomes_alpha(bands, options):
    if options == {"compress": "webp"} and bands == 1:
        pytest.skip("WebP has no grey")
    mask = noise(20, 30) > 99
    data = masked_file(noise(bands, 20, 30), mask, **options)
    image = read_image(io.BytesIO(data))
    assert image.layout is (Layout.GREY_ALPHA if bands == 1 else Layout.RGBA)
    np.testing.assert_array_equal(image.pixels[:, :, -1], 255 * mask)
    np.testing.assert_array_equal(image.pixels[:, :, :-1], read_by_gdal(data))


def test_alpha_goes_before_a_mask():
    image = read_image(
        io.BytesIO(masked_file(noise(4, 20, 30), noise(20, 30) > 99, photometric="rgb", alpha="yes"))
    )
    assert image.layout is Layout.RGBA
    np.testing.assert_array_equal(image.pixels[:, :, 3], noise(4, 20, 30)[3])


def test_bands_with_a_mask_are_refused():
    data = masked_file(noise(5, 20, 30), noise(20, 30) > 99)
    with pytest.raises(ImageError, match="bands can't have a mask"):
        read_image(io.BytesIO(data))


def test_directories_that_form_a_ring_end():
    data = bytearray(gdal_file(noise(1, 20, 30)))
    (start,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<L", data, start + 2 + 12 * count, start)
    assert not tiff.has_mask(io.BytesIO(data))
    struct.pack_into("<L", data, start + 2 + 12 * count, len(data))  # behind the end
    assert not tiff.has_mask(io.BytesIO(data))


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr("ltchm_jax.imagery.tiff_pictures.WHOLE_PIXELS", 0)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("compress", ["none", "lzw", "deflate", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize(
    ("bands", "options"),
    [
        (1, {}),
        (1, {"nodata": 3}),
        (2, {"alpha": "yes"}),
        (3, {"interleave": "band"}),
        (3, {"tiled": True, "blockxsize": 32, "blockysize": 16}),
        (3, SPARSE),
        (4, {"photometric": "rgb", "alpha": "yes"}),
        (7, {"interleave": "pixel"}),
    ],
)
def test_rows_of_a_large_file_are_those_of_the_whole(compress, bands, options, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(gdal_file(noise(bands, 70, 90), compress=compress, **options))
    whole = read_image(path)
    with open_image(path) as stored:
        assert isinstance(stored, StoredImage)
        assert (stored.layout, stored.metadata) == (whole.layout, whole.metadata)
        assert (stored.pixels.shape, stored.pixels.dtype) == (whole.pixels.shape, whole.pixels.dtype)
        for rows in (slice(None), slice(0, 20), slice(13, 70), slice(60, 99)):
            np.testing.assert_array_equal(stored.pixels[rows], whole.pixels[rows])


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("bands", [1, 3])
def test_rows_have_their_mask(bands, tmp_path):
    (tmp_path / "a.tif").write_bytes(masked_file(noise(bands, 20, 30), noise(20, 30) > 99))
    with open_image(tmp_path / "a.tif") as stored:
        assert isinstance(stored, StoredImage)
        np.testing.assert_array_equal(stored.pixels[3:9], read_image(tmp_path / "a.tif").pixels[3:9])


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize(
    ("bands", "options"),
    [
        (3, {"compress": "jpeg"}),
        (3, {"compress": "webp"}),
        (1, {"compress": "lerc"}),
        (1, {"nbits": 4}),
        (1, {"photometric": "miniswhite"}),
        (4, {"photometric": "rgb", "alpha": "premultiplied"}),
    ],
)
def test_what_programs_may_decode_differently_is_read_whole(bands, options, tmp_path):
    (tmp_path / "a.tif").write_bytes(gdal_file(noise(bands, 64, 64) >> 4, **options))
    assert is_read_whole(tmp_path / "a.tif")


def is_read_whole(path: Path) -> bool:
    with open_image(path) as image:
        whole = read_image(path)
        np.testing.assert_array_equal(image.pixels[:], whole.pixels)
        assert (image.layout, image.metadata) == (whole.layout, whole.metadata)
        return isinstance(image, Image)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("turned", range(1, 9))
def test_turned_files_are_read_whole(turned, tmp_path):
    picture = pillow.fromarray(noise(20, 30, 3))
    picture.save(tmp_path / "a.tif", tiffinfo={tiff.ORIENTATION: turned})
    assert is_read_whole(tmp_path / "a.tif") == (turned > 1)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("number", [tiff.PHOTOMETRIC, tiff.STRIP_SIZES])
def test_files_with_an_entry_missing_are_read_whole(number, tmp_path):
    data = bytearray(gdal_file(noise(3, 64, 64)))
    struct.pack_into("<H", data, first_structure(data, number), {262: 261, 279: 280}[number])
    (tmp_path / "a.tif").write_bytes(data)
    assert is_read_whole(tmp_path / "a.tif")


@pytest.mark.usefixtures("everything_is_large")
def test_files_of_one_large_strip_are_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("ltchm_jax.imagery.tiff_pictures.MAX_PART", 3 * 64 * 64)
    for blockysize in (64, 65):
        data = gdal_file(noise(3, 65, 64), compress="lzw", blockysize=blockysize)
        (tmp_path / "a.tif").write_bytes(data)
        assert is_read_whole(tmp_path / "a.tif") == (blockysize == 65)


def test_more_bands_than_anybody_has_are_refused():
    data = bytearray(gdal_file(noise(5, 4, 4)))
    struct.pack_into("<H", data, first_structure(data, tiff.SAMPLES) + 8, 4097)
    with pytest.raises(ImageError, match="a TIFF may have 4096 bands, got 4097: take some"):
        read_image(io.BytesIO(data))


def test_tiles_beyond_the_limit_are_refused():
    """They would be decoded whole, whatever the picture's size."""
    data = bytearray(gdal_file(noise(1, 64, 64), tiled=True, compress="deflate"))
    for number in (tiff.TILE_WIDTH, tiff.TILE_HEIGHT):
        struct.pack_into("<L", data, first_structure(data, number) + 8, 65535)
    with pytest.raises(ImageError, match="pixels are read, got 65535 x 65535"):
        read_image(io.BytesIO(data))


@pytest.mark.usefixtures("everything_is_large")
def test_names_of_any_bytes_are_read(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff?!#zip+.tif")
    path.write_bytes(gdal_file(noise(3, 20, 30)))
    assert not is_read_whole(path)


@pytest.mark.usefixtures("everything_is_large")
def test_threads_share_the_rows_of_a_file(tmp_path):
    (tmp_path / "a.tif").write_bytes(gdal_file(noise(3, 400, 300), compress="lzw", blockysize=7))
    with open_image(tmp_path / "a.tif") as stored, ThreadPoolExecutor(4) as pool:
        starts = range(0, 400, 8)
        parts = pool.map(lambda top: stored.pixels[top : top + 8], starts)
        np.testing.assert_array_equal(np.concatenate(list(parts)), read_image(tmp_path / "a.tif").pixels)


@pytest.mark.usefixtures("everything_is_large")
def test_large_files_of_colours_need_no_rasterio(tmp_path, monkeypatch):
    (tmp_path / "a.tif").write_bytes(gdal_file(noise(3, 64, 64)))
    with monkeypatch.context() as context:
        context.setattr("ltchm_jax.imagery.tiff_pictures.find_spec", lambda name: None)
        assert is_read_whole(tmp_path / "a.tif")
    monkeypatch.setitem(sys.modules, "rasterio", None)  # it is there, and can't be imported
    assert is_read_whole(tmp_path / "a.tif")


@pytest.mark.usefixtures("everything_is_large")
def test_rows_of_a_pipe_are_read_as_well(monkeypatch):
    data = gdal_file(noise(3, 20, 30))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    with open_image("-") as stored:
        assert isinstance(stored, StoredImage)
        np.testing.assert_array_equal(stored.pixels[5:7], read_by_gdal(data)[5:7])


@pytest.mark.usefixtures("everything_is_large")
def test_damage_is_told_when_its_rows_are_asked_for(tmp_path):
    data = gdal_file(noise(3, 200, 300), compress="deflate", blockysize=10)
    (tmp_path / "a.tif").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with open_image(tmp_path / "a.tif") as stored:
        assert stored.pixels[:10].any()
        with pytest.raises(ImageError, match=r"a\.tif: the picture must decode, got 'ZIPDecode"):
            stored.pixels[190:]


def test_few_rows_of_a_large_file_are_held(tmp_path):
    """A picture of 5,000 x 5,000 is 75 MB."""
    path, shape = tmp_path / "a.tif", (5000, 5000, 3)
    with open(path, "wb") as file:
        tiff.write(file, shape, (noise(100, *shape[1:]) for _ in range(50)), colour=True, alpha=False)
    tracemalloc.start()
    with open_image(path) as stored:
        for top in range(0, shape[0], 500):
            assert stored.pixels[top : top + 500].shape == (500, *shape[1:])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 7.5e6 < peak < 25e6
