"""The scan order and its passes: causal, complete, and the same however positions are grouped."""

import functools

import entropy_model
import jax.numpy as jnp
import numpy as np
import pytest

from ltchm_jax.devices import float64
from ltchm_jax.entropy import wavefront

SHAPES = [(1, 1), (1, 9), (6, 1), (4, 4), (5, 17), (16, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("context", [True, False])
def test_every_position_comes_once(shape, context):
    positions = np.concatenate(wavefront.scan_order(*shape, context))
    assert positions.dtype == np.int32
    assert len({tuple(p) for p in positions.tolist()}) == len(positions) == shape[0] * shape[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_needs_earlier_steps_only_and_there_are_few(shape):
    steps = wavefront.scan_order(*shape, context=True)
    step_of = np.full((shape[0] + 2, shape[1] + 4), -1)
    for i, step in enumerate(steps):
        step_of[step[:, 0] + 2, step[:, 1] + 2] = i
    for i, step in enumerate(steps):
        for row, column in step + 2:
            assert (step_of[row + wavefront.TAPS[:, 0], column + wavefront.TAPS[:, 1]] < i).all()
    assert len(steps) <= shape[1] + 3 * (shape[0] - 1)


def test_taps_are_the_causal_half_of_a_5x5_window():
    assert len(wavefront.TAPS) == 12
    np.testing.assert_array_equal(wavefront.TAPS[-2:], [[0, -2], [0, -1]])
    np.testing.assert_array_equal(
        np.unique(wavefront.TAPS[:10], axis=0), [(r, c) for r in (-2, -1) for c in range(-2, 3)]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_groups_keep_the_order_and_their_bound(shape):
    steps = wavefront.scan_order(*shape, context=True)
    size = wavefront.chunk_size(steps)
    groups = list(wavefront.chunks(steps))
    assert all(0 < sum(map(len, group)) <= size for group in groups)
    np.testing.assert_array_equal(
        np.concatenate([step for group in groups for step in group]), np.concatenate(steps)
    )


def test_steps_of_any_size_agree_with_one_another_and_with_a_direct_evaluation():
    height, width, channels = 5, 6, 4
    rng = np.random.default_rng(0)
    v = entropy_model.variables(1, channels, 3, log_scale=0.0)
    y, psi = rng.integers(-3, 4, (height, width, channels)), rng.normal(size=(height, width, 3))
    latent = wavefront.padded_latent(y[None])
    at = np.concatenate(wavefront.scan_order(height, width, context=True))
    gathered = wavefront.gather(latent, psi[None], at, 32)
    with float64():
        values = functools.partial(wavefront.grid_values_of, entropy_model.parameters, v)
        together = values(*gathered)
        for size in (1, 2, 8):
            some = values(*(a[:size] for a in gathered))
            np.testing.assert_allclose(some, together[:, :size], rtol=1e-11, atol=1e-9)
        # Directly: the taps of one position picked by hand.
        row, column = 3, 2
        slot = int(np.flatnonzero((at == (row, column)).all(1))[0])
        window = latent[0, row : row + 3, column : column + 5].reshape(15, channels)
        taps = jnp.asarray(window[None, :12], jnp.float64)
        means, _, _ = entropy_model.parameters(v, taps, psi[row, column][None])
        np.testing.assert_allclose(together[:3, slot], np.asarray(means)[0].T * 1024, rtol=1e-11, atol=1e-9)


def test_several_latents_are_gathered_one_after_the_other():
    rng = np.random.default_rng(1)
    y, psi = rng.integers(-3, 4, (2, 4, 5, 3)), rng.normal(size=(2, 4, 5, 6))
    latent, at = wavefront.padded_latent(y), np.array([[0, 0], [3, 4]], np.int32)
    taps, psi_at = wavefront.gather(latent, psi, at, 8)
    for i in range(2):
        alone = wavefront.gather(latent[i : i + 1], psi[i : i + 1], at, 2)
        np.testing.assert_array_equal(taps[2 * i : 2 * i + 2], alone[0])
        np.testing.assert_array_equal(psi_at[2 * i : 2 * i + 2], alone[1])
    assert not taps[4:].any()
    assert not psi_at[4:].any()


def test_few_sizes_of_step_are_compiled_and_none_is_much_too_large():
    sizes = [wavefront.step_size(count) for count in range(1, 400)]
    assert all(count <= size < 2 * count for count, size in enumerate(sizes, 1))
    assert all(size <= 1.5 * count for count, size in enumerate(sizes, 1) if count > 16)
    assert len(set(sizes)) < 15
