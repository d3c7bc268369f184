"""Pictures to streams and back: the latents that went in come out, whatever the size, or a named error."""

import contextlib
import dataclasses
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_model import drawn_model

from ltchm_jax import block_coder
from ltchm_jax.bitstream import BitstreamError, Block, Header, Malformed, ModelMismatch, TooLarge, pack
from ltchm_jax.bitstream import read as bitstream_read
from ltchm_jax.container.grid import Rect
from ltchm_jax.container.header import Layout
from ltchm_jax.container.metadata import Metadata
from ltchm_jax.entropy.snapping import SYMBOL_LIMIT
from ltchm_jax.imagery.images import (
    LAYOUTS,
    Image,
    ImageError,
    StoredImage,
    open_image,
    read_image,
    write_image,
)
from ltchm_jax.imagery.scenes import draw_scene
from ltchm_jax.model import ModelConfig, init_variables
from ltchm_jax.model_file import ModelError, make_model, save_model

latent_coder = pytest.importorskip("ltchm_jax.entropy.latent_coder")
codec_module = pytest.importorskip("ltchm_jax.codec")
pytest.importorskip("tensorflow_compression_ops")

# Untrained scales are at their floor, so the floor is where the latents below lie.
SMALL = ModelConfig(
    width=32,
    attention="none",
    hyper_attention="none",
    parameter_width=32,
    scale_min=2.0,
    lmbdas=(128.0, 512.0, 2048.0),
)
SIZES = [(1, 1), (17, 31), (64, 64), (63, 2)]


@pytest.fixture(scope="module")
def variables():
    """Random weights with the latents scaled up, so that there is something to code."""
    variables = init_variables(SMALL, jax.random.key(1))
    kernel = variables["params"]["g_a"]["down16"]["kernel"]
    variables["params"]["g_a"]["down16"]["kernel"] = kernel * 20
    return variables


@pytest.fixture(scope="module")
def codec(variables):
    return codec_module.Codec(make_model(SMALL, variables), "small")


@pytest.fixture(scope="module")
def small_blocks(codec):
    """The same, cutting into blocks of 64."""
    return codec_module.Codec(codec.model, "small", block_size=64)


CUT = {"block_size": 176}  # two by two blocks of 348 x 348 pixels, which share 4


def scene(height, width, bands=3):
    return draw_scene(height, width, 3)[..., :bands]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_any_size_and_layout_comes_back_in_shape(codec, height, width, bands):
    x = np.random.default_rng(0).integers(0, 256, (height, width, bands), np.uint8)
    x_hat = codec.decompress(codec.compress(x))
    assert x_hat.shape == x.shape
    assert x_hat.dtype == np.uint8
    if bands in (2, 4):
        np.testing.assert_array_equal(x_hat[..., -1], x[..., -1])


@pytest.mark.parametrize("bands", [2, 4])
def test_the_bands_of_a_model_are_no_alpha(bands):
    """As in a TIFF of bands: all are coded, none is stored."""
    model = drawn_model(dataclasses.replace(SMALL, bands=bands))
    of_bands = codec_module.Codec(model)
    x = np.random.default_rng(0).integers(0, 256, (16, 16, bands), np.uint8)
    data = of_bands.compress(x)
    assert (of_bands.info(data).layout, of_bands.info(data).bands) == (Layout.BANDS, bands)
    assert data == of_bands.compress_image(Image(x, Layout.BANDS))
    assert of_bands.decompress(data).shape == x.shape


@pytest.mark.parametrize("quality", [0, 0.73, 2])
def test_the_picture_is_the_synthesis_of_the_encoded_latents(codec, quality):
    x = scene(64, 64)
    steps = round(quality * codec_module.QUALITY_STEPS)
    y, _ = codec.blocks.latents(x, steps)
    assert np.abs(y).max() > 0
    expected = codec.blocks.synthesise(0, y, steps)
    np.testing.assert_array_equal(codec.decompress(codec.compress(x, quality)), expected)


