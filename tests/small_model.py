"""A model and a training configuration small enough to compile and run in a test."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import ltchm
from ltchm_jax.model import ModelConfig

SMALL = {"width": 32, "latent_mult": 1, "attention": "none", "hyper_attention": "none", "parameter_width": 32}


def small_model(**fields: Any) -> ModelConfig:
    """Width 32 and no attention, but for the fields given."""
    return ModelConfig(**(SMALL | fields))


def small_config(**fields: Any) -> ConfigDict:
    """A training configuration of `small_model`: 64 x 64 crops, batch 2. Fields by their dotted names."""
    config = ltchm.get_config()
    values = {f"model.{k}": v for k, v in SMALL.items()}
    values |= {"batch_size": 2, "learning_rate": 1e-3, "lmbda": 128.0, "schedule": "cosine"}
    values |= {"data.crop": 64, "data.threads": 1, "data.prefetch": 2, "data.validation_images": 2}
    config.update_from_flattened_dict(values | fields)
    return config


def scrambled(variables: dict, scale: float = 0.3) -> dict:
    """Every parameter random, far from what it is initialised to."""
    rng = np.random.default_rng(9)
    return jax.tree.map(lambda leaf: rng.normal(0, scale, leaf.shape).astype(np.float32), variables)


def write_photos(folder: Path, count: int = 4, size: tuple[int, int] = (80, 96)) -> Path:
    """Smooth pictures with a little noise, `0.png` and so on; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows, columns = np.indices(size)
    for i in range(count):
        waves = [np.sin(rows * a + columns * b + c) for a, b, c in rng.uniform(0, 0.2, (3, 3)) * (1, 1, 30)]
        pixels = 128 + 70 * np.stack(waves, -1) + rng.normal(0, 3, (*size, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder
