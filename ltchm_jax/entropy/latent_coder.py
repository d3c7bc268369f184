"""Latents to bytes and back: z through the factorised prior, then y through its mixtures, in one stream."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.entropy import range_coder, wavefront
from ltchm_jax.entropy.decisions import MixtureModel, PmfModel, walk
from ltchm_jax.entropy.distributions import mixture_bits
from ltchm_jax.entropy.range_coder import RangeCoderError
from ltchm_jax.entropy.snapping import SYMBOL_LIMIT, Mixtures, find_guards, snap
from ltchm_jax.entropy.tables import PmfTables


@dataclass(frozen=True)
class CodedLatents:
    """Attributes:
    payload: what the range coder wrote.
    guards: int64 [g], rising; 2 * index + side of each parameter value near a rounding boundary, where index is
      ((row * W + column) * M + channel) * (3K - 1) + value. Nearly always empty.
    """

    payload: bytes
    guards: np.ndarray


class LatentCoder:
    """Codes pairs of integer latents with one model.

    Args:
      parameters: the entropy model of y, a pure function, see `wavefront.Parameters`.
      variables: its variables, in float64; on the device that should run it.
      z_tables: the factorised prior of z, a row a channel.
      kind: 'gaussian' or 'laplace'.
      context: whether `parameters` looks at its taps.

    Functions are compiled once for every latent size.
    """

    def __init__(
        self, parameters: wavefront.Parameters, variables: Any, z_tables: PmfTables, kind: str, context: bool = True
    ) -> None:
        self._variables, self._z_tables, self._kind, self._context = variables, z_tables, kind, context
        self._values = jax.jit(functools.partial(wavefront.grid_values_at, parameters))
        self._step = jax.jit(functools.partial(wavefront.decoder_step, parameters), donate_argnums=1)
        self._bits = jax.jit(functools.partial(_bits_at, parameters, kind))

    def encode(self, z: np.ndarray, y: np.ndarray, psi: jax.Array) -> CodedLatents:
        """Codes z, then y given z.

        Args:
          z: int [h, w, C].
          y: int [H, W, M].
          psi: float64 [H, W, F], what the hyper-synthesis makes of z.

        Raises:
          ValueError: for symbols outside +-SYMBOL_LIMIT (clip them first) or parameters that are not finite.
        """
        for name, symbols in (("z", z), ("y", y)):
            check_symbols(name, symbols)
        writer = _Writer()
        walk(PmfModel(self._z_tables, _channels(z.shape)), writer.asker(z.ravel(), np.zeros(z.size, np.int16)))
        writer.end_group()
        guards = [self._encode_steps(y, steps, values, writer) for steps, values in self._passes(y, psi)]
        payload = range_coder.encode(*writer.decisions())
        return CodedLatents(payload, np.sort(np.concatenate(guards)))

    def _encode_steps(
        self, y: np.ndarray, steps: list[np.ndarray], values: np.ndarray, writer: "_Writer"
    ) -> np.ndarray:
        """Writes the decisions of some steps; returns their guards."""
        positions = np.concatenate(steps)
        listed, sides = find_guards(values)
        mixtures = Mixtures.from_snapped(snap(values, listed, sides), self._kind)
        symbols = y[positions[:, 0], positions[:, 1]].ravel()
        step_of = np.repeat(np.arange(len(steps), dtype=np.int16), [len(s) * y.shape[2] for s in steps])
        walk(MixtureModel(mixtures), writer.asker(symbols, step_of))
        writer.end_group()
        return 2 * _global_index(listed, positions, values.shape, y.shape) + sides

    def _passes(self, y: np.ndarray, psi: jax.Array) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
        """Groups of steps with their float64 [3K - 1, n] values; the next group is computed meanwhile."""
        for group, values in self._evaluated(self._values, y, psi):
            count = sum(map(len, group))
            yield group, np.asarray(values)[:, :count].reshape(len(values), -1)

    def _evaluated(
        self, function: Callable, y: np.ndarray, psi: jax.Array, *extra: Any
    ) -> Iterator[tuple[list[np.ndarray], jax.Array]]:
        steps = wavefront.scan_order(*y.shape[:2], self._context)
        size = wavefront.chunk_size(steps)
        with wavefront.float64():
            latent, psi = jnp.asarray(wavefront.padded_latent(y)), jnp.asarray(psi, jnp.float64)
        waiting = None
        for group in wavefront.chunks(steps):
            with wavefront.float64():
                positions = wavefront.padded(np.concatenate(group), size)
                values = function(self._variables, latent, psi, positions)
            if waiting is not None:
                yield waiting
            waiting = group, values
        yield waiting

    def ideal_bits(self, y: np.ndarray, psi: jax.Array) -> float:
        """-sum log2 p(y) under the float model, before any snapping; y int [H, W, M], psi float64 [H, W, F]."""
        total = 0.0
        for group, bits in self._evaluated(self._bits, y, psi):
            total += float(np.asarray(bits)[: sum(map(len, group))].sum())
        return total

    def decode(
        self,
        coded: CodedLatents,
        z_shape: tuple[int, int, int],
        y_shape: tuple[int, int, int],
        hyper_synthesis: Callable[[np.ndarray], jax.Array],
    ) -> tuple[np.ndarray, np.ndarray]:
        """The latents that were encoded.

        Args:
          coded: what `encode` returned.
          z_shape, y_shape: (h, w, C) and (H, W, M). Time and memory are proportional to them, whatever the bytes.
          hyper_synthesis: from z, int32 [h, w, C], to psi, float64 [H, W, F].

        Returns:
          z int32 [h, w, C] and y int32 [H, W, M]. Corrupt bytes usually give wrong latents without an error: keep
          a checksum.

        Raises:
          RangeCoderError: if the bytes decode to impossible symbols, do not end where they should, or the guards
            are no list of positions in y.
        """
        decoder = range_coder.Decoder(coded.payload)
        z = walk(PmfModel(self._z_tables, _channels(z_shape)), lambda indices, rows, question: decoder.decode(indices))
        z = _checked("z", z).reshape(z_shape)
        y = self._decode_y(decoder, y_shape, hyper_synthesis(z), coded.guards)
        decoder.finish()
        return z, y

    def _decode_y(
        self, decoder: range_coder.Decoder, shape: tuple[int, int, int], psi: jax.Array, guards: np.ndarray
    ) -> np.ndarray:
        steps = wavefront.scan_order(*shape[:2], self._context)
        size = wavefront.step_size(steps)
        guards = _GuardList(guards, steps, shape)
        y = np.zeros(shape, np.int32)
        known, symbols = np.full((size, 2), shape[0], np.int32), np.zeros((size, shape[2]), np.int32)
        with wavefront.float64():
            latent, psi = jnp.asarray(wavefront.padded_latent(y)), jnp.asarray(psi, jnp.float64)
            for i, step in enumerate(steps):
                latent, values = self._step(
                    self._variables, latent, psi, known, symbols, wavefront.padded(step, size)
                )
                values = np.asarray(values)[:, : len(step)].reshape(len(values), -1)
                mixtures = Mixtures.from_snapped(snap(values, *guards.of_step(i, len(values))), self._kind)
                decoded = walk(MixtureModel(mixtures), lambda indices, rows, question: decoder.decode(indices))
                known[: len(step)], known[len(step) :] = step, shape[0]
                symbols[: len(step)] = _checked("y", decoded).reshape(len(step), -1)
                y[step[:, 0], step[:, 1]] = symbols[: len(step)]
        return y


class _Writer:
    """Collects decisions, group of steps by group of steps, in the order in which the decoder will ask for them."""

    def __init__(self) -> None:
        self._groups: list[tuple[np.ndarray, np.ndarray]] = []
        self._rounds: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def asker(self, symbols: np.ndarray, step_of: np.ndarray) -> Callable:
        """A `decide` that knows the answers. step_of: int16 [n], rising: the step of each symbol."""

        def decide(indices: np.ndarray, rows: np.ndarray, question: Callable) -> np.ndarray:
            bits = question(symbols[rows])
            self._rounds.append((indices.astype(np.int16), bits, step_of[rows]))
            return bits

        return decide

    def end_group(self) -> None:
        """Orders what came in round by round of many steps as step by step, each round by round."""
        indices, bits, steps = (np.concatenate(v) for v in zip(*self._rounds, strict=True))
        order = np.argsort(steps, kind="stable")
        self._groups.append((indices[order], bits[order]))
        self._rounds = []

    def decisions(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices and bits, each [n], of everything."""
        indices, bits = zip(*self._groups, strict=True)
        return np.concatenate(indices), np.concatenate(bits)


