"""Times compression and decompression beside CompressAI's Cheng2020-attn at the same width, in turn.

    python -m venv peer && peer/bin/pip install compressai      (optional; an environment of its own)
    python benchmarks/codec.py --peer peer/bin/python --sizes 256,1024 --rounds 5

Pictures in memory to the bytes of a stream and back, warm: both have run once before. Both have random
weights of width N and use all cores; ours are scaled so that about 1.7 bits a pixel are coded. Prints, for
each size, seconds of ours, the same per megapixel, and the median over rounds of the ratios theirs / ours.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from timing import seconds

SPREAD = 1.5  # of the last layer of the analysis, over that of fresh weights


def our_codec(preset: str, width: int) -> object:
    """The codec of random weights of a preset."""
    import dataclasses

    import jax

    from ltchm_jax.codec import Codec
    from ltchm_jax.model import PRESETS, init_variables
    from ltchm_jax.model_file import make_model

    config = dataclasses.replace(PRESETS[preset], width=width)
    variables = jax.device_get(init_variables(config, jax.random.key(0)))
    layer = variables["params"]["g_a"]["down16"]
    layer["kernel"] = layer["kernel"] * SPREAD
    return Codec(make_model(config, variables))


def serve(width: int, size: int) -> None:
    """The peer's side, in its own interpreter: answers each line on standard input with seconds."""
    import torch
    from compressai.models import Cheng2020Attention

    torch.manual_seed(0)
    net = Cheng2020Attention(N=width).eval()
    with torch.inference_mode():
        net.update()
        x = torch.from_numpy(scene(size).transpose(2, 0, 1)[None] / np.float32(255))
        coded = net.compress(x)
        jobs = {
            "compress": lambda: net.compress(x),
            "decompress": lambda: net.decompress(coded["strings"], coded["shape"]),
        }
        jobs["decompress"]()
        for line in sys.stdin:
            print(seconds(jobs[line.strip()]), flush=True)


def scene(size: int) -> np.ndarray:
    """uint8 [size, size, 3], the same here and there."""
    coarse = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


@contextmanager
def peer(python: str, width: int, size: int) -> Iterator[Callable[[str], float]]:
    """A function that has the peer do a job and gives its seconds."""
    command = [python, __file__, "--serve", "--width", str(width), "--sizes", str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(job: str) -> float:
            process.stdin.write(job + "\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield ask
        process.stdin.close()


def measure(codec: Any, size: int, rounds: int, ask: Callable[[str], float] | None) -> None:
    """Prints the lines of one size."""
    pixels = scene(size)
    data = codec.compress(pixels)
    codec.decompress(data)
    jobs = {"compress": lambda: codec.compress(pixels), "decompress": lambda: codec.decompress(data)}
    print(f"{size} x {size}: {8 * len(data) / size**2:.2f} bpp", flush=True)
    for name, job in jobs.items():
        times = np.array([(seconds(job), ask(name) if ask else np.nan) for _ in range(rounds)])
        ours = np.median(times[:, 0])
        line = f"  {name}: {ours:.3f} s, {ours / size**2 * 1e6:.2f} s a megapixel"
        if ask:
            line += f", CompressAI / ours {np.median(times[:, 1] / times[:, 0]):.2f} (median of rounds)"
        print(line, flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--peer", help="a Python that has CompressAI; without it there is no ratio")
    options.add_argument("--preset", default="released", choices=("paper", "released"))
    options.add_argument("--sizes", default="256,1024", help="sides of pictures, separated by commas")
    for name, default in (("width", 128), ("rounds", 5)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    if given.serve:
        serve(given.width, sizes[0])
        return
    codec = our_codec(given.preset, given.width)
    print(f"preset {given.preset}, N = {given.width}, batch 1")
    for size in sizes:
        if given.peer:
            with peer(given.peer, given.width, size) as ask:
                measure(codec, size, given.rounds, ask)
        else:
            measure(codec, size, given.rounds, None)


if __name__ == "__main__":
    main()
