"""Attention in windows against loops over tokens, its masks and its limits."""

import jax
import numpy as np
import pytest
from small_model import scrambled

from ltchm_jax.model.window_attention import WindowAttention, attention_mask

HEAD = 32


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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


# Multiples of 4, and not.
SIZES = [(8, 8), (8, 4), (4, 12), (4, 4), (5, 8), (5, 7), (6, 7), (6, 9), (3, 3), (1, 3), (9, 2)]


@pytest.mark.parametrize(("window", "shift"), [(4, 0), (4, 2), (8, 4)])
@pytest.mark.parametrize("size", SIZES)
def test_window_attention_equals_loops(size, window, shift):
    """Where a side is no multiple of the window the loops know of no padding: it changes nothing."""
    x, module = normal(0, 1, *size, 8), WindowAttention(2, window, shift)
    params = scrambled(module.init(jax.random.key(1), x))["params"]
    want = attention_by_loops(x[0], params, 2, window, shift)
    np.testing.assert_allclose(module.apply({"params": params}, x)[0], want, rtol=1e-4, atol=1e-4)


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
