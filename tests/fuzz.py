"""Hostile streams, for longer than a test may take.

    python tests/fuzz.py --streams 200000          mutated, truncated, spliced and random streams, decoded
    python tests/fuzz.py --guided 600              for so many seconds, guided by coverage (needs atheris)

Every stream must end in BitstreamError or in the picture that was compressed; in the guided run both readers
of the container must accept the same streams. Prints what came out, the slowest answer over an honest one,
and how much memory was taken beyond that of honest ones.
"""

import argparse
import importlib
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import page_reader  # noqa: E402

from ltchm_jax import bitstream as bs  # noqa: E402

MAX_PIXELS = 1 << 16  # no honest stream here has more


def sealed(head: bytes, rest: bytes = b"") -> bytes:
    """A head with its checksum, so that what the checksum would hide is reached."""
    return head + struct.pack("<I", zlib.crc32(head)) + rest


class Mutations:
    """Hostile streams made of honest ones."""

    def __init__(self, streams: list[bytes], seed: int) -> None:
        self.streams, self.random = streams, np.random.default_rng(seed)
        self.kinds = (self.edited, self.cut, self.spliced, self.noise, self.head, self.payload, self.guards)

    def next(self) -> tuple[str, bytes]:
        """A kind of mutation and a stream of it."""
        kind = self.kinds[self.random.integers(len(self.kinds))]
        return kind.__name__, kind()

    def honest(self) -> bytes:
        """One of the streams that were given."""
        return self.streams[self.random.integers(len(self.streams))]

    def edit(self, data: bytes) -> bytes:
        """A few bytes replaced, taken out or put in."""
        for _ in range(self.random.integers(1, 5)):
            place, removed, added = self.random.integers(0, (len(data) + 1, 5, 5))
            data = data[:place] + self.random.bytes(added) + data[place + removed :]
        return data

    def edited(self) -> bytes:
        return self.edit(self.honest())

    def cut(self) -> bytes:
        data = self.honest()
        return data[: self.random.integers(len(data))]

    def spliced(self) -> bytes:
        first, second = self.honest(), self.honest()
        return first[: self.random.integers(len(first))] + second[self.random.integers(len(second)) :]

    def noise(self) -> bytes:
        return self.honest()[: self.random.integers(20)] + self.random.bytes(self.random.integers(300))

    def head(self) -> bytes:
        """An edited head whose checksum is right."""
        data = self.honest()
        end = bs.read(data).head_size
        return sealed(self.edit(data[: end - 4]), data[end:])

    def payload(self) -> bytes:
        """An edited payload whose checksum is right: only the latents can tell."""
        return self.repacked(lambda block: replace(block, payload=self.edit(block.payload)))

    def guards(self) -> bytes:
        """Guards that the encoder did not write."""
        places = np.unique(self.random.integers(0, 5000, self.random.integers(1, 40)))
        made = tuple((int(place), int(self.random.integers(2))) for place in places)
        return self.repacked(lambda block: replace(block, guards=made))

    def repacked(self, change: Callable) -> bytes:
        container = bs.read(self.honest())
        blocks = list(container)
        chosen = self.random.integers(len(blocks))
        blocks[chosen] = change(blocks[chosen])
        return bs.pack(container.header, blocks, metadata=container.metadata, alpha=container.alpha())


class Report(NamedTuple):
    """How many streams of each kind of mutation ended how; slowest over honest; MiB beyond honest streams."""

    ends: Counter
    slowest: float
    grown: float

    @property
    def is_bounded(self) -> bool:
        """Whether no stream took ten times the time of an honest one, nor a quarter of a gigabyte."""
        return self.slowest < 10 and self.grown < 256


def run(codec: object, pictures: list[np.ndarray], count: int, seed: int = 0) -> Report:
    """Decodes hostile streams of some pictures. AssertionError where a wrong picture comes out."""
    streams = [codec.compress(picture) for picture in pictures]
    right = {codec.decompress(stream).tobytes() for stream in streams}
    honest, slowest, ends = max(timed(codec, stream)[1] for stream in streams), 0.0, Counter()
    mutations, before = Mutations(streams, seed), peak_memory()
    for _ in range(count):
        kind, stream = mutations.next()
        found, taken = timed(codec, stream)
        if taken > honest:  # a forged shape is compiled for once, as an honest one of that shape is
            found, taken = timed(codec, stream)
        end = found if isinstance(found, str) else "right" if found in right else "another"
        # A forged head may well describe another picture; nothing else may show one.
        assert end != "another" or kind == "head", f"a wrong picture came out of {stream.hex()}"
        ends[kind, end] += 1
        slowest = max(slowest, taken)
    return Report(ends, slowest / honest, peak_memory() - before)


