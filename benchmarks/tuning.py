"""What AVIF and HEIC gain when they are tuned for PSNR: BD-rate against what their libraries do unasked.

    python benchmarks/tuning.py rsscn7/test            (HEIC where pillow-heif is installed)

One line a codec and choice: the change in bytes for the same PSNR in percent, over the range of PSNR in dB
that both curves have. Averages over all pictures, as in the evaluation.
"""

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ltchm_jax import metrics
from ltchm_jax.evaluation import bd
from ltchm_jax.evaluation.pictures import list_pictures

QUALITIES = {"AVIF": (20, 30, 40, 50, 60, 70, 80), "HEIF": (15, 25, 35, 45, 55, 65)}
USUAL: dict[str, dict[str, Any]] = {"AVIF": {"subsampling": "4:2:0", "speed": 6}, "HEIF": {}}
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "AVIF": {
        "tuned for PSNR": {"advanced": {"tune": "psnr"}},
        "4:4:4": {"subsampling": "4:4:4"},
        "4:4:4, tuned for PSNR": {"subsampling": "4:4:4", "advanced": {"tune": "psnr"}},
    },
    "HEIF": {"4:4:4, tuned for PSNR": {"chroma": 444, "enc_params": {"tune": "psnr"}}},
}


def curve(kind: str, pictures: list[np.ndarray], **options: Any) -> bd.Curve:
    """Mean rate in bpp and mean PSNR in dB at each quality."""
    points = [np.mean([point(kind, x, quality, options) for x in pictures], 0) for quality in QUALITIES[kind]]
    rates, qualities = np.transpose(points)
    return bd.curve(list(rates), list(qualities))


def point(kind: str, pixels: np.ndarray, quality: int, options: dict[str, Any]) -> tuple[float, float]:
    """bpp and PSNR of one picture, uint8 [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=quality, **options)
    with Image.open(file) as opened:
        decoded = np.asarray(opened.convert("RGB"))
    return metrics.bpp(len(file.getvalue()), *pixels.shape[:2]), metrics.psnr(pixels, decoded)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path)
    pictures = [picture.pixels() for picture in list_pictures([options.parse_args().folder])[0]]
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    for kind in (kind for kind in CHOICES if kind in Image.SAVE):
        usual = curve(kind, pictures, **USUAL[kind])
        for name, choice in CHOICES[kind].items():
            delta = bd.bd_rate(usual, curve(kind, pictures, **USUAL[kind] | choice))
            print(
                f"{kind} {name}: {delta.value:+.1f}% bytes ({delta.low:.1f} to {delta.high:.1f} dB)",
                flush=True,
            )


if __name__ == "__main__":
    main()
