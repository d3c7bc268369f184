"""Batch normalisation against its formula, its gradient against the derived one, on one device and two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltchm_jax.model import batch_norm
from ltchm_jax.model.batch_norm import BatchNorm, normalise


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def derived(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """The same of the whole batch, whose gradient JAX derives."""
    flat = x.reshape(-1, x.shape[-1])
    mean, var = flat.mean(0, keepdims=True), flat.var(0, keepdims=True)
    return ((flat - mean) / jnp.sqrt(var + 1e-5) * scale[None] + bias[None]).reshape(x.shape)


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 3, 5), (6, 1, 1, 5)])
def test_the_gradient_equals_the_derived_one(shape):
    x, scale, bias, weights = normal(0, *shape) * 3 + 1, normal(1, 5), normal(2, 5), normal(3, *shape)

    def gradients(function):
        return jax.grad(lambda *inputs: jnp.sum(weights * function(*inputs)), (0, 1, 2))(x, scale, bias)

    got, want = gradients(lambda *inputs: normalise(*inputs, None)[0]), gradients(derived)
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_two_devices_is_that_of_the_whole_batch():
    x, scale, bias, weights = normal(0, 4, 3, 5), normal(1, 5), normal(2, 5), normal(3, 4, 3, 5)

    def gradients(x, weights):
        def loss(x, scale, bias):
            return jnp.sum(weights * normalise(x, scale, bias, "batch")[0])

        return jax.grad(loss, (0, 1, 2))(x, scale, bias)

    shares = [a.reshape(2, 2, 3, 5) for a in (x, weights)]
    of_x, *of_row = jax.pmap(gradients, "batch", devices=jax.devices("cpu")[:2])(*shares)
    want = jax.grad(lambda *inputs: jnp.sum(weights * derived(*inputs)), (0, 1, 2))(x, scale, bias)
    np.testing.assert_allclose(of_x.reshape(x.shape), want[0], rtol=1e-4, atol=1e-5)
    for shared, whole in zip(of_row, want[1:], strict=True):  # each device has its own images' part
        np.testing.assert_allclose(shared.sum(0), whole, rtol=1e-4, atol=1e-5)


def test_in_half_precision_statistics_are_float32():
    x = jnp.asarray(normal(0, 64, 8, 8, 5) + 100, jnp.bfloat16)
    out, mean, var = normalise(x, np.ones(5, np.float32), np.zeros(5, np.float32), None)
    exact = np.asarray(x, np.float64).reshape(-1, 5)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, exact.var(0), rtol=1e-4)
    assert (out.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    want = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(np.asarray(out, np.float64).reshape(-1, 5), want, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("repeats", [1, 2])
def test_running_statistics_are_unbiased(repeats):
    """Momentum 0.9 of 0 and 1 towards the mean and the variance with n - 1, once or twice."""
    x = normal(0, 4, 2, 3, 5) * 3 + 1
    module = BatchNorm(train=True, repeats=repeats)
    variables = module.init(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(5))  # init leaves them alone
    got, updates = module.apply(variables, x, mutable=["batch_stats"])
    flat, keep = x.reshape(-1, 5), 0.9**repeats
    np.testing.assert_allclose(got, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-5)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], (1 - keep) * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], keep + (1 - keep) * flat.var(0, ddof=1), rtol=1e-5)


def test_evaluation_uses_running_statistics():
    x, scale, bias, mean = normal(0, 2, 2, 2, 3), normal(1, 3), normal(2, 3), normal(3, 3)
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": scale**2}}
    want = (x - mean) / np.sqrt(scale**2 + 1e-5) * scale + bias
    np.testing.assert_allclose(BatchNorm(train=False).apply(variables, x), want, rtol=1e-4, atol=1e-5)


def test_another_epsilon_would_be_noticed(monkeypatch):
    x, module = normal(0, 2, 2, 2, 3) * 0.01, BatchNorm(train=True)
    variables = module.init(jax.random.key(0), x)
    want, _ = module.apply(variables, x, mutable=["batch_stats"])
    monkeypatch.setattr(batch_norm, "EPSILON", 1e-3)
    got, _ = module.apply(variables, x, mutable=["batch_stats"])
    assert np.abs(got - want).max() > 0.1
