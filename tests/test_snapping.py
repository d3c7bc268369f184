"""Rounding to the grids, and mixtures made of the result."""

import jax.numpy as jnp
import numpy as np
import pytest

from ltchm_jax.devices import float64
from ltchm_jax.entropy import snapping, tables

NOTHING = np.zeros(0, np.int64)


def _grid_values(means, scales, weights):
    with float64():
        return np.asarray(
            snapping.grid_values(*(jnp.asarray(v, jnp.float64) for v in (means, scales, weights)))
        )


def test_grid_values_are_in_units_of_their_grids():
    means, scales = np.array([[[1.5, -2.0]]]), np.array([[[4.0, 2.0**-0.5]]])
    values = _grid_values(means, scales, np.array([[[0.25, 0.75]]]))
    assert values.shape == (5, 1, 1)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values[:, 0, 0], [1536, -2048, 64, -16, 16384], rtol=1e-14)


def test_grid_values_are_clipped_to_the_tables():
    values = _grid_values([[[1e9, -1e9]]], [[[1e-9, 1e9]]], [[[1.0, 0.0]]])[:, 0, 0]
    np.testing.assert_array_equal(values, [2**25, -(2**25), tables.MIN_LEVEL, tables.MAX_LEVEL, 1 << 16])


def test_snap_rounds_half_up_and_obeys_listed_sides():
    values = np.array([[1.4, 1.5], [-1.5, 2.0]])
    np.testing.assert_array_equal(snapping.snap(values, NOTHING, NOTHING), [[1, 2], [-1, 2]])
    below, above = np.array([3.5 - 1e-12, 7.0]), np.array([3.5 + 1e-12, 7.0])
    for side, want in ((0, 3), (1, 4)):
        for values in (below, above):
            assert snapping.snap(values, np.array([0]), np.array([side]))[0] == want


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_snap_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="must be finite"):
        snapping.snap(np.array([0.0, bad]), NOTHING, NOTHING)


def test_mixtures_centre_on_the_tallest_component():
    snapped = np.array([[0, 700], [5 << 10, 9 << 10], [32, 32], [32, 32], [10_000, 50_000]])
    mixtures = snapping.Mixtures.from_snapped(snapped, "laplace")
    np.testing.assert_array_equal(mixtures.centres, [5, 1])
    np.testing.assert_array_equal(mixtures.offsets, [[-5 << 10, 700 - 1024], [0, 8 << 10]])
    np.testing.assert_array_equal(mixtures.weights, [[10_000, 50_000], [55_536, 15_536]])
    np.testing.assert_array_equal(mixtures.levels, 32 - tables.MIN_LEVEL)
