"""Every row of the paper's ablations is a configuration that can be trained."""

import jax
import jax.numpy as jnp
import pytest

from configs import ltchm
from ltchm_jax.model import PRESETS, abstract_variables
from ltchm_jax.model.config import ATTENTIONS, HYPER_ATTENTIONS
from ltchm_jax.training import Recipe, loss_fn


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("hyper_attention", HYPER_ATTENTIONS)
def test_one_flag_each_and_a_gradient_for_every_weight(preset, attention, hyper_attention):
    config = ltchm.get_config(preset)
    fields = {"width": 32, "attention": attention, "hyper_attention": hyper_attention}
    config.update_from_flattened_dict({f"model.{k}": v for k, v in fields.items()})
    recipe = Recipe.from_config(config)
    variables = abstract_variables(recipe.model)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8)

    def gradient(params, stats, images):
        return jax.grad(
            lambda p: loss_fn(p, stats, images, jax.random.split(jax.random.key(0), 2), recipe)[0]
        )(params)

    mapped = jax.vmap(gradient, in_axes=(None, None, 0), axis_name="batch")
    got = jax.eval_shape(
        mapped,
        variables["params"],
        variables.get("batch_stats", {}),
        jax.ShapeDtypeStruct((1, *images.shape), images.dtype),
    )
    assert jax.tree.map(lambda g: g.shape[1:], got) == jax.tree.map(lambda p: p.shape, variables["params"])
