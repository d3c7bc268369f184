"""Model files: identity, and one line for every way in which a file can be wrong."""

import dataclasses
import json
import os
import pickle

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_model import small_model

from ltchm_jax import model_file
from ltchm_jax.entropy.tables import PmfTables
from ltchm_jax.model import LTCHM, init_variables
from ltchm_jax.model_file import (
    FORMAT,
    Z_CDF,
    Z_OFFSET,
    CoderMismatch,
    Model,
    ModelError,
    load_model,
    make_model,
    save_model,
)

NOTES = {"steps": "7", "training": "a test"}


@pytest.fixture(scope="module")
def model() -> Model:
    config = small_model()
    return make_model(config, init_variables(config, jax.random.key(0)), NOTES)


@pytest.fixture(scope="module")
def parts(model, tmp_path_factory) -> tuple[dict, dict]:
    """Tensors and metadata of a good file, to be spoilt."""
    path = tmp_path_factory.mktemp("model") / "good.safetensors"
    save_model(path, model)
    metadata = {"format": FORMAT, "config": json.dumps(model.config.to_dict()), "digest": model.digest.hex()}
    return load_file(path), metadata


def refused(path, line: str) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_model_for_another_coder_is_refused_by_name(model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    monkeypatch.setattr(model_file, "tables_digest", lambda: bytes(32))
    with pytest.raises(
        CoderMismatch, match="this package has 0000000000000000: install the version"
    ) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_what_is_saved_is_loaded(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    again = load_model(path)
    assert (again.config, again.notes, again.digest) == (model.config, NOTES, model.digest)
    jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)
    np.testing.assert_array_equal(again.z_tables.cdf, model.z_tables.cdf)
    assert again.z_tables.offset == model.z_tables.offset
    assert {leaf.dtype for leaf in jax.tree.leaves(again.variables)} == {np.dtype("float32")}
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_the_same_model_is_the_same_bytes(model, tmp_path):
    for name in "abcdef":
        save_model(tmp_path / name, model)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("half", [True, False])
def test_weights_are_rounded_in_memory_as_in_the_file_or_not_at_all(tmp_path, half):
    config = small_model()
    variables = init_variables(config, jax.random.key(1))
    kept = make_model(config, variables, half=half)
    rounding = (lambda v: np.float32(np.float16(v))) if half else np.float32
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, rounding(b)), kept.variables, variables)
    save_model(tmp_path / "model", kept)
    jax.tree.map(np.testing.assert_array_equal, load_model(tmp_path / "model").variables, kept.variables)


def test_weights_too_large_for_half_stay_as_they_are(tmp_path):
    config = small_model()
    variables = init_variables(config, jax.random.key(1))
    kernel = variables["params"]["g_a"]["down16"]["kernel"]
    variables["params"]["g_a"]["down16"]["kernel"] = kernel.at[0, 0, 0, 0].set(7e4)
    save_model(tmp_path / "model", make_model(config, variables))
    loaded = load_model(tmp_path / "model").variables["params"]
    np.testing.assert_array_equal(
        loaded["g_a"]["down16"]["kernel"], variables["params"]["g_a"]["down16"]["kernel"]
    )


def test_tables_of_z_are_the_cumulative_of_the_prior(model):
    cdf, offset = model.z_tables.cdf, model.z_tables.offset
    edges = np.arange(offset, offset + cdf.shape[1], dtype=np.float32) - np.float32(0.5)
    tiled = np.repeat(edges[:, None], 32, 1)
    logits = LTCHM(model.config).apply(model.variables, tiled, method="z_cumulative_logits")
    np.testing.assert_allclose(cdf.T / 65536, jax.nn.sigmoid(logits), atol=2e-4)
    assert (cdf[:, 1] < 7).all()  # what lies outside has a chance below 1e-4 in every channel
    assert (cdf[:, -2] > 65536 - 7).all()


