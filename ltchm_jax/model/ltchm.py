"""LTCHM: the whole model (Zhang et al. 2024, Fig. 1).

    x --g_a--> y --h_a--> z          x      image [B, H, W, bands], 0..1
               |          |          y      latent [B, H/16, W/16, M]
             round      round        z      hyper-latent [B, H/64, W/64, C]
               |          |          psi    hyper-decoder output [B, H/16, W/16, 2C]
    x_hat <--g_s-- y_hat  z_hat
               |          |
               +--context-+--h_s--> psi --> mixture of y_hat

In a variable-rate model y and z are multiplied by gains before rounding and by inverse gains after it; the
context and the mixtures live on the rounded integers.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from ltchm_jax.devices import float32
from ltchm_jax.model.config import ModelConfig
from ltchm_jax.model.layers import Array
from ltchm_jax.model.priors import EntropyParameters, FactorisedPrior, GainUnit, Mixture, causal_taps
from ltchm_jax.model.transforms import Analysis, HyperAnalysis, HyperSynthesis, Synthesis

Y_STRIDE, Z_STRIDE = 16, 64  # pixels, along each side, to a position of y and of z
ROUNDINGS = ("noise", "straight", "hard")  # who gets y rounded while the gradient passes, see `LTCHM`


class Output(NamedTuple):
    """What one pass gives: everything that a loss or a check needs."""

    x_hat: Array  # [B, H, W, bands], not clipped
    y: Array  # [B, H/16, W/16, M] before quantisation
    z: Array  # [B, H/64, W/64, C] before quantisation
    y_hat: Array
    z_hat: Array
    mixture: Mixture  # of y_hat, each [B, H/16, W/16, M, K]
    z_logits: tuple[Array, Array]  # of the cumulative of z at z_hat -1/2 and +1/2


def pad_sides(x: Array, multiple: int) -> Array:
    """Repeats the last row and column of x [B, H, W, D] until both sides are multiples."""
    bottom, right = (-n % multiple for n in x.shape[1:3])
    if not bottom and not right:  # a pad by nothing is refused where sides lie on several devices
        return x
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")


def check_images(x: Array, bands: int) -> None:
    """Raises ValueError unless x is a batch of images [B, H, W, bands] of floats."""
    if x.ndim != 4 or x.shape[-1] != bands or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"Images must be floats in 0..1, [B, H, W, {bands}], got {x.dtype} {list(x.shape)}: "
            "divide integers by 255."
        )


def _at_least_float32(arrays: tuple[Array, Array]) -> tuple[Array, Array]:
    first, second = arrays
    dtype = jnp.promote_types(first.dtype, jnp.float32)
    return first.astype(dtype), second.astype(dtype)


class LTCHM(nn.Module):
    """The model as pure functions: `apply(variables, x)` for a pass, the methods below for its parts.

    `axis_name` is the pmap axis over which batch statistics are shared. `remat` computes the inside of every
    block of the transforms again for the gradient rather than keep it: less memory for a third pass.
    """

    config: ModelConfig
    axis_name: str | None = None
    remat: bool = False

    def setup(self) -> None:
        config = self.config
        self.g_a = Analysis(config, self.axis_name, self.remat)
        self.g_s = Synthesis(config, self.axis_name, self.remat)
        self.h_a = HyperAnalysis(config)
        self.h_s = HyperSynthesis(config)
        self.prior_z = FactorisedPrior(config.prior_filters, config.variant)
        self.prior_y = EntropyParameters(config)
        if config.lmbdas:
            # A uniform quantiser's best step goes as 1/sqrt(lmbda): start there, around the geometric mean.
            logs = [math.log(lmbda) / 2 for lmbda in config.lmbdas]
            start = tuple(log - sum(logs) / len(logs) for log in logs)
            self.gain_y = GainUnit(start, config.latent_channels)
            self.gain_z = GainUnit((0.0,) * len(logs), config.width)

    def __call__(
        self,
        x: Array,
        quality: Array | None = None,
        noise: tuple[Array, Array] | None = None,
        train: bool = False,
        rounding: str = "noise",
    ) -> Output:
        """Runs everything.

        Args:
          x: image [B, H, W, bands] in 0..1, any H and W (padded inside, cropped on the way out).
          quality: [B] in 0..L-1, for a variable-rate model of L rates; else None.
          noise: uniform on -1/2..1/2 in the shapes of y and z, added in place of rounding; None rounds.
          train: batch statistics of this batch rather than the running ones.
          rounding: who gets y rounded all the same, as in a decoder, while the gradient passes as if it were
            not: 'noise', nobody; 'straight', the synthesis (Minnen & Singh 2020); 'hard', everybody.

        Raises:
          ValueError: x is no such batch of images, or `rounding` none of these.
        """
        if rounding not in ROUNDINGS:
            raise ValueError(f"`rounding` must be one of {', '.join(ROUNDINGS)}, got {rounding!r}.")
        check_images(x, self.config.bands)
        height, width = x.shape[1:3]
        # Rates and likelihoods are never computed in less than float32, whatever the transforms run in.
        y, z = _at_least_float32(self.analyse(pad_sides(x, Y_STRIDE), quality, train))
        y_hat, z_hat = (jnp.round(y), jnp.round(z)) if noise is None else (y + noise[0], z + noise[1])
        rounded = y + jax.lax.stop_gradient(jnp.round(y) - y)
        y_hat, shown = {"noise": (y_hat, y_hat), "straight": (y_hat, rounded), "hard": (rounded, rounded)}[
            rounding
        ]
        x_hat = self.synthesise(shown.astype(x.dtype), quality, train)[:, :height, :width].astype(y.dtype)
        return Output(x_hat, y, z, y_hat, z_hat, *self.probabilities(y_hat, z_hat, quality))

    def analyse(self, x: Array, quality: Array | None = None, train: bool = False) -> tuple[Array, Array]:
        """x [B, H, W, bands], sides multiples of 16 -> y [B, H/16, W/16, M] and z, see `hyper_analyse`."""
        check_images(x, self.config.bands)
        y = self.g_a(x, train)
        if self.config.lmbdas:
            y = y * self.gain_y(quality, False, y.dtype)
        return y, self.hyper_analyse(y, quality)

    def hyper_analyse(self, y: Array, quality: Array | None = None) -> Array:
        """y [B, h, w, M], its last row and column repeated up to multiples of 4 -> z [B, h/4, w/4, C]."""
        z = self.h_a(pad_sides(y, Z_STRIDE // Y_STRIDE))
        return z * self.gain_z(quality, False, z.dtype) if self.config.lmbdas else z

    def synthesise(self, y_hat: Array, quality: Array | None = None, train: bool = False) -> Array:
        """y_hat [B, H/16, W/16, M] -> x_hat [B, H, W, bands], not clipped."""
        if self.config.lmbdas:
            y_hat = y_hat * self.gain_y(quality, True, y_hat.dtype)
        return self.g_s(y_hat, train)

    def hyper_synthesise(self, z_hat: Array, quality: Array | None = None) -> Array:
        """z_hat [B, h, w, C] -> psi [B, 4h, 4w, 2C]; for a y that was padded, its first rows."""
        if self.config.lmbdas:
            z_hat = z_hat * self.gain_z(quality, True, z_hat.dtype)
        return self.h_s(z_hat)

    def probabilities(
        self, y_hat: Array, z_hat: Array, quality: Array | None = None
    ) -> tuple[Mixture, tuple[Array, Array]]:
        """`mixture` and `z_logits` of an `Output`: all that the ideal code length hangs on."""
        height, width = y_hat.shape[1:3]
        psi = self.hyper_synthesise(z_hat, quality)[:, :height, :width]
        mixture = self.entropy_parameters(causal_taps(y_hat), psi)
        return mixture, (self.prior_z(z_hat - 0.5), self.prior_z(z_hat + 0.5))

    def entropy_parameters(self, taps: Array, psi: Array) -> Mixture:
        """taps [..., 12, M] of integers and psi [..., 2C] -> mixtures [..., M, K] of the integer there."""
        return self.prior_y(taps, psi)

    def z_cumulative_logits(self, z: Array) -> Array:
        """z [..., C] -> logits of P(Z < z)."""
        return self.prior_z(z)


def init_variables(config: ModelConfig, key: Array) -> dict:
    """Fresh variables {'params': ..., 'batch_stats': ...} of a model, float32; no pass is computed."""
    draw, shapes = _initialiser(config)
    with float32():
        return jax.tree.unflatten(jax.tree.structure(shapes), draw(key))


def abstract_variables(config: ModelConfig) -> dict:
    """Shapes and types of the variables of a model; nothing is computed."""
    return _initialiser(config)[1]


@functools.cache
def _initialiser(config: ModelConfig) -> tuple[Callable[[Array], list[Array]], dict]:
    """What draws the leaves of fresh variables from a key, and the tree of their shapes and types.

    One trace of the model serves both. It also holds what layers make of variables alone, more than half of
    all, which is dropped.
    """
    model = LTCHM(config)
    x = jax.ShapeDtypeStruct((1, Z_STRIDE, Z_STRIDE, config.bands), jnp.float32)
    quality = jax.ShapeDtypeStruct((1,), jnp.float32) if config.lmbdas else None
    with float32():
        trace = jax.make_jaxpr(lambda key: model.lazy_init(key, x, quality), return_shape=True)
        traced, shapes = trace(jax.random.key(0))
    needed, _ = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars), instantiate=True)
    return jaxpr_as_fun(traced.replace(jaxpr=needed)), shapes
