"""The model that ships: one set of weights for six rates, small enough for a CPU.

    benchmarks/train_shipped.sh DIR       (DIR: a folder with train/ and val/; says how long it takes)

The paper's topology at C = 96, M = 192, narrow where pixels are many and wide where they are few
(`stage_widths`), without batch normalisation (its statistics are poor at this batch size), and with dynamic
attention at 1/8 and 1/16 only: at 1/2 and 1/4 it takes as long to train as all else together. It begins as a
linear transform with a fitted entropy model, and ends with each half fitted alone: docs/decisions.md says
what that is worth, docs/models.md how the weights that ship came about.
"""

import ml_collections

from configs import ltchm


def get_config() -> ml_collections.ConfigDict:
    config = ltchm.get_config()
    with config.unlocked():
        config.model.width = 96
        config.model.stage_widths = (32, 64, 128, 192)
        config.model.idconv_norm = "none"
        config.model.attention_at_analysis = (8, 16)
        config.model.attention_at_synthesis = (16, 8)
        config.model.parameter_width = 320
        config.model.lmbdas = (128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
        config.rounding = "straight"
        config.data.crop = 128
        config.data.validation_images = 56
        config.linear_start = 3_360
        config.entropy_fit = 300
        config.synthesis_refit = 1_600
        config.entropy_refit = 1_200
        config.batch_size = 8
        config.steps = 2_400
        config.learning_rate = 1e-4  # at 4e-4 the loss rose by a sixth
        config.schedule = "cosine"
        config.warmup = 100
        config.clip_value = 0.0
        config.clip_norm = 1.0
        config.ema = 0.995
        config.log_every = 25
        config.validate_every = 400
        config.checkpoint_every = 250
    return config
