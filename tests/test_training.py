"""Training as pure functions: a step learns, compiles once, and is the same on two devices as on one."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_model import small_config

from ltchm_jax import training
from ltchm_jax.losses import Losses, lmbda_at, rate_distortion, rate_weights
from ltchm_jax.model import LTCHM
from ltchm_jax.training import (
    AXIS,
    NonFiniteLoss,
    Recipe,
    Trainer,
    check_finite,
    draw_rates,
    init_state,
    learning_rate,
    make_optimizer,
    ravel,
    summarise,
    train_step,
    unravel,
)


def photos(count: int, seed: int = 0, size: int = 64) -> np.ndarray:
    """Smooth pictures, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, size // 16, size // 16, 3))
    return np.kron(coarse, np.ones((1, 16, 16, 1))).astype(np.uint8)


def learns(trainer: Trainer, steps: int) -> tuple[list[dict], training.TrainState]:
    """The metrics of some steps on one batch, and where they lead."""
    state, rows = trainer.replicate(trainer.init()), []
    for _ in range(steps):
        state, metrics = trainer.step(state, photos(2))
        rows.append({name: float(value[0]) for name, value in metrics.items()})
    return rows, jax.tree.map(lambda leaf: np.asarray(leaf[0]), state)


@pytest.fixture(scope="module")
def run() -> tuple[list[dict], training.TrainState, int, Trainer]:
    """Twelve steps of the small model on both devices, and how often the loss was traced."""
    traces, original = [], training.loss_fn

    def counted(*args):
        traces.append(args)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "loss_fn", counted)
        patch.setattr(training, "compiler_options", lambda: {"xla_backend_optimization_level": 0})
        fields = {"ema": 0.5, "schedule": "step", "clip_value": 0.0, "model.lmbdas": (64.0, 256.0)}
        trainer = Trainer(small_config(**fields))
        rows, state = learns(trainer, 12)
    return rows, state, len(traces), trainer


def test_a_few_steps_lower_the_error(run):
    rows = run[0]
    assert np.mean([row["mse"] for row in rows[-3:]]) < 0.7 * rows[0]["mse"]


def test_the_step_compiles_once(run):
    """The gradient traces the loss once, and no step after the first does so again."""
    assert run[2] == 1


def test_metrics_hang_together(run):
    for row in run[0]:
        assert row["bpp"] == pytest.approx(row["bpp_y"] + row["bpp_z"], rel=1e-5)
        assert row["psnr"] == pytest.approx(-10 * np.log10(row["mse"]), rel=1e-4)
        assert row["update_norm"] > 0
        assert row["grad_norm"] > 0
    assert int(run[1].step) == 12


def test_norms_are_those_of_the_vectors(run):
    trainer = run[3]
    first = trainer.init()
    before, images = np.array(first.weights), photos(2)
    state, metrics = trainer.step(trainer.replicate(first), images)
    after = np.asarray(state.weights)[0]
    gradient = 10 * np.asarray(optax.tree_utils.tree_get(state.opt_state, "mu"))[0]  # Adam kept a tenth of it
    norms = {"param_norm": after, "update_norm": after - before, "grad_norm": gradient}
    for name, vector in norms.items():
        assert float(metrics[name][0]) == pytest.approx(np.linalg.norm(vector), rel=1e-3), name


def test_images_have_their_own_noise_on_any_number_of_devices(run):
    trainer = run[3]
    state = trainer.replicate(trainer.init())
    state, _ = trainer.step(state, photos(2))
    weights = np.asarray(state.weights)
    np.testing.assert_array_equal(weights[0], weights[1])

    (y, z), (y_next, _) = (noise_on(2, trainer.recipe, step) for step in (7, 8))
    assert y.shape == (4, 4, 4, 32)
    assert z.shape == (4, 1, 1, 32)
    assert len({image.tobytes() for image in (*y, *y_next)}) == 8
    assert -0.5 <= y.min() < -0.4 < 0.4 < y.max() < 0.5
    jax.tree.map(np.testing.assert_array_equal, noise_on(1, trainer.recipe, 7), (y, z))


