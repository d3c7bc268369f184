"""Trains LTCHM: python train.py --config configs/ltchm.py --workdir DIR --config.data.folder=DIR"""

import sys

from absl import app, flags
from ml_collections import config_flags

from ltchm_jax import run

config_flags.DEFINE_config_file("config", "configs/ltchm.py", "What to train.", lock_config=True)
flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints and logs; a run found there goes on.", required=True
)


def main(_: list[str]) -> int:
    return run.main(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == "__main__":
    app.run(main, sys.argv)
