"""From rows to figures: averages, Bjontegaard deltas and coding times for each data set, ready for JSON.

Averages are means of per-picture values, over the pictures that every codec shown coded at every setting:
codecs are compared on the same pictures or not at all. Seconds are medians. An infinite mean is None.
"""

import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from ltchm_jax import baselines
from ltchm_jax.evaluation import bd
from ltchm_jax.evaluation.contenders import Contender
from ltchm_jax.evaluation.measurement import Failure, Outcome
from ltchm_jax.evaluation.pictures import Picture, printable
from ltchm_jax.evaluation.rows import Row

MEANS = ("bpp", "psnr", "ms_ssim", "ms_ssim_db", "vif_p", "lpips")
RULES = (
    "Averages are means of per-picture values, over the pictures that every codec shown coded at every "
    "setting: codecs are compared on the same pictures or not at all. Seconds are medians. An infinite mean "
    f"is null. Deltas: Bjontegaard's, {bd.METHOD} over log10 of the rate, over the part that both curves "
    "cover, whose ends and share of the tested curve are given."
)
_PACKAGES = (
    "jax", "jaxlib", "flax", "numpy", "pillow", "bjontegaard", "tensorflow", "tensorflow-compression-ops",
)  # fmt: skip

Summary = dict[str, Any]


def summarise(
    outcome: Outcome,
    pictures: Sequence[Picture],
    competitors: Sequence[Contender],
    skipped: dict[str, str],
    other_files: Sequence[str],
    command: Sequence[str],
) -> Summary:
    """The whole summary of a run; plain lists, dicts, strings and finite numbers.

    Args:
      outcome: rows and failures of `evaluation.evaluate`.
      pictures, competitors: what was measured.
      skipped: codecs that could not run here, with the reason.
      other_files: files of the folders that are no pictures.
      command: the command line, so that the figures can be traced to it.
    """
    datasets = dict.fromkeys(picture.dataset for picture in pictures)
    return {
        "command": [printable(part) for part in command],
        "rules": RULES,
        "hardware": hardware(),
        "versions": versions(),
        "codecs": {curve: _codec(group) for curve, group in _curves(competitors).items()},
        "datasets": {name: _dataset(name, outcome, competitors) for name in datasets},
        "skipped_codecs": skipped,
        "other_files": list(other_files),
        "failures": [vars(failure) for failure in outcome.failures],
    }


def hardware() -> dict[str, Any]:
    """The machine of the figures: processor, cores this process may use, and what JAX computes on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0]
    return {"cpu": _cpu_name(), "cores": cores, "jax_device": f"{device.platform}: {device.device_kind}"}


def versions() -> dict[str, str]:
    """Versions of the packages the figures depend on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _curves(competitors: Sequence[Contender]) -> dict[str, list[Contender]]:
    curves: dict[str, list[Contender]] = {}
    for contender in competitors:
        curves.setdefault(contender.curve, []).append(contender)
    return curves


def _codec(group: Sequence[Contender]) -> dict[str, Any]:
    known = baselines.BASELINES.get(group[0].curve)
    return {
        "title": group[0].title,
        "is_model": group[0].is_model,
        "versions": sorted({contender.version for contender in group}),
        "setting": "model or quality" if known is None or group[0].is_model else known.setting,
    }


def _dataset(name: str, outcome: Outcome, competitors: Sequence[Contender]) -> dict[str, Any]:
    table = [row for row in outcome.rows if row.dataset == name]
    failures = [failure for failure in outcome.failures if failure.dataset == name]
    of_one_lpips = len({row.lpips_version for row in table} - {""}) < 2  # others do not compare
    present = {(row.codec, row.setting) for row in table}
    complete = _complete_images(table, present)
    points = {
        curve: [
            _point(
                [row for row in table if (row.codec, row.setting) == key and row.image in complete],
                of_one_lpips,
            )
            for key in ((curve, setting) for contender in group for setting in contender.settings)
            if key in present and complete
        ]
        for curve, group in _curves(competitors).items()
    }
    points = {curve: values for curve, values in points.items() if values}
    return {
        "pictures": len(complete),
        "sizes": _sizes(row for row in table if row.image in complete),
        "left_out": sorted(_left_out(table, complete, failures)),
        "points": points,
        "bd": {anchor: _deltas(points, anchor) for anchor in baselines.ANCHORS if anchor in points},
    }


def _complete_images(table: Sequence[Row], present: set[tuple[str, str]]) -> set[str]:
    """Pictures with a row for each point that any picture has."""
    counts: dict[str, int] = {}
    for row in table:
        counts[row.image] = counts.get(row.image, 0) + 1
    return {image for image, count in counts.items() if count == len(present)}


def _left_out(table: Iterable[Row], complete: set[str], failures: Iterable[Failure]) -> set[str]:
    return ({row.image for row in table} | {failure.image for failure in failures}) - complete


def _sizes(table: Iterable[Row]) -> str:
    """'400x400', or the smallest and largest number of pixels where sizes differ."""
    sizes = sorted({(row.height, row.width) for row in table}, key=lambda size: (size[0] * size[1], size))
    names = [f"{height}x{width}" for height, width in sizes]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}" if names else ""


def _point(group: Sequence[Row], of_one_lpips: bool) -> dict[str, Any]:
    """Averages of one setting."""
    means = {name: _mean([getattr(row, name) for row in group]) for name in MEANS}
    means |= {} if of_one_lpips else {"lpips": None}
    return {
        "setting": group[0].setting,
        "num_bytes": sum(row.num_bytes for row in group),
        **means,
        "encode_seconds": statistics.median(row.encode_seconds for row in group),
        "decode_seconds": statistics.median(row.decode_seconds for row in group),
        "workers": max(row.workers for row in group),
    }


def _mean(values: Sequence[float]) -> float | None:
    mean = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
    return mean if math.isfinite(mean) else None


def _deltas(points: dict[str, list[dict[str, Any]]], anchor: str) -> dict[str, Any]:
    """BD-rate and BD-PSNR of every curve against one anchor, which takes part with all its points."""
    return {
        curve: {
            "bd_rate_percent": _delta(bd.bd_rate, points[anchor], _of_the_paper(curve, points[curve])),
            "bd_psnr_db": _delta(bd.bd_psnr, points[anchor], _of_the_paper(curve, points[curve])),
        }
        for curve in points
        if curve != anchor
    }


def _of_the_paper(curve: str, points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A baseline's points at the paper's settings, so that deltas speak of its rates; a model's all."""
    known = baselines.BASELINES.get(curve)
    return [point for point in points if known is None or float(point["setting"]) in known.settings]


def _delta(
    measure: Callable[[bd.Curve, bd.Curve], bd.Delta],
    anchor: Sequence[dict[str, Any]],
    test: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """A delta with its interval, or why it is refused."""
    try:
        return vars(measure(_curve(anchor), _curve(test)))
    except bd.CurveError as error:
        return {"refused": str(error)}


def _curve(points: Sequence[dict[str, Any]]) -> bd.Curve:
    """The PSNR curve of averaged points; one with a lossless picture in it has no PSNR and is left out."""
    usable = [point for point in points if point["psnr"] is not None]
    return bd.curve([point["bpp"] for point in usable], [point["psnr"] for point in usable])