def peak_memory() -> float:
    """MiB that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(codec: object, stream: bytes) -> tuple[str | bytes, float]:
    """The picture or the name of the error, and seconds of the processor: others may be using the machine."""
    start = time.process_time()
    try:
        found = codec.decompress_image(stream, max_pixels=MAX_PIXELS).pixels.tobytes()
    except bs.BitstreamError as error:
        found = type(error).__name__
    return found, time.process_time() - start


def small_codec() -> object:
    """A codec of random weights and few channels, and of small blocks."""
    from drawn_model import drawn_model
    from small_model import small_model

    from ltchm_jax.codec import Codec

    return Codec(drawn_model(small_model(scale_min=1.0)), block_size=64)


def pictures() -> list[np.ndarray]:
    """Of one block, with and without alpha, and of four."""
    from ltchm_jax.imagery.scenes import draw_scene

    scene, large = draw_scene(64, 64, 0), draw_scene(90, 75, 1)
    return [scene[:17, :31], scene, np.concatenate([scene, scene[..., :1]], -1), large]


def content(stream: bytes) -> None:
    """Reads all that a stream holds."""
    container = bs.read(stream)
    _ = list(container), container.metadata, container.alpha()


def accepts(reader: Callable, stream: bytes, refusal: type[Exception]) -> bool:
    """Whether a reader takes a stream; any error but its refusal is raised."""
    try:
        reader(stream)
    except refusal:
        return False
    return True


def both_readers_agree(data: bytes) -> None:
    """One input of the guided run: the first bit says whether part of it gets a right checksum, as a head."""
    stream = data[1:]
    if data[:1] >= b"\x80":
        end = int.from_bytes(data[1:3], "little")
        stream = sealed(data[3:end], data[end:])
    ours = accepts(content, stream, bs.BitstreamError)
    assert ours == accepts(page_reader.read, stream, page_reader.Refused), stream.hex()


def write_corpus(folder: Path) -> None:
    """What the guided run starts from: streams that are kept, whole and without the checksum of the head."""
    for path in (ROOT / "tests" / "golden").glob("*/*.ltc"):
        stream, name = path.read_bytes(), f"{path.parent.name}-{path.name}"
        end = bs.read(stream).head_size - 4
        (folder / name).write_bytes(b"\0" + stream)
        head = b"\x80" + (end + 3).to_bytes(2, "little")
        (folder / f"{name}-head").write_bytes(head + stream[:end] + stream[end + 4 :])


def guided(seconds: int, corpus: str) -> None:
    """Hostile input to the parser, chosen for the code that it reaches; ends the process."""
    global bs, page_reader
    import atheris

    for name in [name for name in sys.modules if name.startswith("ltchm_jax") or name == "page_reader"]:
        del sys.modules[name]
    with atheris.instrument_imports(include=["ltchm_jax", "page_reader"]):
        page_reader, bs = map(importlib.import_module, ("page_reader", "ltchm_jax.bitstream"))
    flags = [f"-max_total_time={seconds}", "-max_len=4096", "-seed=1", corpus]
    atheris.Setup([sys.argv[0], *flags], both_readers_agree)
    atheris.Fuzz()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--streams", type=int, default=200_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--guided", type=int, metavar="SECONDS", default=0)
    given = options.parse_args()
    if given.guided:
        with tempfile.TemporaryDirectory() as corpus:
            write_corpus(Path(corpus))
            process = multiprocessing.get_context("fork").Process(target=guided, args=(given.guided, corpus))
            process.start()
            process.join()
        sys.exit(process.exitcode)
    report = run(small_codec(), pictures(), given.streams, given.seed)
    for (kind, end), count in sorted(report.ends.items()):
        print(f"{kind:8}  {end:18}  {count}")
    print(f"{given.streams} streams, no wrong picture; {report.grown:.0f} MiB more than honest ones took;")
    print(f"the slowest took {report.slowest:.1f} times an honest one")
    sys.exit(0 if report.is_bounded else "a hostile stream must not take ten times an honest one, or memory")


if __name__ == "__main__":
    main()
