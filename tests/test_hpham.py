"""Hyper-attention against loops over windows, its limits, and both ways to put its parts together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import scrambled

from ltchm_jax.model.hpham import GCA, HPHAM, MSBFFN, ReleasedStage, SaE
from ltchm_jax.model.window_attention import WindowAttention


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("module", "last"), [(GCA(), "join"), (SaE(), "excite")])
def test_channel_attention_scales_by_a_half_at_zero_and_by_one_at_the_limit(module, last):
    x = np.abs(normal(0, 2, 3, 5, 64))
    params = jax.tree.map(np.zeros_like, module.init(jax.random.key(0), x)["params"])
    np.testing.assert_allclose(module.apply({"params": params}, x), x / 2, rtol=1e-6)
    open_ = scrambled(params, scale=1.0)
    open_ = jax.tree.map(np.abs, open_)  # positive all the way: the last sigmoid saturates
    open_[last]["kernel"] = open_[last]["kernel"] * 1e3
    np.testing.assert_allclose(module.apply({"params": open_}, x), x, rtol=1e-5)


def test_channel_attention_is_blind_to_where():
    """Only the average over the map counts: pixels in another order get the same factors."""
    x = normal(0, 1, 4, 4, 64)
    order = np.random.default_rng(1).permutation(16)
    for module in (GCA(), SaE()):
        variables = scrambled(module.init(jax.random.key(0), x))
        shuffled = x.reshape(16, 64)[order].reshape(x.shape)
        got, want = (module.apply(variables, a).reshape(16, 64) for a in (shuffled, x))
        np.testing.assert_allclose(got, want[order], rtol=1e-4, atol=1e-5)


def test_gca_equals_its_formula():
    x, module = normal(0, 1, 3, 3, 8), GCA()
    params = scrambled(module.init(jax.random.key(0), x))["params"]
    mean, gated = x.mean((0, 1, 2)), []
    for i in range(4):
        u = mean[2 * i : 2 * i + 2] @ params[f"group{i}"]["kernel"] + params[f"group{i}"]["bias"]
        gated.append(u / (1 + np.exp(-u)))
    last = np.concatenate(gated) @ params["join"]["kernel"] + params["join"]["bias"]
    want = x / (1 + np.exp(-last))
    np.testing.assert_allclose(module.apply({"params": params}, x), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("released", [False, True])
def test_branches_of_the_ffn_feed_one_another(released):
    """Impulse kernels of 1, 2, 3, 4 make every branch a sum that can be done by head: 1, 4, 15, 64."""
    x = jnp.ones((1, 9, 9, 2))
    module = MSBFFN(released)
    params = jax.tree.map(np.zeros_like, module.init(jax.random.key(0), x)["params"])
    params["expand"]["bias"] = np.ones(8, np.float32)
    for gain, size in enumerate((1, 3, 5, 7), start=1):
        kernel = np.zeros((size, size, 2), np.float32)
        kernel[size // 2, size // 2] = gain
        params[f"depthwise{size}"]["kernel"] = kernel
    # d1 = 1 * 1, d3 = 2 (1 + 1), d5 = 3 (1 + 4), d7 = 4 (1 + 15); the join takes them with signs.
    signs = np.repeat([1, -1, 1, -1], 2).astype(np.float32)
    params["join"]["kernel"] = (np.tile(np.eye(2), (4, 1)) * signs[:, None]).astype(np.float32)[None, None]
    want = 1 - 4 + 15 - 64
    want = 1 + 0.01 * want if released else want
    np.testing.assert_allclose(module.apply({"params": params}, x), np.full((1, 9, 9, 2), want), rtol=1e-5)


def test_the_widest_branch_reaches_seven_by_seven():
    x = np.zeros((1, 15, 15, 2), np.float32)
    module = MSBFFN()
    params = scrambled(module.init(jax.random.key(0), x))["params"]
    moved = x.copy()
    moved[0, 7, 7] = 1
    change = module.apply({"params": params}, moved) - module.apply({"params": params}, x)
    rows, columns = np.nonzero(np.abs(change).max((0, 3)) > 1e-6)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 13, 1, 13)  # 3 + 2 + 1 to each side


@pytest.mark.parametrize(
    "module", [HPHAM(), HPHAM(ReleasedStage), HPHAM(channel_attention=False), HPHAM(ReleasedStage, False)]
)
@pytest.mark.parametrize("size", [(8, 8), (3, 6)])
def test_any_size_keeps_its_shape(module, size):
    x = jax.ShapeDtypeStruct((2, *size, 64), jnp.bfloat16)
    got, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert got.shape == x.shape
    assert got.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert ("channels" in variables["params"]["stage1"]) == module.channel_attention


def conv(x: jax.Array, params: dict) -> jax.Array:
    return x @ params["kernel"][0, 0] + params["bias"].reshape(1, 1, 1, -1)


def norm(x: jax.Array, params: dict) -> jax.Array:
    scaled = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return scaled * params["scale"].reshape(1, 1, 1, -1) + params["bias"].reshape(1, 1, 1, -1)


def halves(x: jax.Array, channels: GCA | SaE, params: dict, shifted: bool) -> jax.Array:
    first, last = jnp.split(x, 2, -1)
    first = channels.apply({"params": params["channels"]}, first)
    last = WindowAttention(last.shape[-1] // 32, 4, 2 if shifted else 0).apply(
        {"params": params["attention"]}, last
    )
    return conv(jnp.concatenate([first, last], -1), params["join"])


def released_stage(x: jax.Array, params: dict, shifted: bool) -> jax.Array:
    """The order of the released code, from the parts tested above."""
    base = conv(x, params["split"])
    mid = base + halves(norm(base, params["norm1"]), SaE(), params, shifted)
    mid = mid + MSBFFN(released=True).apply({"params": params["ffn"]}, norm(mid, params["norm2"]))
    return x + conv(mid, params["out"])


def paper_stage(x: jax.Array, params: dict, shifted: bool) -> jax.Array:
    """Eq. 6, from the parts tested above."""
    x = x + halves(conv(norm(x, params["norm1"]), params["split"]), GCA(), params, shifted)
    return x + MSBFFN().apply({"params": params["ffn"]}, norm(x, params["norm2"]))


@pytest.mark.parametrize(
    ("module", "stage"), [(HPHAM(), paper_stage), (HPHAM(ReleasedStage), released_stage)]
)
def test_two_stages_are_put_together_as_written(module, stage):
    x = jnp.asarray(normal(0, 1, 6, 4, 64))
    params = scrambled(jax.eval_shape(module.init, jax.random.key(0), x), scale=0.1)["params"]
    want = stage(stage(x, params["stage1"], False), params["stage2"], True)
    np.testing.assert_allclose(module.apply({"params": params}, x), want, rtol=1e-3, atol=1e-4)