def noise_on(count: int, recipe: Recipe, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The noise of y and z of a batch of four images on so many devices."""

    def noise(_):
        keys = training.image_keys(recipe, step, 4 // count)
        return training._noise(recipe.model, (len(keys), 64, 64, 3), keys, keys)

    drawn = jax.pmap(noise, AXIS, devices=jax.local_devices()[:count])(np.zeros(count))
    return tuple(np.concatenate(np.asarray(part)) for part in drawn)


def test_the_average_lags_behind_the_weights(run):
    _, state, _, trainer = run
    assert state.ema.shape == state.weights.shape
    assert np.abs(state.ema - state.weights).max() > 0
    averaged = jax.tree.leaves(trainer.params(state))
    np.testing.assert_array_equal(np.concatenate([leaf.ravel() for leaf in averaged]), state.ema)


def test_validation_repeats_itself(run):
    _, state, _, trainer = run
    first, again = (trainer.validate(state, [photos(2, seed=5)]) for _ in range(2))
    assert first == again
    assert set(first) == {"loss", "bpp_y", "bpp_z", "mse", "distortion", "bpp", "psnr"}


def test_validation_is_the_mean_over_rates_of_rounded_latents(run):
    _, state, _, trainer = run
    images, model = photos(2, seed=5), LTCHM(trainer.recipe.model)
    variables = {"params": trainer.params(state), "batch_stats": state.batch_stats}
    losses = []
    for level, lmbda in enumerate((64.0, 256.0)):
        output = model.apply(variables, training.to_unit(images), jnp.full(2, float(level)))
        np.testing.assert_array_equal(output.y_hat, np.round(output.y))
        losses += [*rate_distortion(output, training.to_unit(images), jnp.full(2, lmbda)).loss]
    assert trainer.validate(state, [images])["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(losses[0]) != pytest.approx(float(losses[2]), rel=0.01)


def on_devices(count: int, config, steps: int, batch: int = 4) -> tuple[np.ndarray, training.TrainState]:
    """Losses and final state after plain gradient steps: Adam would divide rounding noise by its own size."""
    recipe, optimizer = Recipe.from_config(config), optax.sgd(1e-3)
    devices = jax.local_devices()[:count]
    step = jax.pmap(lambda s, x: train_step(s, x, recipe, optimizer), AXIS, devices=devices)
    first = jax.device_get(init_state(recipe, optimizer))
    state = jax.tree.map(lambda leaf: np.stack([leaf] * count), first)
    rows = []
    for i in range(steps):
        images = photos(batch, seed=i)
        state, metrics = step(state, images.reshape(count, batch // count, *images.shape[1:]))
        rows.append([float(metrics[name][0]) for name in ("loss", "bpp_y", "bpp_z", "mse", "grad_norm")])
    return np.array(rows), jax.tree.map(lambda leaf: np.asarray(leaf[0]), state)


@functools.cache
def plain_steps() -> tuple[np.ndarray, training.TrainState]:
    """Three steps of the small model on one device."""
    return on_devices(1, small_config(), 3)


def assert_same_steps(got: tuple, want: tuple, config) -> None:
    """Each step's losses, and where the weights and statistics end."""
    np.testing.assert_allclose(got[0], want[0], rtol=2e-4)
    start = init_state(Recipe.from_config(config), optax.sgd(1e-3)).weights
    moved = np.linalg.norm(want[1].weights - start)
    assert moved > 0
    assert np.linalg.norm(got[1].weights - want[1].weights) < 1e-3 * moved
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, got[1].batch_stats, want[1].batch_stats)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "fields"),
    [(2, {}), (1, {"accumulate": 4}), (2, {"accumulate": 2}), (1, {"remat": True})],
    ids=["two devices", "four parts", "two parts on each of two devices", "rematerialised"],
)
def test_the_steps_are_the_same_however_they_are_computed(devices, fields):
    config = small_config(**fields)
    assert_same_steps(on_devices(devices, config, 3), plain_steps(), config)


@pytest.mark.slow
def test_two_devices_share_batch_statistics_as_one():
    """With dynamic attention, whose batch normalisation sees the whole batch, and rematerialised at that."""
    places = {"model.attention_at_analysis": (16,), "model.attention_at_synthesis": ()}
    plain, remat = (small_config(remat=r, **{"model.attention": "dam"} | places) for r in (False, True))
    assert_same_steps(on_devices(2, remat, 2), on_devices(1, plain, 2), plain)


