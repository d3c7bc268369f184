"""Reference states in and out, and everything that can be wrong with one."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from ltchm_jax.interop import (
    COUNTER,
    MASK,
    MASKED,
    UNUSED,
    State,
    check_released,
    export_state,
    import_state,
    reference_shapes,
    to_reference,
)
from ltchm_jax.model import PRESETS
from ltchm_jax.model.ltchm import abstract_variables
from ltchm_jax.reference_table import causal_mask

CONFIG = dataclasses.replace(PRESETS["released"], width=32)


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    return reference_shapes(CONFIG)


@pytest.fixture
def state(shapes) -> State:
    rng = np.random.default_rng(0)
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    state[MASKED] *= causal_mask()
    state[MASK] = np.broadcast_to(causal_mask(), state[MASKED].shape).copy()
    return state


def test_export_then_import_is_the_identity(state):
    imported = import_state(state)
    assert imported.config == CONFIG
    assert imported.skipped == ()
    exported = export_state(imported.variables)
    counters = {name for name in exported if name.endswith(COUNTER)}
    assert set(exported) - counters == set(state)
    assert len(counters) == 72
    for name, value in state.items():
        np.testing.assert_array_equal(exported[name], value, err_msg=name)
    again = import_state(exported).variables
    jax.tree.map(np.testing.assert_array_equal, again, imported.variables)


def test_the_variables_have_the_shapes_of_the_model(state):
    want = abstract_variables(CONFIG)
    got = import_state(state).variables
    assert jax.tree.map(np.shape, got) == jax.tree.map(lambda leaf: leaf.shape, want)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}


def test_hidden_taps_do_not_matter(state):
    dirty = state | {MASKED: state[MASKED] + 9 * (1 - causal_mask())}
    jax.tree.map(np.testing.assert_array_equal, import_state(dirty).variables, import_state(state).variables)


def test_a_prefix_selects_the_state(state):
    prefixed = {f"state/{name}": value for name, value in state.items()} | {"out/y": np.zeros(3)}
    want = import_state(state).variables
    jax.tree.map(np.testing.assert_array_equal, import_state(prefixed).variables, want)


def test_what_is_not_needed_is_named(state):
    unneeded = {
        "phi1.weight": np.zeros((32, 64, 3, 3)),
        "priorDecoder.TCM.1.trans_block.scconv.CRU.GWC.bias": np.zeros(32),
        "Encoder.attention1.trunk_ResBlock1.conv1.proj.0.bn.num_batches_tracked": np.zeros((), np.int64),
    }
    assert import_state(state | unneeded).skipped == tuple(unneeded)
    del state[MASK]  # it is known without
    assert import_state(state).skipped == ()


def test_used_names_are_not_taken_for_unused(shapes):
    assert not [name for name in shapes if UNUSED.match(name)]


def test_all_faults_are_listed_in_one_error(state):
    del state["Decoder.b3_layer2.bias"], state["bitEstimator_z.f4.h"]
    state["Encoder.b9.weight"] = np.zeros(3)
    state["Encoder.b0_shortcut.weight"] = np.zeros((32, 3, 3, 3))
    state["Encoder.b1_layer0.bias"][4] = np.nan
    state["Encoder.b2_layer0.bias"] = np.full(32, 1e300)  # finite until it is a float32
    with pytest.raises(ValueError, match="must match the released model") as error:
        import_state(state)
    text = str(error.value)
    assert "\n" not in text
    for part in (
        "2 missing: Decoder.b3_layer2.bias, bitEstimator_z.f4.h",
        "1 unexpected: Encoder.b9.weight",
        "1 of a wrong shape: Encoder.b0_shortcut.weight (32, 3, 3, 3) for (32, 3, 1, 1)",
        "2 not of finite numbers: Encoder.b1_layer0.bias, Encoder.b2_layer0.bias",
    ):
        assert part in text


@pytest.mark.parametrize(
    "field",
    [
        {"attention": "sam"},
        {"attention": "none", "hyper_attention": "none"},
        {"idconv_norm": "none"},
        {"mixture": "gaussian"},
        {"scale_min": 0.2},
        {"stage_widths": (32, 32, 32, 128)},
    ],
)
def test_models_that_the_released_code_cant_be_are_named(field):
    released = PRESETS["released"]
    check_released(dataclasses.replace(released, width=32, bands=1))
    with pytest.raises(ValueError, match=f"this one differs: {min(field)} "):
        check_released(dataclasses.replace(released, **field))


def test_another_mask_is_refused(state):
    state[MASK][:, :, 2, 2] = 1
    with pytest.raises(ValueError, match="not the 5x5 mask of type A"):
        import_state(state)


@pytest.mark.parametrize("first", [None, np.zeros((33, 3, 3, 3)), np.zeros((1024, 3, 3, 3)), np.zeros(32)])
def test_a_state_of_something_else_is_refused(first):
    state = {} if first is None else {"Encoder.b0_layer2.weight": first}
    with pytest.raises(ValueError, match=re.escape("must have Encoder.b0_layer2.weight [N, bands, 3, 3]")):
        import_state(state)


def test_a_collection_alone_maps_too(state):
    variables = import_state(state).variables
    buffers = to_reference({"batch_stats": variables["batch_stats"]})
    assert len(buffers) == 144
    assert all(".running_" in name for name in buffers)
