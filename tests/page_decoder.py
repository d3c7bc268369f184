"""A second decoder of payloads, from docs/bitstream.md alone, symbol by symbol in Python's own integers.

No code of the package is used: the model's real numbers are given.
"""

import itertools
from collections.abc import Callable, Generator
from decimal import Decimal, localcontext
from functools import cache
from math import floor

import numpy as np

Mass = Callable[[int], int]
Questions = Generator[int, bool, int]  # gives p of each decision, is sent the decision, returns the symbol


class RangeDecoder:
    def __init__(self, payload: bytes) -> None:
        self.data, self.at, self.size = payload, 4, 1 << 32
        self.v = int.from_bytes(payload[:4].ljust(4, b"\0"), "big")

    def decide(self, p: int) -> bool:
        t = self.size * (65536 - p) >> 16
        one = self.v >= t
        self.v, self.size = (self.v - t, self.size - t) if one else (self.v, t)
        if self.size <= 65536:
            self.size <<= 16
            self.v = (self.v << 16) + int.from_bytes(self.data[self.at : self.at + 2].ljust(2, b"\0"), "big")
            self.at += 2
        return one


def probabilities() -> list[int]:
    low, p = [], 1
    while p < 32768:
        low.append(p)
        p += max(1, p * (65536 - p) >> 23)
    return [*low, 32768, *(65536 - p for p in reversed(low))]


