"""SAM, WAM and SWAtten against loops, closed forms and their published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltchm_jax.model.attention import SAM, WAM, SWAtten


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
