"""Images to batches of crops: deterministic, random access, and its position fits in a checkpoint (Grain)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import grain.python as grain
import numpy as np

from ltchm_jax.imagery.images import ImageError, read_image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})


class DataError(ValueError):
    """There is nothing to train on, or it can't be read."""


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


class FolderSource:
    """All images below a folder, in the order of their paths: uint8 [H, W, bands] each.

    Files are read by the rules of `images`: 8 bits a sample and no other, CMYK and palettes become RGB.
    Alpha is dropped, and grey becomes RGB for a model of three bands.

    Raises:
      DataError: no folder, no image in it, or (on access) a file that is no such image.
    """

    def __init__(self, folder: str | Path, bands: int = 3) -> None:
        root = Path(folder)
        if not root.is_dir():
            raise DataError(f"The data folder must exist, got {str(root)!r}; set --config.data.folder=DIR.")
        self.bands = bands
        self.paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not self.paths:
            suffixes = ", ".join(sorted(SUFFIXES))
            raise DataError(f"The data folder must hold images ({suffixes}); {str(root)!r} holds none.")

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
        return f"FolderSource({len(self)} images)"


class TfdsSource:
    """The images of a prepared TFDS data set with random access; TensorFlow is not needed to read them."""

    def __init__(self, name: str, split: str, data_dir: str | None = None, bands: int = 3) -> None:
        self._name, self._bands = name, bands
        try:
            import tensorflow_datasets as tfds

            self._source = tfds.data_source(name, split=split, data_dir=data_dir, download=False)
        except Exception as error:  # the library raises many kinds, some of them private
            line = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise DataError(
                f"The TFDS data set {name!r}, split {split!r}, must be prepared in array_record form: {line}"
            ) from error

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> np.ndarray:
        example = self._source[index]
        if "image" not in example:
            raise DataError(
                f"A TFDS data set needs a feature 'image', {self._name!r} has {', '.join(example)}."
            )
        image = np.asarray(example["image"])
        colours = image[..., :3] if self._bands == 3 and image.shape[-1] == 4 else image  # alpha of a PNG
        return fit_bands(colours, self._bands, f"number {index} of {self._name!r}")

    def __repr__(self) -> str:
        return f"TfdsSource({len(self)} images)"


def open_source(config: Any, split: str) -> Source:
    """The source that `config.data` names, for split 'train' or 'validation'.

    Raises:
      DataError: neither or both of `folder` and `tfds` are given, or it can't be opened.
    """
    data = config.data
    if bool(data.folder) == bool(data.tfds):
        raise DataError(
            "Training needs one source of images: set --config.data.folder=DIR or --config.data.tfds=NAME."
        )
    train, bands = split == "train", config.model.bands
    if data.folder:
        return FolderSource(data.folder if train else data.validation_folder or data.folder, bands)
    name = data.tfds_split if train else data.tfds_validation_split
    return TfdsSource(data.tfds, name, data.tfds_dir or None, bands)


def crop(image: np.ndarray, size: int, rng: np.random.Generator, flips: bool = True) -> np.ndarray:
    """A random size x size crop of image [H, W, C], flipped at random; smaller ones are mirrored up to it."""
    short = [max(0, size - n) for n in image.shape[:2]]
    if any(short):
        image = np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), "symmetric")
    top, left = (int(rng.integers(0, n - size + 1)) for n in image.shape[:2])
    image = image[top : top + size, left : left + size]
    if flips:
        image = image[:: 1 - 2 * int(rng.integers(2)), :: 1 - 2 * int(rng.integers(2))]
    return np.ascontiguousarray(image)


class RandomCrop(grain.RandomMapTransform):
    """`crop` as a step of a Grain pipeline."""

    def __init__(self, size: int, flips: bool) -> None:
        self.size, self.flips = size, flips

    def random_map(self, element: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return crop(element, self.size, rng, self.flips)


def training_batches(source: Source, config: Any, shard: int = 0, shards: int = 1) -> grain.DatasetIterator:
    """Endless batches uint8 [B, crop, crop, bands] for host `shard` of `shards`; B is its share of the batch.

    The order and the crops depend on `config.seed` alone, and the shares of all hosts, one after the other,
    are the batch that a single host would have. `get_state` and `set_state` of the iterator give and take its
    position, which is JSON and the same for all hosts.

    Raises:
      DataError: fewer images than hosts.
    """
    if len(source) < shards:
        raise DataError(f"Every host needs an image: {len(source)} for {shards} hosts.")
    data = config.data
    pipeline = grain.MapDataset.source(source).seed(config.seed).shuffle().repeat(None)
    pipeline = pipeline.random_map(RandomCrop(data.crop, data.flips))
    pipeline = pipeline.batch(config.batch_size // shards, drop_remainder=True)[shard::shards]
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch)
    return iter(pipeline.to_iter_dataset(options))


def validation_batches(source: Source, config: Any) -> list[np.ndarray]:
    """Central crops of the first `config.data.validation_images` images, batches uint8 [B, crop, crop, 3]."""
    count = min(len(source), config.data.validation_images)
    crops = [_central(source[i], config.data.crop) for i in range(count)]
    size = config.batch_size
    return [np.stack(crops[i : i + size]) for i in range(0, count - size + 1, size)] or [_filled(crops, size)]


def _central(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (max(0, (n - size) // 2) for n in image.shape[:2])
    image = image[top : top + size, left : left + size]
    return np.pad(image, ((0, size - image.shape[0]), (0, size - image.shape[1]), (0, 0)), "symmetric")


def _filled(crops: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Fewer images than a batch: repeated in turn."""
    return np.stack([crops[i % len(crops)] for i in range(size)])
