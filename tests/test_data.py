"""Images to batches: what is read and what is refused, the order, its position, and its shares."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_model import small_config, write_photos

from ltchm_jax.data import (
    MIX,
    open_source,
    training_batches,
    validates_on_training_images,
    validation_batches,
)
from ltchm_jax.sources import DataError, FolderSource, TfdsSource, Tolerant, split_of


class Numbered:
    """Images whose pixels all hold their own number."""

    def __init__(self, count: int, size: tuple[int, int] = (70, 80)) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((*self.size, 3), index, np.uint8)


@pytest.mark.parametrize(
    "given", [{}, {"data.folder": "a", "data.tfds": "b"}, {"data.folder": "a", "data.dota": "b"}]
)
def test_one_source_must_be_named(given):
    with pytest.raises(DataError, match="one source"):
        open_source(small_config(**given), "train")


def test_validation_has_its_own_folder_or_the_same(tmp_path):
    train, other = write_photos(tmp_path / "a", 3), write_photos(tmp_path / "b", 2)
    one = small_config(**{"data.folder": str(train)})
    two = small_config(**{"data.folder": str(train), "data.validation_folder": str(other)})
    assert [len(open_source(c, "validation")) for c in (one, two)] == [3, 2]
    assert len(open_source(two, "train")) == 3
    assert [validates_on_training_images(c) for c in (one, two)] == [True, False]
    two.data.split = True
    with pytest.raises(DataError, match="not both"):
        open_source(two, "train")


def test_linked_folders_are_read_and_rings_end(tmp_path):
    folder, other = write_photos(tmp_path / "a", 2), write_photos(tmp_path / "b", 3)
    (folder / "linked").symlink_to(other)
    (folder / "self").symlink_to(folder)
    (other / "twice").symlink_to(other)
    names = [path.relative_to(folder).as_posix() for path in FolderSource(folder).paths]
    assert names == ["0.png", "1.png", "linked/0.png", "linked/1.png", "linked/2.png"]


def test_splits_by_name_serve_training_and_validation(tmp_path):
    folder = write_photos(tmp_path / "images", 30)
    for fields in ({"data.folder": str(folder), "data.split": True}, {"data.dota": str(tmp_path)}):
        config = small_config(**fields)
        assert not validates_on_training_images(config)
        sources = [open_source(config, split) for split in ("train", "validation")]
        names = [f"{i}.png" if "data.folder" in fields else f"{i}" for i in range(30)]
        assert [len(s) for s in sources] == [
            sum(split_of(name) == split for name in names) for split in ("train", "validation")
        ]


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


class Counted(Numbered):
    """Numbered images that count how often each is read."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.reads = [0] * count

    def __getitem__(self, index: int) -> np.ndarray:
        self.reads[index] += 1
        return super().__getitem__(index)


