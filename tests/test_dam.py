"""Dynamic attention against loops over samples and an unrolled form; batch statistics over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from ltchm_jax.model.dam import DAM, Bottleneck, IDConv, ResidualUnit
from ltchm_jax.model.pooling import pooling_bins


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def scrambled(variables: dict, seed: int = 9) -> dict:
    """Every parameter large and random, variances positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        value = rng.normal(0, 0.5, leaf.shape).astype(np.float32)
        return np.abs(value) + 0.5 if path[-1].key == "var" else value

    return jax.tree_util.tree_map_with_path(draw, variables)


def assert_trees_close(got: dict, want: dict) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


def project(pooled: np.ndarray, params: dict, stats: dict | None) -> np.ndarray:
    """The bottleneck of one pooled value [C] -> logits [G * C]."""
    hidden = pooled @ params["squeeze"]["kernel"][0, 0] + params["squeeze"].get("bias", 0)
    if stats is not None:
        spread = np.sqrt(stats["norm"]["var"] + 1e-5)
        hidden = (hidden - stats["norm"]["mean"]) / spread * params["norm"]["scale"] + params["norm"]["bias"]
    hidden = hidden * (1 + erf(hidden / 2**0.5)) / 2
    return hidden @ params["expand"]["kernel"][0, 0] + params["expand"]["bias"]


def mixed(logits: np.ndarray, options: np.ndarray) -> np.ndarray:
    """Softmax over G of logits [G * C], then the sum over G of options [G, C]."""
    weights = np.exp(logits.reshape(options.shape))
    return (weights / weights.sum(0) * options).sum(0)


def idconv_by_loops(x: np.ndarray, size: int, params: dict, stats: dict | None) -> np.ndarray:
    """Eq. 5, sample by sample and tap by tap."""
    out = np.zeros_like(x)
    for b, image in enumerate(x):
        out[b] = mixed(project(image.mean((0, 1)), params["proj"], stats), params["bias"][:, 0, 0])
        padded = np.pad(image, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
        for i, rows in enumerate(pooling_bins(x.shape[1], size)):
            for j, columns in enumerate(pooling_bins(x.shape[2], size)):
                logits = project(image[rows, columns].mean((0, 1)), params["proj"], stats)
                tap = mixed(logits, params["weight"][:, i, j])
                out[b] += tap * padded[i : i + x.shape[1], j : j + x.shape[2]]
    return out


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("size", [1, 3])
def test_idconv_equals_loops_over_samples(size, norm):
    x, module = normal(0, 2, 6, 7, 8), IDConv(size, 2, norm, train=False)
    variables = scrambled(module.init(jax.random.key(0), x))
    stats = variables.get("batch_stats", {}).get("proj")
    assert (stats is None) == (norm == "none")
    want = idconv_by_loops(x, size, variables["params"], stats)
    np.testing.assert_allclose(module.apply(variables, x), want, rtol=1e-4, atol=1e-4)


def test_equal_kernels_leave_nothing_to_the_softmax():
    """Its weights sum to 1: with both kernels alike the module is a plain depthwise convolution."""
    x, module = normal(0, 2, 5, 5, 4), IDConv(1, 2, "none", train=False)
    params = scrambled(module.init(jax.random.key(0), x))["params"]
    params["weight"] = np.full_like(params["weight"], 3)
    params["bias"] = np.full_like(params["bias"], -1)
    np.testing.assert_allclose(module.apply({"params": params}, x), 3 * x - 1, rtol=1e-5, atol=1e-5)


def test_a_certain_softmax_picks_one_kernel():
    x, module = normal(0, 1, 4, 4, 2), IDConv(1, 2, "none", train=False)
    params = jax.tree.map(np.zeros_like, module.init(jax.random.key(0), x)["params"])
    params["proj"]["expand"]["bias"] = np.array([50, -50, -50, 50], np.float32)  # [G, C]
    params["weight"] = np.array([[2, 3], [5, 7]], np.float32).reshape(2, 1, 1, 2)
    np.testing.assert_allclose(module.apply({"params": params}, x), x * np.float32([2, 7]), rtol=1e-6)


def one_unit(variables: dict, branch: int, unit: int) -> dict:
    stacked = {name: tree["branches"] for name, tree in variables.items()}
    return jax.tree.map(lambda leaf: leaf[branch, unit], stacked)


def unrolled(x: jax.Array, variables: dict, train: bool) -> tuple[jax.Array, dict]:
    """Fig. 2 as written: three units in the trunk, three in the mask branch, one after the other."""
    module, ends, stats = ResidualUnit(2, "batch", train, None), [], []
    for branch in range(2):
        value = x
        for unit in range(3):
            value, updates = module.apply(one_unit(variables, branch, unit), value, mutable=["batch_stats"])
            stats.append(updates["batch_stats"])
        ends.append(value)
    mask = variables["params"]["mask"]
    gate = jax.nn.sigmoid(ends[1] @ mask["kernel"][0, 0] + mask["bias"].reshape(1, 1, 1, -1))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves).reshape(2, 3, *leaves[0].shape), *stats)
    return x + gate * ends[0], stacked


