"""Symbols as binary decisions, each with a probability from an integer model: one walk for both directions.

A symbol is asked about in this order. Every answer is coded with its probability given the answers before it.

    is it the centre c?   if not: is it below c?   then n = |symbol - c| - 1, in the manner of an
    Exp-Golomb code: is n past the first bucket, 2^k wide? past the second, 2^(k+1)? ...   then halve that
    bucket until one is left

k follows the spread of the model, so narrow models end after one question and wide ones waste none.
Nothing is assumed uniform, so the tree itself costs nothing. Beyond the reach of the model each answer
costs one bit.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ltchm_jax.entropy import tables
from ltchm_jax.entropy.snapping import WEIGHT_BITS, Mixtures

MAX_DISTANCE = 1 << 16  # no legal symbol is further from its centre; bounds the walk on corrupt streams

# What is asked about the symbols int [m]: bool [m].
Question = Callable[[np.ndarray], np.ndarray]
# decide(indices int32 [m], rows int64 [m], question) -> bool [m] codes one decision for each of the
# symbols `rows` with the Bernoulli tables `indices`. An encoder gets the answers from
# question(symbols[rows]), a decoder from the stream.
Decide = Callable[[np.ndarray, np.ndarray, Question], np.ndarray]


class Tails(Protocol):
    """The mass on one side of the centre, for n symbols."""

    def above(self, n: np.ndarray | int) -> np.ndarray:
        """int64: the mass of symbols at least n + 1 steps from the centre; n int64, one for each symbol."""

    def select(self, rows: np.ndarray) -> "Tails":
        """The masses of the symbols `rows` alone."""


class Model(Protocol):
    """An integer probability model of n symbols."""

    centres: np.ndarray
    total: int

    def tails(self, rows: np.ndarray | None, signs: np.ndarray | int) -> Tails:
        """The tails of the symbols `rows` (None: all) above (sign +1) or below (-1) their centres."""

    def orders(self, rows: np.ndarray) -> np.ndarray:
        """int64: log2 of the width of the first bucket of each of the symbols `rows`."""


class MixtureTails:
    """Tails of snapped mixtures: masses in units of 2^-46."""

    def __init__(self, density: tables.StandardDensity, *parameters: np.ndarray) -> None:
        """parameters: int64 [K, n] each: offsets of the means away from the centre, rates, weights."""
        self._density = density
        self._parameters = parameters

    def above(self, n: np.ndarray | int) -> np.ndarray:
        offsets, rates, weights = self._parameters
        edge = (np.asarray(n, np.int64) << tables.MEAN_BITS) + (1 << (tables.MEAN_BITS - 1))
        t = edge - offsets
        t *= rates
        t >>= tables.RATE_SHIFT
        reach = tables.REACH * tables.STEPS << tables.FRACTION_BITS
        t += reach
        np.maximum(t, 0, out=t)
        np.minimum(t, 2 * reach, out=t)
        index = t >> tables.FRACTION_BITS
        t &= (1 << tables.FRACTION_BITS) - 1
        t *= self._density.drops.take(index)
        t >>= tables.FRACTION_BITS
        np.subtract(self._density.survival.take(index), t, out=t)
        t *= weights
        return t.sum(axis=0)

    def select(self, rows: np.ndarray) -> "MixtureTails":
        return MixtureTails(self._density, *(p.take(rows, axis=1) for p in self._parameters))


class MixtureModel:
    """Symbols y of the latent: a mixture each."""

    total = 1 << (tables.MASS_BITS + WEIGHT_BITS)

    def __init__(self, mixtures: Mixtures) -> None:
        self.centres = mixtures.centres
        self._mixtures = mixtures
        self._density = tables.standard_density(mixtures.kind)
        self._rates = tables.rates().take(mixtures.levels, mode="clip")

    def tails(self, rows: np.ndarray | None, signs: np.ndarray | int) -> Tails:
        offsets, rates, weights = self._mixtures.offsets, self._rates, self._mixtures.weights
        if rows is not None:
            offsets, rates, weights = (p.take(rows, axis=1) for p in (offsets, rates, weights))
        return MixtureTails(self._density, offsets * signs, rates, weights)

    def orders(self, rows: np.ndarray) -> np.ndarray:
        m = self._mixtures
        distance = self._density.spreads.take(m.levels.take(rows, axis=1), mode="clip")
        distance += np.abs(m.offsets.take(rows, axis=1))
        spread = (distance * m.weights.take(rows, axis=1)).sum(axis=0)
        return _bit_length(spread >> (WEIGHT_BITS + tables.MEAN_BITS))


class PmfTails:
    """Tails of tabulated distributions: masses in units of 2^-16."""

    def __init__(
        self, cdf: np.ndarray, channels: np.ndarray, starts: np.ndarray, signs: np.ndarray | int
    ) -> None:
        """starts: int64 [n], the columns of the centres in cdf; signs: +1 above, -1 below."""
        self._cdf, self._channels = cdf, channels
        self._starts, self._signs = starts, np.broadcast_to(np.asarray(signs, np.int64), starts.shape)

    def above(self, n: np.ndarray | int) -> np.ndarray:
        up = self._signs > 0
        columns = self._starts + np.where(up, np.asarray(n) + 1, -np.asarray(n))
        below = self._cdf[self._channels, np.clip(columns, 0, self._cdf.shape[1] - 1)].astype(np.int64)
        return np.where(up, (1 << tables.PROBABILITY_BITS) - below, below)

    def select(self, rows: np.ndarray) -> "PmfTails":
        return PmfTails(self._cdf, self._channels[rows], self._starts[rows], self._signs[rows])


class PmfModel:
    """Symbols z of the hyper-latent: one tabulated distribution a channel."""

    total = 1 << tables.PROBABILITY_BITS

    def __init__(self, pmf: tables.PmfTables, channels: np.ndarray) -> None:
        """channels: int64 [n], the channel of each symbol."""
        mass = np.diff(pmf.cdf.astype(np.int64))  # [C, L]
        modes = mass.argmax(axis=1)
        distance = np.abs(np.arange(mass.shape[1]) - modes[:, None])
        self._cdf, self._channels = pmf.cdf, channels
        self._starts = modes[channels]
        self._orders = _bit_length((mass * distance).sum(axis=1) >> tables.PROBABILITY_BITS)
        self.centres = self._starts + pmf.offset

    def tails(self, rows: np.ndarray | None, signs: np.ndarray | int) -> Tails:
        rows = np.arange(len(self.centres)) if rows is None else rows
        return PmfTails(self._cdf, self._channels[rows], self._starts[rows], signs)

    def orders(self, rows: np.ndarray) -> np.ndarray:
        return self._orders[self._channels[rows]]


def _bit_length(values: np.ndarray) -> np.ndarray:
    """floor(log2(v)) for v >= 1, and 0 for 0; at most 16."""
    return np.searchsorted(1 << np.arange(1, 17), values, side="right")


def walk(model: Model, decide: Decide) -> np.ndarray:
    """Codes every symbol of a model, in as many rounds as the deepest symbol needs.

    Args:
      model: the probabilities of n symbols.
      decide: codes one decision for each of some symbols, see `Decide`.

    Returns:
      int64 [n], the symbols: what was encoded, or what was decoded. From a corrupt stream these may be any
      integers within 2^18 of zero.
    """
    rows, signs, side_mass = _centre_and_sign(model, decide)
    symbols = model.centres.copy()
    if len(rows):
        symbols[rows] += signs * (_distances(model, rows, signs, side_mass, decide) + 1)
    return symbols


def _centre_and_sign(model: Model, decide: Decide) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that are not at their centre, their signs (+1 above), and the mass on that side."""
    everyone = np.arange(len(model.centres))
    above, below = model.tails(None, 1).above(0), model.tails(None, -1).above(0)
    # Interpolation may overshoot by a unit, hence the clip.
    at_centre = np.maximum(model.total - above - below, 0)
    hit = decide(tables.bernoulli_index(at_centre, model.total), everyone, lambda y: y == model.centres)
    rows = np.flatnonzero(~hit)
    above, below, centres = above[rows], below[rows], model.centres[rows]
    negative = decide(tables.bernoulli_index(below, above + below), rows, lambda y: y < centres)
    return rows, np.where(negative, -1, 1), np.where(negative, below, above)


