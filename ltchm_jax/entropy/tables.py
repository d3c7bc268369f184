"""Integer tables: the contract between the two sides of a stream.

Every number here comes out of exact integer arithmetic or of `decimal`, whose exp and ln are correctly
rounded. So the tables are the same on every machine, and `tables_digest` names them. Three kinds:

* survival tables Q(t) = P(X > t) of the standard Gaussian and Laplace densities, at steps of 1/64;
* scale levels: for each log-spaced scale, how many table steps one grid unit spans, and a mean distance;
* Bernoulli tables: the binary distributions the range coder offers, and which one serves a given probability.
"""

import functools
import hashlib
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np

MASS_BITS = 30  # Q is an integer in [0, 2^30]
STEPS = 64  # table steps in a unit of t
REACH = 22  # Q(22) < 2^-31 for both densities, so outside [-22, 22] it is exactly 0 or 1
FRACTION_BITS = 12  # linear interpolation between table steps

MEAN_BITS = 10  # means live on a grid of 2^-10
LEVELS_PER_OCTAVE = 32
MIN_LEVEL, MAX_LEVEL = -10 * LEVELS_PER_OCTAVE, 12 * LEVELS_PER_OCTAVE  # scales 2^-10 .. 2^12
RATE_SHIFT = 16  # (distance in grid units) * rate >> RATE_SHIFT is t * STEPS * 2^FRACTION_BITS

PROBABILITY_BITS = 16  # what the range coder takes
_STEP_BITS = 7  # neighbouring Bernoulli tables are about 2^-7 apart in logit


@dataclass(frozen=True)
class StandardDensity:
    """One standard density as integers: Q and its decrements at t = i/64, i = -1408 .. 1408, and E|X|.

    Attributes:
      survival: int64 [2817], round(2^30 Q(i/64)); survival[-i] + survival[i] = 2^30.
      drops: int64 [2817], survival[i] - survival[i + 1] (0 for the last).
      spreads: int64 [705], the mean distance from the mean, in grid units, at each scale level.
    """

    survival: np.ndarray
    drops: np.ndarray
    spreads: np.ndarray


def _laplace_survival(t: Decimal) -> Decimal:
    return (-t).exp() / 2


def _gaussian_survival(t: Decimal) -> Decimal:
    """1/2 - phi(t) (t + t^3/3 + t^5/15 + ...); the cancellation costs 15 of 50 digits at t = 8."""
    if t > 8:
        return Decimal(0)
    term = total = t
    odd = 1
    while term > Decimal(10) ** -40:
        odd += 2
        term = term * t * t / odd
        total += term
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582")
    return Decimal(1) / 2 - total * (-t * t / 2).exp() / (2 * pi).sqrt()


# kind -> (survival function on t >= 0, E|X| of the standard density in units of 1e-6)
_DENSITIES = {"gaussian": (_gaussian_survival, 797_885), "laplace": (_laplace_survival, 1_000_000)}


def _rounded(value: Decimal) -> int:
    return int((value + Decimal(1) / 2).to_integral_value(rounding="ROUND_FLOOR"))


@functools.cache
def standard_density(kind: str) -> StandardDensity:
    """The integer tables of one density.

    Raises:
      ValueError: if kind is neither 'gaussian' nor 'laplace'.
    """
    if kind not in _DENSITIES:
        raise ValueError(f"kind must be one of {sorted(_DENSITIES)}, got {kind!r}")
    function, spread = _DENSITIES[kind]
    with localcontext() as context:
        context.prec = 50
        one = 1 << MASS_BITS
        half = [_rounded(function(Decimal(i) / STEPS) * one) for i in range(REACH * STEPS + 1)]
        spreads = [_rounded(s * (spread << MEAN_BITS) / 1_000_000) for s in _scales()]
    survival = np.array([one - q for q in half[:0:-1]] + half, np.int64)
    drops = survival - np.append(survival[1:], 0)
    return StandardDensity(survival, drops, np.array(spreads, np.int64))


def _scales() -> list[Decimal]:
    """2^(level/32) for every scale level, to 50 digits."""
    with localcontext() as context:
        context.prec = 50
        ln2 = Decimal(2).ln()
        return [(ln2 * i / LEVELS_PER_OCTAVE).exp() for i in range(MIN_LEVEL, MAX_LEVEL + 1)]


@functools.cache
def rates() -> np.ndarray:
    """int64 [705]: at each scale level, 2^RATE_SHIFT times the fine table steps that one grid unit spans."""
    unit = 1 << (RATE_SHIFT + FRACTION_BITS - MEAN_BITS)
    with localcontext() as context:
        context.prec = 50
        return np.array([_rounded(STEPS * unit / s) for s in _scales()], np.int64)


