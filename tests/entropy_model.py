"""A small random entropy model for tests: masked 5x5 context and three 1x1 layers, like the real one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.devices import float64
from ltchm_jax.entropy import wavefront

COMPONENTS = 3


def variables(seed: int, channels: int, features: int, log_scale: float) -> dict[str, Any]:
    """float64 weights; scales are about exp(log_scale), never below 0.05."""
    rng = np.random.default_rng(seed)
    width, out = 48, 3 * COMPONENTS * channels
    weights = {
        "context": rng.normal(0, 0.2 / np.sqrt(12 * channels), (12 * channels, 2 * channels)),
        "hidden1": rng.normal(0, 1 / np.sqrt(2 * channels + features), (2 * channels + features, width)),
        "hidden2": rng.normal(0, 1 / np.sqrt(width), (width, width)),
        "out": rng.normal(0, 1 / np.sqrt(width), (width, out)),
        "log_scale": log_scale,
        "floor": 0.05,
    }
    with float64():
        return {name: jnp.asarray(value, jnp.float64) for name, value in weights.items()}


def parameters(v: dict[str, Any], taps: jax.Array, psi: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """See `wavefront.Parameters`. Bounded in the taps, so that samples do not run away."""
    count, _, channels = taps.shape
    scale = jnp.exp(v["log_scale"])
    x = jnp.concatenate([jnp.tanh(taps / scale).reshape(count, -1) @ v["context"], psi], axis=-1)
    for name in ("hidden1", "hidden2"):
        x = jax.nn.leaky_relu(x @ v[name])
    out = (x @ v["out"]).reshape(count, 3, channels, COMPONENTS)
    scales = jnp.maximum(scale * jnp.exp(jnp.tanh(out[:, 1])), v["floor"])
    return scale * jnp.tanh(out[:, 0]), scales, jax.nn.softmax(2 * out[:, 2], axis=-1)


def without_context(v: dict[str, Any], taps: jax.Array, psi: jax.Array) -> tuple[jax.Array, ...]:
    """The same model, blind to its taps."""
    return parameters(v, 0.0 * taps, psi)


def sample_latent(
    model: Callable, v: dict[str, Any], psi: np.ndarray, channels: int, kind: str
) -> np.ndarray:
    """int32 [H, W, M] drawn from the model, step by step along the scan order."""
    rng = np.random.default_rng(7)
    height, width = psi.shape[:2]
    latent = wavefront.padded_latent(np.zeros((1, height, width, channels)))
    steps = wavefront.scan_order(height, width, context=True)
    size = max(map(len, steps))
    mixtures = jax.jit(lambda taps, psi: model(v, taps.astype(jnp.float64), psi))
    with float64():
        for step in steps:
            found = mixtures(*wavefront.gather(latent, psi[None], step, size))
            latent[0, step[:, 0] + 2, step[:, 1] + 2] = sample(
                rng, kind, *(np.asarray(a)[: len(step)] for a in found)
            )
    return latent[0, 2:, 2:-2]


def sample(
    rng: np.random.Generator, kind: str, means: np.ndarray, scales: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Integers [...] from mixtures [..., K]."""
    chosen = (rng.random(means.shape[:-1])[..., None] > np.cumsum(weights, -1)).sum(-1, keepdims=True)
    chosen = np.minimum(chosen, means.shape[-1] - 1)
    noise = rng.normal if kind == "gaussian" else rng.laplace
    mean, scale = (np.take_along_axis(v, chosen, -1)[..., 0] for v in (means, scales))
    return np.rint(mean + scale * noise(size=mean.shape))
