"""Guards: found where noise could matter, and found again on the other side."""

import numpy as np
import pytest

from ltchm_jax.entropy import boundaries, wavefront
from ltchm_jax.entropy.range_coder import RangeCoderError
from ltchm_jax.entropy.snapping import snap


def test_finds_values_near_a_boundary_only():
    near, far = boundaries.DISTANCE / 2, boundaries.DISTANCE * 2
    values = np.array([2.0, 3.5 - near, 3.5 + near, 3.5 - far, -4.5 + near, 0.4999, 1e6 + 0.5])
    positions, sides = boundaries.find_guards(values)
    np.testing.assert_array_equal(positions, [1, 2, 4, 6])
    np.testing.assert_array_equal(sides, [0, 1, 1, 1])


def test_noise_below_the_guard_distance_cannot_change_what_is_snapped():
    rng = np.random.default_rng(0)
    halves = rng.integers(-5000, 5000, 4000) + 0.5
    values = halves + rng.normal(0, boundaries.DISTANCE, 4000)
    listed, sides = boundaries.find_guards(values)
    assert 0 < len(listed) < 4000
    want = snap(values, listed, sides)
    for _ in range(20):
        noisy = values * (1 + 1e-12 * rng.uniform(-1, 1, 4000))
        np.testing.assert_array_equal(snap(noisy, listed, sides), want)
    flips = snap(values * (1 + 1e-12), listed[:0], sides[:0]) != want
    assert flips.any()  # without the list they would


def test_entries_come_back_in_the_step_they_belong_to():
    shape, count = (5, 7, 4), 8
    steps = wavefront.scan_order(*shape[:2], context=True)
    rng = np.random.default_rng(1)
    expected, guards = {}, []
    for i, step in enumerate(steps):
        flat = np.flatnonzero(rng.random(count * len(step) * shape[2]) < 0.02)
        sides = rng.integers(0, 2, len(flat))
        expected[i] = dict(zip(flat.tolist(), sides.tolist(), strict=True))
        guards += boundaries.entries(flat, sides, count, step, shape)
    assert len(guards) > 5
    found = boundaries.GuardList(tuple(sorted(guards)), steps, shape)
    for i in range(len(steps)):
        flat, sides = found.of_step(i, count)
        assert dict(zip(flat.tolist(), sides.tolist(), strict=True)) == expected[i]


def test_an_empty_list_is_empty_everywhere():
    steps = wavefront.scan_order(2, 2, context=True)
    flat, sides = boundaries.GuardList((), steps, (2, 2, 3)).of_step(0, 8)
    assert len(flat) == len(sides) == 0


@pytest.mark.parametrize("index", [-1, 2 * 2 * 3 * 8])
def test_entries_outside_the_latent_are_refused(index):
    steps = wavefront.scan_order(2, 2, context=True)
    with pytest.raises(RangeCoderError, match=r"must be in 0\.\.95"):
        boundaries.GuardList(((index, 0),), steps, (2, 2, 3)).of_step(0, 8)
