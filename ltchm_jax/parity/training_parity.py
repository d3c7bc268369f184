"""Parity of one training step with a golden file: loss, gradients, BatchNorm statistics, and what follows."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ltchm_jax.interop import COUNTER, MASKED, Imported, to_reference
from ltchm_jax.losses import Losses, rate_distortion
from ltchm_jax.model import LTCHM
from ltchm_jax.parity.comparison import (
    COMPILER,
    Row,
    check_names,
    check_shapes,
    compare,
    images,
    member,
    nhwc,
    section,
)

LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
STEP_TOLERANCE = 1e-3
LEARNING_RATE, CLIP = 1e-4, 5.0

# Golden norms known to be wrong: what is stored, and what float64 autograd and finite differences agree on.
CORRECTIONS = {"priorDecoder.conv2.weight": (27.607212, 0.002472032)}


def training_rows(imported: Imported, arrays: Mapping[str, np.ndarray]) -> list[Row]:
    """Compares one training step: loss, gradients, BatchNorm statistics, and what follows.

    Raises:
      ValueError: the file lacks a tensor, has one of a wrong shape, or names one that the model has not.
    """
    model, x = LTCHM(imported.config), images(member(arrays, "in/images"), imported.config)
    noise = tuple(jnp.asarray(nhwc(member(arrays, f"in/noise_{name}"))) for name in "yz")
    check_shapes(imported.config, x, {"y": noise[0], "z": noise[1]})
    step = jax.jit(_training_step, static_argnums=0, compiler_options=COMPILER)
    lmbda = float(member(arrays, "in/lmbda"))
    gradients, after, parts = step(model, imported.variables, x, noise, lmbda)
    evaluate = jax.jit(_rates, static_argnums=0, compiler_options=COMPILER)
    rates, buffers = evaluate(model, after, x[:1]), to_reference({"batch_stats": after["batch_stats"]})
    return [
        *_rows(parts, arrays, "out", LOSS_TOLERANCE),
        *_gradient_rows(gradients, parts["dense_masked"], arrays),
        *_rows(buffers, arrays, "buffer", LOSS_TOLERANCE),
        *_rows(rates, arrays, "after_step", STEP_TOLERANCE),
    ]


def _rows(got: Mapping[str, Any], arrays: Mapping[str, np.ndarray], name: str, tolerance: float) -> list[Row]:
    want = {key: value for key, value in section(arrays, name).items() if not key.endswith(COUNTER)}
    if got and not want:
        raise ValueError(f"A golden training step must have tensors {name}/..., this file has none.")
    check_names(want, got)
    return [compare(f"{name}/{key}", got[key], value, tolerance) for key, value in want.items()]


def _training_step(
    model: LTCHM, variables: Any, x: jax.Array, noise: tuple[jax.Array, ...], lmbda: jax.Array
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Gradients, the variables after one step of Adam, and the parts of the loss before it."""
    shift = jnp.zeros((*noise[0].shape[:-1], 2 * model.config.latent_channels))
    differentiate = jax.value_and_grad(_loss, argnums=(1, 2), has_aux=True)
    arguments = variables["params"], shift, variables["batch_stats"], x, noise, lmbda
    (_, (losses, y_hat, stats)), (gradients, context) = differentiate(model, *arguments)
    adam = optax.chain(optax.clip(CLIP), optax.adam(LEARNING_RATE))
    updates, _ = adam.update(gradients, adam.init(variables["params"]))
    after = {"params": optax.apply_updates(variables["params"], updates), "batch_stats": stats}
    return gradients, after, _means(losses) | {"dense_masked": _dense_kernel_gradient(y_hat, context)}


def _loss(
    model: LTCHM, params: Any, shift: jax.Array, stats: Any, x: jax.Array, noise: Any, lmbda: jax.Array
) -> tuple[jax.Array, tuple[Losses, jax.Array, Any]]:
    """The training loss of the project; `shift` is added to the output of the masked convolution."""

    def shifted(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        return call(*args, **kwargs) + shift if context.module.name == "context" else call(*args, **kwargs)

    variables = {"params": params, "batch_stats": stats}
    with nn.intercept_methods(shifted):
        out, updated = model.apply(variables, x, noise=noise, train=True, mutable=["batch_stats"])
    losses = rate_distortion(out, x, lmbda, model.config.mixture)
    return jnp.mean(losses.loss), (losses, out.y_hat, updated["batch_stats"])


def _dense_kernel_gradient(y_hat: jax.Array, context: jax.Array) -> jax.Array:
    """The gradient of all 25 taps [O, M, 5, 5]: the reference masks the weight, not its gradient."""
    height, width = y_hat.shape[1:3]
    padded = jnp.pad(y_hat, ((0, 0), (2, 2), (2, 2), (0, 0)))
    taps = [padded[:, i : i + height, j : j + width] for i in range(5) for j in range(5)]
    gradient = jnp.einsum("tbhwm,bhwo->omt", jnp.stack(taps), context)
    return gradient.reshape(*gradient.shape[:2], 5, 5)


def _gradient_rows(gradients: Any, dense_masked: jax.Array, arrays: Mapping[str, np.ndarray]) -> list[Row]:
    got = to_reference({"params": gradients}) | {MASKED: np.asarray(dense_masked)}
    norms = section(arrays, "grad_norm")
    check_names(norms, got)
    rows = [_norm_row(name, np.linalg.norm(got[name].astype(float)), want) for name, want in norms.items()]
    clipped = {name: np.clip(gradient, -CLIP, CLIP) for name, gradient in got.items()}
    return rows + _rows(clipped, arrays, "grad", GRADIENT_TOLERANCE)


def _norm_row(name: str, norm: Any, want: np.ndarray) -> Row:
    wrong, right = CORRECTIONS.get(name, (None, None))
    if wrong is None or right is None or not np.isclose(want, wrong, rtol=1e-6):
        return compare(f"grad_norm/{name}", norm, want, GRADIENT_TOLERANCE)
    row = compare(f"grad_norm/{name}", norm, np.asarray(right), GRADIENT_TOLERANCE)
    return dataclasses.replace(row, note=f"  (the file says {wrong}, which is known to be wrong)")


def _rates(model: LTCHM, variables: Any, x: jax.Array) -> dict[str, jax.Array]:
    output: Any = model.apply(variables, x)
    return _means(rate_distortion(output, x, jnp.zeros(()), model.config.mixture))


def _means(losses: Losses) -> dict[str, jax.Array]:
    return {name: jnp.mean(values) for name, values in losses._asdict().items()}
