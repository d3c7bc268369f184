"""Compresses one picture and shows it beside other codecs: `python -m ltchm_jax.demo [IMAGE] --out demo/`.

Writes `scene.png`, its stream `scene.ltc`, `decoded.png` made from that stream alone, and `comparison.png`.
Without IMAGE a scene is drawn: it shows that everything works, results on it say nothing about photographs.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltchm_jax import baselines, metrics
from ltchm_jax.cli import open_codec
from ltchm_jax.command import Parser, outcome
from ltchm_jax.container.header import Layout
from ltchm_jax.errors import first_line
from ltchm_jax.evaluation.contenders import Codec
from ltchm_jax.evaluation.matching import match_size
from ltchm_jax.evaluation.pictures import Picture
from ltchm_jax.evaluation.strip import strip
from ltchm_jax.evaluation.tiles import Tile
from ltchm_jax.files import atomic_write
from ltchm_jax.imagery.images import Image, write_image
from ltchm_jax.imagery.scenes import draw_scene
from ltchm_jax.signals import interrupts

SCENE = (512, 768, 11)  # rows, columns, seed: woods, fields, a river; houses and a road in the middle
OTHERS = ("jpeg2000", "webp", "avif")


@dataclass(frozen=True)
class Result:
    """One line of the table: a codec's name with its setting, the size of its file, what comes back."""

    title: str
    setting: str
    num_bytes: int
    x_hat: np.ndarray

    def cells(self, x: np.ndarray) -> tuple[str, ...]:
        """Name, setting, bytes, bpp, PSNR and MS-SSIM (both dB), as text."""
        rate = metrics.bpp(self.num_bytes, *x.shape[:2])
        similarity = metrics.ms_ssim_db(metrics.ms_ssim(x, self.x_hat))
        numbers = (f"{rate:.3f}", f"{metrics.psnr(x, self.x_hat):.2f}", f"{similarity:.2f}")
        return self.title, self.setting, f"{self.num_bytes}", *numbers

    def tile(self, x: np.ndarray) -> Tile:
        """What is shown of it."""
        return Tile(
            self.title, self.x_hat, metrics.bpp(self.num_bytes, *x.shape[:2]), metrics.psnr(x, self.x_hat)
        )


def run(
    codec: Codec, x: np.ndarray, out: Path, quality: float | None = None, effort: int = 0
) -> list[Result]:
    """Writes the files of the demonstration and prints the table.

    Args:
      codec: the model.
      x: uint8 [H, W, 3].
      out: the folder, made where it is missing.
      quality: for `codec.compress`.
      effort: that `codec` was loaded with, for the table.

    Returns:
      The lines of the table, the model first.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_image(out / "scene.png", Image(x, Layout.RGB))
    chosen = [] if quality is None else [f"quality {quality:g}"]
    chosen += [f"effort {effort}"] if effort else []
    results = [_own(codec, x, out, quality, ", ".join(chosen) or "default")]
    results += _others(x, results[0].num_bytes)
    print(table(x, results))
    tiles = [Tile("original, the middle", x), *(result.tile(x) for result in results)]
    write_image(out / "comparison.png", Image(strip(tiles), Layout.RGB))
    print(f"Other codecs: the setting whose file is nearest in bytes.\nIn {out}: {', '.join(_files(out))}")
    return results


def _own(codec: Codec, x: np.ndarray, out: Path, quality: float | None, setting: str) -> Result:
    """Compresses to a file, and decodes what was read back from it."""
    stream = out / "scene.ltc"
    with atomic_write(stream) as file:
        file.write(codec.compress(x, quality))
    data = stream.read_bytes()
    x_hat = codec.decompress(data)
    write_image(out / "decoded.png", Image(x_hat, Layout.RGB))
    return Result("LTCHM", setting, len(data), x_hat)


def _others(x: np.ndarray, num_bytes: int) -> Iterator[Result]:
    for name in OTHERS:
        try:
            baseline = baselines.find(name)
        except baselines.MissingEncoder as error:
            print(error, file=sys.stderr)
            continue
        try:
            match = match_size(baseline, x, num_bytes)
            x_hat = baseline.decode(match.data)
        except Exception as error:  # a library's own: WebP, for one, ends at 16,383 pixels a side
            print(f"{baseline.title} can't take this picture: {first_line(error)}", file=sys.stderr)
            continue
        word = "ratio" if baseline.setting == "compression ratio" else baseline.setting
        yield Result(baseline.title, f"{word} {match.setting:.4g}", len(match.data), x_hat)


def table(x: np.ndarray, results: Sequence[Result]) -> str:
    """Lines of text, columns aligned: names to the left, numbers to the right."""
    lines = [("codec", "setting", "bytes", "bpp", "PSNR dB", "MS-SSIM dB"), *(r.cells(x) for r in results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [[text.ljust(n) for text, n in zip(line[:2], widths[:2], strict=True)] for line in lines]
    for shown, line in zip(aligned, lines, strict=True):
        shown += [text.rjust(n) for text, n in zip(line[2:], widths[2:], strict=True)]
    return "\n".join("  ".join(shown).rstrip() for shown in aligned)


def _files(out: Path) -> list[str]:
    names = ("scene.png", "scene.ltc", "decoded.png", "comparison.png")
    return [f"{name} ({(out / name).stat().st_size} bytes)" for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the flags and runs; returns the exit status, 2 with one line of error, 130 for Ctrl-C."""
    parser = Parser(prog="ltchm_jax.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("image", nargs="?", type=Path, help="a picture, grey or RGB; default: a drawn scene")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the files")
    parser.add_argument(
        "--model", help="a model file, or the name of one that ships; default: the one that ships"
    )
    parser.add_argument(
        "--quality", type=float, help="0 (fewest bytes) to the model's highest; default: its middle"
    )
    parser.add_argument("--effort", type=int, default=0, help="passes that refine what is sent; default: 0")
    given = parser.parse_args(arguments)

    def work() -> None:
        with interrupts():
            x = Picture("", given.image.name, given.image).pixels() if given.image else draw_scene(*SCENE)
            run(open_codec(given.model, effort=given.effort), x, given.out, given.quality, given.effort)

    return outcome("ltchm_jax.demo", work)


if __name__ == "__main__":
    sys.exit(main())
