"""A summary as Markdown: Bjontegaard deltas (the form of the paper's Table 3), coding times (the form of its
Table 6, with the clock around what really codes), and the averages behind the curves."""

import shlex
from statistics import median
from typing import Any

from ltchm_jax.evaluation.summary import Summary


def markdown(summary: Summary) -> str:
    """All tables of a summary, with what was measured and on what machine."""
    return f"{overview(summary)}\n\n{details(summary)}\n"


def overview(summary: Summary) -> str:
    """What is read first: deltas and times."""
    deltas = [_bd_table(summary, anchor) for anchor in _anchors(summary)]
    return "\n\n".join(["# Evaluation", _where(summary), *deltas, _time_table(summary)])


def details(summary: Summary) -> str:
    """What stands behind it: averages of every setting, and what was left out."""
    averages = [_average_table(summary, dataset) for dataset in summary["datasets"]]
    return "\n\n".join(filter(None, [*averages, _left_out(summary)]))


def title(summary: Summary, curve: str) -> str:
    """How a curve is called."""
    return str(summary["codecs"][curve]["title"])


def _table(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _where(summary: Summary) -> str:
    machine = summary["hardware"]
    sets = "; ".join(
        f"{name}: {data['pictures']} pictures, {data['sizes'] or 'none complete'}"
        for name, data in summary["datasets"].items()
    )
    return (
        f"Command: `{shlex.join(summary['command'])}`\n\n{sets}.\n"
        f"Machine: {machine['cpu']}, {machine['cores']} cores, JAX on {machine['jax_device']}.\n"
        "Rates count the bytes of whole files; averages are means of per-picture values."
    )


def _anchors(summary: Summary) -> list[str]:
    return list(dict.fromkeys(anchor for data in summary["datasets"].values() for anchor in data["bd"]))


def _bd_table(summary: Summary, anchor: str) -> str:
    datasets = summary["datasets"]
    header = ["codec"] + [f"{name}: {what}" for name in datasets for what in ("BD-rate (%)", "BD-PSNR (dB)")]
    curves = [
        c for c in summary["codecs"] if any(c in data["bd"].get(anchor, {}) for data in datasets.values())
    ]
    body = [
        [title(summary, curve)]
        + [cell for data in datasets.values() for cell in _bd_cells(data, anchor, curve)]
        for curve in curves
    ]
    note = (
        "Piecewise cubic Hermite over log rate. Conventional codecs at the paper's settings, the anchor at "
        "all it was measured at; in brackets the share of the codec's curve that the anchor covers."
    )
    return f"## Against {title(summary, anchor)}\n\n{_table(header, body)}\n\n{note}"


def _bd_cells(data: dict[str, Any], anchor: str, curve: str) -> list[str]:
    deltas = data["bd"].get(anchor, {}).get(curve, {})
    return [_delta_cell(deltas.get(name, {})) for name in ("bd_rate_percent", "bd_psnr_db")]


def _delta_cell(delta: dict[str, Any]) -> str:
    if "value" in delta:
        return f"{delta['value']:+.2f} [{delta['overlap']:.2f}]"
    return delta.get("refused", "").partition(",")[0]


def _time_table(summary: Summary) -> str:
    header = ["codec", "data set", "encode (s)", "decode (s)", "processes"]
    body = [
        [title(summary, curve), name, *_seconds(points)]
        for name, data in summary["datasets"].items()
        for curve, points in data["points"].items()
    ]
    note = (
        "Median per picture, array to bytes and bytes to array, warm; over all settings of the curve. Rows "
        "that an earlier run had measured keep its times."
    )
    return f"## Coding time\n\n{_table(header, body)}\n\n{note} {_busy(summary)}".rstrip()


def _seconds(points: list[dict[str, Any]]) -> list[str]:
    middle = [median(point[f"{way}_seconds"] for point in points) for way in ("encode", "decode")]
    return [*(f"{value:.3f}" for value in middle), str(max(point["workers"] for point in points))]


def _busy(summary: Summary) -> str:
    points = (p for data in summary["datasets"].values() for curve in data["points"].values() for p in curve)
    shared = any(point["workers"] > 1 for point in points)
    return (
        "Times taken with more than one process shared the machine and are not to be quoted."
        if shared
        else ""
    )


def _average_table(summary: Summary, dataset: str) -> str:
    data = summary["datasets"][dataset]
    names = ["bpp", "psnr", "ms_ssim", "ms_ssim_db", "vif_p"]
    names += ["lpips"] if any(p["lpips"] is not None for c in data["points"].values() for p in c) else []
    body = [
        [title(summary, curve), point["setting"], *(_number(point[name], name) for name in names)]
        for curve, points in data["points"].items()
        for point in sorted(points, key=lambda point: point["bpp"])
    ]
    heads = {"bpp": "bpp", "psnr": "PSNR (dB)", "ms_ssim": "MS-SSIM", "ms_ssim_db": "MS-SSIM (dB)"}
    heads |= {"vif_p": "VIFp", "lpips": "LPIPS"}
    return f"## Averages on {dataset}\n\n{_table(['codec', 'setting', *(heads[n] for n in names)], body)}"


def _number(value: float | None, name: str) -> str:
    digits = 2 if name in ("psnr", "ms_ssim_db") else 4
    missing = "" if name == "lpips" else "infinite"  # what is not finite
    return missing if value is None else f"{value:.{digits}f}"


def _left_out(summary: Summary) -> str:
    lines = [f"- {reason}" for reason in summary["skipped_codecs"].values()]
    lines += [f"- {name} is not a picture" for name in summary["other_files"]]
    for failure in summary["failures"]:
        place = f"{failure['dataset']}/{failure['image']}"
        where = " ".join(filter(None, (place, failure["codec"], failure["setting"])))
        lines.append(f"- {where}: {failure['reason']}")
    return "## Left out\n\n" + "\n".join(lines) if lines else ""