def test_a_stream_is_as_long_as_the_model_says(codec):
    x = scene(64, 64)
    y, z = codec.blocks.latents(x, 0)
    nothing, entropy = np.zeros_like(y), codec.blocks.entropy
    psi = codec.blocks.psi(z, 0, y.shape)
    z_alone = len(entropy.encode(z, nothing, psi).payload) - entropy.ideal_bits(nothing, psi) / 8
    ideal = entropy.ideal_bits(y, psi) / 8 + z_alone
    assert ideal > 300
    assert ideal - 4 < len(codec.compress(x, 0)) < 1.005 * ideal + 40


def test_more_quality_is_more_bytes(codec):
    sizes = [len(codec.compress(scene(64, 64), quality)) for quality in (0, 1, 2)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 2.0])
def test_the_best_quality_within_a_number_of_bytes(codec, share):
    image = Image(scene(64, 64), Layout.RGB)
    least, most = (len(codec.compress_image(image, quality)) for quality in (0, 2))
    allowed = round(least + share * (most - least))
    data = codec.compress_within(image, allowed)
    assert len(data) <= allowed
    quality = bitstream_read(data).header.quality / codec_module.QUALITY_STEPS
    if share >= 1:
        assert quality == 2
    else:
        assert len(codec.compress_image(image, quality + 1 / 32)) > allowed


@pytest.mark.parametrize("jump", [0.01, 0.7345, 1.2345, 1.99])
def test_the_best_quality_is_found_to_a_64th(codec, monkeypatch, jump):
    """Of sizes that leap over what is allowed, where a secant helps least."""

    def compress(self, image, quality, **options):
        return bytes(round(1000 + 10 * quality + 5000 * (quality > jump)))

    monkeypatch.setattr(codec_module.Codec, "compress_image", compress)
    data = codec.compress_within(Image(scene(64, 64), Layout.RGB), 3000)
    assert jump - 1 / 64 - 1 / 256 <= (len(data) - 1000) / 10 + 0.05
    assert len(data) < 3000


def test_info_is_the_header(codec):
    header = codec_module.Codec.info(codec.compress(scene(20, 30), 1))
    assert (header.width, header.height, header.digest) == (30, 20, codec.model.digest)


def test_info_takes_pictures_that_are_too_large_to_decode():
    header = Header(bytes(8), 40_000, 40_000, Layout.RGB, 3, block_size=4096)
    stream = pack(header, [Block(b"", 0)] * header.grid.count)
    assert codec_module.Codec.info(stream) == header


def test_the_limit_on_pixels_is_the_callers(codec, tmp_path):
    picture, stream = tmp_path / "x.png", tmp_path / "x.ltc"
    write_image(picture, Image(scene(17, 31), Layout.RGB))
    with pytest.raises(ImageError, match="up to 526 pixels"):
        codec.compress_file(picture, stream, max_pixels=17 * 31 - 1)
    codec.compress_file(picture, stream, max_pixels=17 * 31)
    for max_pixels in (17 * 31 - 1, 17 * 31):
        fits = max_pixels == 17 * 31
        with contextlib.nullcontext() if fits else pytest.raises(TooLarge):
            codec.decompress_file(stream, tmp_path / f"{max_pixels}.png", max_pixels=max_pixels)
        with contextlib.nullcontext() if fits else pytest.raises(TooLarge):
            codec.decompress(stream.read_bytes(), max_pixels=max_pixels)
        assert (tmp_path / f"{max_pixels}.png").exists() == fits


def test_too_few_bytes_are_refused(codec):
    with pytest.raises(ValueError, match=r"`max_bytes` must be \d+ or more for this picture, got 10"):
        codec.compress_within(Image(scene(64, 64), Layout.RGB), 10)
    for number in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`max_bytes` must be a finite number"):
            codec.compress_within(Image(scene(64, 64), Layout.RGB), number)