def test_parts_of_a_batch_move_the_running_statistics_in_turn(monkeypatch):
    """Their gradients and losses are averaged."""

    def toy(weights, stats, images, keys, recipe):
        light = jnp.mean(training.to_unit(images))
        loss = light * jnp.sum(weights)
        return loss, (stats / 2 + light, Losses(*[jnp.stack([loss, loss])] * len(Losses._fields)))

    monkeypatch.setattr(training, "loss_fn", toy)
    monkeypatch.setattr(training, "unravel", lambda _, weights: weights)
    recipe = Recipe.from_config(small_config(accumulate=3))
    state = training.TrainState(jnp.zeros(()), jnp.ones(2), jnp.float32(8), None, None)
    images = np.repeat(np.uint8([0, 51, 102]), 2)[:, None, None, None]  # 0, 0.2 and 0.4
    keys = jax.random.split(jax.random.key(0), 6)
    gradient, stats, losses = training.gradients(state, images, keys, recipe)
    np.testing.assert_allclose(gradient, [0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(losses.loss, 0.4, rtol=1e-6)
    np.testing.assert_allclose(stats, ((8 / 2) / 2 + 0.2) / 2 + 0.4, rtol=1e-6)


def kept_for_the_gradient(remat: bool) -> int:
    """Values that the backward pass of the small model needs from the forward pass."""
    model = LTCHM(Recipe.from_config(small_config()).model, None, remat)
    x = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    kept = jax.eval_shape(lambda v: jax.vjp(lambda v: model.apply(v, x).x_hat, v)[1], variables)
    return sum(leaf.size for leaf in jax.tree.leaves(kept))


def test_rematerialisation_keeps_less_for_the_gradient():
    assert kept_for_the_gradient(True) < 0.6 * kept_for_the_gradient(False)


def test_bfloat16_keeps_weights_and_losses_in_float32():
    config = small_config(dtype="bfloat16")
    recipe, optimizer = Recipe.from_config(config), make_optimizer(config)
    state = jax.eval_shape(lambda: init_state(recipe, optimizer))
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
    step = jax.vmap(lambda s, x: train_step(s, x, recipe, optimizer), axis_name=AXIS, axis_size=1)
    add = functools.partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype))
    after, metrics = jax.eval_shape(step, add(state), add(images))
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)
    assert {leaf.dtype for leaf in metrics.values()} == {jnp.dtype("float32")}


def handed_on(monkeypatch, step: str, **fields) -> dict:
    """What `loss_fn` or `eval_step` of a configuration hands to the model and to the loss."""
    seen, apply, losses = {}, LTCHM.apply, training.rate_distortion

    def model(self, variables, x, *rest, **named):
        seen.update(dtype=str(x.dtype), rounding=named.get("rounding", "noise"))
        return apply(self, variables, x, *rest, **named)

    def loss(output, x, lmbda, mixture, distortion="mse"):
        seen.update(distortion=distortion)
        return losses(output, x, lmbda, mixture, distortion)

    recipe = Recipe.from_config(small_config(**{"data.crop": 192} | fields))
    variables = jax.eval_shape(lambda: training.init_variables(recipe.model, jax.random.key(0)))
    images, keys = (
        jax.ShapeDtypeStruct(s, d) for s, d in (((1, 192, 192, 3), np.uint8), ((1, 2), np.uint32))
    )
    monkeypatch.setattr(LTCHM, "apply", model)
    monkeypatch.setattr(training, "rate_distortion", loss)
    if step == "loss_fn":
        run = functools.partial(training.loss_fn, recipe=recipe)
        wrap = jax.random.wrap_key_data
        jax.eval_shape(lambda p, i, k: run(p, {}, i, wrap(k)), variables["params"], images, keys)
    else:
        run = functools.partial(training.eval_step, quality=None, recipe=recipe)
        jax.eval_shape(lambda p, i: run(p, {}, i), variables["params"], images)
    return seen


@pytest.mark.parametrize(
    "field", [{}, {"dtype": "bfloat16"}, {"rounding": "straight"}, {"distortion": "ms_ssim"}]
)
def test_fields_of_a_configuration_reach_model_and_loss(monkeypatch, field):
    usual = {"dtype": "float32", "rounding": "noise", "distortion": "mse"}
    assert handed_on(monkeypatch, "loss_fn", **field) == usual | field