def _distances(
    model: Model, rows: np.ndarray, signs: np.ndarray, side_mass: np.ndarray, decide: Decide
) -> np.ndarray:
    """int64 [len(rows)]: |symbol - centre| - 1 of the symbols `rows`, all of them off their centres."""
    distances = np.zeros(len(rows), np.int64)
    tails, centres = model.tails(rows, signs), model.centres[rows]
    width = np.left_shift(1, model.orders(rows))
    low, mass_high = np.zeros_like(width), np.zeros_like(width)
    mass_low = side_mass
    rising = np.ones(len(rows), bool)
    at = np.arange(len(rows))  # where the symbols still in play stand in `rows`
    while len(at):
        split = low + width
        mass_split = tails.above(split)
        indices = tables.bernoulli_index(mass_split - mass_high, mass_low - mass_high)
        passed = decide(indices, rows[at], lambda y: np.abs(y - centres[at]) > split)  # noqa: B023
        low = np.where(passed, split, low)
        mass_low = np.where(passed, mass_split, mass_low)
        mass_high = np.where(passed, mass_high, mass_split)
        rising &= passed
        width = np.where(rising, width << 1, width >> 1)
        width[low > MAX_DISTANCE] = 0
        distances[at] = low
        keep = np.flatnonzero(width)
        if len(keep) < len(at):
            tails = tails.select(keep)
            at, low, width, rising = at[keep], low[keep], width[keep], rising[keep]
            mass_low, mass_high = mass_low[keep], mass_high[keep]
    return distances
