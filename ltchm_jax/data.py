"""Images to batches of crops: deterministic, random access, and its position fits in a checkpoint (Grain)."""

from typing import Any

import grain.python as grain
import numpy as np
from grain import experimental

from ltchm_jax.crops import crop, resized_crop
from ltchm_jax.sources import DataError, DotaSource, FolderSource, Source, TfdsSource, Tolerant

MIX = 4  # batches of images whose crops are spread over as many batches times `crops_per_image`


def open_source(config: Any, split: str) -> Tolerant:
    """The source that `config.data` names, for split 'train' or 'validation'.

    Raises:
      DataError: not exactly one of `folder`, `dota` and `tfds` is given, or validation images from two
        places, or the source can't be opened.
    """
    data, bands = config.data, config.model.bands
    if sum(map(bool, (data.folder, data.dota, data.tfds))) != 1:
        raise DataError(
            "Training needs one source of images: set --config.data.folder=DIR, --config.data.dota=DIR or "
            "--config.data.tfds=NAME."
        )
    if not data.folder and (data.split or data.validation_folder):
        raise DataError(
            "`data.split` and `data.validation_folder` are for `data.folder`, others have splits."
        )
    if data.split and data.validation_folder:
        raise DataError("Validation images come from `data.split` or `data.validation_folder`, not both.")
    if data.dota:
        return Tolerant(DotaSource(data.dota, split, bands))
    train = split == "train"
    if data.folder and data.split:
        return Tolerant(FolderSource(data.folder, bands, split))
    if data.folder:
        return Tolerant(FolderSource(data.folder if train else data.validation_folder or data.folder, bands))
    name = data.tfds_split if train else data.tfds_validation_split
    return Tolerant(TfdsSource(data.tfds, name, data.tfds_dir or None, bands))


def validates_on_training_images(config: Any) -> bool:
    """Whether `config.data` names a folder and no other images to validate on."""
    return bool(config.data.folder) and not (config.data.split or config.data.validation_folder)


class RandomCrops(grain.RandomMapTransform):
    """image [H, W, bands] -> `crops_per_image` crops [n, crop, crop, bands], as a step of a pipeline."""

    def __init__(self, data: Any) -> None:
        self._crop = resized_crop if data.resized_crops else crop
        self._count, self._size, self._flips = data.crops_per_image, data.crop, data.flips

    def random_map(self, element: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.stack([self._crop(element, self._size, rng, self._flips) for _ in range(self._count)])


class SpreadCrops(experimental.FlatMapTransform):
    """[MIX, B, n, ...], n crops of each of MIX * B images -> MIX * n batches [B, ...].

    No batch has two crops of an image, and MIX - 1 batches lie between any two.
    """

    max_fan_out = 1 << 30

    def flat_map(self, element: np.ndarray) -> list[np.ndarray]:
        return [group[:, i] for i in range(element.shape[2]) for group in element]


def training_batches(source: Source, config: Any, shard: int = 0, shards: int = 1) -> grain.DatasetIterator:
    """Endless batches uint8 [B, crop, crop, bands] for host `shard` of `shards`; B is its share of the batch.

    The order and the crops depend on `config.seed` alone, and the shares of all hosts, one after the other,
    are the batch that a single host would have. `get_state` and `set_state` of the iterator give and take its
    position, which is JSON and the same for all hosts.

    An image is decoded once an epoch, whatever its size, and gives `crops_per_image` crops.

    Raises:
      DataError: fewer images than hosts.
    """
    if len(source) < shards:
        raise DataError(f"Every host needs an image: {len(source)} for {shards} hosts.")
    data = config.data
    pipeline = grain.MapDataset.source(source).seed(config.seed).shuffle().repeat(None)
    pipeline = pipeline.random_map(RandomCrops(data))
    pipeline = pipeline.batch(config.batch_size // shards, drop_remainder=True)[shard::shards]
    if data.crops_per_image == 1:
        pipeline = pipeline.map(lambda batch: batch[:, 0])
        options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch)
        return iter(pipeline.to_iter_dataset(options))
    ahead = max(MIX, data.prefetch // data.crops_per_image)
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=ahead)
    groups = pipeline.to_iter_dataset(options).batch(MIX, drop_remainder=True)
    return iter(experimental.FlatMapIterDataset(groups, SpreadCrops()))


def validation_batches(source: Source, config: Any) -> list[np.ndarray]:
    """Central crops of `config.data.validation_images` images, batches uint8 [B, crop, crop, bands].

    All batches have one size, at most `config.batch_size`; crops that it leaves over don't count, fewer than
    there are batches.
    """
    crops = central_crops(source, config.data.validation_images, config.data.crop)
    count = -(-len(crops) // config.batch_size)
    return np.split(crops[: len(crops) // count * count], count)


def central_crops(source: Source, count: int, size: int) -> np.ndarray:
    """Of up to `count` images, spread evenly over the source, uint8 [N, size, size, bands]."""
    count = min(len(source), count)
    return np.stack([_central(source[i * len(source) // count], size) for i in range(count)])


def _central(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (max(0, (n - size) // 2) for n in image.shape[:2])
    image = image[top : top + size, left : left + size]
    return np.pad(image, ((0, size - image.shape[0]), (0, size - image.shape[1]), (0, 0)), "symmetric")
