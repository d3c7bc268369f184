"""A whole evaluation from options to files: table, summary, Markdown, plots, crops and HTML report."""

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ltchm_jax import baselines
from ltchm_jax.evaluation import contenders, examples, plots
from ltchm_jax.evaluation.contenders import Contender
from ltchm_jax.evaluation.evaluate import LpipsFiles, evaluate
from ltchm_jax.evaluation.measurement import Outcome
from ltchm_jax.evaluation.pictures import Picture, list_pictures
from ltchm_jax.evaluation.report import write_report
from ltchm_jax.evaluation.result_tables import markdown
from ltchm_jax.evaluation.summary import Summary, summarise
from ltchm_jax.evaluation.tiles import Tile
from ltchm_jax.files import atomic_write, claimed


@dataclass(frozen=True)
class Options:
    """What a run is asked to do.

    Attributes:
      folders: folders of pictures; each is a data set.
      out: folder for the results; rows already in it are kept.
      models: `MODEL` or `CURVE=MODEL` each; single-rate models given the same CURVE form one curve.
      codecs: names of baselines.
      wide: measure baselines on their wide grids, not only at the paper's settings.
      qualities: settings of variable-rate models; empty takes the model's own.
      efforts: of the models' encoders; each is a curve of its own.
      workers: processes for the baselines.
      examples: number of pictures to show.
      crop_bpp: rate at which they are shown; None follows the first model.
      lpips: weights for LPIPS; None leaves it out.
      command: the command line, for the record.
    """

    folders: tuple[str, ...]
    out: Path
    models: tuple[str, ...] = ()
    codecs: tuple[str, ...] = baselines.DEFAULTS
    wide: bool = True
    qualities: tuple[float, ...] = ()
    efforts: tuple[int, ...] = (0,)
    workers: int = 1
    examples: int = 3
    crop_bpp: float | None = None
    lpips: LpipsFiles | None = None
    command: tuple[str, ...] = ()


def run(options: Options) -> Summary:
    """Measures, and writes `rows.csv`, `summary.json`, `tables.md`, `report.html`, `rd-*` and `crops-*`.

    Raises:
      ValueError: an option is wrong, or nothing could be measured.
      OSError: a file can't be read or written.
    """
    for name, value, least in (("workers", options.workers, 1), ("examples", options.examples, 0)):
        if value < least:
            raise ValueError(f"--{name} must be {least} or more, got {value}.")
    if options.crop_bpp is not None and not 0 < options.crop_bpp < math.inf:
        raise ValueError(f"--crop-bpp must be above 0, got {options.crop_bpp}.")
    pictures, other_files = list_pictures(options.folders)
    competitors, skipped = contenders.gather(
        options.models, options.codecs, options.wide, options.qualities, options.efforts
    )
    with claimed(options.out, "--out"):
        return compare(options, pictures, other_files, competitors, skipped)


def compare(
    options: Options,
    pictures: Sequence[Picture],
    other_files: Sequence[str],
    competitors: Sequence[Contender],
    skipped: dict[str, str],
) -> Summary:
    """`run` with the codecs at hand."""
    options.out.mkdir(parents=True, exist_ok=True)
    outcome = evaluate(options.out / "rows.csv", pictures, competitors, options.lpips, options.workers)
    _warn(skipped, outcome)
    if not outcome.rows:
        reason = outcome.failures[0].reason if outcome.failures else "no settings"
        raise ValueError(f"nothing could be measured, the first reason is: {reason}")
    summary = summarise(outcome, pictures, competitors, skipped, other_files, options.command)
    _write(options.out / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    _write(options.out / "tables.md", markdown(summary))
    curves = _write_curves(options.out, summary)
    shown = _write_examples(options, pictures, competitors, outcome)
    write_report(options.out / "report.html", summary, curves, shown)
    return summary


def _warn(skipped: dict[str, str], outcome: Outcome) -> None:
    for reason in skipped.values():
        print(f"eval.py: {reason}", file=sys.stderr)
    if outcome.failures:
        first, count = outcome.failures[0], len(outcome.failures)
        where = " ".join(filter(None, (f"{first.dataset}/{first.image}", first.codec, first.setting)))
        print(f"eval.py: {count} failures, listed in summary.json; {where}: {first.reason}", file=sys.stderr)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def _write_curves(out: Path, summary: Summary) -> list[Path]:
    """PNG and SVG of each data set that has a complete picture; returns the SVG files."""
    written = []
    for dataset, data in summary["datasets"].items():
        if data["points"]:
            figure = plots.rate_distortion(summary, dataset)
            for suffix in (".png", ".svg"):
                plots.save(figure, out / f"rd-{_file_name(dataset)}{suffix}")
            written.append(out / f"rd-{_file_name(dataset)}.svg")
    return written


def _write_examples(
    options: Options, pictures: Sequence[Picture], competitors: Sequence[Contender], outcome: Outcome
) -> dict[str, list[Tile]]:
    shown: dict[str, list[Tile]] = {}
    for picture in examples.choose(pictures, outcome.rows, options.examples):
        name = f"{picture.dataset}/{picture.name}"
        shown[name] = examples.tiles(picture, competitors, outcome.rows, options.crop_bpp)
        plots.save(plots.side_by_side(shown[name], name), options.out / f"crops-{_file_name(name)}.png")
    return shown


def _file_name(name: str) -> str:
    """A name from a data set or picture that is safe as part of a file name, and no other's."""
    clean = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:120]
    if clean.replace("-", "/") == name:
        return clean
    return f"{clean}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:6]}"