def test_several_crops_of_an_image_cost_one_reading_and_lie_apart():
    """16 images of 3 crops each: 2 groups of MIX batches of 2 images, each image in 3 batches."""
    source, config = Counted(16), small_config(**{"data.crops_per_image": 3})
    batches = take(training_batches(source, config), 3 * 2 * MIX)
    order = np.array([[int(image[0, 0, 0]) for image in batch] for batch in batches])
    assert sorted(order.ravel()) == sorted([*range(16)] * 3)
    np.testing.assert_array_equal(order[:MIX], order[MIX : 2 * MIX])  # the same images again, other crops
    assert all(a != b for a, b in order)
    ahead = max(MIX, 2 // 3)  # read for what comes next
    assert sum(source.reads) <= 16 + 2 * (ahead + 2 * MIX)


def test_crops_of_an_image_differ_and_their_position_is_kept(tmp_path):
    source = FolderSource(write_photos(tmp_path, 5))
    config = small_config(**{"data.crops_per_image": 4, "data.threads": 2})
    running = training_batches(source, config)
    first = take(running, 6)
    assert not np.array_equal(first[0], first[MIX])
    position = json.loads(json.dumps(running.get_state()))
    want = take(running, 30)
    fresh = training_batches(source, config)
    fresh.set_state(position)
    np.testing.assert_array_equal(take(fresh, 30), want)
    shares = [
        take(training_batches(source, small_config(**{"data.crops_per_image": 4}), h, 2), 6) for h in (0, 1)
    ]
    np.testing.assert_array_equal([np.concatenate(parts) for parts in zip(*shares, strict=True)], first)


def test_resized_crops_are_an_option(tmp_path):
    source = FolderSource(write_photos(tmp_path, 3))
    plain, resized = (
        take(training_batches(source, small_config(**{"data.resized_crops": r})), 2) for r in (False, True)
    )
    assert resized[0].shape == plain[0].shape
    assert not np.array_equal(resized, plain)


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


def test_files_that_are_all_damaged_stop_the_pipeline_with_a_name(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    batches = training_batches(Tolerant(FolderSource(tmp_path)), small_config())
    with pytest.raises(DataError, match=r"bad\.png"):
        take(batches, 8)


def test_validation_takes_central_crops():
    rows = np.indices((100, 120)).transpose(1, 2, 0).astype(np.uint8)
    source = [np.concatenate([rows, np.full((100, 120, 1), i, np.uint8)], -1) for i in range(5)]
    batches = validation_batches(source, small_config(**{"data.validation_images": 4}))
    assert [batch.shape for batch in batches] == [(2, 64, 64, 3)] * 2
    assert [int(image[0, 0, 2]) for batch in batches for image in batch] == [0, 1, 2, 3]
    (batch,) = validation_batches(Numbered(9), small_config(batch_size=3, **{"data.validation_images": 3}))
    assert numbers([batch]) == [0, 3, 6]  # spread over all
    np.testing.assert_array_equal(batches[0][0], source[0][18:82, 28:92])


@pytest.mark.parametrize("flips", [True, False])
def test_flips_are_as_configured(flips):
    """Of pictures as small as a crop, all crops are the picture itself or one of its reflections."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    batches = training_batches([picture] * 64, small_config(batch_size=8, **{"data.flips": flips}))
    images = np.concatenate(take(batches, 4))
    same = np.array([np.array_equal(image, picture) for image in images])
    assert same.all() != flips
    mirrored = [picture[::a, ::b] for a in (1, -1) for b in (1, -1)]
    assert all(any(np.array_equal(image, m) for m in mirrored) for image in images)


def test_few_or_small_images_still_make_a_batch():
    (batch,) = validation_batches(Numbered(1, (10, 12)), small_config(batch_size=3))
    np.testing.assert_array_equal(batch, np.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize(("count", "size", "want"), [(56, 16, [14] * 4), (31, 16, [15] * 2), (7, 3, [2] * 3)])
def test_validation_batches_leave_out_fewer_images_than_there_are_batches(count, size, want):
    fields = {"batch_size": size, "data.validation_images": count}
    batches = validation_batches(Numbered(count, (64, 64)), small_config(**fields))
    assert [len(batch) for batch in batches] == want


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
def test_a_tfds_data_set_is_read_without_tensorflow(prepared):
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Without:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        absent = name.partition('.')[0] == 'tensorflow'\n"
        "        return None if absent else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]\n"
        "from ltchm_jax.sources import TfdsSource\n"
        "source = TfdsSource('fields', 'train', sys.argv[1])\n"
        "print(sorted(int(source[i][0, 0, 0]) for i in range(len(source))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(prepared)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(list(range(10)))


@pytest.mark.slow
def test_a_damaged_record_is_an_image_that_can_not_be_read(prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "tfds")
    (records,) = folder.glob("fields/*/*.array_record*")
    data = records.read_bytes()
    at = data.rindex(b"\x89PNG")
    records.write_bytes(data[:at] + bytes(64) + data[at + 64 :])
    source = TfdsSource("fields", "train", str(folder))
    failed = []
    for index in range(len(source)):
        try:
            source[index]
        except DataError as error:
            failed.append(str(error))
    assert failed
    assert all("of 'fields' can't be read" in line and "\n" not in line for line in failed)


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
