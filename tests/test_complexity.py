"""Counts of layers against closed forms, and of the model against the known totals of the released one."""

import dataclasses

import flax.linen as nn
import pytest

from ltchm_jax.complexity import by_part, complexity_text, layers_of, model_layers, total
from ltchm_jax.model import PRESETS
from ltchm_jax.model.dam import DAM
from ltchm_jax.model.layers import GDN, Conv, UpsampleConv
from ltchm_jax.model.window_attention import WindowAttention


def test_a_strided_convolution_counts_its_outputs():
    (layer,) = layers_of(Conv(5, stride=2), (2, 8, 6, 3))
    assert (layer.kernel, layer.stride, layer.outputs) == (3, 2, (2, 4, 3, 5))
    assert layer.macs == layer.published_macs == 2 * 4 * 3 * 9 * 3 * 5
    assert layer.parameters == layer.published_parameters == 9 * 3 * 5 + 5


def test_a_transposed_convolution_counts_its_inputs_and_is_published_fourfold():
    (layer,) = layers_of(UpsampleConv(5), (1, 4, 4, 3))
    assert layer.macs == 16 * 9 * 3 * 5
    assert layer.published_macs == 4 * layer.macs


def test_gdn_is_not_published():
    (layer,) = layers_of(GDN(), (1, 4, 4, 6))
    assert dataclasses.astuple(total([layer])) == (16 * 36, 0, 42, 0)


def test_attention_counts_whole_windows():
    got = total(layers_of(WindowAttention(heads=1, window=4, shift=2), (1, 5, 3, 32)))
    tokens = 8 * 4
    projections = tokens * 4 * 32 * 32
    assert (got.macs, got.published_macs) == (projections + 2 * tokens * 32 * 16, projections)


def test_a_stacked_loop_counts_every_unit():
    """Six units of three input-dependent convolutions, traced once."""
    width, hidden, pixels = 8, 4, 16 * 16
    got = total(layers_of(DAM(2, "batch", False), (1, 16, 16, width)))
    projection = width * hidden + 2 * hidden * width
    idconv = {k: k * k * width * (pixels + 2) + 2 * width for k in (1, 3)}
    unit = 2 * (idconv[1] + projection) + idconv[3] + 10 * projection
    assert got.macs == 6 * unit + pixels * width**2
    per_idconv = width * hidden + 2 * hidden + 2 * hidden * width + 2 * width
    raw = 2 * width * (1 + 9 + 1) + 3 * 2 * width
    assert got.published_parameters == 18 * per_idconv + width**2 + width
    assert got.parameters == got.published_parameters + 6 * raw


def test_parameters_without_a_rule_are_refused():
    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * self.param("scale", nn.initializers.ones, (1, 1, 1, x.shape[-1]))

    with pytest.raises(ValueError, match="got 0 of 7; add a rule"):
        layers_of(Scale(), (1, 2, 2, 7))


@pytest.mark.parametrize(
    ("width", "macs", "published"), [(128, 22.87, 24.91), (192, 50.98, 55.46), (256, 90.24, 98.13)]
)
def test_released_model_at_256x256(width, macs, published):
    layers = model_layers(dataclasses.replace(PRESETS["released"], width=width))
    got = total(layers)
    assert (round(got.macs / 1e9, 2), round(got.published_macs / 1e9, 2)) == (macs, published)
    # The reference stores 25 taps of its masked convolution, of which 12 are ever used.
    used = {128: 13_342_995, 192: 28_536_603}.get(width)
    assert used in (None, got.parameters + 13 * width * 2 * width)
    assert {layer.path[0] for layer in layers} == {"g_a", "g_s", "h_a", "h_s", "prior_y", "prior_z"}


def test_parts_add_up_and_print():
    config = dataclasses.replace(PRESETS["paper"], width=32, attention="none", lmbdas=(128.0, 512.0))
    parts = by_part(model_layers(config, 64, 128))
    assert {"g_a", "g_s", "gain_y"} < set(parts)
    assert parts["total"].macs == sum(part.macs for name, part in parts.items() if name != "total")
    assert complexity_text(parts).count("\n") == len(parts)
