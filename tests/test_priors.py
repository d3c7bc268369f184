"""Priors against masked convolutions, the released formula and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_model import scrambled, small_model

from ltchm_jax.devices import float64
from ltchm_jax.model.convolutions import DIMENSIONS
from ltchm_jax.model.priors import (
    CAUSAL_TAPS,
    EntropyParameters,
    FactorisedPrior,
    GainUnit,
    MaskedContext,
    Mixture,
    causal_taps,
)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_taps_are_the_twelve_that_a_raster_scan_knows():
    raster = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
    assert list(CAUSAL_TAPS) == raster[: raster.index((0, 0))]


def test_taps_hold_the_neighbours_and_zeros_outside():
    y = normal(0, 2, 4, 5, 3)
    got = causal_taps(y)
    assert got.shape == (2, 4, 5, 12, 3)
    for row in range(4):
        for column in range(5):
            for tap, (i, j) in enumerate(CAUSAL_TAPS):
                inside = row + i >= 0 and 0 <= column + j < 5
                want = y[:, row + i, column + j] if inside else 0
                np.testing.assert_array_equal(got[:, row, column, tap], np.broadcast_to(want, (2, 3)))


def test_context_equals_a_masked_convolution():
    """Half of a 5x5 kernel as an ordinary convolution whose other half is zero (mask of type A)."""
    y, kernel, bias = normal(0, 1, 6, 5, 3), normal(1, 12, 3, 4), normal(2, 4)
    full = np.concatenate([kernel, np.zeros((13, 3, 4), np.float32)]).reshape(5, 5, 3, 4)
    want = lax.conv_general_dilated(y, full, (1, 1), ((2, 2), (2, 2)), dimension_numbers=DIMENSIONS)
    params = {"kernel": kernel.reshape(36, 4), "bias": bias}
    got = MaskedContext(4).apply({"params": params}, causal_taps(y).reshape(1, 6, 5, 36))
    np.testing.assert_allclose(got, want + bias.reshape(1, 1, 1, -1), atol=1e-5)


def test_context_starts_with_the_fans_of_the_whole_kernel():
    params = MaskedContext(64).init(jax.random.key(0), np.zeros((1, 12 * 32), np.float32))["params"]
    bound = (6 / (25 * 32 + 25 * 64)) ** 0.5  # Glorot
    assert 0.99 * bound < np.abs(params["kernel"]).max() <= bound
    np.testing.assert_array_equal(params["bias"], np.zeros(64))


def parameters(**fields) -> tuple[EntropyParameters, dict, np.ndarray, np.ndarray]:
    module = EntropyParameters(small_model(**fields))
    taps, psi = normal(0, 7, 12, 32), normal(1, 7, 64)
    return module, scrambled(module.init(jax.random.key(0), taps, psi), 0.1), taps, psi


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("components", [1, 3])
def test_mixtures_equal_the_network_written_out(variant, components):
    """[context, psi] -> two hidden layers -> for each component M weights, M means, M scales."""
    module, variables, taps, psi = parameters(variant=variant, components=components, scale_min=0.11)
    params = variables["params"]
    x = taps.reshape(7, -1) @ params["context"]["kernel"] + params["context"]["bias"]
    x = np.concatenate([x, psi], -1)
    for name in ("hidden1", "hidden2"):
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = np.where(x > 0, x, 0.01 * x)
    raw = (x @ params["parameters"]["kernel"]).reshape(7, components, 3, 32)
    logits, means, scales = (raw[:, :, i].swapaxes(1, 2) for i in range(3))
    scales = np.maximum(np.abs(scales) if variant == "released" else scales, 0.11)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for got, want in zip(module.apply(variables, taps, psi), (means, scales, weights), strict=True):
        assert got.shape == (7, 32, components)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_without_context_the_neighbours_do_not_matter():
    module, variables, taps, psi = parameters(context="none")
    assert "context" not in variables["params"]
    for got, want in zip(
        module.apply(variables, taps * 7, psi), module.apply(variables, taps, psi), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_the_floor_of_a_scale_lets_gradients_back_in_the_paper_and_none_in_the_release():
    """Where the network asks for less than the floor, the gradient that would raise it passes or stops."""
    for variant, passes in (("paper", True), ("released", False)):
        module, variables, taps, psi = parameters(variant=variant, scale_min=1e3)

        def total(psi, module=module, variables=variables, taps=taps):
            return -jnp.sum(module.apply(variables, taps, psi).scales)

        assert (np.abs(jax.grad(total)(psi)).max() > 0) == passes


def test_the_same_parameters_in_float64():
    module, variables, taps, psi = parameters()
    single = module.apply(variables, taps, psi)
    with float64():
        double = module.apply(variables, jnp.asarray(taps, jnp.float64), jnp.asarray(psi, jnp.float64))
        assert isinstance(double, Mixture)
        assert all(part.dtype == jnp.float64 for part in double)
        for got, want in zip(double, single, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def bit_estimator(x: np.ndarray, params: dict) -> np.ndarray:
    """The density of the released code: three affine layers with a tanh each, then a sigmoid."""

    def per_channel(name: str) -> np.ndarray:
        return params[name].reshape(-1)

    for i in range(3):
        t = x * np.log1p(np.exp(per_channel(f"matrix{i}"))) + per_channel(f"bias{i}")
        x = t + np.tanh(t) * np.tanh(per_channel(f"factor{i}"))
    x = x * np.log1p(np.exp(per_channel("matrix3"))) + per_channel("bias3")
    return 1 / (1 + np.exp(-x))


def test_filters_of_one_are_the_released_density():
    z, module = normal(0, 2, 3, 4, 5) * 4, FactorisedPrior((1, 1, 1), "released")
    variables = scrambled(module.init(jax.random.key(0), z), 0.5)
    got = jax.nn.sigmoid(module.apply(variables, z))
    np.testing.assert_allclose(got, bit_estimator(z, variables["params"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("filters", [(), (1, 1, 1), (3, 3, 3), (2,)])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_cumulatives_rise_from_0_to_1(filters, variant):
    z = np.tile(np.linspace(-60, 60, 481, dtype=np.float32)[:, None], (1, 4))
    module = FactorisedPrior(filters, variant)
    for variables in (module.init(jax.random.key(0), z), scrambled(module.init(jax.random.key(0), z), 1.0)):
        logits = np.asarray(module.apply(variables, z), np.float64)
        assert (np.diff(logits, axis=0) > 0).all()
    far = module.apply(variables, np.float32([[-1e4] * 4, [1e4] * 4]))
    assert (far[0] < -10).all()
    assert (far[1] > 10).all()


def test_without_hidden_units_the_density_is_logistic():
    z, module = normal(0, 6, 2), FactorisedPrior((), "paper")
    params = module.init(jax.random.key(0), z)["params"]
    slope, offset = (np.asarray(params[name]).reshape(-1) for name in ("matrix0", "bias0"))
    slope = np.log1p(np.exp(slope))
    np.testing.assert_allclose(module.apply({"params": params}, z), z * slope + offset, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(slope, 0.1, rtol=1e-5)  # a spread of ten to start from


def test_the_prior_has_its_own_density_for_every_channel():
    z, module = np.tile(normal(0, 5, 1), (1, 2)), FactorisedPrior((3, 3), "paper")
    params = scrambled(module.init(jax.random.key(0), z), 0.5)
    logits = module.apply(params, z)
    assert np.abs(logits[:, 0] - logits[:, 1]).min() > 1e-3
    moved = module.apply(params, z + np.float32([[0, 1]]))
    np.testing.assert_array_equal(moved[:, 0], logits[:, 0])


def gains(quality: list[float], inverse: bool = False, table: np.ndarray | None = None) -> np.ndarray:
    module = GainUnit((-1.0, 0.0, 1.0), 4)
    table = normal(0, 3, 4) if table is None else table
    params = {"log_gain": table, "log_inverse": -2 * table}
    got = module.apply({"params": params}, np.float32(quality), inverse, jnp.float32)
    assert got.shape == (len(quality), 1, 1, 4)
    return np.asarray(got)[:, 0, 0]


def test_gains_at_whole_qualities_are_rows_of_the_table():
    table = normal(0, 3, 4)
    np.testing.assert_allclose(gains([2, 0, 1]), np.exp(table[[2, 0, 1]]), rtol=1e-6)
    np.testing.assert_allclose(gains([2, 0, 1], inverse=True), np.exp(-2 * table[[2, 0, 1]]), rtol=1e-6)


def test_gains_halfway_are_geometric_means():
    table = np.exp(normal(0, 3, 4))
    np.testing.assert_allclose(gains([0.5, 1.5]), np.sqrt(table[:2] * table[1:]), rtol=1e-5)
    np.testing.assert_allclose(gains([0.25]), table[:1] ** 0.75 * table[1:2] ** 0.25, rtol=1e-5)


def test_gains_start_where_they_are_told():
    module = GainUnit((-1.0, 0.5), 3)
    variables = module.init(jax.random.key(0), np.zeros(1, np.float32), False, jnp.float32)
    for inverse, sign in ((False, 1), (True, -1)):
        got = module.apply(variables, np.float32([0, 1]), inverse, jnp.float32)[:, 0, 0]
        np.testing.assert_allclose(got, np.exp(sign * np.array([[-1.0] * 3, [0.5] * 3])), rtol=1e-6)
