from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_codec import picture, write_pictures

from ltchm_jax.evaluation.pictures import Picture, list_pictures
from ltchm_jax.imagery.images import ImageError


def of(path: Path) -> Picture:
    return Picture("set", path.name, path)


def test_listing_is_sorted_and_names_what_is_no_picture(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set" / "test", (4, 5), (6, 7))
    (folder / "deep").mkdir()
    (folder / "deep" / "Z.JPG").write_bytes(b"")
    (folder / "notes.txt").write_text("not a picture")
    pictures, others = list_pictures([folder])
    assert [(p.dataset, p.name) for p in pictures] == [
        ("set/test", "deep/Z.JPG"), ("set/test", "p0.png"), ("set/test", "p1.png")]  # fmt: skip
    assert others == ["set/test/notes.txt"]


def test_names_fit_on_a_line(tmp_path: Path) -> None:
    write_pictures(tmp_path, (4, 5))
    (tmp_path / "p0.png").rename(tmp_path / "a\nb.png")
    assert list_pictures([tmp_path])[0][0].name == "a\\nb.png"


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "one" / "set" / "test", (4, 5))
    other = write_pictures(tmp_path / "two" / "set" / "test", (4, 5))
    with pytest.raises(ValueError, match="different names"):
        list_pictures([folder, other])
    with pytest.raises(ValueError, match="must be a folder"):
        list_pictures([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there must be a picture"):
        list_pictures([tmp_path / "empty"])


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = picture(5, 6)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    pixels = of(tmp_path / "grey.png").pixels()
    assert pixels.shape == (5, 6, 3)
    assert (pixels == grey[..., None]).all()


def test_alpha_is_dropped_only_where_it_says_nothing(tmp_path: Path) -> None:
    rgb, alpha = picture(5, 6), np.full((5, 6, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "opaque.png")
    assert np.array_equal(of(tmp_path / "opaque.png").pixels(), rgb)
    alpha[2, 2] = 254
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "glass.png")
    with pytest.raises(ImageError, match="must not be transparent"):
        of(tmp_path / "glass.png").pixels()


def test_digest_follows_the_content(tmp_path: Path) -> None:
    write_pictures(tmp_path, (4, 5), (6, 7))
    first, second = (of(tmp_path / name).sha256() for name in ("p0.png", "p1.png"))
    assert len(first) == 16
    assert first != second
