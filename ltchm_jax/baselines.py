"""Conventional codecs to compare with, each a row of one table: array -> bytes of a file -> array.

JPEG 2000 appears three times, because the anchor decides how large a saving looks:
- `jpeg2000-paper`: as the paper ran it, `opj_compress -r RATIO` at its defaults: reversible 5/3 wavelet with
  the reversible colour transform. Checked against opj_compress 2.5.0: same number of bytes, same PSNR.
- `jpeg2000`: as lossy coding should be run: irreversible 9/7 wavelet with the irreversible colour transform.
- `jpeg2000-pillow`: what Pillow does by default, 5/3 and no colour transform at all; weaker by dBs, shown so
  that anybody who meets such an anchor can tell.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL
from PIL import Image, features

from ltchm_jax.imagery.reading import our_limits

Encoder = Callable[[np.ndarray, float], bytes]
Decoder = Callable[[bytes], np.ndarray]
_BPG_SECONDS = 600


class MissingEncoder(RuntimeError):
    """A codec that this machine does not have; the message says which part is missing."""


class Tool(Protocol):
    """What a baseline runs on."""

    def missing(self) -> str:
        """Why it can't run on this machine, or ''."""

    def version(self) -> str:
        """What it is, exactly enough to tell whether measured numbers still hold."""


@dataclass(frozen=True)
class PillowFeature:
    """A library that Pillow is built with."""

    name: str

    def missing(self) -> str:
        return "" if features.check(self.name) else f"this Pillow was built without {self.name}"

    def version(self) -> str:
        return f"{self.name} {features.version(self.name)} (Pillow {PIL.__version__})"


@dataclass(frozen=True)
class Plugin:
    """A package that adds a format to Pillow; `module` is its import name, `package` its name on PyPI."""

    module: str
    package: str

    def missing(self) -> str:
        return "" if importlib.util.find_spec(self.module) else f"the package {self.package} is not installed"

    def version(self) -> str:
        return f"{self.package} {importlib.metadata.version(self.package)} (Pillow {PIL.__version__})"


@dataclass(frozen=True)
class Programs:
    """Programs on PATH; the first is the encoder."""

    names: tuple[str, ...]

    def missing(self) -> str:
        absent = [name for name in self.names if shutil.which(name) is None]
        return f"not on PATH: {', '.join(absent)}" if absent else ""

    def version(self) -> str:
        program = Path(str(shutil.which(self.names[0])))
        return f"{program.name} sha256 {hashlib.sha256(program.read_bytes()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Baseline:
    """A conventional codec.

    Attributes:
      title: how it is called in tables.
      setting: what `settings` are, in words.
      settings: those of the paper.
      wide: a grid that reaches far enough both ways for Bjontegaard deltas; holds `settings`.
      encode: uint8 [H, W, 3] and a setting to the bytes of a file.
      decode: those bytes to uint8 [H, W, 3].
      tool: what it needs on this machine.
    """

    title: str
    setting: str
    settings: tuple[float, ...]
    wide: tuple[float, ...]
    encode: Encoder
    decode: Decoder
    tool: Tool


def _pillow_encode(format: str, options: Callable[[float], Mapping[str, Any]], plugin: str = "") -> Encoder:
    def encode(pixels: np.ndarray, setting: float) -> bytes:
        _import_plugin(plugin)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format, **options(setting))
        return buffer.getvalue()

    return encode


def _pillow_decode(plugin: str = "") -> Decoder:
    def decode(data: bytes) -> np.ndarray:
        _import_plugin(plugin)
        with our_limits(), Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    return decode


@functools.cache
def _import_plugin(plugin: str) -> None:
    """Registers a Pillow plugin that is a package of its own; '' is none."""
    if plugin == "pillow_heif":
        importlib.import_module(plugin).register_heif_opener()
    elif plugin:
        importlib.import_module(plugin)


def _jpeg2000(irreversible: bool, colour_transform: bool) -> Encoder:
    def options(ratio: float) -> Mapping[str, Any]:
        return {
            "quality_mode": "rates",
            "quality_layers": [ratio],
            "irreversible": irreversible,
            "mct": int(colour_transform),
        }

    return _pillow_encode("JPEG2000", options)


