"""Latents refined for one picture: the encoder weighs what an integer costs against what it shows.

The analysis answers all pictures alike, and rounds without regard to what each integer costs, itself and in
the contexts of its neighbours. Here some integers move by one, pass after pass, wherever a loss like the
training's, bits + lambda * squared error (eq. 3), is expected to fall. A decoder needs to know nothing of it.

All moves are weighed at once. A move of one latent by d = +-1 should change the loss by

    bits of y + d  -  bits of y                                 its own, exactly
    + d * gradient, through the contexts, of everyone's bits
    + d * slope + h/2                                           of lambda * squared error; h: its curvature

and of those that promise more than a threshold, which falls from pass to pass, a random part is made: latents
that answer the same error, or feed the same contexts, would overshoot together. At last every tile goes back
to where its own loss was least, and the whole to the best of all that was tried.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.entropy.snapping import SYMBOL_LIMIT
from ltchm_jax.losses import lmbda_at, symbol_bits
from ltchm_jax.model import LTCHM, Y_STRIDE, ModelConfig
from ltchm_jax.model_file import Model

LMBDA_RATIO = 1.4  # of lambda here to lambda in training: fewer bytes at equal error than with the same
CURVATURE = 1.4  # the synthesis bends: a whole step costs this much more than its Jacobian says
SHARE = 0.4  # of the moves that promise enough, made in one pass
FIRST_GAIN, LAST_GAIN, FALL = 6.0, 1.0, 0.7  # bits that a move must promise: at first, at least, and by pass
TILE = 4  # positions of y, along each side, that are taken from one pass
MAX_EFFORT = 1_000
MAX_LMBDA = 1e12


class Problem(NamedTuple):
    """A block and the analysis's answer to it: what stays the same from pass to pass."""

    x: jax.Array  # float32 [1, H, W, bands] in 0..1
    inside: jax.Array  # float32 [1, H, W, 1]: 1 for pixels of the block, 0 for its padding
    quality: jax.Array  # float32 [1]
    lmbda: jax.Array  # float32, of the loss: LMBDA_RATIO times that of the quality
    y: jax.Array  # float32 [1, h, w, M], not rounded
    z_hat: jax.Array  # float32 [1, h/4, w/4, C]
    curvature: jax.Array  # float32 [1, 1, 1, M], bits: second derivative of lambda * squared error


class Search(NamedTuple):
    """Where a refinement stands, integers [1, h, w, M] and losses in bits."""

    y_hat: jax.Array  # to be tried next
    best: jax.Array  # the best that was tried
    least: jax.Array  # its loss
    tiles: jax.Array  # every tile as it was when its own loss was least
    tile_least: jax.Array  # float32 [1, h, w]: that loss


def unit(pixels: jax.Array) -> jax.Array:
    """float32 [1, H, W, bands] in 0..1 of a block, uint8 [H, W, bands]."""
    return pixels.astype(jnp.float32)[None] / 255


