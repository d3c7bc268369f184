"""The table of names and layouts: complete, without repeats, and a bijection."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltchm_jax.model import PRESETS
from ltchm_jax.model.convolutions import conv2d, upsample_conv2d
from ltchm_jax.model.ltchm import abstract_variables
from ltchm_jax.reference_table import LAYOUTS, TABLE, Entry, causal_mask

SHAPES = {  # of the reference
    "same": (6,),
    "transposed": (5, 3),
    "conv": (4, 2, 3, 3),
    "deconv": (4, 2, 3, 3),
    "pointwise": (5, 3, 1, 1),
    "depthwise": (4, 1, 5, 5),
    "kernels": (2, 3, 3, 3),
    "offsets": (2, 3),
    "channels": (1, 4, 1, 1),
    "causal": (6, 2, 5, 5),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_inverted(layout):
    value = np.random.default_rng(0).normal(size=SHAPES[layout])
    if layout == "causal":
        value *= causal_mask()
    to_flax, to_reference = LAYOUTS[layout]
    np.testing.assert_array_equal(to_reference(to_flax(value)), value)
    np.testing.assert_array_equal(to_flax(to_reference(to_flax(value))), to_flax(value))


def test_the_mask_shows_twelve_taps():
    np.testing.assert_array_equal(causal_mask()[2], [1, 1, 0, 0, 0])
    assert causal_mask()[:2].sum() == 10
    assert causal_mask()[3:].sum() == 0


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transposed_convolution_is_the_adjoint_of_its_convolution(stride):
    """<conv(x), y> = <x, conv^T(y)> for one reference kernel, read as OIHW there and as IOHW here."""
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    x = jnp.asarray(rng.normal(size=(1, 8, 8, 2)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(1, 8 // stride, 8 // stride, 3)), jnp.float32)
    forward = conv2d(x, LAYOUTS["conv"].to_flax(weight), stride, ((1, 1), (1, 1)))
    flipped = jnp.asarray(LAYOUTS["deconv"].to_flax(weight))
    backward = upsample_conv2d(y, flipped) if stride == 2 else conv2d(y, flipped, 1, ((1, 1), (1, 1)))
    assert float(jnp.vdot(forward, y)) == pytest.approx(float(jnp.vdot(x, backward)), rel=1e-4)


def test_stacks_keep_the_order_of_branches_and_units():
    entry = Entry(("params",), tuple("abcdef"), "same", "stack")
    values = [np.full(2, i) for i in range(6)]
    stacked = entry.to_flax(values)
    np.testing.assert_array_equal(stacked[..., 0], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(entry.to_reference(stacked), values)


def test_concatenation_keeps_its_order():
    entry = Entry(("params",), ("a", "b"), "transposed", "concatenate")
    values = [np.arange(6).reshape(2, 3), np.arange(6, 12).reshape(2, 3)]
    np.testing.assert_array_equal(entry.to_flax(values)[0], [0, 3, 6, 9])
    np.testing.assert_array_equal(entry.to_reference(entry.to_flax(values)), values)


def test_every_variable_and_every_name_appears_once():
    config = dataclasses.replace(PRESETS["released"], width=32)
    variables = abstract_variables(config)
    paths = [tuple(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    assert sorted(entry.target for entry in TABLE) == sorted(paths)
    sources = [source for entry in TABLE for source in entry.sources]
    assert len(sources) == len(set(sources)) == 1058 - 84 - 1 - 72  # all but unused, mask and counters