class _GuardList:
    """The guards of a stream, sorted by decoder step."""

    def __init__(self, guards: np.ndarray, steps: list[np.ndarray], shape: tuple[int, int, int]) -> None:
        self._guards, self._steps, self._shape = np.asarray(guards, np.int64), steps, shape
        self._step_of, self._slot_of = np.zeros(shape[:2], np.int64), np.zeros(shape[:2], np.int64)
        if len(self._guards):
            for i, step in enumerate(steps):
                self._step_of[step[:, 0], step[:, 1]] = i
                self._slot_of[step[:, 0], step[:, 1]] = np.arange(len(step))

    def of_step(self, i: int, values: int) -> tuple[np.ndarray, np.ndarray]:
        """Flat positions in the float64 [values, P * M] of step i, and the sides to take.

        Raises:
          RangeCoderError: if an entry lies outside the latent.
        """
        if not len(self._guards):
            return self._guards, self._guards
        index, sides = self._guards >> 1, self._guards & 1
        if index.min() < 0 or index.max() >= int(np.prod(self._shape)) * values:
            raise RangeCoderError(f"guards must lie in a latent of shape {self._shape}, got {index.max()}")
        pixel, channel, value = np.unravel_index(
            index, (self._shape[0] * self._shape[1], self._shape[2], values)
        )
        mine = self._step_of.ravel()[pixel] == i
        flat = (value * len(self._steps[i]) + self._slot_of.ravel()[pixel]) * self._shape[2] + channel
        return flat[mine], sides[mine]