@pytest.mark.parametrize("field", [{"dtype": "bfloat16"}, {"distortion": "ms_ssim"}])
def test_validation_is_of_the_same_distortion_in_float32(monkeypatch, field):
    seen = handed_on(monkeypatch, "eval_step", **field)
    assert (seen["dtype"], seen["distortion"]) == ("float32", field.get("distortion", "mse"))


@pytest.mark.parametrize(("updates", "want"), [(0, 1e-4), (99_999, 1e-4), (100_000, 1e-5), (199_999, 1e-5)])
def test_the_step_schedule_falls_after_exactly_decay_at_updates(updates, want):
    """The 100,000th update is the last at the full rate; a schedule counts those before it."""
    rate = learning_rate(small_config(schedule="step", decay_at=100_000, learning_rate=1e-4))
    assert float(rate(jnp.int32(updates))) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    ("updates", "want"), [(0, 0), (5, 0.5), (10, 1.0), (60, 0.505), (110, 0.01), (500, 0.01)]
)
def test_the_cosine_schedule_warms_up_and_ends_at_a_hundredth(updates, want):
    rate = learning_rate(small_config(schedule="cosine", warmup=10, steps=110, learning_rate=1.0))
    assert float(rate(jnp.int32(updates))) == pytest.approx(want, abs=1e-6)


