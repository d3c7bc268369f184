"""Trains LTCHM: python train.py --config configs/ltchm.py --workdir DIR --config.data.folder=DIR"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from ltchm_jax.command import FAILED, INTERRUPTED
from ltchm_jax.errors import one_line

config_flags.DEFINE_config_file("config", "configs/ltchm.py", "What to train.", lock_config=True)
flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints and logs; a run found there goes on.", required=True
)
flags.DEFINE_string(
    "distributed", "", "Join the other processes of a run: auto on a cluster, or HOST:PORT,COUNT,INDEX."
)


def parse(arguments: list[str]) -> list[str]:
    """Reads the flags; ends the process with status 2 and one line where one is wrong, 130 for Ctrl-C."""
    try:
        return flags.FLAGS(arguments)
    except KeyboardInterrupt:  # a configuration imports JAX, which takes a second
        return sys.exit(INTERRUPTED)
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        print(
            f"train.py: A flag is unknown or has a wrong value: {what(error)}; see --help.", file=sys.stderr
        )
        return sys.exit(FAILED)


def what(error: Exception) -> str:
    """What an error says in one line, or the one inside it; the text of a KeyError is a literal."""
    inner = error.args[0] if error.args else ""
    if isinstance(inner, Exception):
        return what(inner)
    text = str(inner if isinstance(error, KeyError) else error)
    if "Traceback" in text:  # of a configuration that can't be made: its last line says why
        last = text.strip().splitlines()[-1]
        text = last.partition(": ")[2] or last
    return one_line(ValueError(text))


def main(arguments: list[str]) -> int:
    """Trains; returns the exit status. `arguments`: the program, and what is no flag, which is a slip."""
    if arguments[1:]:
        print(
            f"train.py: {arguments[1]!r} is no flag: write --config.NAME=VALUE; see --help.", file=sys.stderr
        )
        return FAILED
    logging.set_verbosity(logging.FATAL)  # what others log of an error is said by ours, in one line
    try:
        from ltchm_jax import run  # takes seconds, in which Ctrl-C is no error
    except KeyboardInterrupt:
        return INTERRUPTED
    return run.main(flags.FLAGS.config, flags.FLAGS.workdir, flags.FLAGS.distributed)


if __name__ == "__main__":
    app.run(main, sys.argv, flags_parser=parse)
