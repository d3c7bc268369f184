"""Picture files: each kind by its rule, bad ones in one line, georeferencing kept."""

import builtins
import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow
from PIL import ImageCms, PngImagePlugin

from ltchm_jax.container.header import Layout
from ltchm_jax.container.metadata import MAX_BYTES, Metadata, TiffTag
from ltchm_jax.imagery import images, tiff
from ltchm_jax.imagery.images import Image, ImageError, read_image, write_image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def stored(picture: pillow.Image, kind: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file


def tiff_file(pixels: np.ndarray, *tags: TiffTag, **options) -> io.BytesIO:
    file = io.BytesIO()
    tiff.write(file, pixels.shape, [pixels], **({"colour": False, "alpha": False, "tags": tags} | options))
    return file


BANDS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
LOSSLESS = {"PNG": ("L", "LA", "RGB", "RGBA"), "TIFF": ("L", "LA", "RGB", "RGBA"), "WEBP": ("RGB", "RGBA")}
LOSSLESS |= {"BMP": ("L", "RGB")}
PAIRS = [(kind, mode) for kind, modes in LOSSLESS.items() for mode in modes]


@pytest.mark.parametrize(("kind", "mode"), PAIRS)
def test_lossless_kinds_return_their_pixels(kind, mode):
    pixels = noise(13, 9, BANDS[mode])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = read_image(stored(pillow.fromarray(pixels.squeeze(), mode), kind, **options))
    assert image.layout.label == {"L": "grey", "LA": "grey+alpha"}.get(mode, mode)
    np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize(("mode", "shape"), [("L", (16, 16)), ("RGB", (16, 16, 3))])
def test_jpeg_is_read_as_pillow_decodes_it(mode, shape):
    file = stored(pillow.fromarray(noise(*shape), mode), "JPEG", quality=90)
    with pillow.open(file) as opened:
        expected = np.array(opened)
    np.testing.assert_array_equal(read_image(file).pixels.reshape(shape), expected)


def test_one_bit_becomes_grey():
    bits = noise(9, 9) > 127
    image = read_image(stored(pillow.fromarray(bits), "PNG"))
    assert image.layout is Layout.GREY
    np.testing.assert_array_equal(image.pixels[:, :, 0], bits * np.uint8(255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_palettes_become_colours(kind):
    indices, palette = noise(9, 9) % 4, noise(4, 3)
    picture = pillow.fromarray(indices, "P")
    picture.putpalette(palette.tobytes())
    image = read_image(stored(picture, kind))
    assert image.layout is Layout.RGB
    np.testing.assert_array_equal(image.pixels, palette[indices])


def test_transparent_palettes_and_colours_become_alpha():
    indices = noise(9, 9) % 4
    picture = pillow.fromarray(indices, "P")
    picture.putpalette(noise(4, 3).tobytes())
    alpha = np.array([0, 255, 7, 255], np.uint8)
    image = read_image(stored(picture, "PNG", transparency=alpha.tobytes()))
    assert image.layout is Layout.RGBA
    np.testing.assert_array_equal(image.pixels[:, :, 3], alpha[indices])
    grey = read_image(stored(pillow.fromarray(indices, "L"), "PNG", transparency=2))
    assert grey.layout is Layout.GREY_ALPHA
    np.testing.assert_array_equal(grey.pixels[:, :, 1], np.where(indices == 2, 0, 255))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_inks_become_colours_by_the_rule(kind):
    inks = np.broadcast_to(np.array([10, 200, 90, 60], np.uint8), (16, 16, 4))
    profile = {"icc_profile": PROFILE}
    image = read_image(
        stored(
            pillow.fromarray(inks, "CMYK"), kind, **({"quality": 100} if kind == "JPEG" else {}), **profile
        )
    )
    expected = (255.0 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    assert image.layout is Layout.RGB
    assert image.metadata.icc == b""
    np.testing.assert_allclose(image.pixels, expected, atol=1.01 if kind == "TIFF" else 3)


def test_luma_and_chroma_become_colours_by_the_rule():
    y, cb, cr = 120.0, 90.0, 160.0
    ycc = np.broadcast_to(np.array([y, cb, cr], np.uint8), (4, 4, 3))
    image = read_image(stored(pillow.fromarray(ycc, "YCbCr"), "TIFF"))
    expected = (
        y + 1.402 * (cr - 128),
        y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
        y + 1.772 * (cb - 128),
    )
    np.testing.assert_allclose(image.pixels[0, 0], expected, atol=1)


ORIENTED = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1), 8: np.rot90}


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_orientation_is_applied_once(orientation, kind, tmp_path):
    pixels = noise(9, 6, 3)
    exif = pillow.Exif()
    exif[274], exif[271] = orientation, "maker"
    image = read_image(stored(pillow.fromarray(pixels), kind, exif=exif))
    expected = ORIENTED[orientation](pixels)
    np.testing.assert_array_equal(image.pixels, expected)
    write_image(tmp_path / "a.png", image)
    again = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(again.pixels, expected)
    if kind == "PNG":
        kept = pillow.Exif()
        kept.load(again.metadata.exif)
        assert (kept.get(271), kept.get(274)) == ("maker", None)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_bits_are_refused(mode):
    values = np.zeros((4, 4), {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
    file = stored(pillow.fromarray(values), "PNG" if mode == "I;16" else "TIFF")
    with pytest.raises(ImageError, match=r"samples must|mode I;16"):
        read_image(file)


def png(depth: int, colour: int, row: bytes) -> io.BytesIO:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">LLBBBBB", 1, 1, depth, colour, 0, 0, 0))
    return io.BytesIO(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    )


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'


def orientation_in_text(key: str) -> str:
    exif = pillow.Exif()
    exif[274] = 6
    data = exif.tobytes()
    return XMP if key.startswith("XML") else f"\nexif\n{len(data):8}\n{data.hex()}\n"


@pytest.mark.parametrize("key", ["XML:com.adobe.xmp", "Raw profile type exif"])
def test_orientation_in_text_is_applied_once(key, tmp_path):
    pixels, info = noise(9, 6, 3), PngImagePlugin.PngInfo()
    info.add_itxt(key, orientation_in_text(key))
    image = read_image(stored(pillow.fromarray(pixels), "PNG", pnginfo=info))
    np.testing.assert_array_equal(image.pixels, np.rot90(pixels, -1))
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, image.pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.filterwarnings("error")
def test_exif_that_cant_be_read_is_dropped(kind):
    pixels = noise(16, 16, 3)
    image = read_image(stored(pillow.fromarray(pixels), kind, exif=b"Exif\0\0garbage!"))
    assert image.metadata.exif == b""
    cut = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"  # of 65,535 entries, the first begins
    assert read_image(stored(pillow.fromarray(pixels), kind, exif=cut)).pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_has_the_depth_of_its_picture(depth):
    top = 2**depth - 1
    transparent = b"tRNS" + struct.pack(">H", top)
    chunk = struct.pack(">L", 2) + transparent + struct.pack(">L", zlib.crc32(transparent))
    data = png(depth, 0, bytes([top << (8 - depth)])).getvalue()
    image = read_image(io.BytesIO(data[:33] + chunk + data[33:]))
    assert image.pixels.tolist() == [[[255, 0]]]


@pytest.mark.parametrize("mode", ["P", "L", "RGBA"])
def test_of_an_animation_the_first_frame_is_read(mode):
    frames = [pillow.fromarray(noise(6, 5, 3)).convert(mode), pillow.new(mode, (5, 6))]
    if mode == "P":
        frames = [frame.quantize(8) for frame in (frames[0].convert("RGB"), pillow.new("RGB", (5, 6)))]
    want = read_image(stored(frames[0], "PNG"))
    for alone in (False, True):  # whether the picture that old readers see is a frame as well
        moving = stored(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=alone)
        got = read_image(moving)
        assert got.layout is want.layout
        np.testing.assert_array_equal(got.pixels, want.pixels)
    cut = read_image(io.BytesIO(moving.getvalue()[: moving.getvalue().index(b"fdAT") + 6]))
    np.testing.assert_array_equal(cut.pixels, want.pixels)


def test_a_large_profile_returns_through_png(tmp_path):
    profile = np.random.default_rng(0).bytes(2_000_000)
    write_image(tmp_path / "a.png", Image(noise(3, 3, 3), Layout.RGB, Metadata(icc=profile)))
    assert read_image(tmp_path / "a.png").metadata.icc == profile


@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_is_not_cut_to_8(colour, samples):
    with pytest.raises(ImageError, match="8 bits"):
        read_image(png(16, colour, bytes(2 * samples)))
    assert read_image(png(8, colour, bytes(samples))).pixels.shape == (1, 1, samples)


def test_metadata_of_png_return(tmp_path):
    metadata = Metadata({"Title": "Rhône", "Comment": "a"}, PROFILE, pillow.Exif().tobytes())
    image = Image(noise(5, 6, 3), Layout.RGB, metadata)
    assert write_image(tmp_path / "a.png", image) == ()
    found = read_image(tmp_path / "a.png")
    assert (found.metadata.text, found.metadata.icc) == (metadata.text, PROFILE)
    np.testing.assert_array_equal(found.pixels, image.pixels)


def test_what_a_kind_of_file_cant_keep_is_reported(tmp_path):
    metadata = Metadata(
        {"Title": "a"}, PROFILE, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", (TiffTag(42113, 2, b"0\0"),)
    )
    image = Image(noise(5, 6, 3), Layout.RGB, metadata)
    assert write_image(tmp_path / "a.png", image) == ("TIFF tags",)
    assert write_image(tmp_path / "a.tif", image) == ("text", "EXIF")
    assert read_image(tmp_path / "a.tif").metadata == Metadata(icc=PROFILE, tiff=metadata.tiff)
    foreign = Image(image.pixels, Layout.RGB, Metadata({"題": "x", "": "y", "k" * 80: "z", "ok": "kept"}))
    assert write_image(tmp_path / "b.png", foreign) == ("text",)
    assert read_image(tmp_path / "b.png").metadata.text == {"ok": "kept"}


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 12])
def test_bands_return_through_rasterio(bands, tmp_path):
    pytest.importorskip("rasterio")
    pixels = noise(40, 30, bands)
    layout = Layout.BANDS if bands > 1 else Layout.GREY
    write_image(tmp_path / "a.tif", Image(pixels, layout))
    found = read_image(tmp_path / "a.tif")
    assert found.layout is layout
    np.testing.assert_array_equal(found.pixels, pixels)


