"""A model whose weights NumPy draws, the same on every machine and for every version of JAX."""

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ltchm_jax.model import ModelConfig, abstract_variables
from ltchm_jax.model_file import Model, make_model


def drawn_model(config: ModelConfig, seed: int = 0) -> Model:
    """Uniform weights of about the usual size, multiples of 2^-14; gains and statistics near one."""
    rng = np.random.default_rng(seed)
    flat = flatten_dict(abstract_variables(config), sep="/")
    return make_model(
        config, unflatten_dict({k: _draw(rng, k, v.shape) for k, v in sorted(flat.items())}, sep="/")
    )


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    fan_in = max(1, int(np.prod(shape[:-1])))
    draw = np.round(rng.uniform(-1, 1, shape) * 2**14 * fan_in**-0.5) / 2**14
    last = name.rsplit("/", 1)[-1]
    if last in ("beta", "scale", "var"):
        return 1 + draw / 4
    if last == "gamma" and len(shape) == 2:  # of GDN
        return 0.3 * np.eye(shape[0]) + np.abs(draw) / 8
    if name.endswith("g_a/down16/kernel"):
        return 4 * draw  # so that there is something to code
    return draw
