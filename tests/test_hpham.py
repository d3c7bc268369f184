"""Hyper-attention against loops over windows, its limits, and both ways to put its parts together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltchm_jax.model import hpham
from ltchm_jax.model.hpham import GCA, HPHAM, MSBFFN, ReleasedStage, SaE, WindowAttention

HEAD = hpham.HEAD_DIM


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def scrambled(variables: dict, seed: int = 9, scale: float = 0.3) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, scale, leaf.shape).astype(np.float32), variables)


def cells(size: int, shift: int) -> list[tuple[int, int, bool]]:
    """Of each row: its window, its place in it, and whether the cyclic shift carried it across the edge."""
    padded = -(-size // 4) * 4
    at = [(row - shift) % padded for row in range(size)]
    return [(p // 4, p % 4, row < shift) for row, p in enumerate(at)]


def attention_by_windows(x: np.ndarray, params: dict, shift: int) -> np.ndarray:
    """x [H, W, C]: every token attends those of its window on its side of the edge, one head at a time."""
    rows, columns = cells(x.shape[0], shift), cells(x.shape[1], shift)
    qkv = x @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    channels, groups = x.shape[-1], {}
    for r, (window_row, _, wrapped_row) in enumerate(rows):
        for c, (window_column, _, wrapped_column) in enumerate(columns):
            groups.setdefault((window_row, window_column, wrapped_row, wrapped_column), []).append((r, c))
    out = np.zeros_like(x)
    for tokens in groups.values():
        at = np.array([(rows[r][1], columns[c][1]) for r, c in tokens])
        offset = at[:, None] - at[None] + 3  # of query from key
        values = np.stack([qkv[r, c] for r, c in tokens])
        for head in range(channels // HEAD):
            mine = slice(head * HEAD, (head + 1) * HEAD)
            q, k, v = (part[:, mine] for part in np.split(values, 3, axis=-1))
            logits = q @ k.T / HEAD**0.5 + params["bias"][head, offset[..., 0], offset[..., 1]]
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            for (r, c), mixed in zip(tokens, weights @ v / weights.sum(-1, keepdims=True), strict=True):
                out[r, c, mine] = mixed
    return out @ params["out"]["kernel"] + params["out"]["bias"]


SIZES = [(8, 8), (4, 12), (4, 4), (5, 8), (6, 7), (1, 3), (9, 2)]  # multiples of 4, and not


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_window_attention_equals_loops_over_windows(size, shifted):
    """Where a side is no multiple of 4 the loops know of no padding: padded tokens change nothing."""
    x, module = normal(0, 1, *size, 2 * HEAD), WindowAttention(shifted)
    params = scrambled(module.init(jax.random.key(0), x))["params"]
    want = attention_by_windows(x[0], params, 2 if shifted else 0)
    np.testing.assert_allclose(module.apply({"params": params}, x)[0], want, rtol=1e-3, atol=1e-3)


def test_whole_unshifted_windows_need_no_mask():
    assert hpham.window_mask(8, 12, 0) is None


def test_the_mask_of_a_shifted_window_splits_its_last_rows_and_columns():
    mask = hpham.window_mask(8, 8, 2)
    counts = mask.sum(-1).reshape(2, 2, 4, 4)  # keys that each token sees
    assert (counts[0, 0] == 16).all()
    assert (counts[0, 1] == 8).all()
    assert (counts[1, 0] == 8).all()
    assert (counts[1, 1] == 4).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
def test_masks_are_symmetric_and_let_every_token_see_itself(size, shift):
    mask = hpham.window_mask(*size, shift)
    if mask is not None:
        np.testing.assert_array_equal(mask, mask.swapaxes(1, 2))
        assert mask[:, np.arange(16), np.arange(16)].all()


def test_attention_of_equal_keys_is_the_mean_of_its_window():
    """Without weights for q and k, and with identity for v and out, each token becomes its window's mean."""
    x, module = normal(0, 1, 8, 4, HEAD), WindowAttention(False)
    params = jax.tree.map(np.zeros_like, module.init(jax.random.key(0), x)["params"])
    params["qkv"]["kernel"] = np.hstack([np.zeros((HEAD, 2 * HEAD)), np.eye(HEAD)]).astype(np.float32)
    params["out"]["kernel"] = np.eye(HEAD, dtype=np.float32)
    got = module.apply({"params": params}, x)
    for rows in (slice(0, 4), slice(4, 8)):
        want = np.tile(x[0, rows].mean((0, 1)), (4, 4, 1))
        np.testing.assert_allclose(got[0, rows], want, atol=1e-6)


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
    last = WindowAttention(shifted).apply({"params": params["attention"]}, last)
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