def test_bands_without_rasterio_are_refused(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("rasterio"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImageError, match="pip install rasterio"):
        read_image(tiff_file(noise(4, 4, 5)))


def test_png_of_bands_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"write \.tif"):
        write_image(tmp_path / "a.png", Image(noise(4, 4, 4), Layout.BANDS))
    assert list(tmp_path.iterdir()) == []


def test_a_turned_georeferenced_tiff_is_refused():
    scale = TiffTag(33550, 12, bytes(24))
    file = tiff_file(noise(4, 4, 1), scale)
    assert read_image(file).metadata.tiff == (scale,)
    data = bytearray(file.getvalue())
    entry = data.index(struct.pack("<HHL", 284, 3, 1))  # planar configuration becomes orientation
    data[entry : entry + 10] = struct.pack("<HHLH", 274, 3, 1, 6)
    with pytest.raises(ImageError, match="orientation 1, got 6"):
        read_image(io.BytesIO(data))


@pytest.mark.parametrize("name", ["RGB.byte.tif", "RGBA.byte.tif", "alpha.tif"])
def test_georeferencing_survives(name, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    if not (SHARED / "geotiff" / name).exists():
        pytest.skip("needs the shared data")
    image = read_image(SHARED / "geotiff" / name)
    assert write_image(tmp_path / "a.tif", image) == ()
    with rasterio.open(SHARED / "geotiff" / name) as old, rasterio.open(tmp_path / "a.tif") as new:
        assert new.crs == old.crs
        assert new.crs is not None
        assert new.transform == old.transform
        assert (new.nodata, new.colorinterp) == (old.nodata, old.colorinterp)
        np.testing.assert_array_equal(new.read(), np.moveaxis(image.pixels, 2, 0))
        np.testing.assert_array_equal(new.read(), old.read())


@pytest.mark.parametrize("name", ["RGBA.uint16.tif", "float.tif", "all-nodata.tif"])
def test_rasters_of_other_types_are_refused(name):
    if not (SHARED / "geotiff" / name).exists():
        pytest.skip("needs the shared data")
    with pytest.raises(
        ImageError, match=r"samples must be unsigned, 8 bits, got (unsigned, 16|float, 64) bits"
    ):
        read_image(SHARED / "geotiff" / name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_cut_files_are_refused_in_one_line(kind):
    data = stored(pillow.fromarray(noise(64, 64, 3)), kind).getvalue()
    for size in (3, 20, len(data) // 4, len(data) // 2, len(data) - 1000):
        with pytest.raises(ImageError) as caught:
            read_image(io.BytesIO(data[:size]))
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_damaged_files_give_a_picture_or_an_image_error(kind):
    random = np.random.default_rng(3)
    data = stored(pillow.fromarray(noise(24, 24, 3)), kind).getvalue()
    for _ in range(60):
        damaged = bytearray(data)
        for place in random.integers(0, min(len(data), 300), 3):
            damaged[place] = random.integers(256)
        try:
            image = read_image(io.BytesIO(damaged), max_pixels=10**6)
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert image.pixels.dtype == np.uint8


@pytest.mark.parametrize("data", [b"", b"not a picture", b"GIF89a" + bytes(50), b"%PDF-1.4", bytes(1000)])
def test_other_files_are_refused(data):
    with pytest.raises(ImageError, match="PNG, JPEG, TIFF, WEBP, BMP, this is something else"):
        read_image(io.BytesIO(data))


@pytest.mark.parametrize(("order", "mark"), [("<", b"II\0*"), (">", b"MM*\0")])
def test_a_tiff_of_another_mark_is_none(order, mark):
    pixels = pillow.fromarray(noise(4, 4))
    data = bytearray(stored(pixels, "TIFF", big_endian=order == ">").getvalue())
    data[:4] = mark
    with pytest.raises(ImageError, match="something else"):
        read_image(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_pictures_over_the_limit_are_refused_before_they_are_decoded(kind):
    file = stored(pillow.new("L", (3000, 3000)), kind)
    with pytest.raises(ImageError, match=r"up to 8999999 pixels .*--max-pixels of `ltchm`"):
        read_image(file, max_pixels=3000 * 3000 - 1)
    assert read_image(file, max_pixels=3000 * 3000).pixels.shape == (3000, 3000, 1)


def test_bombs_are_refused_and_the_limit_of_pillow_is_left_alone():
    before = pillow.MAX_IMAGE_PIXELS
    bomb = png(8, 0, b"\0").getvalue().replace(struct.pack(">LL", 1, 1), struct.pack(">LL", 60000, 60000), 1)
    crc = struct.pack(">L", zlib.crc32(bomb[12:29]))
    with pytest.raises(ImageError, match="up to"):
        read_image(io.BytesIO(bomb[:29] + crc + bomb[33:]))
    text = PngImagePlugin.PngInfo()
    text.add_text("k", "x" * (MAX_BYTES + 1), zip=True)
    with pytest.raises(ImageError, match="MAX_TEXT_CHUNK"):
        read_image(stored(pillow.new("L", (4, 4)), "PNG", pnginfo=text))
    assert before == pillow.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_limit_of_pillow_does_not_hold_while_a_file_is_decoded(kind, monkeypatch):
    pixels, before = noise(40, 40, 3), 1000
    file = stored(pillow.fromarray(pixels), kind)
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", before)
    np.testing.assert_array_equal(read_image(file).pixels, pixels)
    assert before == pillow.MAX_IMAGE_PIXELS


def test_readers_in_many_threads_leave_the_process_as_it_was():
    before = pillow.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, list(warnings.filters)
    data = stored(pillow.fromarray(noise(60, 60, 3)), "PNG").getvalue()
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda _: read_image(io.BytesIO(data)), range(64)))
    assert len({image.pixels.tobytes() for image in images}) == 1
    assert before == (pillow.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, list(warnings.filters))


def test_long_text_behind_the_pixels_is_read():
    body = b"k\0\0" + zlib.compress(b"x" * 2_000_000)
    chunk = struct.pack(">L", len(body)) + b"zTXt" + body + struct.pack(">L", zlib.crc32(b"zTXt" + body))
    data = png(8, 0, b"\0").getvalue()
    assert len(read_image(io.BytesIO(data[:-12] + chunk + data[-12:])).metadata.text["k"]) == 2_000_000


def test_of_two_exif_blocks_none_turns_again(tmp_path):
    pixels, info, exif = noise(9, 6, 3), PngImagePlugin.PngInfo(), pillow.Exif()
    exif[274] = 6
    info.add_text("Raw profile type exif", orientation_in_text("Raw"))
    image = read_image(stored(pillow.fromarray(pixels), "PNG", pnginfo=info, exif=exif))
    np.testing.assert_array_equal(image.pixels, np.rot90(pixels, -1))
    assert image.metadata.text == {}


def test_missing_files_keep_their_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")


def test_the_file_is_named_in_the_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"a\.png: pictures are read from"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.gz", "-"])
def test_unknown_endings_are_refused(name, tmp_path):
    with pytest.raises(ImageError, match="change the ending"):
        write_image(name if name == "-" else tmp_path / name, Image(noise(4, 4, 1), Layout.GREY))
    assert list(tmp_path.iterdir()) == []


def test_pictures_pass_through_standard_output_and_input(monkeypatch):
    class Standard:
        buffer = io.BytesIO()

    pixels = noise(4, 4, 3)
    monkeypatch.setattr(sys, "stdout", Standard())
    write_image("-", Image(pixels, Layout.RGB), suffix=".png")
    Standard.buffer.seek(0)
    monkeypatch.setattr(sys, "stdin", Standard())
    np.testing.assert_array_equal(read_image("-").pixels, pixels)


@pytest.mark.parametrize(
    ("pixels", "layout"),
    [
        (np.zeros((4, 4, 3)), Layout.RGB),
        (np.zeros((4, 4), np.uint8), Layout.GREY),
        (np.zeros((0, 4, 1), np.uint8), Layout.GREY),
        (np.zeros((4, 4, 4), np.uint8), Layout.RGB),
        (np.zeros((4, 4, 5), np.uint8), Layout.RGBA),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(pixels, layout):
    with pytest.raises(ImageError, match=r"pixels must be uint8|use layout bands"):
        Image(pixels, layout)


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")])
def test_what_is_wrong_with_the_machine_is_not_the_picture_s_fault(error, monkeypatch):
    """Training leaves out pictures that are damaged; it must not leave out others."""

    def fail(*_: object) -> None:
        raise error

    file = io.BytesIO()
    pillow.new("RGB", (4, 3)).save(file, "PNG")
    monkeypatch.setattr(images, "_pixels", fail)
    with pytest.raises(type(error)) as raised:
        images.read_image(file)
    assert raised.value is error
