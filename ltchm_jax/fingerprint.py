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
from ltchm_jax.devices import float64
from ltchm_jax.entropy.range_coder import RangeCoderError
from ltchm_jax.entropy.snapping import SYMBOL_LIMIT
from ltchm_jax.entropy.tables import tables_digest
from ltchm_jax.model import LTCHM


class Fingerprint(NamedTuple):
    """Digests, each 16 hexadecimal digits of SHA-256.

    Attributes:
      encoder: model, tables, guards, z, y, and every decision that reaches the range coder with its table, as
        the encoder's parallel pass has them.
      decoder: the same as the decoder's steps have them. Equal, or this device can't read its own streams.
      latents: z and y alone.
    """

    encoder: str
    decoder: str
    latents: str


def fingerprint(coder: BlockCoder, pixels: np.ndarray, quality: int) -> Fingerprint:
    """Codes and decodes one block on this device but for the range coder, and digests every integer.

    Args:
      coder: the model.
      pixels: uint8 [H, W, 1 or the model's bands], one block, whatever its size.
      quality: in steps of 1/256.
    """
    y, z = latents_in_float64(coder, pixels, quality)
    written = Tape()
    guards = coder.entropy.write(written, z, y, coder.psi(z, quality, y.shape))
    read = Tape(np.concatenate(written.bits))
    try:
        z_hat, y_hat = coder.entropy.read(
            [read], [guards], z.shape, y.shape, lambda z: coder.psi(z, quality, y.shape)
        )
    except RangeCoderError:  # it lost its way so far that no symbol is left to read: all zeros
        z_hat, y_hat = np.zeros_like(z)[None], np.zeros_like(y)[None]
    head = coder.model.digest + tables_digest() + np.array(guards, "<i8").tobytes()
    digests = (digest(head, written, z, y), digest(head, read, z_hat[0], y_hat[0]), digest(b"", Tape(), z, y))
    return Fingerprint(*digests)


def digest(head: bytes, tape: "Tape", z: np.ndarray, y: np.ndarray) -> str:
    """16 hexadecimal digits over all that is given; how a tape is cut into pieces leaves no trace."""
    sha = hashlib.sha256(head)
    for indices in tape.indices:
        sha.update(indices.astype("<i4").tobytes())
    for bits in tape.bits:
        sha.update(bits.astype(np.uint8).tobytes())
    for integers in (z, y):
        sha.update(integers.astype("<i4").tobytes())
    return sha.hexdigest()[:16]


class Tape:
    """In place of a range coder: keeps decisions and their tables, and plays given decisions back."""

    def __init__(self, play: np.ndarray | None = None) -> None:
        """play: bool [n], the decisions to give out."""
        self.indices: list[np.ndarray] = []
        self.bits: list[np.ndarray] = []
        self._play, self._at = play, 0

    def encode(self, indices: np.ndarray, bits: np.ndarray) -> None:
        """Keeps int32 [n] tables and bool [n] decisions."""
        self.indices.append(indices)
        self.bits.append(bits)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """The next decisions, bool [n]; those past the end are False."""
        assert self._play is not None
        bits = self._play[self._at : self._at + len(indices)]
        bits = np.pad(bits, (0, len(indices) - len(bits)))
        self._at += len(indices)
        self.encode(indices, bits)
        return bits


def latents_in_float64(coder: BlockCoder, pixels: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
    """y int32 [h/16, w/16, M] and z int32 [h/64, w/64, C], sides rounded up, the same on every machine."""
    padded = coder.padded(pixels)[None] / 255.0
    with float64():
        variables = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), coder.model.variables)
        analyse = jax.jit(lambda v, x, q: LTCHM(coder.model.config).apply(v, x, q, method="analyse"))
        latents = jax.device_get(analyse(variables, jnp.asarray(padded), jnp.asarray(coder.rate(quality))))
    y, z = (np.clip(np.rint(v[0]), -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32) for v in latents)
    return y, z
