"""What a model makes of the images it is chosen by, at each of its rates: the rows of docs/models.md.

    python benchmarks/rates.py rsscn7/val --model rsscn7 --crop 128

Central crops, rates as the entropy model has them: no stream is written. One line a rate, with bits a pixel,
the PSNR of the mean error over all crops in dB, and bpp + lambda * MSE (of values in 0..1); the last line is
the mean of these over the rates.
"""

import argparse
from typing import Any

import jax
import numpy as np

from ltchm_jax.data import central_crops
from ltchm_jax.losses import Losses, psnr, rate_distortion
from ltchm_jax.model import LTCHM
from ltchm_jax.model_file import Model, load_model
from ltchm_jax.refinement import trained_lmbdas
from ltchm_jax.sources import FolderSource
from ltchm_jax.weights import find_model

BATCH = 8


def mean_losses(model: Model, crops: np.ndarray) -> list[Losses]:
    """For each rate of a model, the means over crops uint8 [N, H, W, bands]."""

    @jax.jit
    def losses(variables: dict, x: jax.Array, quality: jax.Array, lmbda: jax.Array) -> Losses:
        output: Any = LTCHM(model.config).apply(variables, x, quality if model.config.lmbdas else None)
        return rate_distortion(output, x, lmbda, model.config.mixture)

    rates = []
    for quality, lmbda in enumerate(trained_lmbdas(model)):
        rows = []
        for first in range(0, len(crops), BATCH):
            x = crops[first : first + BATCH] / np.float32(255)
            level, weight = (np.full(len(x), value, np.float32) for value in (quality, lmbda))
            rows.append(jax.device_get(losses(model.variables, x, level, weight)))
        rates.append(Losses(*(np.concatenate(column).mean() for column in zip(*rows, strict=True))))
    return rates


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder")
    options.add_argument("--model", default="rsscn7")
    options.add_argument("--crop", type=int, default=128)
    options.add_argument("--images", type=int, default=56)
    given = options.parse_args()
    model = load_model(find_model(given.model))
    source = FolderSource(given.folder, model.config.bands)
    rates = mean_losses(model, central_crops(source, given.images, given.crop))
    for quality, mean in enumerate(rates):
        bpp = mean.bpp_y + mean.bpp_z
        print(f"quality {quality}: {bpp:.3f} bpp, {psnr(mean.mse):.2f} dB, loss {mean.loss:.3f}")
    print(f"mean loss {np.mean([mean.loss for mean in rates]):.3f}")


if __name__ == "__main__":
    main()
