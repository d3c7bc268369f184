"""Where images come from: folders, DOTA, TFDS. Random access to uint8 [H, W, bands]; see docs/data.md."""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ltchm_jax.errors import first_line, tell
from ltchm_jax.files import files_below
from ltchm_jax.imagery.images import SUFFIXES, ImageError, is_picture, read_image

TENTHS = {"train": range(8), "validation": (8,), "test": (9,)}


class DataError(ValueError):
    """There is nothing to train on, or it can't be read. The message is one line."""


class Source(Protocol):
    """Random access to images, uint8 [H, W, bands]."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> np.ndarray: ...


def fit_bands(pixels: np.ndarray, bands: int, name: str) -> np.ndarray:
    """uint8 [H, W, C] without alpha -> [H, W, bands]: grey becomes RGB, else C must be `bands`.

    Raises:
      DataError: other samples than 8 bits, or another number of bands.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise DataError(
            f"Images must be uint8 [H, W, C], {name} is {pixels.dtype} {list(pixels.shape)}; scale it."
        )
    if pixels.shape[-1] == 1 and bands == 3:
        pixels = np.repeat(pixels, 3, -1)
    if pixels.shape[-1] != bands:
        raise DataError(
            f"A model of {bands} bands learns from images of as many, {name} has {pixels.shape[-1]}; "
            "set --config.model.bands, or remove it."
        )
    return pixels


def split_of(name: str) -> str:
    """'train', 'validation' or 'test', 8:1:1, by a hash of the name: it never depends on other images.

    The first 8 bytes of its SHA-256 as a big-endian number, modulo 10: 0 to 7 train, 8 validates, 9 tests.
    """
    tenth = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10
    return next(split for split, tenths in TENTHS.items() if tenth in tenths)


def images_below(folder: str | Path, field: str) -> tuple[Path, list[Path]]:
    """The folder, and all images in it by `is_picture`, sorted; `field` is what names it."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"The data folder must exist, got {str(root)!r}; set --config.data.{field}=DIR.")
    paths = list(filter(is_picture, files_below(root)))
    if not paths:
        suffixes = ", ".join(SUFFIXES)
        raise DataError(f"The data folder must hold images ({suffixes}); {str(root)!r} holds none.")
    return root, paths


class Files:
    """Image files in a given order: uint8 [H, W, bands] each.

    Files are read by the rules of `images`: 8 bits a sample and no other, CMYK and palettes become RGB.
    Alpha is dropped, and grey becomes RGB for a model of three bands.

    Raises:
      DataError: there is none, or (on access) a file is no such image.
    """

    def __init__(self, paths: Sequence[Path], bands: int, what: str) -> None:
        self.paths, self.bands, self._what = list(paths), bands, what
        if not self.paths:
            raise DataError(f"There must be images to read, {what} has none; add some, or choose another.")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        try:
            image = read_image(path)
        except (ImageError, OSError) as error:
            raise DataError(f"An image could not be read: {error}; or remove it.") from error
        pixels = image.pixels[..., :-1] if image.layout.has_alpha else image.pixels
        return fit_bands(pixels, self.bands, repr(str(path)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images)"


class FolderSource(Files):
    """All images below a folder, or those of a split (by their paths in it), in the order of their paths."""

    def __init__(self, folder: str | Path, bands: int = 3, split: str | None = None) -> None:
        root, paths = images_below(folder, "folder")
        if split is not None:
            paths = [p for p in paths if split_of(p.relative_to(root).as_posix()) == split]
        super().__init__(paths, bands, f"split {split or 'all'} of {str(folder)!r}")


class DotaSource(Files):
    """One split of DOTA, v1 and v2 in any mixture: every image in a folder called `images`, at any depth.

    Images are known by their names (P0001), which both versions share: one that is there twice counts once,
    where it comes first. They are split by these names, not by the folders train, val and test.

    Raises:
      DataError: no folder called `images`, or no image in it for the split.
    """

    def __init__(self, folder: str | Path, split: str, bands: int = 3) -> None:
        root, paths = images_below(folder, "dota")
        named = {p.stem: p for p in reversed(paths) if "images" in p.relative_to(root).parts[:-1]}
        if not named:
            raise DataError(
                f"DOTA has its images in folders called 'images', {str(root)!r} has none of them."
            )
        chosen = sorted(path for name, path in named.items() if split_of(name) == split)
        super().__init__(chosen, bands, f"split {split} of {str(root)!r}")


class TfdsSource:
    """The images of a prepared TFDS data set with random access; TensorFlow is not needed to read them."""

    def __init__(self, name: str, split: str, data_dir: str | None = None, bands: int = 3) -> None:
        self._name, self._bands = name, bands
        try:
            import tensorflow_datasets as tfds

            self._source = tfds.data_source(name, split=split, data_dir=data_dir, download=False)
        except Exception as error:  # the library raises many kinds, some of them private
            raise DataError(
                f"The TFDS data set {name!r}, split {split!r}, must be prepared in array_record form: "
                f"{first_line(error)}"
            ) from error

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            example = self._source[index]
        except Exception as error:  # of the reader or of whatever decodes the picture
            raise DataError(
                f"Number {index} of {self._name!r} can't be read: {first_line(error)}; prepare it again."
            ) from error
        if "image" not in example:
            raise DataError(
                f"A TFDS data set needs a feature 'image', {self._name!r} has {', '.join(example)}."
            )
        image = np.asarray(example["image"])
        colours = image[..., :3] if self._bands == 3 and image.shape[-1] == 4 else image  # alpha of a PNG
        return fit_bands(colours, self._bands, f"number {index} of {self._name!r}")

    def __repr__(self) -> str:
        return f"TfdsSource({len(self)} images)"


LOOKED_AT = 32  # images, before a run begins


class Tolerant:
    """A source that puts the next readable image in the place of one that is not, and names it once.

    Which one that is depends on the images alone, so that a run which goes on sees the same.

    Raises:
      DataError: (on access) there is no image that can be read.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._lock = source, threading.Lock()
        self.left_out: dict[int, str] = {}  # what is wrong with each, by its index

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        while True:
            index %= len(self)
            if index not in self.left_out:
                try:
                    return self._source[index]
                except DataError as error:
                    self._leave_out(index, str(error))
            if len(self.left_out) == len(self):
                raise DataError(f"No image can be read: {self.left_out[index]}")
            index += 1

    def check(self) -> None:
        """Looks at some images, spread over all, before a run begins: a folder may be another than was meant.

        Raises:
          DataError: more than a tenth of them can't be read.
        """
        count = min(LOOKED_AT, len(self))
        indices = {i * len(self) // count for i in range(count)}
        for index in indices:
            _ = self[index]
        wrong = sorted(indices & self.left_out.keys())
        if 10 * len(wrong) > count:
            reason = self.left_out[wrong[0]]
            raise DataError(f"A tenth of the images may be unreadable, not {len(wrong)} of {count}: {reason}")

    def _leave_out(self, index: int, reason: str) -> None:
        with self._lock:
            new = index not in self.left_out
            self.left_out[index] = reason
            count = len(self.left_out)
        if new:
            tell(f"left out ({count} of {len(self)}): {reason}")

    def __repr__(self) -> str:
        return repr(self._source)
