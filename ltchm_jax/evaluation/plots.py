"""Pictures of results: rate-distortion curves, and crops of reconstructions side by side.

Colours, seven of Okabe and Ito and an olive of Tol's, can be told apart by the colour-blind; markers and line
styles repeat the difference for print in grey.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ltchm_jax.evaluation.result_tables import title
from ltchm_jax.evaluation.summary import Summary
from ltchm_jax.evaluation.tiles import Tile, crop
from ltchm_jax.files import atomic_write

_COLOURS = ("#000000", "#E69F00", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#999933")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 2, 2)))
_LABELS = {
    "psnr": "PSNR (dB)",
    "ms_ssim_db": "MS-SSIM (dB)",
    "vif_p": "VIFp",
    "lpips": "LPIPS (less is better)",
}
_STYLE: Any = {"font.size": 9, "svg.hashsalt": "ltchm", "svg.fonttype": "none", "axes.axisbelow": True}
_STYLE["text.parse_math"] = False  # names are text, whatever they hold
# Without models the plot covers a little more than the paper's rates.
_PAPER_BPP = 1.4


def rate_distortion(summary: Summary, dataset: str) -> Figure:
    """Curves of one data set: a panel for each measure against bits per pixel."""
    points = summary["datasets"][dataset]["points"]
    names = [name for name in _LABELS if any(p[name] is not None for curve in points.values() for p in curve)]
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2 * max(len(names), 1), 4.3), layout="constrained")
        for place, name in enumerate(names):
            axes = figure.add_subplot(1, len(names), place + 1)
            _panel(axes, summary, points, name)
        if names:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(
                handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False
            )
        count = summary["datasets"][dataset]["pictures"]
        figure.suptitle(f"{dataset}, {count} picture{'s' if count > 1 else ''}")
    return figure


def _panel(axes: Axes, summary: Summary, points: dict[str, list[dict[str, Any]]], name: str) -> None:
    limit = _rate_limit(summary, points)
    shown: list[float] = []
    for place, curve in enumerate(summary["codecs"]):
        line = sorted((p["bpp"], p[name]) for p in points.get(curve, []) if p[name] is not None)
        style: Any = {
            "color": _COLOURS[place % 8],
            "marker": _MARKERS[place % 8],
            "linestyle": _LINES[place % 8],
        }
        width = 2.0 if summary["codecs"][curve]["is_model"] else 1.2
        label = title(summary, curve)
        axes.plot(
            [p[0] for p in line], [p[1] for p in line], label=label, markersize=4.5, linewidth=width, **style
        )
        shown += [value for rate, value in line if rate <= limit]
        if line and line[0][0] <= limit:  # what the line reaches at the right end of the axis
            shown.append(float(np.interp(limit, [p[0] for p in line], [p[1] for p in line])))
    axes.set(xlabel="bits per pixel", ylabel=_LABELS[name], xlim=(0, limit))
    if shown:
        margin = 0.05 * (max(shown) - min(shown)) or 0.5
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.grid(alpha=0.3)


def _rate_limit(summary: Summary, points: dict[str, list[dict[str, Any]]]) -> float:
    """Right end of the axis: the models' rates and a little more, so that wide grids don't squeeze them."""
    rates = [p["bpp"] for c, line in points.items() if summary["codecs"][c]["is_model"] for p in line]
    every = [p["bpp"] for line in points.values() for p in line]
    return min(max(rates) * 1.3 if rates else _PAPER_BPP, max(every) * 1.05)


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as the kind of file `path` ends in, whole or not at all; no dates go in."""
    kind = path.suffix[1:]
    dates: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {}
    with rc_context(_STYLE), atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=200, **dates)


def side_by_side(tiles: Sequence[Tile], name: str, side: int = 160) -> Figure:
    """Middle crops next to each other, not smoothed, each with rate and PSNR of the whole picture."""
    columns = min(len(tiles), 4)
    lines = -(-len(tiles) // columns)
    with rc_context(_STYLE):
        figure = Figure(figsize=(2.6 * columns, 3.1 * lines + 0.4), layout="constrained")
        for place, tile in enumerate(tiles):
            axes = figure.add_subplot(lines, columns, place + 1)
            axes.imshow(crop(tile.pixels, side), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_xlabel(f"{tile.title}\n{tile.caption()}", fontsize=8)
        figure.suptitle(f"{name}, the middle; figures of the whole picture", fontsize=9)
    return figure
