"""Fitting the entropy model and the gains alone to the latents of a transform that stays as it is.

They are the cheap part of the model, at a sixteenth of the image's sides and less. Where the transforms are
good and the entropy model knows nothing, its gradient would teach them to say less before it has learned to
say it well: so it goes first. A linear start is orthonormal but for a scale: errors are measured on latents.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ltchm_jax.linear_start import latent_scale
from ltchm_jax.losses import code_lengths
from ltchm_jax.model import LTCHM, ModelConfig
from ltchm_jax.training import lmbda_at, to_unit

TRANSFORMS = ("g_a", "g_s")  # what stays as it is
BATCH = 8
LEARNING_RATE = 1e-3  # Adam's, at first; a cosine takes it to nothing

Tree = dict[str, Any]


def fit_entropy_model(
    config: ModelConfig, variables: Tree, images: np.ndarray, lmbda: float, steps: int, key: jax.Array
) -> tuple[Tree, float]:
    """Descends rate + lmbda * MSE in all parameters but those of the transforms.

    Args:
      variables: of a linear start.
      images: uint8 [N, H, W, bands], sides multiples of 64; a step takes 8 of them at random qualities.
      lmbda: of a model of one rate; a variable-rate model has its own.
      steps: 1 or more.
      key: draws images, qualities and noise.

    Returns:
      The variables, and the mean loss of the last tenth of the steps.
    """
    params, others = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    fixed = {name: params[name] for name in TRANSFORMS}
    free = {name: part for name, part in params.items() if name not in fixed}
    latents = _latents(config, variables, images)
    optimizer = optax.flatten(optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps)))
    losses = nn.apply(functools.partial(_losses, lmbda=lmbda), LTCHM(config))

    def loss(free: Tree, key: jax.Array) -> jax.Array:
        chosen = latents[jax.random.randint(key, (BATCH,), 0, len(latents))]
        variables = {"params": fixed | free} | others
        return jnp.mean(losses(variables, chosen, jax.random.fold_in(key, 1)))

    @jax.jit
    def step(free: Tree, state: Any, key: jax.Array) -> tuple[Tree, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(free, key)
        update, state = optimizer.update(gradient, state)
        return optax.apply_updates(free, update), state, value

    state, values = optimizer.init(free), []
    for i in range(steps):
        free, state, value = step(free, state, jax.random.fold_in(key, i))
        values.append(value)
    found = np.mean(jax.device_get(values[-max(1, steps // 10) :]))
    return others | {"params": fixed | jax.device_get(free)}, float(found)


def _latents(config: ModelConfig, variables: Tree, images: np.ndarray) -> jax.Array:
    """y [N, H/16, W/16, M] of uint8 images before any gain."""
    analyse = jax.jit(nn.apply(lambda model, x: model.g_a(to_unit(x)), LTCHM(config)))
    parts = np.split(images, range(BATCH, len(images), BATCH))
    return jnp.concatenate([analyse(variables, part) for part in parts])


def _losses(model: LTCHM, y: jax.Array, key: jax.Array, lmbda: float) -> jax.Array:
    """bpp + lmbda * MSE [B] of y [B, h, w, M] with noise for rounding, each image at a quality of its own."""
    of_quality, of_y, of_z = jax.random.split(key, 3)
    lmbdas, pixels = model.config.lmbdas, 256 * y.shape[1] * y.shape[2]
    scale = latent_scale(model.config, lmbda)
    quality, gain, inverse, weight = None, jnp.ones(()), jnp.ones(()), jnp.asarray(lmbda)
    if lmbdas:
        quality = jax.random.uniform(of_quality, (len(y),), maxval=len(lmbdas) - 1.0)
        gain, inverse = (model.gain_y(quality, back, y.dtype) for back in (False, True))
        weight = lmbda_at(lmbdas, quality)
    z = model.hyper_analyse(y * gain, quality)
    y_hat = y * gain + jax.random.uniform(of_y, y.shape, minval=-0.5, maxval=0.5)
    z_hat = z + jax.random.uniform(of_z, z.shape, minval=-0.5, maxval=0.5)
    bits_y, bits_z = code_lengths(y_hat, *model.probabilities(y_hat, z_hat, quality), model.config.mixture)
    error = jnp.sum(jnp.square((y_hat * inverse - y) / scale), (1, 2, 3)) / (pixels * model.config.bands)
    return (bits_y + bits_z) / pixels + weight * error
