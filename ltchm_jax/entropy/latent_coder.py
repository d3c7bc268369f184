"""Latents to bytes and back: z through the factorised prior, then y through its mixtures, in one stream."""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax.devices import float64
from ltchm_jax.entropy import range_coder, wavefront
from ltchm_jax.entropy.boundaries import GuardList, Guards, Shape, entries, find_guards
from ltchm_jax.entropy.decisions import Decide, MixtureModel, PmfModel, Question, walk
from ltchm_jax.entropy.distributions import mixture_bits
from ltchm_jax.entropy.range_coder import RangeCoderError
from ltchm_jax.entropy.snapping import SYMBOL_LIMIT, Mixtures, snap
from ltchm_jax.entropy.tables import PmfTables


@dataclass(frozen=True)
class CodedLatents:
    """What a container has to keep.

    Attributes:
      payload: what the range coder wrote.
      guards: what `boundaries.entries` describes, for all of y, rising; few or none.
    """

    payload: bytes
    guards: Guards


class Sink(Protocol):
    """Takes decisions in coding order: a `range_coder.Encoder`, or who wants to know what it would get."""

    def encode(self, indices: np.ndarray, bits: np.ndarray) -> None:
        """int32 [n] Bernoulli tables and bool [n] decisions."""


class Source(Protocol):
    """Gives the decisions back: a `range_coder.Decoder`, or who knows them otherwise."""

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """The next decisions, bool [n], for int32 [n] Bernoulli tables."""


