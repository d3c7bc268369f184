"""Blocks of pixels to entropy-coded blocks and back, with one model.

Transforms in float32 on any device, the entropy model in float64, integers from there on (see `entropy`).
"""

import functools
import logging
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.bitstream import Block, LatentsMismatch, Malformed
from ltchm_jax.devices import float64, whole_float32
from ltchm_jax.entropy.latent_coder import CodedLatents, LatentCoder
from ltchm_jax.entropy.range_coder import GuardError, RangeCoderError
from ltchm_jax.entropy.snapping import SYMBOL_LIMIT
from ltchm_jax.entropy.wavefront import Parameters
from ltchm_jax.model import LTCHM, Y_STRIDE, Z_STRIDE, ModelConfig
from ltchm_jax.model_file import Model
from ltchm_jax.refinement import MAX_EFFORT, Refiner, bounded_latents, trained_lmbdas, unit

logger = logging.getLogger(__name__)

QUALITY_STEPS = 256  # a stream keeps the quality in steps of 1/256
# Sides of a block are padded to a multiple of this many pixels, by the version of the stream.
PADDED_TO = {1: Z_STRIDE, 2: Y_STRIDE}


class BlockCoder:
    """A model's transforms and its entropy coder.

    Functions compile once for each shape of block and each device, for all models of one configuration, and
    are kept until the process ends or calls `jax.clear_caches`.
    `quality` is in steps of 1/256 throughout. Blocks take turns on the devices of this process by `number`.
    With an `effort` latents are refined in so many passes, see `refinement`. An `exact` one synthesises in
    float64, where no two machines differ enough to round a sample otherwise, but for one in 1e10 or so.

    Raises:
      ValueError: the model can't be refined, or `effort` is not 0 to MAX_EFFORT.
    """

    def __init__(self, model: Model, effort: int = 0, exact: bool = False) -> None:
        if effort not in range(MAX_EFFORT + 1):
            raise ValueError(f"`effort` must be an integer of 0 to {MAX_EFFORT}, got {effort}.")
        self.model, self.devices, self.effort, self.exact = model, jax.local_devices(), int(effort), exact
        self._refiner = Refiner(model.config, trained_lmbdas(model)) if effort else None
        self._placed = functools.cache(lambda i: jax.device_put(model.variables, self.devices[i]))
        self._all_wide = functools.cache(lambda: widened(model.variables))
        names = "h_s", "gain_z", "prior_y"
        self._wide = widened(
            {"params": {name: v for name, v in model.variables["params"].items() if name in names}}
        )
        self.entropy = LatentCoder(
            entropy_parameters(model.config),
            self._wide,
            model.z_tables,
            model.config.mixture,
            model.config.context == "masked",
        )

    def analyse(self, number: int, pixels: np.ndarray, quality: int) -> tuple[jax.Array, jax.Array]:
        """Latents of a block, still being computed when this returns.

        Args:
          number: of the block.
          pixels: uint8 [h, w, 1 or bands], see `padded`.

        Returns:
          y int32 [h/16, w/16, M] and z int32 [h/64, w/64, C], sides rounded up, clipped to +-SYMBOL_LIMIT.
        """
        variables, padded, rate = self._variables_on(number), self.padded(pixels), self.rate(quality)
        height, width = pixels.shape[:2]
        with whole_float32():
            if self._refiner is None:
                return analyse(self.model.config, variables, padded, rate)
            return self._refiner.refine(variables, padded, (height, width), rate, self.effort)

    def padded(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, bands] of a block [h, w, 1 or bands]: edges repeated up to multiples of 16."""
        pads = [(0, -n % Y_STRIDE) for n in pixels.shape[:2]]
        padded = np.pad(pixels, [*pads, (0, 0)], "edge")
        return np.broadcast_to(padded, (*padded.shape[:2], self.model.config.bands))

    def synthesise(self, number: int, y: np.ndarray, quality: int) -> jax.Array:
        """uint8 [H, W, bands] of y int32 [H/16, W/16, M], still being computed when this returns."""
        if not self.exact:
            with whole_float32():
                return synthesise(self.model.config, self._variables_on(number), y, self.rate(quality))
        with float64():
            return synthesise(self.model.config, self._all_wide(), y, self.rate(quality))

    def latents(self, pixels: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
        """`analyse` on the first device, waited for."""
        y, z = jax.device_get(self.analyse(0, pixels, quality))
        return y, z

    def encode(self, y: jax.Array, z: jax.Array, quality: int) -> Block:
        """Codes the latents that `analyse` gave; a warning is logged of those that were clipped."""
        symbols, hyper = np.asarray(y), np.asarray(z)
        clipped = sum(np.count_nonzero(np.abs(v) >= SYMBOL_LIMIT) for v in (symbols, hyper))
        if clipped:
            told = "%d latents of a block were clipped to +-%d: its pixels will be wrong, train the model on"
            logger.warning(told, clipped, SYMBOL_LIMIT)
        coded = self.entropy.encode(hyper, symbols, self.psi(hyper, quality, symbols.shape))
        return Block(coded.payload, latents_crc(hyper, symbols), coded.guards)

    def decode(
        self, blocks: Sequence[Block], numbers: Sequence[int], shape: tuple[int, int], quality: int
    ) -> np.ndarray:
        """y int32 [B, *shape, M] of B blocks of one shape, see `latent_shape`.

        Raises:
          Malformed: a guard lies outside the block.
          LatentsMismatch: a payload decodes to other latents than were encoded, or to none.
        """
        config = self.model.config
        z_rows, z_columns = (-(-n * Y_STRIDE // Z_STRIDE) for n in shape)
        z_shape, y_shape = (z_rows, z_columns, config.width), (*shape, config.latent_channels)
        coded = [CodedLatents(block.payload, block.guards) for block in blocks]
        try:
            z, y = self.entropy.decode(coded, z_shape, y_shape, lambda z: self.psi(z, quality, shape))
        except GuardError as error:
            raise Malformed(f"block {numbers[error.stream]} can't be decoded: {error}") from error
        except RangeCoderError as error:  # and yet these are the bytes that were written
            raise LatentsMismatch(
                f"block {numbers[error.stream]} decodes to no latents ({error}): this device computes the "
                "entropy model differently, decode on another one"
            ) from error
        for i, block in enumerate(blocks):
            block.check_latents(latents_crc(z[i], y[i]))
        return y

    def rate(self, quality: int) -> np.ndarray:
        """float32 [1]: the quality as the model takes it."""
        return np.array([quality / QUALITY_STEPS], np.float32)

    def _variables_on(self, number: int) -> Any:
        return self._placed(number % len(self.devices))

    def psi(self, z: np.ndarray, quality: int, shape: tuple[int, ...]) -> np.ndarray:
        """float64 [rows, columns, 2C] of z int32 [rows/4, columns/4, C], sides rounded up.

        The same within 1e-12 on every machine. `shape`: of y, rows and columns first.
        """
        with float64():
            psi = np.asarray(hyper_synthesise(self.model.config, self._wide, z, self.rate(quality)))
        return psi[: shape[0], : shape[1]]


def widened(variables: dict) -> dict:
    """Variables in float64 where `float64` computes. On a device each shape would have to be compiled."""
    with float64():
        return jax.device_put(jax.tree.map(lambda v: v.astype(np.float64), variables))


@functools.partial(jax.jit, static_argnums=0)
def analyse(
    config: ModelConfig, variables: dict, pixels: jax.Array, quality: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """y and z, int32 [rows, columns, channels], of a padded block, uint8 [H, W, bands], at a quality [1]."""
    latents = bounded_latents(LTCHM(config), variables, unit(pixels), quality)
    y, z = (jnp.round(v[0]).astype(jnp.int32) for v in latents)
    return y, z


@functools.partial(jax.jit, static_argnums=0)
def synthesise(config: ModelConfig, variables: dict, y: jax.Array, quality: jax.Array) -> jax.Array:
    """The padded block, uint8 [H, W, bands], of y int32 [H/16, W/16, M], in the type of the variables."""
    y_hat = y.astype(jnp.result_type(*jax.tree.leaves(variables)))[None]
    x_hat: Any = LTCHM(config).apply(variables, y_hat, quality, method="synthesise")
    return jnp.round(255 * jnp.clip(x_hat[0], 0, 1)).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnums=0)
def hyper_synthesise(config: ModelConfig, variables: dict, z: jax.Array, quality: jax.Array) -> jax.Array:
    """psi, float64 [4 h, 4 w, 2C], of z int32 [h, w, C]."""
    z_hat = z.astype(jnp.float64)[None]
    psi: Any = LTCHM(config).apply(variables, z_hat, quality, method="hyper_synthesise")
    return psi[0]


@functools.cache
def entropy_parameters(config: ModelConfig) -> Parameters:
    """The entropy model of y: one and the same function for equal configurations."""
    apply: Any = LTCHM(config).apply
    return functools.partial(apply, method="entropy_parameters")


def latent_shape(height: int, width: int, version: int) -> tuple[int, int]:
    """Rows and columns of y for a block of height x width pixels in a stream of some version."""
    multiple = PADDED_TO[version]
    rows, columns = (-(-n // multiple) * multiple // Y_STRIDE for n in (height, width))
    return rows, columns


def latents_crc(z: np.ndarray, y: np.ndarray) -> int:
    """CRC-32 of the integers of z, then of y, as little-endian int32 in C order."""
    return zlib.crc32(y.astype("<i4").tobytes(), zlib.crc32(z.astype("<i4").tobytes()))
