"""One HTML file with the tables, the curves, and pictures under a slider between original and reconstruction.

Everything is inside the file; it asks the network for nothing, and a policy in it forbids that it does.
Names of files and codecs are text to it, never markup.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from ltchm_jax.evaluation.result_tables import details, overview
from ltchm_jax.evaluation.summary import Summary
from ltchm_jax.evaluation.tiles import Tile, crop
from ltchm_jax.files import atomic_write

# Pictures are cut to this side, so that a report of large scenes can still be mailed.
_SIDE = 640

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
 color: #111; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #bbb; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
code { white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; }
.compare { margin: 1.5rem 0; max-width: 40rem; }
.frame { position: relative; line-height: 0; }
.frame img { width: 100%; image-rendering: pixelated; }
.frame .decoded { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut, 50%)); }
.frame .line { position: absolute; top: 0; bottom: 0; left: var(--cut, 50%); width: 2px; background: #fff;
 box-shadow: 0 0 2px #000; }
.compare input { width: 100%; margin: .5rem 0; }
[hidden] { display: none; }
</style>
</head>
<body>
"""

_SCRIPT = """<script>
for (const figure of document.querySelectorAll(".compare")) {
  const frame = figure.querySelector(".frame");
  const slider = figure.querySelector("input");
  const chooser = figure.querySelector("select");
  const parts = figure.querySelectorAll("[data-codec]");
  const show = () => {
    frame.style.setProperty("--cut", slider.value + "%");
    for (const part of parts) part.hidden = part.dataset.codec !== chooser.value;
  };
  slider.addEventListener("input", show);
  chooser.addEventListener("change", show);
  show();
}
</script>
"""


def write_report(
    path: Path, summary: Summary, curves: Sequence[Path], examples: Mapping[str, Sequence[Tile]]
) -> None:
    """Writes the report.

    Args:
      path: HTML file to write, whole or not at all.
      summary: what `summary.summarise` returns.
      curves: SVG files to show.
      examples: for the name of each picture, the original and its reconstructions.
    """
    parts = [_HEAD, _from_markdown(overview(summary))]
    parts += ["<h2>Curves</h2>", *map(_curve, curves)] if curves else []
    if examples:
        parts.append("<h2>Pictures</h2><p>Left of the line the original, right of it the reconstruction.</p>")
    parts += [_slider(name, tiles, place) for place, (name, tiles) in enumerate(examples.items())]
    parts.append(_from_markdown(details(summary)))
    with atomic_write(path) as file:
        file.write("\n".join([*parts, _SCRIPT, "</body>\n</html>\n"]).encode())


def _slider(name: str, tiles: Sequence[Tile], place: int) -> str:
    original, *decoded = tiles
    top = [
        f'<img class="decoded" data-codec="{number}" alt="" src="{_png(tile.pixels)}">'
        for number, tile in enumerate(decoded)
    ]
    options = [
        f'<option value="{number}">{escape(tile.title)}</option>' for number, tile in enumerate(decoded)
    ]
    captions = [
        f'<span data-codec="{number}">{escape(tile.title)}: {tile.caption()}</span>'
        for number, tile in enumerate(decoded)
    ]
    return (
        f'<figure class="compare"><h3>{escape(name)}</h3>'
        f'<label for="codec{place}">Codec</label> <select id="codec{place}">{"".join(options)}</select>'
        f'<div class="frame"><img alt="{escape(name)}" src="{_png(original.pixels)}">{"".join(top)}'
        '<div class="line"></div></div>'
        f'<input type="range" min="0" max="100" value="50" aria-label="Line over {escape(name)}">'
        f"<figcaption>{''.join(captions)}</figcaption></figure>"
    )


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(crop(pixels, _SIDE)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _curve(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="Curves {escape(path.stem)}" src="data:image/svg+xml;base64,{data}"></p>'


def _from_markdown(text: str) -> str:
    """The Markdown that `result_tables` writes, and no more of it, as HTML."""
    return "\n".join(_block(block) for block in text.strip().split("\n\n"))


def _block(block: str) -> str:
    lines = block.split("\n")
    if block.startswith("#"):
        marks, _, title = block.partition(" ")
        return f"<h{len(marks)}>{escape(title)}</h{len(marks)}>"
    if block.startswith("|"):
        header, _, *body = [_cells(line) for line in lines]
        return f"<table>{_line(header, 'th')}{''.join(_line(cells, 'td') for cells in body)}</table>"
    if block.startswith("- "):
        return f"<ul>{''.join(f'<li>{escape(line[2:])}</li>' for line in lines)}</ul>"
    text = re.sub("`(.*?)`", r"<code>\1</code>", "<br>".join(escape(line) for line in lines))
    return f"<p>{text}</p>"


def _cells(line: str) -> list[str]:
    bar = "\0"  # stands for an escaped bar, which does not part cells
    inner = line.strip().replace("\\|", bar)[1:-1]
    return [cell.strip().replace(bar, "|") for cell in inner.split("|")]


def _line(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