class LatentCoder:
    """Codes pairs of integer latents with one model.

    A function is compiled for each of a few sizes of step, for all models with the same `parameters`.
    """

    def __init__(
        self,
        parameters: wavefront.Parameters,
        variables: Any,
        z_tables: PmfTables,
        kind: str,
        context: bool = True,
    ) -> None:
        """Binds a model.

        Args:
          parameters: the entropy model of y, a pure function, see `wavefront.Parameters`; hashable.
          variables: its variables, in float64, on the device that is to run it.
          z_tables: the factorised prior of z, a row for every channel.
          kind: 'gaussian' or 'laplace'.
          context: whether `parameters` looks at its taps.
        """
        self._variables, self._z_tables, self._kind, self._context = variables, z_tables, kind, context
        self._values = functools.partial(_grid_values_of, parameters)
        self._bits = functools.partial(_bits_of, parameters, kind)

    def encode(self, z: np.ndarray, y: np.ndarray, psi: np.ndarray) -> CodedLatents:
        """Codes z, then y given z; arguments and errors as for `write`."""
        encoder = range_coder.Encoder()
        guards = self.write(encoder, z, y, psi)
        return CodedLatents(encoder.finish(), guards)

    def write(self, sink: Sink, z: np.ndarray, y: np.ndarray, psi: np.ndarray) -> Guards:
        """Sends the decisions of z, then those of y given z, and returns the guards of y.

        Args:
          sink: takes the decisions.
          z: int [h, w, C].
          y: int [H, W, M].
          psi: float64 [H, W, F], what the hyper-synthesis makes of z.

        Raises:
          ValueError: for symbols outside +-SYMBOL_LIMIT (clip them first), or parameters that are not finite.
        """
        for name, symbols in (("z", z), ("y", y)):
            check_symbols(name, symbols)
        recorder = _Recorder(z.ravel(), np.zeros(z.size, np.int16))
        walk(PmfModel(self._z_tables, _channels(z.shape)), recorder)
        sink.encode(*recorder.in_order())
        guards: list[Guards] = []
        for steps, values in self._passes(self._values, y, psi):
            positions = np.concatenate(steps)
            grid = np.asarray(values)[:, : len(positions)]
            listed, sides = find_guards(grid)
            guards.append(entries(listed, sides, len(grid), positions, y.shape))
            sink.encode(*self._decisions(y, steps, snap(grid, listed, sides)))
        return tuple(sorted(itertools.chain(*guards)))

    def _decisions(
        self, y: np.ndarray, steps: list[np.ndarray], snapped: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices and bits of the symbols of some steps, in the order in which a decoder asks."""
        positions = np.concatenate(steps)
        symbols = y[positions[:, 0], positions[:, 1]].ravel()
        step_of = np.repeat(np.arange(len(steps), dtype=np.int16), [len(s) * y.shape[2] for s in steps])
        recorder = _Recorder(symbols, step_of)
        walk(self._mixtures(snapped), recorder)
        return recorder.in_order()

    def _mixtures(self, snapped: np.ndarray) -> MixtureModel:
        """The model of n symbols, from int64 [3K - 1, ...] with n values in each plane."""
        return MixtureModel(Mixtures.from_snapped(snapped.reshape(len(snapped), -1), self._kind))

    def _passes(
        self, function: Callable[..., jax.Array], y: np.ndarray, psi: np.ndarray
    ) -> Iterator[tuple[list[np.ndarray], jax.Array]]:
        """Groups of steps and what `function` gives for them; the next group is computed in the meantime."""
        steps = wavefront.scan_order(y.shape[0], y.shape[1], self._context)
        size, latent = wavefront.chunk_size(steps), wavefront.padded_latent(y[None])
        waiting: list[tuple[list[np.ndarray], jax.Array]] = []
        for group in wavefront.chunks(steps):
            gathered = wavefront.gather(latent, psi[None], np.concatenate(group), size)
            with float64():
                waiting.append((group, function(self._variables, *gathered)))
            if len(waiting) == 2:
                yield waiting.pop(0)
        yield from waiting

    def ideal_bits(self, y: np.ndarray, psi: np.ndarray) -> float:
        """-sum log2 p(y) of the float model, before any snapping; y int [H, W, M], psi float64 [H, W, F]."""
        steps = wavefront.scan_order(y.shape[0], y.shape[1], self._context)
        latent, total = wavefront.padded_latent(y[None]), 0.0
        for group in wavefront.chunks(steps):
            positions = np.concatenate(group)
            gathered = wavefront.gather(latent, psi[None], positions, len(positions))
            with float64():
                symbols = y[positions[:, 0], positions[:, 1]].astype(np.float64)
                total += float(np.asarray(self._bits(self._variables, *gathered, symbols)).sum())
        return total

    def decode(
        self,
        coded: Sequence[CodedLatents],
        z_shape: Shape,
        y_shape: Shape,
        hyper_synthesis: Callable[[np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """The latents that were encoded, of B streams of one shape; arguments and errors as for `read`.

        Corrupt bytes mostly give wrong latents and no error, so the caller needs a checksum.

        Raises:
          RangeCoderError: as `read`, or a stream does not end where it should.
        """
        decoders = [range_coder.Decoder(c.payload) for c in coded]
        z, y = self.read(decoders, [c.guards for c in coded], z_shape, y_shape, hyper_synthesis)
        for i, decoder in enumerate(decoders):
            with _of_stream(i):
                decoder.finish()
        return z, y

    def read(
        self,
        sources: Sequence[Source],
        guards: Sequence[Guards],
        z_shape: Shape,
        y_shape: Shape,
        hyper_synthesis: Callable[[np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Asks for the decisions that `write` sent, of B latents step by step, all of them in each step.

        Args:
          sources: give the decisions; guards: what `write` returned; B of each.
          z_shape, y_shape: (h, w, C) and (H, W, M). Time and memory depend on them alone, whatever is read.
          hyper_synthesis: from z, int32 [h, w, C], to psi, float64 [H, W, F].

        Returns:
          z int32 [B, h, w, C] and y int32 [B, H, W, M].

        Raises:
          RangeCoderError: impossible symbols, entropy parameters that are not finite, or (GuardError) a guard
            that lies outside y.
        """
        channels = _channels((len(sources), *z_shape))
        symbols = walk(PmfModel(self._z_tables, channels), _answers_from(sources, math.prod(z_shape)))
        z = _checked("z", symbols.reshape(len(sources), *z_shape))
        psi = np.stack([hyper_synthesis(one) for one in z])
        return z, self._read_y(sources, guards, y_shape, psi)

    def _read_y(
        self, sources: Sequence[Source], guards: Sequence[Guards], shape: Shape, psi: np.ndarray
    ) -> np.ndarray:
        steps, streams = wavefront.scan_order(shape[0], shape[1], self._context), len(sources)
        lists = [GuardList(g, steps, shape) for g in guards]
        latent = wavefront.padded_latent(np.zeros((streams, *shape), np.int32))
        for i, step in enumerate(steps):
            count = streams * len(step)
            gathered = wavefront.gather(latent, psi, step, wavefront.step_size(count))
            with float64():
                values = np.asarray(self._values(self._variables, *gathered))[:, :count]
            values = values.reshape(len(values), streams, len(step), shape[2])
            snapped = np.stack([_snapped(values[:, b], lists[b], i, b) for b in range(streams)], axis=1)
            decide = _answers_from(sources, len(step) * shape[2])
            symbols = walk(self._mixtures(snapped), decide).reshape(streams, len(step), -1)
            latent[:, step[:, 0] + 2, step[:, 1] + 2] = _checked("y", symbols)
        return latent[:, 2:, 2:-2]


def _snapped(values: np.ndarray, guards: GuardList, step: int, stream: int) -> np.ndarray:
    """int64 [3K - 1, P, M]: the grid values of a step of one stream, as its encoder rounded them."""
    with _of_stream(stream):
        listed = guards.of_step(step, len(values))
        try:
            return snap(values, *listed)
        except ValueError as error:
            raise RangeCoderError(str(error)) from error


@contextlib.contextmanager
def _of_stream(number: int) -> Iterator[None]:
    """Notes in a RangeCoderError which stream it is about."""
    try:
        yield
    except RangeCoderError as error:
        error.stream = number
        raise


class _Recorder:
    """A `Decide` that knows the symbols. It keeps the decisions, and sorts them as the decoder will ask."""

    def __init__(self, symbols: np.ndarray, step_of: np.ndarray) -> None:
        """symbols: int [n]; step_of: int16 [n], rising, the step of each symbol."""
        self._symbols, self._step_of = symbols, step_of
        self._rounds: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __call__(self, indices: np.ndarray, rows: np.ndarray, question: Question) -> np.ndarray:
        bits = question(self._symbols[rows])
        self._rounds.append((indices, bits, self._step_of[rows]))
        return bits

    def in_order(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices and bits, each [n]: step by step, and inside a step round by round."""
        indices, bits, steps = (np.concatenate(v) for v in zip(*self._rounds, strict=True))
        order = np.argsort(steps, kind="stable")
        return indices[order], bits[order]


def _answers_from(sources: Sequence[Source], count: int) -> Decide:
    """A `Decide` that reads the answers about `count` symbols from each stream in turn."""
    ends = count * np.arange(1, len(sources))

    def decide(indices: np.ndarray, rows: np.ndarray, question: Question) -> np.ndarray:
        parts = np.split(indices, np.searchsorted(rows, ends))
        return np.concatenate([s.decode(part) for s, part in zip(sources, parts, strict=True)])

    return decide


def check_symbols(name: str, symbols: np.ndarray) -> None:
    """Raises ValueError unless symbols are integers that the coder has codes for."""
    low, high = int(symbols.min()), int(symbols.max())
    if not np.issubdtype(symbols.dtype, np.integer) or max(-low, high) > SYMBOL_LIMIT:
        rule = f"{name} must hold integers in +-{SYMBOL_LIMIT}"
        raise ValueError(f"{rule}, got {symbols.dtype} in {low}..{high}: round and clip it first")


def _checked(name: str, symbols: np.ndarray) -> np.ndarray:
    """int32 symbols [B, ...] of B streams, none out of range."""
    bad = np.abs(symbols).reshape(len(symbols), -1).max(axis=1) > SYMBOL_LIMIT
    if bad.any():
        with _of_stream(int(bad.argmax())):
            raise RangeCoderError(f"{name} decodes to a symbol outside +-{SYMBOL_LIMIT}")
    return symbols.astype(np.int32)


def _channels(shape: tuple[int, ...]) -> np.ndarray:
    """int64 [n], the channel of each symbol of an array of this shape [..., C], in raster order."""
    return np.tile(np.arange(shape[-1]), math.prod(shape[:-1]))


_grid_values_of = jax.jit(wavefront.grid_values_of, static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _bits_of(
    parameters: wavefront.Parameters,
    kind: str,
    variables: Any,
    taps: jax.Array,
    psi: jax.Array,
    symbols: jax.Array,
) -> jax.Array:
    """float64 [P, M], the ideal code lengths of the symbols float64 [P, M] at P gathered positions."""
    means, scales, weights = parameters(variables, taps.astype(jnp.float64), psi)
    return mixture_bits(symbols, means, scales, jnp.log(weights), kind)
