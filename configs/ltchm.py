"""Base configuration: LTCHM as the paper describes it, lambda 512, C = 192. Every field stands here.

    python train.py --config configs/ltchm.py --workdir runs/ltchm --config.data.folder=DIR
    python train.py --config configs/ltchm.py:paper,2048 --workdir runs/l2048 --config.data.folder=DIR

After the colon: a preset, then a lambda of the paper, which brings its width: C = 192 for 128, 256 and 512,
and 256 for 1024, 2048 and 4096. The released code has the same six pairs; without a lambda its width is 128.
One flag changes one field: --config.model.attention=sam, --config.lmbda=2048, --config.model.width=256.
Paper recipe: Adam, 1e-4, then 1e-5 after 100k of 200k steps, batch 8, 256 x 256 crops.
"""

import dataclasses

import ml_collections

from ltchm_jax.model import PRESETS, ModelConfig

WIDTHS = {"128": 192, "256": 192, "512": 192, "1024": 256, "2048": 256, "4096": 256}  # by lambda


def parse(text: str) -> tuple[ModelConfig, float]:
    """'released' or 'paper,2048' -> a model and its lambda. Raises ValueError for anything else."""
    preset, *rest = text.split(",")
    if preset not in PRESETS or len(rest) > 1 or not set(rest) <= WIDTHS.keys():
        raise ValueError(
            f"A configuration is one of {', '.join(PRESETS)}, then perhaps a comma and one of "
            f"{', '.join(WIDTHS)}; got {text!r}."
        )
    if not rest:
        return PRESETS[preset], 512.0
    return dataclasses.replace(PRESETS[preset], width=WIDTHS[rest[0]]), float(rest[0])


def get_config(text: str = "paper") -> ml_collections.ConfigDict:
    model, lmbda = parse(text)
    config = ml_collections.ConfigDict()
    config.seed = 234

    # The model, every field of ltchm_jax.model.ModelConfig.
    config.model = ml_collections.ConfigDict(dataclasses.asdict(model))

    # Objective: bpp + lmbda * MSE of values in 0..1, or bpp + lmbda * (1 - MS-SSIM), which takes a lmbda of 2
    # to 64 or so. A model with `lmbdas` draws the rate of every image instead, whose loss counts
    # lmbda ** -rate_balance: at 0 the highest rates most, at 0.5 a per cent alike at all.
    config.lmbda = lmbda
    config.rate_balance = 0.0
    config.distortion = "mse"  # mse | ms_ssim
    config.rounding = "noise"  # as the paper | straight: the synthesis sees y rounded | hard: so do contexts

    config.data = ml_collections.ConfigDict()
    config.data.folder = ""  # a folder tree of images, or
    config.data.dota = ""  # the folder of DOTA, v1, v2 or both, or
    config.data.tfds = ""  # the name of a prepared TFDS data set
    config.data.split = False  # take 8 of 10 images of `folder` by their names; 1 validates, 1 is for tests
    config.data.tfds_dir = ""
    config.data.tfds_split = "train[:80%]"
    config.data.tfds_validation_split = "train[80%:90%]"
    config.data.validation_folder = ""  # default: the training folder
    config.data.validation_images = 56
    config.data.crop = 256
    config.data.crops_per_image = 1  # crops of an image each time that it is decoded; for large ones more
    config.data.resized_crops = False  # parts of random size resized to `crop`, as released, not plain crops
    config.data.flips = True
    config.data.threads = 4
    config.data.prefetch = 16

    config.init_from = ""  # a model file whose weights the run begins with; default: new ones
    config.linear_start = 0  # new ones are a Karhunen-Loeve transform of so many crops; 0: they are random
    config.entropy_fit = 0  # steps that fit the entropy model alone to either, before all else
    config.synthesis_refit = 0  # after all `steps`, steps that fit the synthesis alone to rounded latents
    config.synthesis_refit_share = 1.0  # of the way from the weights before that fit to those after it
    config.entropy_refit = 0  # and then the prior of y alone, to rounded latents
    config.entropy_images = 1_024  # both fits of the entropy model see the latents of so many crops,
    config.entropy_crop = 256  # of this size

    # Optimisation.
    config.batch_size = 8  # over all devices and hosts
    config.steps = 200_000
    config.learning_rate = 1e-4
    config.schedule = "step"  # step: x0.1 after `decay_at`; cosine: warm-up, then down to 1% of the peak
    config.decay_at = 100_000
    config.warmup = 0
    config.clip_value = 5.0  # elementwise, as released; 0: off
    config.clip_norm = 0.0  # global norm; 0: off
    config.ema = 0.0  # decay of the averaged weights; 0: off
    config.dtype = "float32"  # of the transforms: float32 | bfloat16
    config.accumulate = 1  # parts in which a device takes its share of the batch: less memory
    config.remat = False  # compute blocks again for the gradient: more work, less memory (not on a CPU)

    # What is written while it runs.
    config.log_every = 50
    config.validate_every = 5_000
    config.real_bytes_every = 0  # code and decode a batch of validation images for real; 0: never
    config.checkpoint_every = 1_000
    config.checkpoints_to_keep = 3

    return config.lock()
