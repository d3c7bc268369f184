"""The paper's Table 6 with the clock around the whole job, as a Markdown table.

    python benchmarks/clocks.py PICTURE --model rsscn7 --rounds 5

From a picture file to a file on disk and back to a PNG, warm and without the start of the program; medians
over rounds in which all codecs take turns. Of a model, the neural transforms alone and the rest (entropy
coding, files) stand apart. Conventional codecs are set so that their file is nearest in bytes to the first
model's. Below stand the seconds that the paper publishes: they time forward passes; nothing was written.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from timing import seconds

from ltchm_jax import baselines
from ltchm_jax.codec import Codec
from ltchm_jax.container.header import Layout
from ltchm_jax.evaluation.matching import match_size
from ltchm_jax.evaluation.pictures import Picture
from ltchm_jax.files import atomic_write
from ltchm_jax.imagery.images import Image, read_image, write_image

PUBLISHED = {  # Table 6: seconds to "encode" and to "decode" 256 x 256
    "LTCHM": (0.124, 0.127),
    "Cheng2020": (0.078, 0.080),
    "Qian2020": (0.049, 0.061),
    "Qian2022": (0.022, 0.039),
    "Liu2023": (0.113, 0.123),
    "Liu2024": (0.071, 0.081),
}


class Jobs(NamedTuple):
    """What is timed of one codec; transforms only of a model."""

    encode: Callable[[], object]
    analyse: Callable[[], object] | None
    decode: Callable[[], object]
    synthesise: Callable[[], object] | None


def model_jobs(codec: Codec, picture: Path, folder: Path) -> Jobs:
    """Those of a model, at its default quality; the picture is one block."""
    stream, back = folder / "stream.ltc", folder / "back.png"
    codec.compress_file(picture, stream)
    pixels, quality = read_image(picture).pixels, codec.quality_steps(None)
    y, _ = codec.blocks.latents(pixels, quality)
    return Jobs(
        lambda: codec.compress_file(picture, stream),
        lambda: codec.blocks.latents(pixels, quality),
        lambda: codec.decompress_file(stream, back),
        lambda: np.asarray(codec.blocks.synthesise(0, y, quality)),
    )


def baseline_jobs(name: str, picture: Path, folder: Path, num_bytes: int) -> Jobs:
    """Those of a conventional codec at about `num_bytes`."""
    codec, stream = baselines.find(name), folder / name
    source = Picture("", picture.name, picture)
    setting = match_size(codec, source.pixels(), num_bytes).setting

    def encode() -> None:
        with atomic_write(stream) as file:
            file.write(codec.encode(source.pixels(), setting))

    def decode() -> None:
        write_image(folder / "back.png", Image(codec.decode(stream.read_bytes()), Layout.RGB))

    encode()
    return Jobs(encode, None, decode, None)


def medians(jobs: dict[str, Jobs], rounds: int) -> dict[str, np.ndarray]:
    """Medians of the four times of each codec; the first round is not counted."""
    times = [[[seconds(job) for job in codec] for codec in jobs.values()] for _ in range(rounds + 1)]
    return dict(zip(jobs, np.median(times[1:], axis=0), strict=True))


def line(name: str, times: np.ndarray) -> str:
    """Of the table: whole, transforms and rest, of encoding and of decoding."""
    encode, analyse, decode, synthesise = times
    cells = (encode, analyse, encode - analyse, decode, synthesise, decode - synthesise)
    return f"| {name} | " + " | ".join("" if np.isnan(cell) else f"{cell:.3f}" for cell in cells) + " |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("picture", type=Path)
    options.add_argument("--model", action="append", help="model file or name; repeatable")
    options.add_argument("--codecs", nargs="*", default=["jpeg2000", "webp", "avif"])
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, jobs, size = Path(name), {}, 0
        for model in given.model or [None]:
            codec = Codec.load(model)
            jobs[codec.name] = model_jobs(codec, given.picture, folder)
            size = size or (folder / "stream.ltc").stat().st_size
        jobs |= {name: baseline_jobs(name, given.picture, folder, size) for name in given.codecs}
        height, width = read_image(given.picture).pixels.shape[:2]
        found = medians(jobs, given.rounds)
    device = jax.devices()[0].device_kind
    print(f"{width} x {height}, {size} bytes, JAX on {device}; seconds, file to file, warm.\n")
    print("| codec | encode | transforms | rest | decode | transforms | rest |")
    print("|---" + "|---:" * 6 + "|")
    print("\n".join(line(name, times) for name, times in found.items()))
    published = "; ".join(f"{name} {a:.3f} and {b:.3f}" for name, (a, b) in PUBLISHED.items())
    print(f"\nPublished in Table 6, forward passes on the paper's hardware, not coding times: {published}.")


if __name__ == "__main__":
    main()
