"""Digests of all integers behind a stream: two devices that agree on them read each other's streams.

The latents come from an analysis in float64, so that nothing but the entropy model is compared: in float32
two devices may round a latent differently, which changes what is sent, not whether it can be read.
"""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.block_coder import BlockCoder
from ltchm_jax.entropy.snapping import SYMBOL_LIMIT
from ltchm_jax.entropy.tables import tables_digest
from ltchm_jax.entropy.wavefront import float64
from ltchm_jax.model import LTCHM, padded_size


class Fingerprint(NamedTuple):
    """Three digests, each 16 hexadecimal digits of SHA-256.

    Attributes:
      encoder: model, tables, z, y and the snapped parameters of y, as the encoder's parallel pass has them.
      decoder: the same as the decoder's steps have them; equal, or streams of this device can't be read.
      payload: the bytes of the stream.
    """

    encoder: str
    decoder: str
    payload: str


def fingerprint(coder: BlockCoder, pixels: np.ndarray, quality: int) -> Fingerprint:
    """Codes and decodes one block on this device, and digests every integer on both ways.

    Args:
      coder: the model.
      pixels: uint8 [H, W, bands of the model]; one block, whatever its size.
      quality: in steps of 1/256.

    Raises:
      RangeCoderError: what was encoded can't even be decoded here.
    """
    y, z = latents_in_float64(coder, pixels, quality)
    encoder, decoder = _Digest(coder), _Digest(coder)
    coded = coder.entropy.encode(z, y, coder.psi(z, quality), encoder.witness)
    encoder.add(z, y)
    z_hat, y_hat = coder.entropy.decode(
        [coded], z.shape, y.shape, lambda z: coder.psi(z, quality), decoder.witness
    )
    decoder.add(z_hat[0], y_hat[0])
    return Fingerprint(encoder.hex, decoder.hex, hashlib.sha256(coded.payload).hexdigest()[:16])


def latents_in_float64(coder: BlockCoder, pixels: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
    """y int32 [H/16, W/16, M] and z int32 [H/64, W/64, C], the same on every machine."""
    pads = [(0, padded_size(n) - n) for n in pixels.shape[:2]]
    padded = np.pad(pixels, [*pads, (0, 0)], "edge")[None] / 255.0
    with float64():
        variables = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), coder.model.variables)
        analyse = jax.jit(lambda v, x, q: LTCHM(coder.model.config).apply(v, x, q, method="analyse"))
        latents = jax.device_get(analyse(variables, jnp.asarray(padded), jnp.asarray(coder.rate(quality))))
    y, z = (np.clip(np.rint(v[0]), -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32) for v in latents)
    return y, z


class _Digest:
    def __init__(self, coder: BlockCoder) -> None:
        self._sha = hashlib.sha256(coder.model.digest + tables_digest())

    def witness(self, _: int, snapped: np.ndarray) -> None:
        """Takes int64 [3K - 1, P, M]; position by position, so that the cut into passes leaves no trace."""
        self._sha.update(np.moveaxis(snapped, 0, -1).astype("<i8").tobytes())

    def add(self, *latents: np.ndarray) -> None:
        for integers in latents:
            self._sha.update(integers.astype("<i4").tobytes())

    @property
    def hex(self) -> str:
        return self._sha.hexdigest()[:16]
