"""Parity of the forward pass with a golden file, stage by stage.

Each stage starts from the reference's own input and rounding, so that one value that rounds the other way can
neither hide an error further on nor cause one.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.interop import Imported
from ltchm_jax.losses import bits_per_pixel
from ltchm_jax.model import LTCHM, Output, causal_taps
from ltchm_jax.parity.comparison import (
    COMPILER,
    Row,
    check_shapes,
    compare,
    images,
    member,
    nchw,
    nhwc,
)

Given = dict[str, jax.Array]
INPUTS = ("y", "z", "psi")  # what stages are given of the reference

TOLERANCE = 1e-4  # of a tensor's largest magnitude, in float32


def forward_rows(imported: Imported, arrays: Mapping[str, np.ndarray], stages: tuple = ()) -> list[Row]:
    """Compares every tensor of the forward pass and its scalars; `stages` (of STAGES) limits it to some.

    Raises:
      ValueError: the file lacks a tensor, or one has not the shape that belongs to its image.
    """
    x = images(member(arrays, "in/image"), imported.config)
    given = {name: jnp.asarray(nhwc(member(arrays, f"out/{name}"))) for name in INPUTS}
    check_shapes(imported.config, x, given)
    given |= {"y_hat": jnp.round(given["y"]), "z_hat": jnp.round(given["z"])}
    got: Given = {}
    for stage in stages or STAGES:
        run = jax.jit(stage, static_argnums=0, compiler_options=COMPILER)
        got |= run(LTCHM(imported.config), imported.variables, x, given)
    return [compare(name, nchw(got[name]), member(arrays, f"out/{name}"), TOLERANCE) for name in got]


def g_a(model: LTCHM, variables: Any, x: jax.Array, given: Given) -> Given:
    """x -> y."""
    y: Any = model.apply(variables, x, method=lambda m, x: m.g_a(x))
    return {"y": y}


def h_a(model: LTCHM, variables: Any, x: jax.Array, given: Given) -> Given:
    """y -> z."""
    z: Any = model.apply(variables, given["y"], method=lambda m, y: m.h_a(y))
    return {"z": z}


def h_s(model: LTCHM, variables: Any, x: jax.Array, given: Given) -> Given:
    """z_hat -> psi."""
    psi: Any = model.apply(variables, given["z_hat"], method="hyper_synthesise")
    return {"psi": psi}


def priors(model: LTCHM, variables: Any, x: jax.Array, given: Given) -> Given:
    """psi, y_hat and z_hat -> mixture and rates."""
    y_hat, z_hat = given["y_hat"], given["z_hat"]
    taps = causal_taps(y_hat)
    mixture: Any = model.apply(variables, taps, given["psi"], method="entropy_parameters")
    logits: Any = [model.apply(variables, z_hat + d, method="z_cumulative_logits") for d in (-0.5, 0.5)]
    output = Output(x, given["y"], given["z"], y_hat, z_hat, mixture, tuple(logits))  # x_hat is not read
    bpp_y, bpp_z = bits_per_pixel(output, x.shape[1] * x.shape[2], model.config.mixture)
    return {**mixture._asdict(), "bpp_y": jnp.mean(bpp_y), "bpp_z": jnp.mean(bpp_z)}


def g_s(model: LTCHM, variables: Any, x: jax.Array, given: Given) -> Given:
    """y_hat -> x_hat and its error."""
    x_hat: Any = model.apply(variables, given["y_hat"], method="synthesise")
    return {"x_hat_unclipped": x_hat, "mse": jnp.mean((x_hat - x) ** 2)}


STAGES = (g_a, h_a, h_s, priors, g_s)
