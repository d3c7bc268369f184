"""Training as pure functions: a state, an optimiser, one step under pmap (paper section 3.1)."""

import dataclasses
import functools
import os
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ltchm_jax.devices import on_host
from ltchm_jax.garbage import rarely_collected
from ltchm_jax.losses import Losses, check_distortion, lmbda_at, psnr, rate_distortion, rate_weights
from ltchm_jax.model import (
    LTCHM,
    ROUNDINGS,
    Y_STRIDE,
    Z_STRIDE,
    ModelConfig,
    abstract_variables,
    init_variables,
)

AXIS = "batch"  # of pmap
Metrics = dict[str, jax.Array]


class NonFiniteLoss(RuntimeError):
    """The loss, or a gradient, is not a finite number any more."""


@flax.struct.dataclass
class TrainState:
    """All that a step reads and writes; `ema` is None where averaging is off."""

    step: jax.Array  # int32, steps taken
    weights: jax.Array  # float32 [P], all parameters as one vector (see `unravel`)
    batch_stats: Any
    opt_state: Any
    ema: Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What of the configuration the step is compiled for; hashable."""

    model: ModelConfig
    seed: int
    lmbda: float
    dtype: str
    ema: float
    accumulate: int
    remat: bool
    distortion: str
    rounding: str
    rate_balance: float

    @classmethod
    def from_config(cls, config: Any) -> "Recipe":
        """Raises ValueError for a field that the model does not know, or a value out of its rule."""
        if config.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"`dtype` must be float32 or bfloat16, got {config.dtype!r}.")
        if config.rounding not in ROUNDINGS:
            raise ValueError(f"`rounding` must be one of {', '.join(ROUNDINGS)}, got {config.rounding!r}.")
        if not 0 <= config.rate_balance <= 1:
            raise ValueError(f"`rate_balance` must be 0 to 1, got {config.rate_balance}.")
        if config.rate_balance and not config.model.lmbdas:
            raise ValueError(
                "`rate_balance` is for a model of several rates: set --config.model.lmbdas, or 0."
            )
        check_distortion(config.distortion, config.data.crop)
        return cls(
            model=ModelConfig.from_dict(config.model.to_dict()),
            seed=config.seed,
            lmbda=float(config.lmbda),
            dtype=config.dtype,
            ema=float(config.ema),
            accumulate=config.accumulate,
            remat=config.remat,
            distortion=config.distortion,
            rounding=config.rounding,
            rate_balance=float(config.rate_balance),
        )


def learning_rate(config: Any) -> optax.Schedule:
    """Rate by updates taken. 'step': x0.1 after `decay_at` updates at the full rate, as released."""
    if config.schedule == "step":
        if config.warmup:
            raise ValueError(
                "`warmup` is for the cosine: set --config.schedule=cosine, or --config.warmup=0."
            )
        return optax.piecewise_constant_schedule(config.learning_rate, {config.decay_at: 0.1})
    if config.schedule == "cosine":
        if config.warmup >= config.steps:
            raise ValueError(f"`warmup` must be less than `steps` ({config.steps}), got {config.warmup}.")
        return optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, config.warmup, config.steps, 0.01 * config.learning_rate
        )
    raise ValueError(f"`schedule` must be step or cosine, got {config.schedule!r}.")


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Adam after the clips that are on, all weights as one vector: 300 arrays take minutes to compile."""
    value = optax.clip(config.clip_value) if config.clip_value else optax.identity()
    norm = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(value, norm, optax.adam(learning_rate(config)))


def init_state(recipe: Recipe, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, of new weights."""
    return state_from(init_variables(recipe.model, jax.random.key(recipe.seed)), recipe, optimizer)


def state_from(variables: Any, recipe: Recipe, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, of given variables."""
    weights, batch_stats = ravel(variables["params"]), variables.get("batch_stats", {})
    ema = jnp.copy(weights) if recipe.ema else None
    return TrainState(jnp.zeros((), jnp.int32), weights, batch_stats, optimizer.init(weights), ema)


def ravel(params: Any) -> jax.Array:
    """A tree of parameters as one vector.

    Optimisers, averages and norms then are a handful of loops over one array, where 300 arrays of 100 shapes
    take minutes to compile.
    """
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(params)])


