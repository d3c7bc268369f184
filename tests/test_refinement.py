"""Refined latents: fewer bits and less error by the model's own loss, and streams like any other."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_model import drawn_model

from ltchm_jax import refinement
from ltchm_jax.imagery.scenes import draw_scene
from ltchm_jax.model import ModelConfig
from ltchm_jax.refinement import Problem, Refiner, by_tile, trained_lmbdas

SMALL = ModelConfig(
    width=32,
    attention="none",
    hyper_attention="none",
    parameter_width=32,
    scale_min=2.0,  # of drawn weights most scales are at the floor: let it be where the latents are
    lmbdas=(128.0, 512.0, 2048.0),
)
RELEASED = dataclasses.replace(SMALL, variant="released", mixture="laplace")
SIDE, INSIDE = 48, (40, 33)
RATE = np.ones(1, np.float32)


@pytest.fixture(scope="module")
def model():
    return drawn_model(SMALL)


def refiner_of(model):
    return Refiner(model.config, trained_lmbdas(model))


@pytest.fixture(scope="module")
def refiner(model):
    return refiner_of(model)


@pytest.fixture(scope="module")
def pixels():
    return draw_scene(SIDE, SIDE, 3)[..., :3]


def begin(refiner, model, pixels, inside=INSIDE, rate=RATE):
    """A problem as the refiner takes it, and the integers it starts from."""
    counted = np.zeros((1, SIDE, SIDE, 1), np.float32)
    counted[:, : inside[0], : inside[1]] = 1
    problem, search = refiner.begin(model.variables, pixels, counted, rate, np.float32(refiner.lmbdas))
    return Problem(*problem), search.y_hat


@functools.partial(jax.jit, static_argnums=0)
def jitted(refiner, variables, problem, y_hat):
    return refiner.expected(variables, problem, y_hat)


def expected(refiner, model, problem, y_hat):
    return jitted(refiner, model.variables, problem, jnp.asarray(y_hat))


def loss_of(refiner, model, problem, y_hat):
    return float(expected(refiner, model, problem, y_hat)[0].sum())


@pytest.mark.parametrize("config", [SMALL, RELEASED], ids=["paper", "released"])
@pytest.mark.parametrize("quality", [1.0, 2.0])
def test_the_loss_falls_with_every_effort_or_stays(config, quality, pixels):
    model = drawn_model(config)
    refiner, rate = refiner_of(model), np.array([quality], np.float32)
    problem, start = begin(refiner, model, pixels, rate=rate)
    losses = [loss_of(refiner, model, problem, start)]
    for effort in (1, 3, 6):
        y, _ = refiner.refine(model.variables, pixels, INSIDE, rate, effort)
        losses.append(loss_of(refiner, model, problem, y[None].astype(jnp.float32)))
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < losses[0] - 1  # bits; most of the loss is what no latent can show


@pytest.mark.parametrize("quality", [0.0, 2.0])
def test_single_moves_change_the_loss_as_expected(refiner, model, pixels, quality):
    """To first order in what they do to contexts; the error's slope from its gradient alone."""
    problem, y_hat = begin(refiner, model, pixels, rate=np.array([quality], np.float32))
    slope, _ = jax.grad(refiner._error, has_aux=True)(y_hat, model.variables, problem)
    curvature = problem.curvature / refinement.CURVATURE
    problem = problem._replace(y=y_hat - slope / curvature, curvature=curvature)
    losses, gains, directions = map(np.asarray, expected(refiner, model, problem, y_hat))
    best = np.argsort(gains.ravel())[::-1][:: max(1, gains.size // 40)][:40]
    found = []
    for index in best:
        moved = np.array(y_hat)
        moved.ravel()[index] += directions.ravel()[index]
        found.append(losses.sum() - loss_of(refiner, model, problem, moved))
    promised = gains.ravel()[best]
    assert np.corrcoef(found, promised)[0, 1] > 0.98
    np.testing.assert_allclose(np.mean(found[:10]), np.mean(promised[:10]), rtol=0.15)


def test_losses_are_summed_by_tile():
    losses = np.arange(30, dtype=np.float32).reshape(1, 5, 6)
    sums = by_tile(jnp.asarray(losses))
    assert sums.shape == losses.shape
    assert (sums[0, 0, 0], sums[0, 3, 3]) == (losses[0, :4, :4].sum(),) * 2
    assert sums[0, 4, 5] == losses[0, 4:, 4:].sum()


class Misled(Refiner):
    """Moves every latent of the left half the wrong way."""

    def expected(self, variables, problem, y_hat):
        losses, gains, directions = super().expected(variables, problem, y_hat)
        left = jnp.arange(y_hat.shape[2])[:, None] < y_hat.shape[2] // 2
        return losses, jnp.where(left, 99.0, gains), jnp.where(left, -directions, directions)


def test_a_part_that_goes_wrong_leaves_the_gain_of_the_rest(model):
    refiner, pixels, shape = (
        Misled(model.config, trained_lmbdas(model)),
        draw_scene(48, 256, 3)[..., :3],
        (48, 256),
    )
    whole, lmbdas = np.ones((1, *shape, 1), np.float32), np.float32(refiner.lmbdas)
    problem, search = refiner.begin(model.variables, pixels, whole, RATE, lmbdas)
    y, _ = refiner.refine(model.variables, pixels, shape, RATE, 4)
    before = loss_of(refiner, model, problem, search.y_hat)
    assert loss_of(refiner, model, problem, y[None].astype(jnp.float32)) < before - 1  # bits
    moved = np.flatnonzero(np.any(np.asarray(y) != np.asarray(search.y_hat[0]), (0, 2)))
    assert moved.size
    assert moved.min() >= 8 - refinement.TILE


def test_padding_does_not_count(refiner, model, pixels):
    problem, y_hat = begin(refiner, model, pixels)
    other = np.array(problem.x)
    other[:, INSIDE[0] :], other[:, :, INSIDE[1] :] = 0, 1
    changed = problem._replace(x=jnp.asarray(other))
    assert loss_of(refiner, model, changed, y_hat) == loss_of(refiner, model, problem, y_hat)
    other[0, INSIDE[0] - 1, INSIDE[1] - 1] += 0.5
    changed = problem._replace(x=jnp.asarray(other))
    assert loss_of(refiner, model, changed, y_hat) != loss_of(refiner, model, problem, y_hat)


def test_efforts_and_rates_share_what_is_compiled(refiner, model, pixels):
    refiner.refine(model.variables, pixels, (1, 20), np.array([0.0], np.float32), 1)
    compiled = Refiner.begin._cache_size(), Refiner.move._cache_size()
    for effort, quality in ((2, 2.0), (5, 0.3)):
        refiner.refine(model.variables, pixels, (effort, 20), np.array([quality], np.float32), effort)
    assert (Refiner.begin._cache_size(), Refiner.move._cache_size()) == compiled


def test_models_of_other_lambdas_share_what_is_compiled(model, pixels):
    single = drawn_model(dataclasses.replace(SMALL, lmbdas=()))
    found, compiled = [], set()
    for lmbda in (64.0, 4096.0):
        refiner = Refiner(single.config, (lmbda,))
        found.append(refiner.refine(single.variables, pixels, INSIDE, RATE, 3)[0])
        compiled.add((Refiner.begin._cache_size(), Refiner.move._cache_size()))
    assert len(compiled) == 1
    assert np.abs(found[0]).sum() < np.abs(found[1]).sum()  # at a low lambda bits count for more


def test_the_lambda_of_a_single_rate_is_read_from_its_file():
    model = drawn_model(dataclasses.replace(SMALL, lmbdas=()))
    noted = dataclasses.replace(model, notes={"training": json.dumps({"lmbda": 512, "distortion": "mse"})})
    assert trained_lmbdas(noted) == (512.0,)


NOTES = [
    "",
    "{",
    "[1]",
    "{}",
    '{"lmbda": "much"}',
    '{"lmbda": 0}',
    "[" * 100_000,
    '{"lmbda": 1' + 400 * "0" + "}",
]


@pytest.mark.parametrize("notes", NOTES)
def test_a_model_without_a_lambda_is_refused(notes):
    model = drawn_model(dataclasses.replace(SMALL, lmbdas=()))
    with pytest.raises(ValueError, match="says its lambda"):
        trained_lmbdas(dataclasses.replace(model, notes={"training": notes}))


def test_a_model_of_another_distortion_is_refused(model):
    noted = dataclasses.replace(model, notes={"training": json.dumps({"distortion": "ms_ssim"})})
    with pytest.raises(ValueError, match="trained for ms_ssim"):
        refiner_of(noted)


@pytest.mark.parametrize("effort", [-1, 1_001])
def test_an_effort_out_of_range_is_refused(model, effort):
    codec = pytest.importorskip("ltchm_jax.codec")
    with pytest.raises(ValueError, match="`effort` must be an integer of 0 to 1000"):
        codec.Codec(model, effort=effort)


def test_refined_streams_are_like_any_other(model):
    """A codec without effort reads them, blocks and all, and finds the latents that were refined."""
    codec = pytest.importorskip("ltchm_jax.codec")
    pytest.importorskip("tensorflow_compression_ops")
    plain, refining = codec.Codec(model, block_size=48), codec.Codec(model, block_size=48, effort=3)
    x = draw_scene(70, 41, 3)[..., :3]
    data, first = refining.compress(x, 1.0), plain.compress(x, 1.0)
    assert plain.decompress(data).shape == x.shape
    assert data != first

    def cost(stream):
        return 8 * len(stream) + 512 / 3 * np.sum((plain.decompress(stream) / 255 - x / 255) ** 2)

    assert cost(data) < cost(first)
    single = x[:40, :33]
    y, _ = refining.blocks.latents(single, codec.QUALITY_STEPS)
    shown = np.asarray(plain.blocks.synthesise(0, y, codec.QUALITY_STEPS))[:40, :33]
    np.testing.assert_array_equal(plain.decompress(refining.compress(single, 1.0)), shown)