def check_symbols(name: str, symbols: np.ndarray) -> None:
    """Raises ValueError unless symbols are integers that the coder has codes for."""
    if not np.issubdtype(symbols.dtype, np.integer) or np.abs(symbols.astype(np.int64)).max() > SYMBOL_LIMIT:
        raise ValueError(
            f"{name} must hold integers in +-{SYMBOL_LIMIT}, got {symbols.dtype} in"
            f" {symbols.min()}..{symbols.max()}: round and clip it first"
        )


def _checked(name: str, symbols: np.ndarray) -> np.ndarray:
    if np.abs(symbols).max() > SYMBOL_LIMIT:
        raise RangeCoderError(f"{name} decodes to a symbol outside +-{SYMBOL_LIMIT}: the payload is corrupt")
    return symbols.astype(np.int32)


def _channels(shape: tuple[int, ...]) -> np.ndarray:
    """int64 [h w C], the channel of each symbol in raster order."""
    return np.tile(np.arange(shape[2]), shape[0] * shape[1])


def _global_index(
    listed: np.ndarray, positions: np.ndarray, values_shape: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """From flat positions in [3K - 1, P * M] to the index of `CodedLatents.guards` before doubling."""
    value, slot, channel = np.unravel_index(listed, (values_shape[0], len(positions), shape[2]))
    pixel = positions[slot, 0].astype(np.int64) * shape[1] + positions[slot, 1]
    return (pixel * shape[2] + channel) * values_shape[0] + value


def _bits_at(
    parameters: wavefront.Parameters, kind: str, variables: Any, latent: jax.Array, psi: jax.Array, positions: jax.Array
) -> jax.Array:
    """float64 [P, M], the ideal code lengths at some positions."""
    means, scales, weights = wavefront.mixtures_at(parameters, variables, latent, psi, positions)
    y = latent[positions[:, 0] + 2, positions[:, 1] + 2]
    return mixture_bits(y, means, scales, jnp.log(weights), kind)