@pytest.mark.parametrize("train", [False, True])
def test_stacked_units_equal_six_in_a_row(train):
    x, module = normal(0, 3, 6, 5, 4), DAM(2, "batch", train)
    variables = jax.tree.map(np.asarray, module.init(jax.random.key(0), x))
    got, updates = jax.jit(lambda v, x: module.apply(v, x, mutable=["batch_stats"]))(variables, x)
    want, stats = unrolled(x, variables, train)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert_trees_close(updates["batch_stats"]["branches"], stats)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-4, stats, variables["batch_stats"]["branches"])
    assert all(jax.tree.leaves(moved)) == train


def test_units_start_apart():
    x = normal(0, 1, 4, 4, 4)
    params = DAM(2, "none", False).init(jax.random.key(0), x)["params"]["branches"]
    weights = params["idconv1"]["weight"].reshape(6, -1)
    assert len({bytes(np.asarray(row)) for row in weights}) == 6


def test_without_normalisation_there_are_no_statistics_and_samples_do_not_mix():
    x, module = normal(0, 2, 5, 4, 4), DAM(2, "none", train=True)
    variables = module.init(jax.random.key(0), x)
    assert set(variables) == {"params"}
    together, alone = module.apply(variables, x), module.apply(variables, x[:1])
    np.testing.assert_allclose(together[:1], alone, rtol=1e-5, atol=1e-6)


def test_two_devices_share_their_statistics():
    """Half the batch on each of two devices gives the output and statistics of the whole batch on one."""
    x = normal(0, 4, 5, 6, 4)
    make = functools.partial(DAM, 2, "batch", True)
    variables = make().init(jax.random.key(0), x)

    def apply(module: DAM, x: jax.Array) -> tuple[jax.Array, dict]:
        return module.apply(variables, x, mutable=["batch_stats"])

    want, stats = jax.jit(functools.partial(apply, make()))(x)
    shares = x.reshape(2, 2, *x.shape[1:])
    devices = jax.devices("cpu")[:2]
    got, both = jax.pmap(functools.partial(apply, make("batch")), "batch", devices=devices)(shares)
    np.testing.assert_allclose(got.reshape(x.shape), want, rtol=1e-4, atol=1e-5)
    assert_trees_close(both, jax.tree.map(lambda leaf: np.stack([leaf, leaf]), stats))
    apart, _ = jax.pmap(functools.partial(apply, make()), "batch", devices=devices)(shares)
    assert np.abs(apart.reshape(x.shape) - want).max() > 1e-4  # not shared, it is another function


def test_a_normalised_bottleneck_begins_normal_by_its_outputs():
    """Two thirds lie within a deviation, of a uniform distribution 58%: without a norm it is uniform."""
    x = jnp.zeros((1, 3, 3, 128))
    for norm, share in (("batch", 0.683), ("none", 0.577)):
        variables = Bottleneck(4, norm, False, None, 1).init(jax.random.key(0), x)
        kernel = np.asarray(variables["params"]["squeeze"]["kernel"])
        deviation = (2 / 32) ** 0.5 if norm == "batch" else (3 * 128) ** -0.5
        np.testing.assert_allclose(kernel.std(), deviation, rtol=0.03)
        assert np.mean(np.abs(kernel) < kernel.std()) == pytest.approx(share, abs=0.02)