def test_the_digest_changes_with_weights_tables_and_configuration(model):
    nudged = jax.tree.map(np.copy, model.variables)
    nudged["params"]["g_a"]["down2"]["conv1"]["bias"][3] += np.float32(1e-7)
    cdf = model.z_tables.cdf.copy()
    cdf[0, 100] = cdf[0, 99]
    changes = [
        {"variables": nudged},
        {"z_tables": PmfTables(cdf, model.z_tables.offset)},
        {"z_tables": PmfTables(model.z_tables.cdf, model.z_tables.offset + 1)},
        {"config": small_model(scale_min=0.12)},
    ]
    digests = {dataclasses.replace(model, **change).digest for change in changes} | {model.digest}
    assert len(digests) == 5
    assert {len(digest) for digest in digests} == {8}
    assert dataclasses.replace(model, notes={}).digest == model.digest


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"not a model", b"\xff" * 64, pickle.dumps({"a": 1})])
def test_files_that_are_no_safetensors_are_refused(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    refused(path, "safetensors file written by this package")


def test_what_can_not_be_opened_is_refused(tmp_path):
    refused(tmp_path / "none", "No such file")
    refused(tmp_path, "A model is a safetensors file")


def flip_is_seen(path, content: bytes, place: int, model: Model) -> bool:
    """Whether the file with one flipped bit is refused; if not, it must hold the same model."""
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    try:
        loaded = load_model(path)
    except ModelError:
        return True
    assert loaded.digest == model.digest
    return False


def test_damaged_files_are_refused_or_the_same_model(model, tmp_path):
    """A flipped bit in the notes changes no weight; anywhere else it must be seen."""
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    seen = sum(flip_is_seen(path, content, place, model) for place in [*range(0, 400, 40)])
    seen += sum(flip_is_seen(path, content, place, model) for place in rng.integers(0, len(content), 20))
    assert seen >= 20
    for length in (1, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refused(path, "safetensors")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"format": "ltchm-model-9"}, "says 'ltchm-model-9'"),
        ({"format": None}, "says None"),
        ({"config": None}, "config"),
        ({"config": "{"}, "configuration .* can't be read"),
        ({"config": "[]"}, "configuration .* can't be read"),
        ({"config": "null"}, "configuration .* can't be read"),
        ({"config": "[" * 100_000}, "safetensors"),
        ({"config": '{"colour": 1}'}, "no field colour"),
        ({"config": '{"width": 1e9}'}, "`width`"),
        ({"config": '{"width": 1000000000000}'}, "`width`"),
        ({"config": '{"lmbdas": [0]}'}, "`lmbdas`"),
        ({"config": '{"lmbdas": [NaN]}'}, "`lmbdas`"),
        ({"config": '{"idconv_reduction": 0}'}, "`idconv_reduction`"),
        ({"digest": None}, "digest"),
        ({"digest": "00" * 8}, "digest"),
    ],
)
def test_metadata_that_does_not_hold_is_refused(parts, tmp_path, change, line):
    flat, metadata = parts
    metadata = {k: v for k, v in (metadata | change).items() if v is not None}
    save_file(flat, tmp_path / "bad.safetensors", metadata)
    refused(tmp_path / "bad.safetensors", line)


NAME = "params/g_a/down2/conv1/bias"


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (None, f"{NAME} missing"),
        (np.zeros(5, np.float16), rf"{NAME} is \(5,\), not \(32,\)"),
        (np.full(32, np.nan, np.float16), f"{NAME} not finite"),
        (np.full(32, np.inf, np.float32), f"{NAME} not finite"),
        (np.zeros(32, np.float32), "digest"),
        (np.zeros(32, np.int8), f"{NAME} is int8, not float16 or float32"),
        (np.full(32, 1e300), f"{NAME} is float64, not float16 or float32"),
    ],
)
def test_weights_that_do_not_fit_are_named(parts, tmp_path, array, line):
    flat, metadata = parts
    flat = flat | {NAME: array}
    save_file({k: v for k, v in flat.items() if v is not None}, tmp_path / "bad.safetensors", metadata)
    refused(tmp_path / "bad.safetensors", line)


def test_foreign_weights_are_named(parts, tmp_path):
    flat, metadata = parts
    save_file(flat | {"extra": np.zeros(1, np.float32)}, tmp_path / "bad.safetensors", metadata)
    refused(tmp_path / "bad.safetensors", "extra unknown")
    save_file({}, tmp_path / "none.safetensors", metadata)
    refused(tmp_path / "none.safetensors", "tables of z")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({Z_CDF: None}, "tables of z .*tables/z_cdf"),
        ({Z_OFFSET: np.array([np.inf], np.float32)}, "tables of z"),
        ({Z_OFFSET: np.zeros(2, np.int32)}, "tables of z"),
        ({Z_OFFSET: np.array([1 << 30], np.int32)}, "tables of z"),
        ({Z_CDF: np.array([[0, 65536]], np.int32)}, "32 rows"),
        ({Z_CDF: np.tile(np.int32([0] * 5_000 + [65536]), (32, 1))}, r"up to \+-1024, got 32"),
        ({Z_CDF: np.array([[0, 9, 3, 65536]] * 32, np.int32)}, "non-decreasing"),
        ({Z_CDF: np.zeros((32, 4), np.float32)}, "int32"),
    ],
)
def test_tables_that_can_not_be_are_refused(parts, tmp_path, change, line):
    flat, metadata = parts
    flat = {k: v for k, v in (flat | change).items() if v is not None}
    save_file(flat, tmp_path / "bad.safetensors", metadata)
    refused(tmp_path / "bad.safetensors", line)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_types_that_numpy_does_not_know_are_refused(tmp_path, kind):
    header = json.dumps({"a": {"dtype": kind, "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    refused(path, r"is a safetensors file written by this package.*bad\.safetensors")


def test_another_configuration_over_the_same_weights_is_refused(parts, model, tmp_path):
    """The shapes still fit; the digest does not."""
    flat, metadata = parts
    config = json.dumps(model.config.to_dict() | {"scale_min": 0.2})
    save_file(flat, tmp_path / "bad.safetensors", metadata | {"config": config})
    refused(tmp_path / "bad.safetensors", "digest")


def test_saving_replaces_whole_files_only(model, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        save_model(path, dataclasses.replace(model, notes={"steps": 7}))  # a note must be text
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.safetensors"]
    with pytest.raises(OSError, match="none"):
        save_model(tmp_path / "none" / "model", model)
