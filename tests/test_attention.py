"""SAM, WAM and SWAtten against loops, closed forms and their published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltchm_jax.model.attention import SAM, WAM, SWAtten, WideWindowAttention


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
    module = WideWindowAttention(heads=2, window=4, shift=shift)
    variables = module.init(jax.random.key(1), x)
    params = jax.tree.map(lambda p: np.asarray(p) * 5, variables["params"])
    got = module.apply({"params": params}, x)
    np.testing.assert_allclose(got[0], attention_by_loops(x[0], params, 2, 4, shift), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("module", [SAM(), WAM(heads=4, window=4, shift=2), SWAtten(inner=32, window=4)])
def test_a_closed_mask_is_the_identity_around_the_gate(module):
    """With the gate at 0 the module is x, seen through the 1x1 convolutions around it if there are any."""
    x = jax.random.normal(jax.random.key(2), (2, 6, 10, 16))
    params = module.init(jax.random.key(3), x)["params"]
    params["mask"]["bias"] = jnp.full_like(params["mask"]["bias"], -1e4)
    want = x
    for name in ("squeeze", "expand"):
        if name in params:
            want = want @ params[name]["kernel"][0, 0] + params[name]["bias"].reshape(1, 1, 1, -1)
    np.testing.assert_allclose(module.apply({"params": params}, x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (SAM(), 758_208),  # six units of 120,192 and one 1x1
        (WAM(), 758_208 + 148_224 + 8 * 15 * 15),
        (SWAtten(), 783_552 + 2 * 8 * 15 * 15),
    ],
)
def test_parameter_counts_at_192_channels(module, count):
    x = jax.ShapeDtypeStruct((1, 16, 16, 192), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
