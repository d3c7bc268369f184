"""Shapes of Tables 1-2 at every stride, which attention stands where, and what each variant leaves out."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import SMALL, small_model

from ltchm_jax.model import PRESETS, ModelConfig
from ltchm_jax.model.attention import SAM, SWAtten
from ltchm_jax.model.transforms import Analysis, HyperAnalysis, HyperSynthesis, Synthesis, attend

FORMS = {name: ModelConfig.from_dict(preset.to_dict() | {"width": 64}) for name, preset in PRESETS.items()}
FORMS["bands"] = ModelConfig.from_dict(FORMS["paper"].to_dict() | SMALL | {"bands": 4})
FORMS["stages"] = ModelConfig.from_dict(FORMS["paper"].to_dict() | {"stage_widths": [16, 32, 48, 96]})


@functools.cache
def abstract(transform: type[nn.Module], name: str) -> tuple[jax.ShapeDtypeStruct, dict]:
    """What a transform makes of two 128 x 192 pictures in bfloat16, and its parameters."""
    config = FORMS[name]
    inputs = {
        Analysis: (128, 192, config.bands), HyperAnalysis: (8, 12, config.latent_channels),
        HyperSynthesis: (2, 3, config.width), Synthesis: (8, 12, config.latent_channels),
    }  # fmt: skip
    x = jax.ShapeDtypeStruct((2, *inputs[transform]), jnp.bfloat16)
    got, variables = jax.eval_shape(transform(config).init_with_output, jax.random.key(0), x)
    return got, variables["params"]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("transform", [Analysis, HyperAnalysis, HyperSynthesis, Synthesis])
def test_shapes_of_the_tables(transform, name):
    """y lies at 1/16, z at 1/64, psi at 1/16 and 2C wide, x_hat is like x; and the dtype is kept."""
    config, (got, params) = FORMS[name], abstract(transform, name)
    want = {
        Analysis: (8, 12, config.latent_channels), HyperAnalysis: (2, 3, config.width),
        HyperSynthesis: (8, 12, 2 * config.width), Synthesis: (128, 192, config.bands),
    }  # fmt: skip
    assert got.shape == (2, *want[transform])
    assert got.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def names(transform: type[nn.Module], name: str) -> set[str]:
    return {k for k in abstract(transform, name)[1] if k.startswith(("attention", "hpham"))}


def test_attention_stands_where_the_presets_put_it():
    """Four and three in the paper, two and two in the released code."""
    assert names(Analysis, "paper") == {f"attention{s}" for s in (2, 4, 8, 16)}
    assert names(Synthesis, "paper") == {f"attention{s}" for s in (4, 8, 16)}
    assert names(Analysis, "released") == names(Synthesis, "released") == {"attention4", "attention16"}
    for hyper in (HyperAnalysis, HyperSynthesis):
        assert names(hyper, "paper") == {"hpham16", "hpham32"}
        assert names(hyper, "released") == {"hpham32"}


def sides(variant: str) -> list[int]:
    """Side of what each convolution of h_s makes of one position."""
    module = HyperSynthesis(small_model(variant=variant))
    x = jax.ShapeDtypeStruct((1, 1, 1, 32), jnp.float32)
    init = functools.partial(module.init_with_output, capture_intermediates=True)
    state = jax.eval_shape(init, jax.random.key(0), x)[1]["intermediates"]
    return [state[f"conv{i}"]["__call__"][0].shape[1] for i in range(1, 6)]


def test_the_paper_widens_after_the_first_up_sampling_and_the_release_in_it():
    widths = {}
    for name in ("paper", "released"):
        params = abstract(HyperSynthesis, name)[1]
        widths[name] = [params[f"conv{i}"]["kernel"].shape[-1] for i in range(1, 6)]
    assert widths["paper"] == widths["released"] == [64, 128, 96, 96, 128]
    assert sides("paper") == [2, 2, 2, 4, 4]
    assert sides("released") == [1, 2, 2, 4, 4]


@pytest.mark.parametrize(("name", "inputs"), [("paper", (128, 96)), ("released", (96, 128))])
def test_the_released_hyper_synthesis_begins_as_if_transposed(name, inputs):
    """What counts for conv3 and conv5 of C = 64: the inputs of the paper's, the outputs of the release's."""
    z_hat = jnp.zeros((1, 1, 1, 64))
    params = HyperSynthesis(FORMS[name]).init(jax.random.key(0), z_hat)["params"]
    for layer, channels in zip(("conv3", "conv5"), inputs, strict=True):
        bound = (9 * channels) ** -0.5
        assert 0.99 * bound < np.abs(params[layer]["kernel"]).max() <= bound * (1 + 1e-6)


def test_the_first_residual_block_of_the_paper_narrows_two_to_one():
    params = abstract(Synthesis, "paper")[1]
    assert params["residual16"]["conv1"]["kernel"].shape == (3, 3, 128, 128)
    assert params["residual16"]["conv2"]["kernel"].shape == (3, 3, 128, 64)
    assert params["residual16"]["skip"]["kernel"].shape == (1, 1, 128, 64)


def test_the_last_convolution_of_the_released_analysis_has_no_bias():
    assert "bias" in abstract(Analysis, "paper")[1]["down16"]
    assert "bias" not in abstract(Analysis, "released")[1]["down16"]


@pytest.mark.parametrize(("name", "module"), [("sam", SAM()), ("swatten", SWAtten())])
def test_other_attention_modules_can_stand_in(name, module):
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 32)).astype(np.float32)
    wanted = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    analysis = Analysis(small_model(attention=name, attention_at_analysis=(4,)))
    picture = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(analysis.init, jax.random.key(0), picture)["params"]
    assert jax.tree.structure(params["attention4"]) == jax.tree.structure(wanted)


def test_no_attention_is_the_identity():
    x = np.ones((1, 2, 2, 32), np.float32)
    assert attend(x, small_model(), False, None, "unused") is x


def test_a_synthesis_of_zeros_is_its_last_bias():
    config = small_model()
    x = np.ones((1, 1, 2, 32), np.float32)
    shapes = jax.eval_shape(Synthesis(config).init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    variables["params"]["up2"]["bias"] = np.float32([0.1, 0.2, 0.3])
    got = Synthesis(config).apply(variables, x)
    np.testing.assert_allclose(got, np.tile(np.float32([0.1, 0.2, 0.3]), (1, 16, 32, 1)), rtol=1e-6)
