"""The pictures of an evaluation: which files of the folders are taken, and their pixels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltchm_jax.container.header import Layout
from ltchm_jax.files import files_below
from ltchm_jax.imagery.images import SUFFIXES, ImageError, is_picture, read_image


@dataclass(frozen=True)
class Picture:
    """A picture file, under the names that go into tables."""

    dataset: str
    name: str
    path: Path

    def sha256(self) -> str:
        """First 16 hexadecimal digits of the digest of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]

    def pixels(self) -> np.ndarray:
        """The pixels as uint8 [H, W, 3]. Grey is repeated; alpha is dropped where it is opaque throughout.

        Raises:
          ImageError: the file can't be read, or holds neither colour nor grey.
        """
        image = read_image(self.path)
        pixels, layout = image.pixels, image.layout
        if layout in (Layout.GREY_ALPHA, Layout.RGBA):
            if pixels[..., -1].min() < 255:
                raise ImageError("a picture to evaluate must not be transparent; remove its alpha")
            pixels = pixels[..., :-1]
        if layout not in (Layout.GREY, Layout.GREY_ALPHA, Layout.RGB, Layout.RGBA):
            raise ImageError(f"a picture to evaluate must be grey or RGB, got {pixels.shape[2]} bands")
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def list_pictures(folders: Sequence[str | Path]) -> tuple[list[Picture], list[str]]:
    """All pictures in the folders and below, sorted, and the names of the files that are none.

    A data set is called by the last two parts of its folder, so that tables carry no path of one machine.

    Raises:
      ValueError: a folder does not exist, two have the same name, or there is no picture at all.
    """
    pictures: list[Picture] = []
    others: list[str] = []
    seen: dict[str, Path] = {}
    for folder in (Path(name).resolve() for name in folders):
        dataset = printable("/".join(folder.parts[-2:]))
        if not folder.is_dir():
            raise ValueError(f"--folder must be a folder of pictures, got {folder}")
        if dataset in seen:
            raise ValueError(
                f"folders need different names in tables, got {seen[dataset]} and {folder}; rename one"
            )
        seen[dataset] = folder
        for path in files_below(folder):
            name = printable(path.relative_to(folder).as_posix())
            if is_picture(path):
                pictures.append(Picture(dataset, name, path))
            else:
                others.append(f"{dataset}/{name}")
    if not pictures:
        raise ValueError(
            f"there must be a picture ({', '.join(SUFFIXES)}) in the folders, got none in {_names(seen)}"
        )
    return pictures, others


def printable(name: str) -> str:
    """The name with line ends, other control characters and stray bytes spelled out: it goes into a table."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _names(seen: dict[str, Path]) -> str:
    return ", ".join(map(str, seen.values())) or "no folder at all"