def bounded_latents(
    model: LTCHM, variables: dict, x: jax.Array, quality: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """y and z of x [1, H, W, bands], not rounded, clipped to +-SYMBOL_LIMIT, as is what is no number."""
    limit = float(SYMBOL_LIMIT)
    latents: Any = model.apply(variables, x, quality, method="analyse")
    y, z = (jnp.clip(jnp.nan_to_num(v, nan=limit), -limit, limit) for v in latents)
    return y, z


def by_tile(losses: jax.Array) -> jax.Array:
    """[1, h, w] -> the same shape: the sum over the tile of each position."""
    _, height, width = losses.shape
    padded = jnp.pad(losses, ((0, 0), (0, -height % TILE), (0, -width % TILE)))
    sums = padded.reshape(1, padded.shape[1] // TILE, TILE, -1, TILE).sum((2, 4))
    return sums.repeat(TILE, 1).repeat(TILE, 2)[:, :height, :width]


@dataclasses.dataclass(frozen=True)
class Refiner:
    """Refines latents of models of one configuration; functions compile once for each shape of block."""

    config: ModelConfig
    # See `trained_lmbdas`. What is compiled takes them as an argument, and so serves models of any.
    lmbdas: tuple[float, ...] = dataclasses.field(compare=False)

    def refine(
        self, variables: dict, pixels: np.ndarray, inside: tuple[int, int], quality: np.ndarray, effort: int
    ) -> tuple[jax.Array, jax.Array]:
        """Latents of a block, still being computed when this returns; never worse than those it began with.

        Args:
          pixels: uint8 [H, W, bands], sides multiples of 16.
          inside: rows and columns that count; the rest is padding.
          quality: float32 [1].
          effort: passes, 1 or more; each takes a forward and a backward pass of the synthesis.

        Returns:
          y int32 [H/16, W/16, M] and z int32, as the analysis does.
        """
        counted = np.zeros((1, *pixels.shape[:2], 1), np.float32)
        counted[:, : inside[0], : inside[1]] = 1
        problem, search = self.begin(variables, pixels, counted, quality, np.array(self.lmbdas, np.float32))
        for i in range(effort + 1):  # the last only looks at what the one before made
            search = self.move(variables, problem, search, np.int32(i))
        joined = search._replace(y_hat=search.tiles)  # next to one another as they have not been tried
        search = self.move(variables, problem, joined, np.int32(effort))
        return search.best[0].astype(jnp.int32), problem.z_hat[0].astype(jnp.int32)

    @functools.partial(jax.jit, static_argnums=0)
    def begin(
        self, variables: dict, pixels: jax.Array, inside: jax.Array, quality: jax.Array, lmbdas: jax.Array
    ) -> tuple[Problem, Search]:
        """What there is before the first pass; as for `refine`, but `inside` is float32 [1, H, W, 1]."""
        x = unit(pixels)
        y, z = bounded_latents(LTCHM(self.config), variables, x, quality)
        lmbda = LMBDA_RATIO * lmbda_at(lmbdas, quality)[0]
        x_hat, pull = jax.vjp(self._synthesis(variables, quality), jnp.round(y))
        # The mean square of a gradient of random signs is the diagonal of the Gauss-Newton matrix.
        (slopes,) = pull(inside * jax.random.rademacher(jax.random.key(0), x_hat.shape, x_hat.dtype))
        squares = jnp.mean(jnp.square(slopes), (1, 2), keepdims=True)
        curvature = 2 * CURVATURE * lmbda / x.shape[-1] * squares
        problem = Problem(x, inside, quality, lmbda, y, jnp.round(z), curvature)
        start = jnp.round(y)
        infinite = jnp.float32(jnp.inf), jnp.full(y.shape[:3], jnp.inf, jnp.float32)
        return problem, Search(start, start, infinite[0], start, infinite[1])

    @functools.partial(jax.jit, static_argnums=0)
    def move(self, variables: dict, problem: Problem, search: Search, number: jax.Array) -> Search:
        """One pass: weighs what is to be tried, keeps what is better, and makes the next moves."""
        y_hat = search.y_hat
        losses, gains, directions = self.expected(variables, problem, y_hat)
        loss, tile_loss = jnp.sum(losses), by_tile(losses)
        better, falls = loss < search.least, tile_loss < search.tile_least
        chosen = jax.random.uniform(jax.random.fold_in(jax.random.key(1), number), y_hat.shape) < SHARE
        chosen &= gains > jnp.maximum(LAST_GAIN, FIRST_GAIN * FALL**number)
        return Search(
            y_hat=jnp.clip(y_hat + chosen * directions, -SYMBOL_LIMIT, SYMBOL_LIMIT),
            best=jnp.where(better, y_hat, search.best),
            least=jnp.where(better, loss, search.least),
            tiles=jnp.where(falls[..., None], y_hat, search.tiles),
            tile_least=jnp.where(falls, tile_loss, search.tile_least),
        )

    def expected(
        self, variables: dict, problem: Problem, y_hat: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Bits lost at each position [1, h, w]; what each latent's better move should save, and that move."""
        (_, errors), of_error = jax.value_and_grad(self._error, has_aux=True)(y_hat, variables, problem)
        of_contexts, mixture = jax.grad(self._rate, has_aux=True)(y_hat, y_hat, variables, problem)
        own = symbol_bits(y_hat, mixture, self.config.mixture)
        # Moves that are made together all see the error of this moment; against the analysis, where each
        # latent has a place of its own, they don't. Half and half did best.
        slope = of_contexts + (of_error + problem.curvature * (y_hat - problem.y)) / 2
        changes = [
            symbol_bits(y_hat + d, mixture, self.config.mixture) - own + d * slope + problem.curvature / 2
            for d in (1.0, -1.0)
        ]
        up = changes[0] < changes[1]
        return errors + jnp.sum(own, -1), -jnp.minimum(*changes), jnp.where(up, 1.0, -1.0)

    def _error(self, y_hat: jax.Array, variables: dict, problem: Problem) -> tuple[jax.Array, jax.Array]:
        """lambda * squared error in bits: its sum, and that of the pixels of each position [1, h, w]."""
        x_hat = self._synthesis(variables, problem.quality)(y_hat)
        errors = problem.inside * jnp.square(jnp.clip(x_hat, 0, 1) - problem.x)
        cells = errors.reshape(1, y_hat.shape[1], Y_STRIDE, y_hat.shape[2], -1)
        by_position = problem.lmbda / errors.shape[-1] * jnp.sum(cells, (2, 4))
        return jnp.sum(by_position), by_position

    def _rate(
        self, context: jax.Array, y_hat: jax.Array, variables: dict, problem: Problem
    ) -> tuple[jax.Array, Any]:
        """Bits of y_hat where `context` stands in its contexts, and the mixtures."""
        of_context: Any = LTCHM(self.config).apply(
            variables, context, problem.z_hat, problem.quality, method="probabilities"
        )
        mixture, _ = of_context
        return jnp.sum(symbol_bits(y_hat, mixture, self.config.mixture)), mixture

    def _synthesis(self, variables: dict, quality: jax.Array) -> Callable[[jax.Array], jax.Array]:
        synthesise: Any = LTCHM(self.config).apply
        return lambda y_hat: synthesise(variables, y_hat, quality, method="synthesise")


def trained_lmbdas(model: Model) -> tuple[float, ...]:
    """The lambda of each rate that a model was trained for, one of a single-rate model.

    Raises:
      ValueError: it was trained for another distortion than squared error, or does not say its lambda.
    """
    training = _training_notes(model)
    if training.get("distortion", "mse") != "mse":
        raise ValueError(
            f"Refinement lowers squared error, the model was trained for {training['distortion']}: "
            "leave `effort` at 0."
        )
    if model.config.lmbdas:
        return model.config.lmbdas
    lmbda = training.get("lmbda")
    if not isinstance(lmbda, int | float) or not 0 < lmbda < MAX_LMBDA:
        raise ValueError("Refinement needs a model whose file says its lambda: leave `effort` at 0.")
    return (float(lmbda),)


def _training_notes(model: Model) -> dict[str, Any]:
    """What a model's file says of the configuration it was trained with; nothing if that can't be read."""
    try:
        found = json.loads(model.notes.get("training", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