@functools.cache
def bernoulli_probabilities() -> np.ndarray:
    """int32 [B]: P(bit = 1) of every Bernoulli table, in units of 2^-16; rising, symmetric, even in logit."""
    one = 1 << PROBABILITY_BITS
    lower = [1]
    while lower[-1] < one // 2:
        p = lower[-1]
        lower.append(p + max(1, p * (one - p) >> (PROBABILITY_BITS + _STEP_BITS)))
    lower = [p for p in lower if p < one // 2]
    return np.array([*lower, one // 2, *(one - p for p in reversed(lower))], np.int32)


@functools.cache
def bernoulli_of_probability() -> np.ndarray:
    """int32 [2^16 + 1]: the Bernoulli table nearest to each 16-bit probability."""
    p = bernoulli_probabilities()
    middles = (p[:-1] + p[1:]) // 2
    return np.searchsorted(middles, np.arange((1 << PROBABILITY_BITS) + 1)).astype(np.int32)


@functools.cache
def range_coder_lookup() -> np.ndarray:
    """int32 [B, 4]: rows of precision and CDF (0, P(0), 1) as the range coder's index ops take them."""
    one = 1 << PROBABILITY_BITS
    zero = one - bernoulli_probabilities()
    return np.stack([np.full_like(zero, PROBABILITY_BITS), 0 * zero, zero, np.full_like(zero, one)], axis=1)


def bernoulli_index(mass: np.ndarray, total: np.ndarray | int) -> np.ndarray:
    """The Bernoulli table for P(bit = 1) = (mass + 1/2) / (total + 1).

    The half makes both answers equally likely where nothing is left of the model (0 of 0), and is lost in the
    rounding elsewhere.

    Args:
      mass: int64 [n], in [0, 2^46].
      total: int64 [n] or int, >= mass.

    Returns:
      int32 [n], rows of `range_coder_lookup`.
    """
    denominator = np.asarray(total, np.int64) + 1
    numerator = (2 * mass + 1) << (PROBABILITY_BITS - 1)
    return bernoulli_of_probability().take((numerator + (denominator >> 1)) // denominator, mode="clip")


@dataclass(frozen=True)
class PmfTables:
    """Integer CDFs of C independent distributions on the integers offset .. offset + L - 1.

    Attributes:
      cdf: int32 [C, L + 1]; cdf[c, i] / 2^16 = P(symbol < offset + i); non-decreasing from 0 to 2^16.
      offset: the smallest symbol in the tables. Symbols outside can be coded, at the cost of an escape.
    """

    cdf: np.ndarray
    offset: int

    def __post_init__(self) -> None:
        cdf, one = np.asarray(self.cdf), 1 << PROBABILITY_BITS
        ok = cdf.ndim == 2 and cdf.dtype == np.int32 and cdf.shape[1] >= 2
        if not ok or (cdf[:, 0] != 0).any() or (cdf[:, -1] != one).any() or (np.diff(cdf) < 0).any():
            rule = f"a CDF table must be int32 [C, L + 1], non-decreasing from 0 to {one}"
            raise ValueError(f"{rule}, got {cdf.dtype} {cdf.shape}")


def quantise_pmf(pmf: np.ndarray, offset: int) -> PmfTables:
    """Rounds each cumulative probability to 16 bits, on its own, so the outcome depends on no other entry.

    Args:
      pmf: float64 [C, L], non-negative, each row positive somewhere; rows are normalised.
      offset: the symbol of column 0.

    Raises:
      ValueError: if pmf has another rank, or entries that are negative, NaN, infinite or all zero.
    """
    pmf = np.asarray(pmf, np.float64)
    if pmf.ndim != 2 or not np.isfinite(pmf).all() or (pmf < 0).any() or (pmf.sum(1) <= 0).any():
        raise ValueError(f"a pmf must be [C, L], finite, >= 0, no row all zero, got shape {pmf.shape}")
    cumulative = np.cumsum(pmf, axis=1)
    cdf = np.floor(cumulative / cumulative[:, -1:] * (1 << PROBABILITY_BITS) + 0.5)
    cdf = np.concatenate([np.zeros((len(pmf), 1)), cdf], axis=1)
    return PmfTables(cdf.astype(np.int32), offset)


@functools.cache
def tables_digest() -> bytes:
    """SHA-256 of the tables of this file and the constants they are made from; equal on every machine."""
    arrays = [rates(), range_coder_lookup(), bernoulli_of_probability()]
    for kind in sorted(_DENSITIES):
        density = standard_density(kind)
        arrays += [density.survival, density.spreads]
    constants = [MASS_BITS, STEPS, REACH, FRACTION_BITS, MEAN_BITS, LEVELS_PER_OCTAVE, MIN_LEVEL, RATE_SHIFT]
    digest = hashlib.sha256(repr(constants).encode())
    for array in arrays:
        digest.update(array.astype("<i8").tobytes())
    return digest.digest()