def _quality(value: float) -> Mapping[str, Any]:
    return {"quality": int(value)}


def _avif(value: float) -> Mapping[str, Any]:
    # Pillow's defaults, written out: they are part of the result. 4:2:0, libavif speed 6.
    return {"quality": int(value), "speed": 6, "subsampling": "4:2:0"}


def _bpg_encode(pixels: np.ndarray, setting: float) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "x.png"), Path(folder, "x.bpg")
        Image.fromarray(pixels).save(source)
        _run("bpgenc", "-q", str(int(setting)), "-o", str(target), str(source))
        return target.read_bytes()


def _bpg_decode(data: bytes) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "x.bpg"), Path(folder, "x.png")
        source.write_bytes(data)
        _run("bpgdec", "-o", str(target), str(source))
        with our_limits(), Image.open(target) as image:
            return np.asarray(image.convert("RGB"))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_BPG_SECONDS)


_RATIOS = (20, 30, 40, 60, 110, 160)
_WIDE_RATIOS = (4, 6, 9, 13, 20, 30, 40, 60, 80, 110, 160, 240, 400)

BASELINES: dict[str, Baseline] = {
    "jpeg2000-paper": Baseline(
        "JPEG 2000 (5/3, as in the paper)", "compression ratio", _RATIOS, _WIDE_RATIOS,
        _jpeg2000(False, True), _pillow_decode(), PillowFeature("jpg_2000"),
    ),
    "jpeg2000": Baseline(
        "JPEG 2000 (9/7)", "compression ratio", _RATIOS, _WIDE_RATIOS,
        _jpeg2000(True, True), _pillow_decode(), PillowFeature("jpg_2000"),
    ),
    "jpeg2000-pillow": Baseline(
        "JPEG 2000 (5/3, no colour transform)", "compression ratio", _RATIOS, _WIDE_RATIOS,
        _jpeg2000(False, False), _pillow_decode(), PillowFeature("jpg_2000"),
    ),
    "webp": Baseline(
        "WebP", "quality", (1, 4, 20, 35, 60, 80), (0, 1, 4, 10, 20, 35, 50, 60, 70, 80, 90, 95),
        _pillow_encode("WEBP", _quality), _pillow_decode(), PillowFeature("webp"),
    ),
    "avif": Baseline(
        "AVIF", "quality", (10, 20, 30, 40, 50, 60), (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        _pillow_encode("AVIF", _avif), _pillow_decode(), PillowFeature("avif"),
    ),
    "jxl": Baseline(
        "JPEG XL", "quality", (10, 20, 30, 40, 50, 60), (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        _pillow_encode("JXL", _quality, "pillow_jxl"), _pillow_decode("pillow_jxl"),
        Plugin("pillow_jxl", "pillow-jxl-plugin"),
    ),
    "heic": Baseline(
        "HEIC", "quality", (10, 20, 30, 40, 50, 60), (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        _pillow_encode("HEIF", _quality, "pillow_heif"), _pillow_decode("pillow_heif"),
        Plugin("pillow_heif", "pillow-heif"),
    ),
    "bpg": Baseline(
        "BPG", "quantiser", (25, 30, 35, 40, 43, 46), (18, 22, 25, 30, 35, 38, 40, 43, 46, 49, 51),
        _bpg_encode, _bpg_decode, Programs(("bpgenc", "bpgdec")),
    ),
}  # fmt: skip

DEFAULTS = ("jpeg2000-paper", "jpeg2000", "webp", "avif")
# Of Bjontegaard figures, as far as they were measured.
ANCHORS = ("jpeg2000-paper", "jpeg2000", "avif", "heic")


def find(name: str) -> Baseline:
    """The baseline of that name.

    Raises:
      ValueError: there is none.
      MissingEncoder: it can't run on this machine.
    """
    if name not in BASELINES:
        raise ValueError(f"codec must be one of {', '.join(BASELINES)}, got {name!r}")
    reason = BASELINES[name].tool.missing()
    if reason:
        raise MissingEncoder(f"{BASELINES[name].title} is skipped: {reason}")
    return BASELINES[name]