P = probabilities()
MEANS = np.array([(p + q) // 2 for p, q in itertools.pairwise(P)])


def probability(m: int, total: int) -> int:
    return P[int(np.searchsorted(MEANS, ((2 * m + 1) * 32768 + ((total + 1) >> 1)) // (total + 1)))]


def symbol(c: int, total: int, above: Mass, below: Mass, k: int) -> Questions:
    up, down = above(0), below(0)
    if (yield probability(max(total - up - down, 0), total)):
        return c
    negative = yield probability(down, up + down)
    side, sign = (below, -1) if negative else (above, 1)
    low, width, more, less, rising = 0, 1 << k, side(0), 0, True
    while width:
        split = side(low + width)
        yes = yield probability(split - less, more - less)
        if yes:
            low, more = low + width, split
        else:
            less = split
        rising = rising and yes
        width = 0 if low > 65536 else width << 1 if rising else width >> 1
    return c + sign * (low + 1)


def order(s: int) -> int:
    return max(s, 1).bit_length() - 1


def answers(decoder: RangeDecoder, step: list[Questions]) -> list[int]:
    """The symbols of a step: all take their first question, those that are left their second, and so on."""
    symbols, waiting = [0] * len(step), [(i, q, next(q)) for i, q in enumerate(step)]
    while waiting:
        left = []
        for i, questions, p in waiting:
            try:
                left.append((i, questions, questions.send(decoder.decide(p))))
            except StopIteration as end:
                symbols[i] = end.value
        waiting = left
    return symbols


def z_symbol(table: list[int], first: int) -> Questions:
    """`table`: the mass below each symbol from `first` on, from 0 to 65536."""
    masses = [b - a for a, b in itertools.pairwise(table)]
    i, last = masses.index(max(masses)), len(table) - 1
    s = sum(mass * abs(j - i) for j, mass in enumerate(masses)) >> 16
    return symbol(
        i + first,
        65536,
        lambda n: 65536 - table[min(i + n + 1, last)],
        lambda n: table[max(i - n, 0)],
        order(s),
    )


def rounded(exact: Decimal) -> int:
    return floor(exact + Decimal("0.5"))


@cache
def scale(level: int) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return (Decimal(2).ln() * level / 32).exp()


@cache
def rate(level: int) -> int:
    with localcontext() as context:
        context.prec = 60
        return rounded(2**24 / scale(level))


@cache
def spread(level: int, kind: str) -> int:
    return rounded(1024 * scale(level) * Decimal({"gaussian": "0.797885", "laplace": "1"}[kind]))


def upper_tail(x: Decimal, kind: str) -> Decimal:
    """Of the standard density at x >= 0; the Gaussian's by its continued fraction, or its series near 0."""
    if kind == "laplace":
        return (-x).exp() / 2
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
    density = (-x * x / 2).exp() / (2 * pi).sqrt()
    if x > 5:
        fraction = x
        for n in range(300, 0, -1):
            fraction = x + n / fraction
        return density / fraction
    term = total = x
    for n in range(1, 200):
        term = term * x * x / (2 * n + 1)
        total += term
    return Decimal("0.5") - density * total


@cache
def tails(kind: str) -> list[int]:
    with localcontext() as context:
        context.prec = 60
        right = [rounded(2**30 * upper_tail(Decimal(i) / 64, kind)) for i in range(1409)]
    return [2**30 - q for q in right[:0:-1]] + right


def y_symbol(values: list[int], kind: str) -> Questions:
    """`values`: the integers of one latent: K means, K levels, K - 1 cumulative weights."""
    k, table = (len(values) + 1) // 3, tails(kind)
    means, levels = values[:k], values[k : 2 * k]
    weights = [b - a for a, b in itertools.pairwise([0, *values[2 * k :], 65536])]
    heights = [w * rate(max(level, -64)) for w, level in zip(weights, levels, strict=True)]
    c = means[heights.index(max(heights))] + 512 >> 10
    offsets = [mean - 1024 * c for mean in means]

    def q(t: int) -> int:
        i, fraction = divmod(min(max(t, -1408 << 12), 1408 << 12) + (1408 << 12), 1 << 12)
        return table[i] - ((table[i] - table[min(i + 1, 2816)]) * fraction >> 12)

    def side(sign: int) -> Mass:
        components = list(zip(offsets, map(rate, levels), weights, strict=True))
        return lambda n: sum(w * q((1024 * n + 512 - sign * o) * r >> 16) for o, r, w in components)

    spreads = [spread(level, kind) + abs(o) for level, o in zip(levels, offsets, strict=True)]
    s = sum(w * one for w, one in zip(weights, spreads, strict=True)) >> 26
    return symbol(c, 1 << 46, side(1), side(-1), order(s))


def steps_of(rows: int, columns: int, context: bool) -> list[list[tuple[int, int]]]:
    positions = list(itertools.product(range(rows), range(columns)))
    if not context:
        return [positions[i : i + 256] for i in range(0, len(positions), 256)]
    by_time: dict[int, list[tuple[int, int]]] = {}
    for row, column in positions:
        by_time.setdefault(column + 3 * row, []).append((row, column))
    return [by_time[time] for time in sorted(by_time)]


def to_integers(values: np.ndarray, first: int, guards: dict[int, int]) -> list[int]:
    """Of one latent, whose value 0 has the position `first` of the guards."""
    return [floor(v) + guards.get(first + i, int(v - floor(v) >= 0.5)) for i, v in enumerate(values)]


def decode(
    payload: bytes,
    guards: list[tuple[int, int]],
    z_tables: tuple[list[list[int]], int],
    z_shape: tuple[int, int, int],
    y_shape: tuple[int, int, int],
    kind: str,
    context: bool,
    hyper_synthesis: Callable[[np.ndarray], np.ndarray],
    parameters: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Latents z and y of a block, int32.

    `z_tables`: those of all channels and their first symbol. `hyper_synthesis`: from z to psi of each
    position. `parameters`: from taps [P, 12, M] and psi [P, F] to the values [P, M, 3 K - 1] in their units.
    """
    decoder, sides, channels = RangeDecoder(payload), dict(guards), y_shape[2]
    (tables, first), count = z_tables, z_shape[0] * z_shape[1]
    symbols = answers(decoder, [z_symbol(table, first) for _ in range(count) for table in tables])
    z = np.array(symbols, np.int32).reshape(z_shape)
    psi, seen = hyper_synthesis(z), np.zeros((y_shape[0] + 2, y_shape[1] + 4, channels), np.int32)
    for step in steps_of(*y_shape[:2], context):
        windows = [seen[row : row + 3, column : column + 5].reshape(15, -1)[:12] for row, column in step]
        values = parameters(np.stack(windows), np.stack([psi[at] for at in step]))
        places = itertools.product(enumerate(step), range(channels))
        questions = [
            y_symbol(
                to_integers(
                    values[slot, channel],
                    ((row * y_shape[1] + column) * channels + channel) * values.shape[2],
                    sides,
                ),
                kind,
            )
            for (slot, (row, column)), channel in places
        ]
        found = np.array(answers(decoder, questions)).reshape(len(step), channels)
        for (row, column), latents in zip(step, found, strict=True):
            seen[row + 2, column + 2] = latents
    return z, seen[2:, 2:-2]