def test_what_holds_bytes_or_pixels_will_do(codec):
    data = codec.compress(jnp.asarray(scene(20, 30)))
    assert data == codec.compress(scene(20, 30))
    for held in (bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(codec.decompress(held), codec.decompress(data))


@pytest.mark.parametrize("scale", [1e9, 1e38])
def test_latents_out_of_range_are_clipped_and_counted(codec, scale, caplog):
    """Large ones, and what is no number."""
    variables = jax.tree.map(np.copy, codec.model.variables)
    variables["params"]["g_a"]["down16"]["kernel"] *= np.float32(scale)
    broken = codec_module.Codec(dataclasses.replace(codec.model, variables=variables))
    data = broken.compress(scene(40, 50))
    (record,) = caplog.records
    count, said = re.match(r"(\d+) (latents of a block were clipped to \+-\d+)", record.getMessage()).groups()
    assert said.endswith(str(SYMBOL_LIMIT))
    y, z = broken.blocks.latents(scene(40, 50), 256)
    assert 0 < int(count) == sum(np.count_nonzero(np.abs(v) == SYMBOL_LIMIT) for v in (y, z))
    assert broken.decompress(data).shape == (40, 50, 3)


def test_blocks_take_turns_on_devices(codec):
    where = [codec.blocks.analyse(i, scene(16, 16), 0)[0].devices() for i in range(3)]
    assert where[0] == where[2] != where[1]


def test_compress_twice_gives_the_same_bytes(codec):
    assert codec.compress(scene(40, 50), 1.5) == codec.compress(scene(40, 50), 1.5)


def test_exact_pixels_bear_other_arithmetic(codec):
    """Weights that are off by 1e-13 change no pixel; where they are off as in float32, some do."""
    exact = block_coder.BlockCoder(codec.model, exact=True)
    rng = np.random.default_rng(0)
    y = rng.integers(-9, 10, (16, 16, SMALL.latent_channels)).astype(np.int32)
    whole = exact._all_wide()

    def pixels(error: float) -> np.ndarray:
        off = jax.tree.map(lambda v: np.asarray(v) * (1 + error * rng.normal(size=v.shape)), whole)
        exact._all_wide = lambda: off
        return np.asarray(exact.synthesise(0, y, 256))

    want = pixels(0)
    np.testing.assert_array_equal(pixels(1e-13), want)
    assert (pixels(1e-5) != want).any()
    plain = np.asarray(codec.blocks.synthesise(0, y, 256))
    assert np.abs(plain.astype(int) - want).max() <= 1
    assert np.ptp(want) > 100


def test_an_exact_codec_reads_any_stream(codec):
    exact = pickle.loads(pickle.dumps(codec_module.Codec(codec.model, "small", exact=True)))
    assert exact.blocks.exact
    data, x = codec.compress(scene(70, 50)), scene(70, 50)
    assert data == exact.compress(x)
    difference = exact.decompress(data).astype(int) - codec.decompress(data)
    assert np.abs(difference).max() <= 1


def test_windows_are_crops_of_the_whole(codec, small_blocks):
    """Of blocks, which any codec of the model decodes."""
    x = scene(150, 100)
    data = small_blocks.compress(x)
    assert codec.info(data).grid.count == 6
    whole = codec.decompress(data)
    assert whole.shape == x.shape
    for window in [Rect(0, 0, 150, 100), Rect(60, 50, 20, 10), Rect(149, 99, 1, 1)]:
        np.testing.assert_array_equal(codec.decompress(data, window), whole[window.slices])
    np.testing.assert_array_equal(codec.decompress(data, (60, 50, 20, 10)), whole[60:80, 50:60])
    with pytest.raises(ValueError, match="window"):
        codec.decompress(data, (0, 0, 0, 0))


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("bands", [3, 4])
def test_a_file_is_what_an_array_is(small_blocks, tmp_path, suffix, bands):
    x = scene(150, 100)
    data = small_blocks.compress(np.concatenate([x, x[..., :1]], -1)[..., :bands])
    (tmp_path / "x.ltc").write_bytes(data)
    for window in (None, Rect(60, 50, 20, 10)):
        small_blocks.decompress_file(tmp_path / "x.ltc", tmp_path / f"x{suffix}", window)
        want = small_blocks.decompress(data, window)
        np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}").pixels, want)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_a_large_file_gives_the_stream_of_a_small_one(small_blocks, tmp_path, monkeypatch, bands):
    pytest.importorskip("rasterio")
    image = Image(np.concatenate([scene(150, 100), scene(150, 100)], -1)[..., :bands], LAYOUTS[bands])
    write_image(tmp_path / "x.tif", image)
    small_blocks.compress_file(tmp_path / "x.tif", tmp_path / "whole.ltc")
    monkeypatch.setattr("ltchm_jax.imagery.tiff_pictures.WHOLE_PIXELS", 0)
    with open_image(tmp_path / "x.tif") as stored:
        assert isinstance(stored, StoredImage)
    small_blocks.compress_file(tmp_path / "x.tif", tmp_path / "rows.ltc")
    assert (tmp_path / "rows.ltc").read_bytes() == (tmp_path / "whole.ltc").read_bytes()


