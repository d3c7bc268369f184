import jax.numpy as jnp
import numpy as np
import pytest

from ltchm_jax import local_statistics


def test_gaussian_sums_to_one_and_is_symmetric() -> None:
    taps = local_statistics.gaussian(11, 1.5)
    assert sum(taps) == pytest.approx(1.0, abs=1e-15)
    assert taps == taps[::-1]
    assert taps[4] / taps[5] == pytest.approx(np.exp(-0.5 / 1.5**2))


def test_blur_with_equal_taps_is_a_mean() -> None:
    image = np.arange(30, dtype=np.float32).reshape(5, 6)
    blurred = np.asarray(local_statistics.blur(jnp.asarray(image), (1 / 3, 1 / 3, 1 / 3)))
    assert blurred.shape == (3, 4)
    assert blurred[1, 2] == pytest.approx(image[1:4, 2:5].mean(), rel=1e-6)


def test_moments_are_those_of_the_window() -> None:
    pair = np.random.default_rng(0).normal(size=(2, 6, 7)).astype(np.float32)
    mean, spread = local_statistics.moments(jnp.asarray(pair), (0.2,) * 5)
    x, y = pair[:, 1:6, 2:7].reshape(2, -1)
    assert np.asarray(mean)[:, 1, 2] == pytest.approx([x.mean(), y.mean()], abs=1e-6)
    expected = [x.var(), y.var(), np.mean((x - x.mean()) * (y - y.mean()))]
    assert np.asarray(spread)[:, 1, 2] == pytest.approx(expected, abs=1e-6)


def test_moments_of_many_pairs_are_those_of_each() -> None:
    pairs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 6, 7)).astype(np.float32))
    mean, spread = local_statistics.moments(pairs, (0.2,) * 5)
    assert (mean.shape, spread.shape) == ((2, 3, 4, 2, 3), (3, 3, 4, 2, 3))
    one_mean, one_spread = local_statistics.moments(pairs[:, 1, 2], (0.2,) * 5)
    np.testing.assert_allclose(mean[:, 1, 2], one_mean, atol=1e-6)
    np.testing.assert_allclose(spread[:, 1, 2], one_spread, atol=1e-6)


def test_spread_of_a_bright_flat_picture_is_nothing() -> None:
    _, spread = local_statistics.moments(jnp.full((2, 20, 20), 250.7), local_statistics.gaussian(11, 1.5))
    assert np.abs(np.asarray(spread)).max() < 1e-8


def test_canvas_holds_both_pictures() -> None:
    x, y = np.full((50, 70, 3), 1, np.uint8), np.full((50, 70, 3), 2, np.uint8)
    canvas = local_statistics.canvas(x, y)
    assert canvas.shape == (2, 56, 80, 3)
    assert (canvas[0, :50, :70] == 1).all()
    assert (canvas[1, :50, :70] == 2).all()
    assert canvas.sum() == x.sum() + y.sum()


def test_canvas_sides_are_few_and_never_too_small() -> None:
    sides = [local_statistics._canvas_side(side) for side in range(1, 4097)]
    assert all(side <= canvas <= max(1.25 * side, 48) for side, canvas in enumerate(sides, start=1))
    assert len(set(sides)) < 30


def test_inside_marks_the_true_size() -> None:
    assert np.asarray(local_statistics.inside((3, 4, 5), 2, 3)).sum() == 3 * 6
