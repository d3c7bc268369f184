"""The tree of decisions: it codes every symbol, at the cost the model says, and ends on any answers."""

import numpy as np
import pytest
from entropy_model import sample
from scipy import stats

from ltchm_jax.entropy import tables
from ltchm_jax.entropy.decisions import MixtureModel, PmfModel, walk
from ltchm_jax.entropy.snapping import SYMBOL_LIMIT, Mixtures, snap

DENSITIES = {"gaussian": stats.norm, "laplace": stats.laplace}


class Cost:
    """A `Decide` that knows the symbols and adds up what their decisions cost, in bits."""

    def __init__(self, symbols):
        self.symbols, self.bits, self.count, self.rounds = np.asarray(symbols), 0.0, 0, 0

    def __call__(self, indices, rows, question):
        answers = question(self.symbols[rows])
        p = tables.bernoulli_probabilities()[indices] / 2**16
        self.bits -= np.log2(np.where(answers, p, 1 - p)).sum()
        self.count, self.rounds = self.count + len(rows), self.rounds + 1
        return answers


def _model(means, scales, weights, kind):
    levels = np.clip(np.log2(scales) * tables.LEVELS_PER_OCTAVE, tables.MIN_LEVEL, tables.MAX_LEVEL)
    values = np.concatenate([means * 1024, levels, np.cumsum(weights, -1)[..., :-1] * 65536], -1).T
    nothing = np.zeros(0, np.int64)
    return MixtureModel(Mixtures.from_snapped(snap(values, nothing, nothing), kind))


def _mixtures(name, n):
    """Means, scales and weights, each [n, 3], of realistic kinds."""
    rng = np.random.default_rng(3)
    spread, scale, sigma, alpha = {
        "nearly all zero": (0.05, 0.12, 0.3, (1, 1, 1)),
        "below one bit": (0.5, 0.3, 0.6, (1, 1, 1)),
        "two bits": (1.0, 0.8, 0.6, (1, 1, 1)),
        "wide": (100.0, 100.0, 0.6, (1, 1, 1)),
        "very wide": (2000.0, 900.0, 0.6, (1, 1, 1)),
        "narrow and wide": (3.0, 3.0, 1.5, (8, 2, 0.5)),
        "tiny scales": (5.0, 0.002, 0.5, (1, 1, 1)),
    }[name]
    scales = scale * np.exp(rng.normal(0, sigma, (n, 3)))
    return rng.normal(0, spread, (n, 3)), scales, rng.dirichlet(alpha, n)


def _ideal_bits(y, means, scales, weights, kind):
    distance, density = np.abs(y[:, None] - means), DENSITIES[kind]
    mass = density.sf((distance - 0.5) / scales) - density.sf((distance + 0.5) / scales)
    return -np.log2((weights * mass).sum(-1)).sum()


NARROW = ["nearly all zero", "tiny scales", "below one bit", "two bits"]
WIDE = ["wide", "very wide", "narrow and wide"]


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("name", NARROW + WIDE)
def test_cost_is_the_ideal_of_the_unsnapped_mixture(name, kind):
    mixtures = _mixtures(name, 8192)
    y = sample(np.random.default_rng(4), kind, *mixtures).astype(np.int64)
    cost = Cost(y)
    np.testing.assert_array_equal(walk(_model(*mixtures, kind), cost), y)
    assert cost.bits < 1.001 * _ideal_bits(y, *mixtures, kind) + 16


def test_narrow_models_need_one_decision_and_wide_ones_few_more_than_their_bits():
    mixtures = _mixtures("nearly all zero", 8192)
    cost = Cost(sample(np.random.default_rng(4), "gaussian", *mixtures).astype(np.int64))
    walk(_model(*mixtures, "gaussian"), cost)
    assert cost.count < 1.01 * 8192
    mixtures = _mixtures("wide", 8192)
    cost = Cost(sample(np.random.default_rng(4), "gaussian", *mixtures).astype(np.int64))
    walk(_model(*mixtures, "gaussian"), cost)
    assert cost.count < cost.bits + 2 * 8192


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_any_symbol_in_range_can_be_coded_at_bounded_cost(kind):
    y = np.array([0, 1, -1, 40, -1000, SYMBOL_LIMIT, -SYMBOL_LIMIT])
    n = len(y)
    for mean, scale in ((0.0, 0.01), (SYMBOL_LIMIT, 0.05), (-SYMBOL_LIMIT, 3000.0)):
        cost = Cost(y)
        model = _model(np.full((n, 1), mean), np.full((n, 1), scale), np.ones((n, 1)), kind)
        np.testing.assert_array_equal(walk(model, cost), y)
        assert cost.bits < n * 600


def test_probabilities_of_all_answers_sum_to_one():
    """Kraft's equality, near enough: the tree gives every symbol about its mass under the snapped mixture."""
    symbols = np.arange(-60, 61)
    mixture = (np.array([[0.3, -4.0]]), np.array([[1.0, 6.0]]), np.array([[0.6, 0.4]]))
    total = 0.0
    for y in symbols:
        cost = Cost(np.array([y]))
        walk(_model(*mixture, "gaussian"), cost)
        ideal = _ideal_bits(np.array([y]), *mixture, "gaussian")
        assert cost.bits == pytest.approx(ideal, rel=0.01) or ideal > 20
        total += 2**-cost.bits
    assert total == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("answer", [False, True])
def test_the_walk_ends_on_hostile_answers(answer):
    mixtures = _mixtures("two bits", 64)
    rounds = 0

    def decide(indices, rows, question):
        nonlocal rounds
        rounds += 1
        assert indices.min() >= 0
        assert indices.max() < len(tables.range_coder_lookup())
        return np.full(len(rows), answer and rounds > 1)

    symbols = walk(_model(*mixtures, "laplace"), decide)
    assert rounds < 40
    assert np.abs(symbols).max() < 1 << 18
    assert (np.abs(symbols) > SYMBOL_LIMIT).all() == answer


def test_hostile_weights_and_levels_are_survived():
    """Sides of guards come from the stream: they may push values out of range or out of order."""
    levels = [tables.MAX_LEVEL + 1], [tables.MIN_LEVEL - 1]
    snapped = np.array([[3 << 10], [-(1 << 25) - 1], *levels, [1 << 17]])
    cost = Cost(np.array([5]))
    np.testing.assert_array_equal(walk(MixtureModel(Mixtures.from_snapped(snapped, "laplace")), cost), [5])


def test_tabulated_models_cost_their_entropy_and_escape():
    rng = np.random.default_rng(5)
    support = np.arange(-30, 31)
    pmf = np.exp(-np.abs(support - rng.integers(-5, 6, (8, 1))) / rng.uniform(0.2, 6, (8, 1)))
    pmf /= pmf.sum(1, keepdims=True)
    channels = np.tile(np.arange(8), 2000)
    z = (rng.random(len(channels))[:, None] > np.cumsum(pmf, 1)[channels]).sum(1) - 30
    cost = Cost(z)
    model = PmfModel(tables.quantise_pmf(pmf, -30), channels)
    np.testing.assert_array_equal(walk(model, cost), z)
    assert cost.bits < 1.001 * -np.log2(pmf[channels, z + 30]).sum() + 16
    far = np.array([31, -31, 500, -500, SYMBOL_LIMIT, -SYMBOL_LIMIT, 0, 30])
    cost = Cost(far)
    np.testing.assert_array_equal(walk(PmfModel(tables.quantise_pmf(pmf, -30), np.arange(8)), cost), far)
    assert cost.bits < 8 * 60
