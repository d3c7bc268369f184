"""The model that ships: one set of weights for six rates, small enough for a CPU.

    benchmarks/train_shipped.sh DIR       (DIR: a folder with train/ and val/; says how long it takes)

The paper's topology at C = 64 without batch normalisation (its statistics are poor at this batch size), and
with dynamic attention at 1/8 and 1/16 only: at 1/2 and 1/4 it takes as long to train as all else together.
"""

import ml_collections

from configs import ltchm


def get_config() -> ml_collections.ConfigDict:
    config = ltchm.get_config()
    with config.unlocked():
        config.model.width = 64
        config.model.idconv_norm = "none"
        config.model.attention_at_analysis = (8, 16)
        config.model.attention_at_synthesis = (16, 8)
        config.model.parameter_width = 320
        config.model.lmbdas = (128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
        config.data.crop = 128
        config.data.validation_images = 16
        config.batch_size = 4
        config.steps = 6_600
        config.learning_rate = 3e-4  # at 1e-3 batches of four throw the loss about
        config.schedule = "cosine"
        config.warmup = 200
        config.clip_value = 0.0
        config.clip_norm = 1.0
        config.ema = 0.995
        config.log_every = 25
        config.validate_every = 1_000
        config.checkpoint_every = 250
    return config
