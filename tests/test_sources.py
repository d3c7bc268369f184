"""Where images come from: what is read and what is refused, the splits, and what is left out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltchm_jax.evaluation.pictures import list_pictures
from ltchm_jax.sources import DataError, DotaSource, FolderSource, Tolerant, fit_bands, split_of

SPLITS = [
    "train",
    "train",
    "train",
    "train",
    "train",
    "test",
    "train",
    "test",
    "train",
    "train",
    "train",
    "train",
]


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


def test_folders_and_hidden_files_are_no_images_whatever_their_names(tmp_path):
    for name in ("a.png", "._a.png", ".b.png", "c.txt"):
        Image.fromarray(ramp(4, 5)).save(tmp_path / name, "PNG")
    (tmp_path / "tiles.tif").mkdir()
    Image.fromarray(ramp(4, 5)).save(tmp_path / "tiles.tif" / "d.png")
    found = [path.relative_to(tmp_path).as_posix() for path in FolderSource(tmp_path).paths]
    assert found == ["a.png", "tiles.tif/d.png"] == [p.name for p in list_pictures([tmp_path])[0]]


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


def test_splits_are_by_name_alone():
    """As docs/data.md writes them down; the names of other images do not matter."""
    names = [f"P{i:04d}" for i in range(3000)]
    splits = [split_of(name) for name in names]
    assert splits[:12] == SPLITS
    shares = [splits.count(split) / 3000 for split in ("train", "validation", "test")]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)


def test_a_folder_may_be_split_by_the_paths_in_it(tmp_path):
    for i in range(30):
        path = tmp_path / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(ramp(4, 4)).save(path)
    parts = {split: FolderSource(tmp_path, split=split).paths for split in ("train", "validation", "test")}
    assert sorted(p for paths in parts.values() for p in paths) == FolderSource(tmp_path).paths
    assert all(split_of(f"{p.parent.name}/{p.name}") == split for split, ps in parts.items() for p in ps)
    (tmp_path / "new").mkdir()
    Image.fromarray(ramp(4, 4)).save(tmp_path / "new" / "a.png")
    again = {split: FolderSource(tmp_path, split=split).paths for split in parts}
    assert all(set(parts[split]) <= set(again[split]) for split in parts)


def write_dota(root: Path, places: dict[str, list[int]]) -> Path:
    """Pictures P0003.png and so on in these folders, each filled with its number, and a label beside them."""
    for place, numbers in places.items():
        folder = root / place
        folder.mkdir(parents=True)
        for number in numbers:
            Image.fromarray(np.full((8, 9, 3), number, np.uint8)).save(folder / f"P{number:04d}.png")
        beside = root / place.partition("images")[0]
        (beside / "labelTxt").mkdir(exist_ok=True)
        (beside / "labelTxt" / "P0000.txt").write_text("imagesource:GoogleEarth")
        Image.fromarray(ramp(4, 4)).save(beside / "preview.png")
    return root


def test_dota_is_found_in_either_layout_and_every_name_counts_once(tmp_path):
    first = {"v1/train/images": [0, 1, 2], "v1/val/images": [3, 4], "v1/test/images": [5]}
    second = {"v2/train/images/part1": [0, 1], "v2/train/images/part6": [20], "v2/test-dev/images": [21, 5]}
    root = write_dota(tmp_path, first | second)
    splits = sorted({split_of(f"P{number:04d}") for number in (0, 1, 2, 3, 4, 5, 20, 21)})
    sources = {split: DotaSource(root, split) for split in splits}
    found = [int(source[i][0, 0, 0]) for source in sources.values() for i in range(len(source))]
    assert sorted(found) == [0, 1, 2, 3, 4, 5, 20, 21]
    for split, source in sources.items():
        assert {split_of(path.stem) for path in source.paths} == {split}
        in_v2 = {path.stem for path in source.paths if "v2" in path.parts}
        assert in_v2 <= {"P0020", "P0021"}


def test_what_is_not_dota_says_what_it_must_hold(tmp_path):
    with pytest.raises(DataError, match=r"must exist.*--config\.data\.dota"):
        DotaSource(tmp_path / "none", "train")
    Image.fromarray(ramp(4, 4)).save(tmp_path / "P0001.png")
    with pytest.raises(DataError, match="folders called 'images'"):
        DotaSource(tmp_path, "train")
    root = write_dota(tmp_path / "few", {"train/images": [0]})
    missing = next(s for s in ("validation", "test") if s != split_of("P0000"))
    with pytest.raises(DataError, match=f"split {missing} of .* has none"):
        DotaSource(root, missing)


def test_a_real_image_of_dota(shared):
    image = shared / "data" / "dota" / "P1888.png"
    source = FolderSource(image.parent)
    assert source[0].shape == (557, 712, 3)


def test_images_that_can_not_be_read_are_left_out_and_named_once(tmp_path, capsys):
    for i in range(40):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "07.png").write_bytes(b"")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "08.png")
    (tmp_path / "39.png").write_bytes((tmp_path / "38.png").read_bytes()[:50])
    source = Tolerant(FolderSource(tmp_path))
    for _ in range(2):
        seen = [int(source[i][0, 0, 0]) for i in range(40)]
        assert seen == [*range(7), 9, 9, *range(9, 39), 0]
    lines = capsys.readouterr().err.splitlines()
    assert [line[:22] for line in lines] == [f"left out ({i} of 40): An" for i in (1, 2, 3)]
    assert ["07.png" in lines[0], "16" in lines[1], "39.png" in lines[2]] == [True] * 3
    assert sorted(source.left_out) == [7, 8, 39]


@pytest.mark.parametrize("bad", [3, 4])
def test_a_folder_of_too_many_that_can_not_be_read_is_refused_before_a_run(tmp_path, bad):
    """Every second of 64 images is looked at; of these a tenth may be unreadable."""
    for i in range(64):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    for i in range(0, 2 * bad, 2):
        (tmp_path / f"{i:02d}.png").write_bytes(b"")
    source = Tolerant(FolderSource(tmp_path))
    if bad <= 3:
        source.check()
        assert sorted(source.left_out) == [0, 2, 4]
    else:
        with pytest.raises(DataError, match=r"not 4 of 32: .*00\.png") as caught:
            source.check()
        assert "\n" not in str(caught.value)


def test_a_run_goes_on_as_long_as_one_image_can_be_read(tmp_path):
    for i in range(12):
        (tmp_path / f"{i:02d}.png").write_bytes(b"")
    source = Tolerant(FolderSource(tmp_path))
    with pytest.raises(DataError, match=r"No image can be read: .*\.png") as caught:
        source[5]
    assert "\n" not in str(caught.value)
    Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(tmp_path / "07.png")
    assert int(Tolerant(FolderSource(tmp_path))[8][0, 0, 0]) == 7