def test_rows_come_while_blocks_are_still_to_be_decoded(small_blocks, monkeypatch):
    data = small_blocks.compress(scene(500, 40))
    monkeypatch.setattr(codec_module, "STEP_ROWS", 1)  # as if each block were large
    decoded = []
    decode = small_blocks.blocks.decode
    monkeypatch.setattr(small_blocks.blocks, "decode", lambda *given: decoded.append(1) or decode(*given))
    seen = [len(decoded) for _ in small_blocks.decompress_rows(data).bands_of_rows]
    assert seen == [min(i + 2, 9) for i in range(9)]  # one is synthesised while the next is decoded


def test_a_file_is_left_as_it_was_where_a_later_block_is_damaged(small_blocks, tmp_path):
    data = bytearray(small_blocks.compress(scene(150, 100)))
    data[-3] ^= 1
    (tmp_path / "x.ltc").write_bytes(data)
    (tmp_path / "x.tif").write_bytes(b"before")
    with pytest.raises(BitstreamError):
        small_blocks.decompress_file(tmp_path / "x.ltc", tmp_path / "x.tif")
    assert (tmp_path / "x.tif").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_codec_goes_to_another_process_with_its_options(small_blocks):
    codec = pickle.loads(pickle.dumps(small_blocks))
    assert (codec.name, codec.block_size, codec.overlap) == (small_blocks.name, 64, small_blocks.overlap)
    assert codec.compress(scene(40, 50)) == small_blocks.compress(scene(40, 50))


def test_threads_share_a_codec(variables):
    fresh = codec_module.Codec(make_model(SMALL, variables))  # all threads meet functions not yet compiled
    pictures = [draw_scene(64, 64 + 64 * (i % 2), i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        streams = list(pool.map(fresh.compress, pictures))
        decoded = list(pool.map(fresh.decompress, streams))
    for picture, stream, pixels in zip(pictures, streams, decoded, strict=True):
        assert fresh.compress(picture) == stream
        np.testing.assert_array_equal(fresh.decompress(stream), pixels)


@pytest.mark.parametrize(
    "cut", [{"block_size": 0}, {"block_size": 8}, {"block_size": 5000}, {"block_size": 64, "overlap": 20}]
)
def test_blocks_of_impossible_sizes_are_refused(codec, cut):
    with pytest.raises(ValueError, match=r"block size"):
        codec_module.Codec(codec.model, **cut)


def test_blocks_of_one_shape_compile_once(codec, small_blocks):
    small_blocks.compress(scene(150, 100))
    compiled = block_coder.analyse._cache_size()
    small_blocks.compress(scene(180, 110))
    assert block_coder.analyse._cache_size() == compiled


def test_models_of_one_configuration_compile_once(codec):
    other = codec_module.Codec(drawn_model(SMALL, seed=1))
    pixels, functions = (
        scene(40, 33),
        (block_coder.analyse, block_coder.synthesise, latent_coder._grid_values_of),
    )
    assert codec.decompress(codec.compress(pixels)).shape == pixels.shape
    compiled = [function._cache_size() for function in functions]
    assert other.model.digest != codec.model.digest
    assert other.decompress(other.compress(pixels)).shape == pixels.shape
    assert [function._cache_size() for function in functions] == compiled


def test_metadata_travels_on_request(codec):
    image = Image(scene(20, 20), Layout.RGB, Metadata(text={"sensor": "drawn"}))
    assert codec.decompress_image(codec.compress_image(image)).metadata == Metadata()
    assert codec.decompress_image(codec.compress_image(image, metadata=True)).metadata == image.metadata


def test_damaged_streams_end_in_a_named_error(codec):
    data = codec.compress(scene(30, 30))
    rng = np.random.default_rng(5)
    for position in rng.integers(0, len(data), 40):
        damaged = bytearray(data)
        damaged[position] ^= 1 << rng.integers(8)
        with pytest.raises(BitstreamError):
            codec.decompress(bytes(damaged))
    for length in rng.integers(0, len(data), 20):
        with pytest.raises(BitstreamError):
            codec.decompress(data[:length])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"layout": Layout.BANDS, "bands": 362}, "3 bands .*, the stream says 362 of layout bands"),
        ({"quality": 513}, "qualities up to 512 / 256, the stream says 513"),
    ],
)
def test_a_head_that_its_model_can_not_have_written_is_malformed(codec, change, rule):
    container = bitstream_read(codec.compress(scene(30, 30)))
    forged = pack(dataclasses.replace(container.header, **change), list(container))
    with pytest.raises(Malformed, match=rule):
        codec.decompress(forged)


