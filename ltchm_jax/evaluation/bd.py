"""Bjontegaard deltas between two rate-distortion curves, through the `bjontegaard` package.

Interpolation is piecewise cubic Hermite ('pchip'), which goes through every point and does not overshoot,
over log10 of the rate; curves may have different numbers of points. The integral runs over the part both
curves cover, which is returned with the result: a figure from a small part of a curve says little.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import bjontegaard
import numpy as np

METHOD = "pchip"
SMALLEST_OVERLAP = 0.5


class CurveError(ValueError):
    """Two curves for which a Bjontegaard delta has no meaning."""


@dataclass(frozen=True)
class Curve:
    """A rate-distortion curve: `rates` in bpp and `quality` in dB, one entry a point, both rising."""

    rates: tuple[float, ...]
    quality: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.quality) or len(self.rates) < 2:
            raise CurveError(
                f"a curve needs two points or more, got {len(self.rates)} rates and {len(self.quality)} "
                "qualities; evaluate more settings"
            )
        if not np.all(np.isfinite([*self.rates, *self.quality])) or min(self.rates) <= 0:
            raise CurveError(
                f"a curve needs finite points of positive rate, got {self}; drop lossless points"
            )
        if not all(np.all(np.diff(values) > 0) for values in (self.rates, self.quality)):
            raise CurveError(f"rate and quality must rise from point to point, got {self}; use `curve`")


def curve(rates: Sequence[float], quality: Sequence[float]) -> Curve:
    """The curve of measured points in any order.

    Points that are not finite (lossless ones) are left out, and so is a point that another one beats, with
    more quality at no higher rate: quality is a function of the rate only on what remains.

    Raises:
      CurveError: fewer than two points remain.
    """
    kept: list[tuple[float, float]] = []
    points = [p for p in zip(rates, quality, strict=True) if np.all(np.isfinite(p)) and p[0] > 0]
    for rate, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or value > kept[-1][1]:
            kept.append((rate, value))
    return Curve(tuple(p[0] for p in kept), tuple(p[1] for p in kept))


@dataclass(frozen=True)
class Delta:
    """A Bjontegaard delta.

    Attributes:
      value: BD-rate in per cent (negative saves bits) or BD-PSNR in dB (positive is better).
      low, high: the interval of the integral: dB for BD-rate, bpp for BD-PSNR.
      overlap: its length over that of the test curve (the rate on a log scale), 0..1.
    """

    value: float
    low: float
    high: float
    overlap: float


def bd_rate(anchor: Curve, test: Curve) -> Delta:
    """Mean rate difference of `test` against `anchor` at equal quality, in per cent.

    Raises:
      CurveError: the anchor covers less than half of the quality that `test` spans.
    """
    low, high, overlap = _overlap(anchor.quality, test.quality, "quality")
    value = bjontegaard.bd_rate(
        anchor.rates, anchor.quality, test.rates, test.quality, METHOD, False, min_overlap=0
    )
    return Delta(float(value), low, high, overlap)


def bd_psnr(anchor: Curve, test: Curve) -> Delta:
    """Mean quality difference of `test` against `anchor` at equal rate, in dB.

    Raises:
      CurveError: the anchor covers less than half of the rates that `test` spans, on a log scale.
    """
    logs = [np.log10(np.asarray(points.rates)).tolist() for points in (anchor, test)]
    low, high, overlap = _overlap(logs[0], logs[1], "log rate")
    value = bjontegaard.bd_psnr(
        anchor.rates, anchor.quality, test.rates, test.quality, METHOD, False, min_overlap=0
    )
    return Delta(float(value), 10**low, 10**high, overlap)


def _overlap(anchor: Sequence[float], test: Sequence[float], what: str) -> tuple[float, float, float]:
    low, high = max(min(anchor), min(test)), min(max(anchor), max(test))
    share = max(high - low, 0.0) / (max(test) - min(test))
    if share < SMALLEST_OVERLAP:
        raise CurveError(
            f"the anchor must cover at least {SMALLEST_OVERLAP:.0%} of the curve's {what}, got "
            f"{min(anchor):.3f}..{max(anchor):.3f} for {min(test):.3f}..{max(test):.3f}; "
            "evaluate settings that meet"
        )
    return low, high, share
