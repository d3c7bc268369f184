"""What an evaluation compares: conventional codecs and models behind one face, pixels -> bytes -> pixels."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ltchm_jax import __version__, baselines


class Codec(Protocol):
    """What is asked of a model: the part of `ltchm_jax.codec.Codec` used here."""

    @property
    def name(self) -> str:
        """What it is called in tables."""

    @property
    def qualities(self) -> tuple[float, ...]:
        """The rates to measure it at; none of a single-rate model."""

    def compress(self, array: np.ndarray, quality: float | None = None) -> bytes:
        """uint8 [H, W, 3] to the bytes of a file."""

    def decompress(self, data: bytes) -> np.ndarray:
        """Those bytes to uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Contender:
    """One codec with the settings to measure.

    Attributes:
      curve: the curve its points belong to; single-rate models may share one.
      title: how the curve is called in tables and plots.
      version: version of the library, or digest of the model, with that of this package.
      settings: names of the settings.
      encode: uint8 [H, W, 3] and the name of a setting to the bytes of a file.
      decode: those bytes to uint8 [H, W, 3].
      is_model: whether it is a model, which runs on the accelerator and compiles for each new size.
    """

    curve: str
    title: str
    version: str
    settings: tuple[str, ...]
    encode: Callable[[np.ndarray, str], bytes]
    decode: Callable[[bytes], np.ndarray]
    is_model: bool


def baseline(name: str, wide: bool) -> Contender:
    """A conventional codec at the paper's settings, or on the wide grid that holds them.

    Raises:
      ValueError: there is none of that name.
      MissingEncoder: it can't run on this machine.
    """
    found = baselines.find(name)
    return Contender(
        curve=name,
        title=found.title,
        version=_with_ours(found.tool.version()),
        settings=tuple(f"{setting:g}" for setting in (found.wide if wide else found.settings)),
        encode=lambda pixels, setting: found.encode(pixels, float(setting)),
        decode=found.decode,
        is_model=False,
    )


def model(spec: str, qualities: Sequence[float] = (), effort: int = 0) -> Contender:
    """A model named `MODEL` or `CURVE=MODEL`, MODEL being what `Codec.load` takes: a file or a known name.

    A file may have `=` in its path. A single-rate model is one point; those given the same CURVE form one
    curve. With an effort CURVE says so.

    Raises:
      ValueError: the model can't be loaded, or not with this effort, or has no such quality.
    """
    from ltchm_jax.codec import Codec as Ltchm  # here, for it needs TensorFlow and the baselines do not

    curve, source = _curve_and_source(spec)
    codec = Ltchm.load(source, effort=effort)
    for quality in qualities if codec.qualities else ():
        codec.quality_steps(quality)
    curve = f"{curve or codec.name} effort {effort}" if effort else curve
    return of_codec(codec, curve, _with_ours(_file_digest(source) or codec.name), qualities)


def of_codec(codec: Codec, curve: str = "", version: str = "", qualities: Sequence[float] = ()) -> Contender:
    """The contender of a loaded codec. `curve` and `version` default to its name.

    `qualities` replace the codec's own; a single-rate codec, which has none, keeps its rate.
    """
    wanted = qualities or codec.qualities if codec.qualities else ()
    chosen = {f"{quality:g}": quality for quality in wanted}
    curve = curve or codec.name
    return Contender(
        curve=curve,
        title=curve,
        version=version or codec.name,
        settings=tuple(chosen) or (codec.name,),
        encode=lambda pixels, setting: codec.compress(pixels, chosen.get(setting)),
        decode=codec.decompress,
        is_model=True,
    )


def gather(
    models: Sequence[str],
    codecs: Sequence[str],
    wide: bool,
    qualities: Sequence[float] = (),
    efforts: Sequence[int] = (0,),
) -> tuple[list[Contender], dict[str, str]]:
    """All contenders, models first, and why named codecs were skipped.

    Raises:
      ValueError: a name is unknown, nothing is left to compare, or two would write the same rows.
    """
    contenders = [model(spec, qualities, effort) for spec in models for effort in efforts]
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(codecs):
        try:
            contenders.append(baseline(name, wide))
        except baselines.MissingEncoder as error:
            skipped[name] = str(error)
    if not contenders:
        reasons = "; ".join(skipped.values()) or "no --model and no --codecs"
        raise ValueError(f"there must be a codec to evaluate, got none: {reasons}")
    check_distinct(contenders)
    return contenders, skipped


def check_distinct(contenders: Sequence[Contender]) -> None:
    """Refuses contenders whose rows could not be told apart, now or another time (ValueError)."""
    seen: set[tuple[str, str]] = set()
    for contender in contenders:
        if contender.is_model and contender.curve in baselines.BASELINES:
            raise ValueError(
                f"a model needs a name that no conventional codec has, got {contender.curve}; "
                "call it otherwise with --model CURVE=MODEL"
            )
        for setting in contender.settings:
            if (contender.curve, setting) in seen:
                raise ValueError(
                    f"each codec and setting may occur once, got {contender.curve} {setting} twice; "
                    "tell models apart with --model CURVE=MODEL"
                )
            seen.add((contender.curve, setting))


def _with_ours(version: str) -> str:
    """The version of a codec with that of this package, which has its options or its encoder."""
    return f"{version}, ltchm-jax {__version__} {_digest_of_sources()}"


@functools.cache
def _digest_of_sources() -> str:
    """8 hexadecimal digits over all of this package's code: any of it may change a byte or a figure."""
    root, sha = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sha.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return sha.hexdigest()[:8]


def _curve_and_source(spec: str) -> tuple[str, str]:
    """CURVE and MODEL: the longest MODEL that is a file, else what follows the last `=`. CURVE may be ''."""
    parts = spec.split("=")
    splits = [("=".join(parts[:i]), "=".join(parts[i:])) for i in range(len(parts))]
    return next((split for split in splits if Path(split[1]).is_file()), splits[-1])


def _file_digest(source: str) -> str:
    path: Any = Path(source)
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}" if path.is_file() else ""
