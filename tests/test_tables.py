"""The integer tables: right, symmetric, deterministic; and what is refused."""

import numpy as np
import pytest
from scipy import stats

from ltchm_jax.entropy import tables

T = np.arange(-tables.REACH * tables.STEPS, tables.REACH * tables.STEPS + 1) / tables.STEPS


@pytest.mark.parametrize(("kind", "density"), [("gaussian", stats.norm), ("laplace", stats.laplace)])
def test_survival_tables_are_rounded_survival_functions(kind, density):
    table = tables.standard_density(kind)
    error = np.abs(table.survival - density.sf(T) * 2**tables.MASS_BITS)
    assert error.max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(table.survival + table.survival[::-1], 1 << tables.MASS_BITS)
    assert table.survival[-1] == 0
    assert (table.drops >= 0).all()
    np.testing.assert_array_equal(table.survival[:-1] - table.drops[:-1], table.survival[1:])


def test_rates_and_spreads_follow_the_scale_levels():
    scales = 2.0 ** (np.arange(tables.MIN_LEVEL, tables.MAX_LEVEL + 1) / tables.LEVELS_PER_OCTAVE)
    # One grid unit is 2^-10 / scale standard deviations of 64 steps of 2^12, times 2^16.
    want = 2.0**-10 / scales * 64 * 2**12 * 2**16
    np.testing.assert_allclose(tables.rates(), want, atol=0.5 + 1e-6, rtol=1e-12)
    gaussian, laplace = (tables.standard_density(k).spreads for k in ("gaussian", "laplace"))
    np.testing.assert_allclose(laplace, 2.0**10 * scales, atol=0.5)
    np.testing.assert_allclose(gaussian, 2.0**10 * scales * np.sqrt(2 / np.pi), atol=0.5, rtol=2e-6)


def test_bernoulli_tables_are_valid_symmetric_and_close_to_every_probability():
    p = tables.bernoulli_probabilities()
    assert p[0] == 1
    assert (np.diff(p) > 0).all()
    np.testing.assert_array_equal(p + p[::-1], 1 << 16)
    lookup = tables.range_coder_lookup()
    np.testing.assert_array_equal(lookup[:, 2], (1 << 16) - p)
    # Coding with the nearest table costs little: the divergence from every 16-bit probability is tiny.
    q = np.arange(1, 1 << 16) / 2**16
    coded = p[tables.bernoulli_of_probability()[1:-1]] / 2**16
    divergence = q * np.log2(q / coded) + (1 - q) * np.log2((1 - q) / (1 - coded))
    entropy = -(q * np.log2(q) + (1 - q) * np.log2(1 - q))
    assert (divergence / entropy).max() < 2e-5


def test_bernoulli_index_takes_ratios_of_masses():
    p = tables.bernoulli_probabilities()
    total = 1 << 46
    found = p[tables.bernoulli_index(np.array([0, total // 4, total // 2, total]), total)]
    np.testing.assert_array_equal(found[[0, 2, 3]], [1, 1 << 15, (1 << 16) - 1])
    assert found[1] == pytest.approx(1 << 14, rel=0.005)
    nothing = np.zeros(2, np.int64)
    np.testing.assert_array_equal(p[tables.bernoulli_index(nothing, nothing)], 1 << 15)
    rng = np.random.default_rng(0)
    total = rng.integers(1 << 30, 1 << 46, 1000)
    mass = (total * rng.random(1000)).astype(np.int64)
    np.testing.assert_allclose(
        p[tables.bernoulli_index(mass, total)] / 2**16, mass / total, rtol=0.01, atol=1e-5
    )


def test_tables_never_change():
    """A change here is a new stream format: old streams would no longer decode."""
    want = "988a440a80650a3fff4259cf37bdd68f73f60f91f378f9142079d34dd1dc3bfb"
    assert tables.tables_digest().hex() == want


def test_quantise_pmf_rounds_cumulative_sums():
    pmf = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 5.0]])
    made = tables.quantise_pmf(pmf, offset=-1)
    np.testing.assert_array_equal(made.cdf, [[0, 1 << 14, 3 << 14, 1 << 16], [0, 0, 0, 1 << 16]])
    assert made.cdf.dtype == np.int32
    assert made.offset == -1
    rng = np.random.default_rng(0)
    pmf = rng.dirichlet(np.full(40, 0.3), 16)
    error = np.diff(tables.quantise_pmf(pmf, 0).cdf) / 2**16 - pmf
    assert np.abs(error).max() <= 2.0**-16


@pytest.mark.parametrize(
    "pmf", [np.ones(3), np.array([[1.0, -1.0]]), np.array([[0.0, 0.0]]), np.array([[1.0, np.nan]])]
)
def test_quantise_pmf_refuses_what_is_no_distribution(pmf):
    with pytest.raises(ValueError, match="a pmf must be"):
        tables.quantise_pmf(pmf, 0)


@pytest.mark.parametrize(
    "cdf",
    [
        np.array([[0, 2, 1, 1 << 16]], np.int32),
        np.array([[1, 1 << 16]], np.int32),
        np.array([[0, 1 << 15]], np.int32),
        np.array([[0, 1 << 16]], np.int64),
        np.array([0, 1 << 16], np.int32),
    ],
)
def test_pmf_tables_refuse_what_is_no_cdf(cdf):
    with pytest.raises(ValueError, match="a CDF table must be"):
        tables.PmfTables(cdf, 0)


def test_unknown_density_is_named():
    with pytest.raises(ValueError, match=r"kind must be one of .*'cauchy'"):
        tables.standard_density("cauchy")
