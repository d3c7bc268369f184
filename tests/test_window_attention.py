"""Attention in windows against loops over tokens and over windows, its masks and its limits."""

import jax
import numpy as np
import pytest

from ltchm_jax.model.window_attention import WindowAttention, attention_mask

HEAD = 32


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
    x, module = normal(0, 1, *size, 2 * HEAD), WindowAttention(2, 4, 2 if shifted else 0)
    params = scrambled(module.init(jax.random.key(0), x))["params"]
    want = attention_by_windows(x[0], params, 2 if shifted else 0)
    np.testing.assert_allclose(module.apply({"params": params}, x)[0], want, rtol=1e-3, atol=1e-3)


def test_whole_unshifted_windows_need_no_mask():
    assert attention_mask(8, 12, 4, 0) is None


def test_the_mask_of_a_shifted_window_splits_its_last_rows_and_columns():
    mask = attention_mask(8, 8, 4, 2)
    counts = mask.sum(-1).reshape(2, 2, 4, 4)  # keys that each token sees
    assert (counts[0, 0] == 16).all()
    assert (counts[0, 1] == 8).all()
    assert (counts[1, 0] == 8).all()
    assert (counts[1, 1] == 4).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
def test_masks_are_symmetric_and_let_every_token_see_itself(size, shift):
    mask = attention_mask(*size, 4, shift)
    if mask is not None:
        np.testing.assert_array_equal(mask, mask.swapaxes(1, 2))
        assert mask[:, np.arange(16), np.arange(16)].all()


def test_attention_of_equal_keys_is_the_mean_of_its_window():
    """Without weights for q and k, and with identity for v and out, each token becomes its window's mean."""
    x, module = normal(0, 1, 8, 4, HEAD), WindowAttention(1, 4)
    params = jax.tree.map(np.zeros_like, module.init(jax.random.key(0), x)["params"])
    params["qkv"]["kernel"] = np.hstack([np.zeros((HEAD, 2 * HEAD)), np.eye(HEAD)]).astype(np.float32)
    params["out"]["kernel"] = np.eye(HEAD, dtype=np.float32)
    got = module.apply({"params": params}, x)
    for rows in (slice(0, 4), slice(4, 8)):
        want = np.tile(x[0, rows].mean((0, 1)), (4, 4, 1))
        np.testing.assert_allclose(got[0, rows], want, atol=1e-6)


def attention_by_loops(x: np.ndarray, params: dict, heads: int, window: int, shift: int) -> np.ndarray:
    """Each query of x [H, W, C] attends the keys of its shifted window, none across the edge of the map."""
    height, width, channels = x.shape
    padded = [-(-n // window) * window for n in (height, width)]
    qkv = x @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    q, k, v = np.moveaxis(qkv.reshape(height, width, 3, heads, channels // heads), 2, 0)
    where = {}
    for r in range(height):
        for c in range(width):
            at = [(p - shift) % n for p, n in zip((r, c), padded, strict=True)]
            where[r, c] = (*(a // window for a in at), r < shift, c < shift), [a % window for a in at]
    out = np.zeros_like(x)
    for query, (cell, at) in where.items():
        keys = [key for key, (other, _) in where.items() if other == cell]
        offsets = [[at[i] - where[key][1][i] + window - 1 for i in (0, 1)] for key in keys]
        for h in range(heads):
            scores = [q[query][h] @ k[key][h] * (channels // heads) ** -0.5 for key in keys]
            scores = np.exp(np.array(scores) + [params["bias"][h, i, j] for i, j in offsets])
            mixed = sum(s * v[key][h] for s, key in zip(scores / scores.sum(), keys, strict=True))
            out[query][h * channels // heads : (h + 1) * channels // heads] = mixed
    return out @ params["out"]["kernel"] + params["out"]["bias"]


@pytest.mark.parametrize(("size", "shift"), [((8, 8), 0), ((8, 4), 2), ((5, 7), 0), ((6, 9), 2), ((3, 3), 2)])
def test_window_attention_equals_loops(size, shift):
    x = np.random.default_rng(0).normal(size=(1, *size, 8)).astype(np.float32)
    module = WindowAttention(heads=2, window=4, shift=shift)
    variables = module.init(jax.random.key(1), x)
    params = jax.tree.map(lambda p: np.asarray(p) * 5, variables["params"])
    got = module.apply({"params": params}, x)
    np.testing.assert_allclose(got[0], attention_by_loops(x[0], params, 2, 4, shift), rtol=1e-4, atol=1e-4)