def test_another_model_is_refused(codec, variables):
    other = codec_module.Codec(make_model(dataclasses.replace(SMALL, scale_min=3.0), variables))
    with pytest.raises(ModelMismatch, match="load its weights"):
        other.decompress(codec.compress(scene(10, 10)))


@pytest.mark.parametrize(
    ("pixels", "quality", "rule"),
    [
        (np.zeros((4, 4, 3), np.uint16), None, "uint8"),
        (np.zeros((4, 4), np.uint8), None, "uint8"),
        (np.zeros((0, 4, 3), np.uint8), None, "uint8"),
        (np.zeros((4, 4, 7), np.uint8), None, "codes 3 bands"),
        (np.zeros((4, 4, 3), np.uint8), -0.1, "must be 0 to 2"),
        (np.zeros((4, 4, 3), np.uint8), float("nan"), "must be 0 to 2"),
    ],
)
def test_bad_arguments_are_refused(codec, pixels, quality, rule):
    with pytest.raises(ValueError, match=rule):
        codec.compress(pixels, quality)


def test_models_are_found_by_path_and_refused_by_name(codec, tmp_path):
    save_model(tmp_path / "mine.safetensors", codec.model)
    assert codec_module.Codec.load(tmp_path / "mine.safetensors").model.digest == codec.model.digest
    with pytest.raises(ModelError, match="nothing-like-it"):
        codec_module.Codec.load("nothing-like-it")


def change_across(error: np.ndarray, first: int, last: int) -> np.ndarray:
    """Mean change of an error [H, W, bands] from each line of pixels to the next, between two lines."""
    return np.abs(np.diff(error[first - 1 : last + 1].mean(-1), axis=0)).mean(1)


@pytest.mark.slow
def test_blocks_leave_no_seam_and_take_few_more_bytes():
    """The shipped model at its lowest rate, on a smooth scene, beside blocks that share nothing."""
    x = draw_scene(174, 174, 3).repeat(2, 0).repeat(2, 1)
    errors, sizes = {}, {}
    for name, options in {"whole": {}, "default": CUT, "apart": CUT | {"overlap": 0}}.items():
        codec = codec_module.Codec.load(**options)
        data = codec.compress(x, 0)
        sizes[name], errors[name] = len(data), codec.decompress(data).astype(float) - x
    near = np.zeros(x.shape[:2], bool)
    near[166:182] = near[:, 166:182] = True
    seam = {name: np.abs(error)[near].mean() / np.abs(error)[~near].mean() for name, error in errors.items()}
    edge = {
        name: sum(change_across(turned, 172, 176).max() for turned in (error, error.swapaxes(0, 1)))
        for name, error in errors.items()
    }
    assert sizes["default"] < 1.03 * sizes["whole"] + 3 * 12  # three more entries of the index
    assert seam["default"] < 1.03 * seam["whole"]
    assert edge["default"] < 1.1 * edge["whole"]
    assert edge["default"] < 0.85 * edge["apart"]