def clipped(gradient: list[float], **fields) -> np.ndarray:
    """What reaches Adam, told from its first moment after one update."""
    optimizer = make_optimizer(small_config(schedule="step", **fields))
    weights = jnp.zeros(len(gradient))
    _, state = optimizer.update(jnp.asarray(gradient), optimizer.init(weights))
    (adam,) = (s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu"))
    return np.asarray(adam.mu) / 0.1


def test_clips_by_value_by_norm_and_not_at_all():
    gradient = [3.0, -40.0]
    np.testing.assert_allclose(clipped(gradient, clip_value=5.0, clip_norm=0.0), [3, -5], rtol=1e-5)
    np.testing.assert_allclose(clipped([30.0, -40.0], clip_value=0.0, clip_norm=1.0), [0.6, -0.8], rtol=1e-5)
    np.testing.assert_allclose(clipped(gradient, clip_value=0.0, clip_norm=0.0), gradient, rtol=1e-5)


def test_the_first_update_of_adam_is_the_learning_rate():
    optimizer = make_optimizer(small_config(schedule="step", learning_rate=0.25))
    update, _ = optimizer.update(jnp.array([2.0, -7.0]), optimizer.init(jnp.zeros(2)))
    np.testing.assert_allclose(update, [-0.25, 0.25], rtol=1e-4)


def test_parameters_as_one_vector_and_back():
    config = small_config()
    recipe = Recipe.from_config(config)
    state = init_state(recipe, make_optimizer(config))
    params = unravel(recipe.model, state.weights)
    np.testing.assert_array_equal(ravel(params), state.weights)
    want = training.init_variables(recipe.model, jax.random.key(recipe.seed))["params"]
    jax.tree.map(np.testing.assert_array_equal, params, want)
    assert state.ema is None


def test_rates_are_those_of_their_quality():
    lmbdas = (128.0, 512.0, 2048.0)
    np.testing.assert_allclose(
        lmbda_at(lmbdas, jnp.array([0, 1, 2, 0.5, 1.5])), [128, 512, 2048, 256, 1024], rtol=1e-5
    )
    recipe = Recipe.from_config(small_config(**{"model.lmbdas": lmbdas}))
    quality, lmbda = draw_rates(recipe, jax.random.split(jax.random.key(0), 4000))
    assert 0 <= quality.min() < 0.01
    assert 1.99 < quality.max() < 2
    assert float(jnp.mean(quality)) == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(lmbda, 128 * 4.0 ** np.asarray(quality), rtol=1e-4)


def test_losses_count_by_a_power_of_their_lambda():
    lmbdas, quality = (128.0, 512.0, 2048.0), jnp.array([0, 1, 2, 0.5])
    for balance, want in ((0.0, [1, 1, 1, 1]), (0.5, [2, 1, 0.5, 2**0.5]), (1.0, [4, 1, 0.25, 2])):
        np.testing.assert_allclose(rate_weights(lmbdas, quality, balance), want, rtol=1e-5)
    assert rate_weights((), None, 0.5) == 1  # of one rate


def test_the_loss_of_a_step_is_the_mean_of_losses_as_they_count():
    lmbdas = 128.0, 4096.0
    found, parts = {}, {}
    for balance in (0.0, 0.5):
        recipe = Recipe.from_config(small_config(rate_balance=balance, **{"model.lmbdas": lmbdas}))
        variables = training.init_variables(recipe.model, jax.random.key(0))
        keys = jax.random.split(jax.random.key(5), 3)
        given = variables["params"], variables.get("batch_stats", {}), photos(3), keys
        step = jax.vmap(
            lambda _, given=given, recipe=recipe: training.loss_fn(*given, recipe), axis_name=AXIS
        )
        loss, (_, losses) = step(jnp.zeros(1))
        found[balance], parts[balance] = loss[0], losses.loss[0]
    rates = jax.vmap(lambda key: jax.random.split(key, 3)[2])(keys)
    quality, _ = draw_rates(recipe, rates)
    np.testing.assert_array_equal(parts[0.0], parts[0.5])
    assert found[0.0] == pytest.approx(np.mean(parts[0.0]), rel=1e-6)
    counts = rate_weights(lmbdas, quality, 0.5)
    assert found[0.5] == pytest.approx(np.mean(counts * parts[0.5]), rel=1e-6)
    assert found[0.0] != found[0.5]


def test_one_rate_is_the_same_for_every_image():
    quality, lmbda = draw_rates(
        Recipe.from_config(small_config(lmbda=300.0)), jax.random.split(jax.random.key(0), 3)
    )
    assert quality is None
    np.testing.assert_array_equal(lmbda, [300, 300, 300])


def test_the_psnr_of_a_step_is_that_of_its_mean_error():
    got = summarise(Losses(*(jnp.float32(v) for v in (3, 1, 0.5, 0.01, 0.2))))
    assert float(got["bpp"]) == 1.5
    assert float(got["psnr"]) == pytest.approx(20, rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_stops_with_its_steps(value):
    check_finite({"loss": 1.0, "psnr": -3.0}, 1, 2)
    with pytest.raises(
        NonFiniteLoss, match=r"loss, bpp not finite between steps 51 and 100; resume"
    ) as caught:
        check_finite({"loss": value, "psnr": 30.0, "bpp": value}, 51, 100)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"dtype": "float16"}, "`dtype` must be float32 or bfloat16"),
        ({"schedule": "linear"}, "`schedule` must be step or cosine"),
        ({"warmup": 9, "steps": 9}, r"`warmup` must be less than `steps` \(9\), got 9"),
        ({"rounding": "soft"}, "`rounding` must be one of noise, straight, hard, got 'soft'"),
        ({"rate_balance": -0.1}, "`rate_balance` must be 0 to 1, got -0.1"),
        ({"rate_balance": float("nan")}, "`rate_balance` must be 0 to 1, got nan"),
        ({"distortion": "ssim"}, "`distortion` must be one of mse, ms_ssim, got 'ssim'"),
        ({"distortion": "ms_ssim", "data.crop": 160}, r"`data.crop`\) must be 161 or more .* got 160"),
        ({"batch_size": 3}, "multiple of.* 2 devices"),
        ({"accumulate": 2}, r"multiple of.* `accumulate` \(2\), got 2"),
        ({"model.width": 33}, "`width`"),
        ({"model.attention": "senet"}, "`attention` must be one of"),
    ],
)
def test_a_configuration_out_of_its_rules_is_refused_before_anything_is_computed(fields, line):
    with pytest.raises(ValueError, match=line):
        Trainer(small_config(**fields))


def test_the_first_state_is_made_on_the_host(monkeypatch):
    entered = []

    @contextlib.contextmanager
    def on_host():
        entered.append(True)
        yield

    monkeypatch.setattr(training, "on_host", on_host)
    Trainer(small_config()).init()
    assert entered


def test_images_that_were_divided_already_are_refused():
    with pytest.raises(ValueError, match="must be uint8, got float32"):
        training.to_unit(np.zeros((1, 64, 64, 3), np.float32))
