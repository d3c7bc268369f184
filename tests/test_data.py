"""Images to batches: what is read and what is refused, the order, its position, and its shares."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from small_model import small_config, write_photos

from ltchm_jax.data import (
    DataError,
    FolderSource,
    TfdsSource,
    crop,
    fit_bands,
    open_source,
    training_batches,
    validation_batches,
)


class Numbered:
    """Images whose pixels all hold their own number."""

    def __init__(self, count: int, size: tuple[int, int] = (70, 80)) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((*self.size, 3), index, np.uint8)


def ramp(height: int, width: int, bands: int = 3) -> np.ndarray:
    return np.arange(height * width * bands).reshape(height, width, bands).astype(np.uint8)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.png", "b/2.PNG", "a.bmp", "b/1.tif"):
        Image.fromarray(ramp(4, 5)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    source = FolderSource(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in source.paths] == [
        "a.bmp",
        "b/1.tif",
        "b/2.PNG",
        "c.png",
    ]
    for i in range(4):
        np.testing.assert_array_equal(source[i], ramp(4, 5))


def only(folder, pixels: np.ndarray | Image.Image, name: str = "x.png") -> FolderSource:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(folder / name)
    return FolderSource(folder)


def test_grey_becomes_rgb_and_alpha_is_dropped(tmp_path):
    grey = ramp(6, 5, 1)[..., 0]
    np.testing.assert_array_equal(only(tmp_path, grey)[0], np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(only(tmp_path, ramp(6, 5, 4))[0], ramp(6, 5, 4)[..., :3])


def test_inks_become_rgb(tmp_path):
    inks = np.zeros((2, 2, 4), np.uint8)
    inks[0, 0], inks[1, 1] = (255, 0, 0, 0), (0, 0, 0, 255)
    got = only(tmp_path, Image.fromarray(inks, "CMYK"), "x.tif")[0]
    np.testing.assert_array_equal(got[0], [[0, 255, 255], [255, 255, 255]])
    np.testing.assert_array_equal(got[1, 1], [0, 0, 0])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path, suffix):
    source = only(tmp_path, np.full((4, 4), 40_000, np.uint16), f"deep.{suffix}")
    with pytest.raises(DataError, match=r"deep\..*8 bits.*scale"):
        source[0]


def test_floats_are_refused(tmp_path):
    with pytest.raises(DataError, match="8 bits"):
        only(tmp_path, np.ones((4, 4), np.float32), "float.tif")[0]


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damaged_files_are_named_in_one_line(tmp_path, damage, suffix):
    path = tmp_path / f"bad.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    content = path.read_bytes()
    bad = {
        "empty": b"",
        "text": b"not an image at all",
        "truncated": content[: len(content) // 3],
        "flipped": content[:2] + bytes(b ^ 0xA5 for b in content[2:]),
    }
    path.write_bytes(bad[damage])
    with pytest.raises(DataError, match="bad") as caught:
        FolderSource(tmp_path)[0]
    assert "\n" not in str(caught.value)


def test_a_missing_or_empty_folder_says_what_to_set(tmp_path):
    with pytest.raises(DataError, match=r"must exist.*--config\.data\.folder"):
        FolderSource(tmp_path / "none")
    with pytest.raises(DataError, match="holds none"):
        FolderSource(tmp_path)


def test_bands_of_images_must_be_those_of_the_model():
    assert fit_bands(ramp(2, 2, 1), 3, "x").shape == (2, 2, 3)
    assert fit_bands(ramp(2, 2, 1), 1, "x").shape == (2, 2, 1)
    assert fit_bands(ramp(2, 2, 12), 12, "x").shape == (2, 2, 12)
    with pytest.raises(
        DataError, match=r"4 bands learns from images of as many, x has 3.*--config\.model\.bands"
    ):
        fit_bands(ramp(2, 2, 3), 4, "x")
    with pytest.raises(DataError, match="uint8"):
        fit_bands(ramp(2, 2, 3).astype(np.int16), 3, "x")


def test_real_georeferenced_bands(shared):
    """A three-band GeoTIFF is read; sixteen-bit satellite bands are refused."""
    source = FolderSource(shared / "data" / "geotiff")
    by_name = {path.name: i for i, path in enumerate(source.paths)}
    pixels = source[by_name["RGB.byte.tif"]]
    assert (pixels.shape, pixels.dtype) == ((718, 791, 3), np.uint8)
    with pytest.raises(DataError, match="16 bits"):
        source[by_name["RGBA.uint16.tif"]]


@pytest.mark.parametrize("given", [{}, {"data.folder": "a", "data.tfds": "b"}])
def test_one_source_must_be_named(given):
    with pytest.raises(DataError, match="one source"):
        open_source(small_config(**given), "train")


def test_validation_has_its_own_folder_or_the_same(tmp_path):
    train, other = write_photos(tmp_path / "a", 3), write_photos(tmp_path / "b", 2)
    one = small_config(**{"data.folder": str(train)})
    two = small_config(**{"data.folder": str(train), "data.validation_folder": str(other)})
    assert [len(open_source(c, "validation")) for c in (one, two)] == [3, 2]
    assert len(open_source(two, "train")) == 3


@pytest.mark.parametrize("size", [(1, 1), (3, 100), (64, 64), (63, 200)])
def test_crops_of_any_image_have_the_size_asked_for(size):
    got = crop(ramp(*size), 64, np.random.default_rng(0))
    assert (got.shape, got.dtype) == ((64, 64, 3), np.uint8)
    assert got.flags.c_contiguous
    assert set(got.reshape(-1, 3)[:, 0]) <= set(ramp(*size).reshape(-1, 3)[:, 0])  # mirrored, nothing made up


def test_crops_cover_all_places_and_flips():
    image = np.stack([*np.indices((3, 3)), np.zeros((3, 3))], -1).astype(np.uint8)
    rng = np.random.default_rng(0)
    seen = {crop(image, 2, rng).tobytes() for _ in range(300)}
    assert len(seen) == 4 * 4  # four places, each four ways round
    unflipped = {crop(image, 2, rng, flips=False).tobytes() for _ in range(100)}
    assert unflipped == {image[i : i + 2, j : j + 2].tobytes() for i in (0, 1) for j in (0, 1)}


def take(iterator, count: int) -> list[np.ndarray]:
    return list(itertools.islice(iterator, count))


def numbers(batches: list[np.ndarray]) -> list[int]:
    return [int(image[0, 0, 0]) for batch in batches for image in batch]


def test_batches_depend_on_the_seed_alone(tmp_path):
    source = FolderSource(write_photos(tmp_path, 5))
    first, again, other = (take(training_batches(source, small_config(seed=s)), 6) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first[0].shape == (2, 64, 64, 3)
    assert first[0].dtype == np.uint8
    assert not np.array_equal(first, other)


def test_every_epoch_holds_every_image_once_in_another_order():
    order = numbers(take(training_batches(Numbered(6), small_config()), 9))
    epochs = [order[i : i + 6] for i in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_position_goes_through_json_and_gives_the_same_batches(tmp_path, threads):
    source = FolderSource(write_photos(tmp_path, 5))
    config = small_config(**{"data.threads": threads, "data.prefetch": 4})
    running = training_batches(source, config)
    take(running, 3)
    position = json.loads(json.dumps(running.get_state()))
    want = take(running, 4)
    fresh = training_batches(source, config)
    fresh.set_state(position)
    np.testing.assert_array_equal(take(fresh, 4), want)


def test_hosts_share_an_epoch_without_overlap():
    config = small_config(batch_size=4)
    shares = [numbers(take(training_batches(Numbered(12), config, host, 2), 3)) for host in (0, 1)]
    assert [len(share) for share in shares] == [6, 6]
    assert sorted(shares[0] + shares[1]) == list(range(12))


def test_hosts_together_have_the_batches_of_one(tmp_path):
    source, config = FolderSource(write_photos(tmp_path, 5)), small_config(batch_size=4)
    whole = take(training_batches(source, config), 3)
    shares = [take(training_batches(source, config, host, 2), 3) for host in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), batch)


def test_every_host_needs_an_image():
    with pytest.raises(DataError, match="1 for 2 hosts"):
        training_batches(Numbered(1), small_config(), 0, 2)


def test_a_damaged_file_stops_the_pipeline_with_its_name(tmp_path):
    write_photos(tmp_path, 2)
    (tmp_path / "bad.png").write_bytes(b"")
    batches = training_batches(FolderSource(tmp_path), small_config(**{"data.threads": 2}))
    with pytest.raises(DataError, match=r"bad\.png"):
        take(batches, 8)


def test_validation_takes_central_crops():
    rows = np.indices((100, 120)).transpose(1, 2, 0).astype(np.uint8)
    source = [np.concatenate([rows, np.full((100, 120, 1), i, np.uint8)], -1) for i in range(5)]
    batches = validation_batches(source, small_config(**{"data.validation_images": 4}))
    assert [batch.shape for batch in batches] == [(2, 64, 64, 3)] * 2
    assert [int(image[0, 0, 2]) for batch in batches for image in batch] == [0, 1, 2, 3]
    np.testing.assert_array_equal(batches[0][0], source[0][18:82, 28:92])


def test_few_or_small_images_still_make_a_batch():
    (batch,) = validation_batches(Numbered(1, (10, 12)), small_config(batch_size=3))
    np.testing.assert_array_equal(batch, np.zeros((3, 64, 64, 3)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS data set of grey and coloured pictures, written here in array_record form."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Fields(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.features()))

        def features(self):
            return {"image": tfds.features.Image(shape=(None, None, 3)), "label": np.int64}

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(10):
                yield i, {"image": np.full((70, 80 + i, 3), i, np.uint8), "label": i}

    class Maps(Fields):
        def features(self):
            return {"image": tfds.features.Tensor(shape=(4, 4, 2), dtype=np.uint16), "label": np.int64}

        def _generate_examples(self):
            yield 0, {"image": np.zeros((4, 4, 2), np.uint16), "label": 0}

    class Words(Fields):
        def features(self):
            return {"text": tfds.features.Text()}

        def _generate_examples(self):
            yield 0, {"text": "no picture"}

    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Fields, Maps, Words):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.slow
def test_a_prepared_tfds_data_set_is_read(prepared):
    source = TfdsSource("fields", "train[:80%]", str(prepared))
    assert len(source) == 8
    assert all(image.shape[-1] == 3 and image.dtype == np.uint8 for image in (source[i] for i in range(8)))
    rest = TfdsSource("fields", "train[80%:]", str(prepared))
    found = [int(s[i][0, 0, 0]) for s in (source, rest) for i in range(len(s))]
    assert sorted(found) == list(range(10))
    config = small_config(**{"data.tfds": "fields", "data.tfds_dir": str(prepared)})
    assert len(open_source(config, "validation")) == 1
    batches = take(training_batches(open_source(config, "train"), config), 4)
    assert sorted(numbers(batches)) == sorted(int(source[i][0, 0, 0]) for i in range(8))


@pytest.mark.slow
def test_tfds_data_sets_that_do_not_fit_are_refused(prepared):
    with pytest.raises(DataError, match="'image', 'words' has text"):
        TfdsSource("words", "train", str(prepared))[0]
    with pytest.raises(DataError, match=r"number 0 of 'maps' is uint16"):
        TfdsSource("maps", "train", str(prepared))[0]
    for name, split in (("nothing", "train"), ("fields", "test")):
        with pytest.raises(DataError, match="must be prepared") as caught:
            TfdsSource(name, split, str(prepared))
        assert "\n" not in str(caught.value)