def unravel(model: ModelConfig, weights: jax.Array) -> Any:
    """The inverse of `ravel` for the parameters of a model."""
    leaves, tree = jax.tree.flatten(abstract_variables(model)["params"])
    sizes = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(weights, sizes)
    return jax.tree.unflatten(
        tree, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )


def image_keys(recipe: Recipe, step: jax.Array, images: int) -> jax.Array:
    """A random key for each of this device's images [B], by step and by place in the whole batch.

    So an image gets the same noise and rate on one device, on many, and in a part of an accumulated batch.
    """
    places = lax.axis_index(AXIS) * images + jnp.arange(images)
    key = jax.random.fold_in(jax.random.key(recipe.seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def draw_rates(recipe: Recipe, keys: jax.Array) -> tuple[jax.Array | None, jax.Array]:
    """Quality and lmbda of every image, each [B], from keys [B]: uniform over the qualities of a
    variable-rate model."""
    lmbdas = recipe.model.lmbdas
    if not lmbdas:
        return None, jnp.full(keys.shape, recipe.lmbda)
    quality = jax.vmap(lambda key: jax.random.uniform(key, maxval=float(len(lmbdas) - 1)))(keys)
    return quality, lmbda_at(lmbdas, quality)


def to_unit(images: jax.Array) -> jax.Array:
    """uint8 -> float32 in 0..1. ValueError for any other type."""
    if images.dtype != jnp.uint8:
        raise ValueError(
            f"Images to train on must be uint8, got {images.dtype}: they are divided by 255 here."
        )
    return images.astype(jnp.float32) / 255


def loss_fn(
    params: Any, batch_stats: Any, images: jax.Array, keys: jax.Array, recipe: Recipe
) -> tuple[jax.Array, tuple[Any, Losses]]:
    """Mean loss of uint8 images [B, H, W, bands] with noise for rounding; new batch statistics and parts.

    Losses count by their rate (`rate_weights`); the parts, one for each image, are as they are.
    """
    keys_y, keys_z, keys_rate = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
    x = to_unit(images)
    quality, lmbda = draw_rates(recipe, keys_rate)
    model = LTCHM(recipe.model, AXIS, recipe.remat)
    output, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        x.astype(recipe.dtype),
        quality,
        _noise(recipe.model, x.shape, keys_y, keys_z),
        train=True,
        rounding=recipe.rounding,
        mutable=["batch_stats"],
    )
    losses = rate_distortion(output, x, lmbda, recipe.model.mixture, recipe.distortion)
    counts = rate_weights(recipe.model.lmbdas, quality, recipe.rate_balance)
    return jnp.mean(counts * losses.loss), (updates.get("batch_stats", {}), losses)


def _noise(config: ModelConfig, shape: tuple[int, ...], keys_y: jax.Array, keys_z: jax.Array) -> tuple:
    y_size, z_size = ([-(-n // stride) for n in shape[1:3]] for stride in (Y_STRIDE, Z_STRIDE))

    def draw(keys: jax.Array, *shape: int) -> jax.Array:
        return jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-0.5, maxval=0.5))(keys)

    return draw(keys_y, *y_size, config.latent_channels), draw(keys_z, *z_size, config.width)


def gradients(
    state: TrainState, images: jax.Array, keys: jax.Array, recipe: Recipe
) -> tuple[jax.Array, Any, Losses]:
    """Mean gradient [P] of this device's images, the batch statistics after them, and their mean losses.

    The images are taken in `recipe.accumulate` parts, one after the other, which need that much less memory.
    The gradient is the same but for one thing: batch normalisation sees a part (over all devices) rather
    than the batch, and the running statistics move once for each part, in order.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    params = unravel(recipe.model, state.weights)

    def add(carry: tuple, part: tuple) -> tuple[tuple, None]:
        batch_stats, *sums = carry
        (_, (batch_stats, losses)), grads = grad_fn(params, batch_stats, *part, recipe)
        new = ravel(grads), Losses(*map(jnp.mean, losses))
        return (batch_stats, *jax.tree.map(jnp.add, tuple(sums), new)), None

    count = recipe.accumulate
    zeros = jnp.zeros_like(state.weights), Losses(*[jnp.zeros(())] * len(Losses._fields))
    parts = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), (images, keys))
    if count == 1:
        carry, _ = add((state.batch_stats, *zeros), (images, keys))
    else:
        carry, _ = lax.scan(add, (state.batch_stats, *zeros), parts)
    batch_stats, *sums = carry
    gradient, losses = jax.tree.map(lambda total: total / count, sums)
    return gradient, batch_stats, losses


def train_step(
    state: TrainState, images: jax.Array, recipe: Recipe, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """One update from this device's share of the batch; to be mapped over axis 'batch'.

    Args:
      state: the same on every device.
      images: uint8 [B / devices, H, W, bands].

    Returns:
      The next state and metrics, both averaged over devices.
    """
    keys = image_keys(recipe, state.step, len(images))
    gradient, batch_stats, losses = gradients(state, images, keys, recipe)
    gradient, means = average(gradient, losses)
    update, opt_state = optimizer.update(gradient, state.opt_state)
    weights = state.weights + update
    norms = {"grad_norm": gradient, "param_norm": weights, "update_norm": update}
    metrics = summarise(means) | {name: jnp.linalg.norm(vector) for name, vector in norms.items()}
    ema = state.ema if state.ema is None else recipe.ema * state.ema + (1 - recipe.ema) * weights
    return TrainState(state.step + 1, weights, batch_stats, opt_state, ema), metrics


def average(gradient: jax.Array, losses: Losses) -> tuple[jax.Array, Losses]:
    """Means over the devices of a gradient [P] and of scalars, in one message.

    Many small ones cost more, and devices on a CPU may take them in different orders and mix them up.
    """
    count = len(losses)
    joined = lax.pmean(jnp.concatenate([gradient, jnp.stack(losses)]), AXIS)
    return joined[:-count], Losses(*joined[-count:])


def summarise(losses: Losses) -> Metrics:
    """Mean losses as named numbers, PSNR of the mean error in dB among them."""
    named = losses._asdict()
    return named | {"bpp": losses.bpp_y + losses.bpp_z, "psnr": psnr(losses.mse)}


def eval_step(
    params: Any, batch_stats: Any, images: jax.Array, quality: jax.Array | None, recipe: Recipe
) -> tuple[Losses, jax.Array]:
    """Losses [B] of uint8 images with rounding and running statistics, and what becomes of them, uint8.

    `quality` is [B] for a variable-rate model, else None.
    """
    x = to_unit(images)
    lmbda = (
        jnp.full((x.shape[0],), recipe.lmbda) if quality is None else lmbda_at(recipe.model.lmbdas, quality)
    )
    output: Any = LTCHM(recipe.model).apply({"params": params, "batch_stats": batch_stats}, x, quality)
    losses = rate_distortion(output, x, lmbda, recipe.model.mixture, recipe.distortion)
    return losses, jnp.round(255 * jnp.clip(output.x_hat, 0, 1)).astype(jnp.uint8)


class Trainer:
    """The compiled steps on this process's devices; holds no state but the compiled functions."""

    def __init__(self, config: Any) -> None:
        parts = jax.device_count() * config.accumulate
        if config.batch_size % parts:
            raise ValueError(
                f"`batch_size` must be a multiple of {jax.device_count()} devices times `accumulate` "
                f"({config.accumulate}), got {config.batch_size}."
            )
        self.recipe, self.devices = Recipe.from_config(config), jax.local_device_count()
        self.optimizer = make_optimizer(config)
        self._step = jax.pmap(
            lambda state, images: train_step(state, images, self.recipe, self.optimizer),
            AXIS,
            donate_argnums=0,
        )
        self._options = compiler_options()
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._eval = jax.jit(functools.partial(eval_step, recipe=self.recipe))

    def init(self, variables: Any = None) -> TrainState:
        """The first state, on the host: of these variables, or of new ones."""
        with on_host():
            if variables is not None:
                return jax.device_get(state_from(variables, self.recipe, self.optimizer))
            return jax.device_get(init_state(self.recipe, self.optimizer))

    def params(self, state: TrainState) -> Any:
        """The parameters that a host state stands for: the averaged ones if there are any."""
        return unravel(self.recipe.model, state.weights if state.ema is None else state.ema)

    def replicate(self, state: TrainState) -> TrainState:
        """A host state -> one copy on every local device, laid out as the steps return it.

        That is left to `pmap` itself: with another layout the second step would compile again.
        """
        copies = jax.tree.map(lambda leaf: np.stack([leaf] * self.devices), state)
        return jax.pmap(lambda state: state, AXIS)(copies)

    def step(self, state: TrainState, images: np.ndarray) -> tuple[TrainState, Metrics]:
        """`train_step` of a replicated state on this host's uint8 [B, H, W, bands]; metrics per device."""
        images = images.reshape(self.devices, -1, *images.shape[1:])
        if not self._options:
            return self._step(state, images)
        if images.shape not in self._compiled:
            with rarely_collected():
                lowered = self._step.lower(state, images)
            self._compiled[images.shape] = lowered.compile(compiler_options=self._options)
        return self._compiled[images.shape](state, images)

    def validate(self, state: TrainState, batches: list[np.ndarray]) -> dict[str, float]:
        """Mean losses of a host state over batches, and for a variable-rate model over its rates in turn."""
        params, rows = self.params(state), []
        for level in range(len(self.recipe.model.lmbdas) or 1):
            for images in batches:
                losses, _ = self._eval(params, state.batch_stats, images, self._quality(level, images))
                rows.append(jax.device_get(losses))
        names = Losses._fields
        means = {name: np.mean([getattr(row, name) for row in rows]) for name in names}
        return {k: float(v) for k, v in summarise(Losses(**means)).items()}

    def reconstruct(self, state: TrainState, images: np.ndarray) -> np.ndarray:
        """What a host state makes of a validation batch, uint8; of several rates it takes the middle."""
        quality = self._quality((len(self.recipe.model.lmbdas) - 1) / 2, images)
        return np.asarray(self._eval(self.params(state), state.batch_stats, images, quality)[1])

    def _quality(self, level: float, images: np.ndarray) -> np.ndarray | None:
        return np.full(len(images), level, np.float32) if self.recipe.model.lmbdas else None


def compiler_options() -> dict[str, int]:
    """What the step is compiled with: on a CPU, LLVM's first level, unless XLA_FLAGS names another.

    The step is as fast as at the third, XLA's own choice, and compiles in four fifths of the time. Empty for
    a run of several processes: the newest JAX does not call what was compiled ahead with their local arrays.
    """
    level = "xla_backend_optimization_level"
    single = jax.default_backend() == "cpu" and jax.process_count() == 1
    return {level: 1} if single and level not in os.environ.get("XLA_FLAGS", "") else {}


def check_finite(metrics: dict[str, float], first: int, last: int) -> None:
    """Raises NonFiniteLoss if a metric of steps first..last is not a finite number."""
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        raise NonFiniteLoss(
            f"Training stops: {', '.join(bad)} not finite between steps {first} and {last}; "
            "resume from an earlier checkpoint with a lower learning_rate or clip_norm."
        )
