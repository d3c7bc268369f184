"""Compares models and conventional codecs on folders of pictures, by the bytes of real files.

    python eval.py --model MODEL --folder PICTURES --out RESULTS
    python eval.py --model curve=low --model curve=mid --model curve=high --folder PICTURES --out RESULTS

The second line draws three single-rate models as one curve. Without --model the conventional codecs alone are
compared. A run that was stopped goes on where it was when it is started again with the same --out.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ltchm_jax.baselines import BASELINES, DEFAULTS
from ltchm_jax.command import Parser, outcome, share_accelerators
from ltchm_jax.signals import interrupts

if TYPE_CHECKING:
    from ltchm_jax.evaluation.run import Options


def parse(arguments: list[str]) -> "Options":
    """Options of a command line; ends the process with status 2 where it is wrong."""
    parser = Parser(prog="eval.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--model", action="append", default=[], metavar="[CURVE=]MODEL", help="model file or name; repeatable"
    )
    add("--folder", action="append", required=True, help="folder of pictures, a data set; repeatable")
    add("--out", type=Path, required=True, help="folder for the results")
    # fmt: off
    add("--codecs", nargs="*", default=list(DEFAULTS), metavar="CODEC",
        help=f"conventional codecs, of {', '.join(BASELINES)}; default {' '.join(DEFAULTS)}")
    add("--grid", choices=("wide", "paper"), default="wide",
        help="settings of the conventional codecs: wide (default), 11 to 13 for BD figures, or the paper's 6")
    add("--qualities", type=float, nargs="+", default=[],
        help="settings of variable-rate models; default: all they were trained for")
    add("--effort", type=int, nargs="+", default=[0], metavar="N",
        help="passes in which models refine what they send, each a curve of its own; default 0")
    add("--workers", type=int, default=1,
        help="processes for the conventional codecs; default 1, more spoil timing")
    add("--examples", type=int, default=3, help="number of pictures to show; default 3")
    add("--crop-bpp", type=float, help="rate at which they are shown; default: that of the first model")
    add("--lpips-net", choices=("alex", "vgg"), default="alex", help="backbone of LPIPS; default alex")
    add("--lpips-weights", nargs="+", metavar="FILE",
        help="safetensors or npz files with the tensors of the public PyTorch releases of the backbone and "
        "of LPIPS 0.1, under their names: features.N.weight, features.N.bias, linK.model.1.weight")
    # fmt: on
    given = parser.parse_args(arguments)
    from ltchm_jax.evaluation.evaluate import LpipsFiles
    from ltchm_jax.evaluation.run import Options

    return Options(
        folders=tuple(given.folder),
        out=given.out,
        models=tuple(given.model),
        codecs=tuple(given.codecs),
        wide=given.grid == "wide",
        qualities=tuple(given.qualities),
        efforts=tuple(given.effort),
        workers=given.workers,
        examples=given.examples,
        crop_bpp=given.crop_bpp,
        lpips=LpipsFiles(given.lpips_net, tuple(given.lpips_weights)) if given.lpips_weights else None,
        command=("python", "eval.py", *arguments),
    )


def main(arguments: list[str]) -> int:
    """Runs an evaluation; returns the exit status, see `outcome`."""
    share_accelerators()

    def work() -> None:
        options = parse(arguments)
        from ltchm_jax.devices import check_platforms
        from ltchm_jax.evaluation.run import run

        check_platforms()
        with interrupts():  # rows that were measured are kept
            run(options)
        print(f"Results are in {options.out}/report.html, tables.md, summary.json and rows.csv")

    return outcome("eval.py", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
