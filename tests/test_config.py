"""The rules of a model's configuration, the two presets, and the files of configs/."""

import json

import numpy as np
import pytest
from small_model import small_config, small_model

from configs import ltchm, shipped
from ltchm_jax.model import PRESETS, ModelConfig
from ltchm_jax.training import Recipe


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_configuration_survives_json(preset):
    again = ModelConfig.from_dict(json.loads(json.dumps(preset.to_dict())))
    assert again == preset
    assert hash(again) == hash(preset)


def test_presets_differ_as_the_paper_and_its_code_do():
    paper, released = PRESETS["paper"], PRESETS["released"]
    assert (paper.width, paper.latent_channels, paper.mixture) == (192, 384, "gaussian")
    assert (released.width, released.latent_channels, released.mixture) == (128, 128, "laplace")
    assert (paper.idconv_reduction, released.idconv_reduction) == (2, 4)
    assert (paper.scale_min, released.scale_min) == (0.11, 1e-4)


@pytest.mark.parametrize(
    ("text", "lmbda", "width"),
    [
        ("paper", 512, 192), ("paper,128", 128, 192), ("paper,256", 256, 192), ("paper,512", 512, 192),
        ("paper,1024", 1024, 256), ("paper,2048", 2048, 256), ("paper,4096", 4096, 256),
        ("released", 512, 128), ("released,128", 128, 192), ("released,4096", 4096, 256),
    ],
)  # fmt: skip
def test_a_lambda_of_the_paper_brings_its_width(text, lmbda, width):
    config = ltchm.get_config(text)
    assert (config.lmbda, config.model.width) == (lmbda, width)
    assert config.model.variant == text.split(",")[0]
    Recipe.from_config(config)


@pytest.mark.parametrize("text", ["", "other", "paper,300", "paper,", "paper,128,256", "128", "paper 128"])
def test_other_names_of_configurations_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"one of paper, released, then .* 128, .* 4096; got") as caught:
        ltchm.get_config(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("variant", "other"), ("attention", "DAM"), ("hyper_attention", "gca"), ("context", "serial"),
        ("mixture", "logistic"), ("idconv_norm", "group"), ("latent_mult", 3),
        ("width", 48), ("width", 0), ("width", -32), ("width", 1 << 30), ("width", 64.0), ("width", "64"),
        ("width", True), ("bands", 0), ("bands", 1 << 20), ("components", 0), ("components", 1 << 20),
        ("parameter_width", 0), ("idconv_reduction", 0), ("idconv_reduction", -1),
        ("attention_at_analysis", [3]), ("attention_at_synthesis", [2]), ("hyper_attention_at", [8]),
        ("attention_at_analysis", 4), ("attention_at_analysis", ["4"]),
        ("scale_min", 10**400), ("lmbdas", [10**400]),
        ("scale_min", 0), ("scale_min", float("nan")), ("scale_min", "x"),
        ("prior_filters", [0]), ("prior_filters", [3] * 1000), ("prior_filters", [1 << 20]),
        ("lmbdas", [0.0, 1.0]), ("lmbdas", [-1.0]), ("lmbdas", [2.0, 1.0]), ("lmbdas", [float("inf")]),
        ("lmbdas", [float("nan")]), ("lmbdas", ["a"]), ("lmbdas", None),
        ("stage_widths", [32, 64]), ("stage_widths", [8, 64, 64, 64]), ("stage_widths", 64),
        ("stage_widths", [32, 64, 64, 1 << 20]),
    ],
)  # fmt: skip
def test_values_out_of_their_rule_are_refused_in_one_line(field, value):
    with pytest.raises(ValueError, match=f"`{field}`") as caught:
        ModelConfig.from_dict({field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"width": 96, "latent_mult": 1}, "`width` must be a multiple of 64"),
        ({"idconv_reduction": 32, "stage_widths": (16, 64, 64, 64)}, "`idconv_reduction` must be at most"),
        ({"attention": "wam", "stage_widths": (20, 64, 64, 64)}, "`stage_widths` must be multiples of 8"),
    ],
)
def test_attention_that_does_not_come_out_whole_is_refused(fields, line):
    with pytest.raises(ValueError, match=line):
        ModelConfig(**fields)
    elsewhere = {"attention_at_analysis": (4, 16), "attention_at_synthesis": (), "hyper_attention_at": (32,)}
    ModelConfig(**(fields | elsewhere))  # its places are those of other widths


def test_widths_of_stages_are_those_given_or_the_width():
    assert [PRESETS["paper"].width_at(stride) for stride in (2, 4, 8, 16)] == [192] * 4
    config = ModelConfig(stage_widths=(32, 64, 128, 256))
    assert [config.width_at(stride) for stride in (2, 4, 8, 16)] == [32, 64, 128, 256]
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_models_older_than_stage_widths_keep_their_digest():
    """A digest is taken of the dictionary, and streams name their model by it."""
    assert "stage_widths" not in PRESETS["paper"].to_dict()


def test_unknown_fields_are_named():
    with pytest.raises(ValueError, match="no field colour, depth; the fields are attention"):
        ModelConfig.from_dict({"depth": 3, "colour": 1})


@pytest.mark.parametrize("values", [[], None, 3, "width"])
def test_a_configuration_that_is_no_table_is_refused(values):
    with pytest.raises(ValueError, match="table"):
        ModelConfig.from_dict(values)


def test_lists_and_numbers_of_numpy_make_the_same_hashable_record():
    plain = ModelConfig(width=64, scale_min=0.5, lmbdas=(128.0, 256.0), hyper_attention_at=(32,))
    loose = {"width": np.int64(64), "scale_min": np.float32(0.5), "lmbdas": [128, np.int32(256)]}
    other = ModelConfig(**loose, hyper_attention_at=[32])
    assert (plain, hash(plain)) == (other, hash(other))
    assert type(other.width) is int


def test_numbers_may_be_written_as_integers_where_the_field_is_real():
    config = ModelConfig.from_dict({"scale_min": 1, "lmbdas": [128, 256]})
    assert isinstance(config.scale_min, float)
    assert config.lmbdas == (128.0, 256.0)
    assert all(isinstance(v, float) for v in config.lmbdas)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_base_file_holds_every_field_of_the_model(preset):
    config = ltchm.get_config(preset)
    assert Recipe.from_config(config).model == PRESETS[preset]
    assert config.is_locked


def test_the_base_file_follows_the_paper():
    config = ltchm.get_config()
    assert (config.steps, config.decay_at, config.learning_rate) == (200_000, 100_000, 1e-4)
    assert (config.batch_size, config.data.crop, config.clip_value) == (8, 256, 5.0)


def test_a_field_that_does_not_exist_can_not_be_set():
    config = ltchm.get_config()
    with pytest.raises(AttributeError, match="colour"):
        config.colour = 1
    with pytest.raises(AttributeError, match="depth"):
        config.model.depth = 1


def test_the_shipped_file_changes_values_but_adds_no_field():
    base, config = ltchm.get_config(), shipped.get_config()

    for mine, theirs in ((config, base), (config.model, base.model), (config.data, base.data)):
        assert set(mine.keys()) == set(theirs.keys())
    assert config.is_locked
    recipe = Recipe.from_config(config)
    assert len(recipe.model.lmbdas) == 6
    assert recipe.model.idconv_norm == "none"


def test_the_small_model_of_the_tests_is_the_one_of_its_configuration():
    assert Recipe.from_config(small_config()).model == small_model()
