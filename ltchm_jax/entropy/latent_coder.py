"""Latents to bytes and back: z through the factorised prior, then y through its mixtures, in one stream."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
      guards: what `boundaries.entries` describes, for all of y, rising; nearly always empty.
    """

    payload: bytes
    guards: Guards


class LatentCoder:
    """Codes pairs of integer latents with one model; compiles its functions once for every latent size."""

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
          parameters: the entropy model of y, a pure function, see `wavefront.Parameters`.
          variables: its variables, in float64, on the device that is to run it.
          z_tables: the factorised prior of z, a row for every channel.
          kind: 'gaussian' or 'laplace'.
          context: whether `parameters` looks at its taps.
        """
        self._variables, self._z_tables, self._kind, self._context = variables, z_tables, kind, context
        self._values = jax.jit(functools.partial(wavefront.grid_values_at, parameters))
        self._bits = jax.jit(functools.partial(_bits_at, parameters, kind))
        self._step = functools.cache(functools.partial(wavefront.compiled_decoder_step, parameters))

    def encode(self, z: np.ndarray, y: np.ndarray, psi: jax.Array) -> CodedLatents:
        """Codes z, then y given z.

        Args:
          z: int [h, w, C].
          y: int [H, W, M].
          psi: float64 [H, W, F], what the hyper-synthesis makes of z.

        Raises:
          ValueError: for symbols outside +-SYMBOL_LIMIT (clip them first), or parameters that are not finite.
        """
        for name, symbols in (("z", z), ("y", y)):
            check_symbols(name, symbols)
        encoder = range_coder.Encoder()
        recorder = _Recorder(z.ravel(), np.zeros(z.size, np.int16))
        walk(PmfModel(self._z_tables, _channels(z.shape)), recorder)
        encoder.encode(*recorder.in_order())
        guards = [self._encode_steps(encoder, y, *group) for group in self._passes(self._values, y, psi)]
        return CodedLatents(encoder.finish(), tuple(sorted(itertools.chain(*guards))))

    def _encode_steps(
        self, encoder: range_coder.Encoder, y: np.ndarray, steps: list[np.ndarray], values: jax.Array
    ) -> Guards:
        """Codes the symbols of some steps; returns their guards."""
        positions = np.concatenate(steps)
        flat_values = np.asarray(values)[:, : len(positions)].reshape(len(values), -1)
        listed, sides = find_guards(flat_values)
        mixtures = Mixtures.from_snapped(snap(flat_values, listed, sides), self._kind)
        symbols = y[positions[:, 0], positions[:, 1]].ravel()
        step_of = np.repeat(np.arange(len(steps), dtype=np.int16), [len(s) * y.shape[2] for s in steps])
        recorder = _Recorder(symbols, step_of)
        walk(MixtureModel(mixtures), recorder)
        encoder.encode(*recorder.in_order())
        return entries(listed, sides, len(flat_values), positions, (y.shape[0], y.shape[1], y.shape[2]))

    def _passes(
        self, function: Callable, y: np.ndarray, psi: jax.Array
    ) -> Iterator[tuple[list[np.ndarray], jax.Array]]:
        """Groups of steps and what `function` gives for them; the next group is computed in the meantime."""
        steps = wavefront.scan_order(y.shape[0], y.shape[1], self._context)
        size = wavefront.chunk_size(steps)
        with wavefront.float64():
            latent, psi = jnp.asarray(wavefront.padded_latent(y)), jnp.asarray(psi, jnp.float64)
        waiting: list[tuple[list[np.ndarray], jax.Array]] = []
        for group in wavefront.chunks(steps):
            with wavefront.float64():
                positions = wavefront.padded(np.concatenate(group), size)
                waiting.append((group, function(self._variables, latent, psi, positions)))
            if len(waiting) == 2:
                yield waiting.pop(0)
        yield from waiting

    def ideal_bits(self, y: np.ndarray, psi: jax.Array) -> float:
        """-sum log2 p(y) of the float model, before any snapping; y int [H, W, M], psi float64 [H, W, F]."""
        total = 0.0
        for group, bits in self._passes(self._bits, y, psi):
            total += float(np.asarray(bits)[: sum(map(len, group))].sum())
        return total

    def decode(
        self,
        coded: CodedLatents,
        z_shape: Shape,
        y_shape: Shape,
        hyper_synthesis: Callable[[np.ndarray], jax.Array],
    ) -> tuple[np.ndarray, np.ndarray]:
        """The latents that were encoded.

        Args:
          coded: what `encode` returned.
          z_shape, y_shape: (h, w, C) and (H, W, M). Time and memory depend on them alone, whatever the bytes.
          hyper_synthesis: from z, int32 [h, w, C], to psi, float64 [H, W, F].

        Returns:
          z int32 [h, w, C] and y int32 [H, W, M]. Corrupt bytes mostly give wrong latents and no error, so
          the caller needs a checksum.

        Raises:
          RangeCoderError: if the bytes decode to impossible symbols or do not end where they should, or a
            guard lies outside y.
        """
        decoder = range_coder.Decoder(coded.payload)
        decide = _answers_from(decoder)
        z = _checked("z", walk(PmfModel(self._z_tables, _channels(z_shape)), decide)).reshape(z_shape)
        y = self._decode_y(decide, y_shape, hyper_synthesis(z), coded.guards)
        decoder.finish()
        return z, y

    def _decode_y(self, decide: Decide, shape: Shape, psi: jax.Array, guards: Guards) -> np.ndarray:
        steps = wavefront.scan_order(shape[0], shape[1], self._context)
        size = wavefront.step_size(steps)
        evaluate, guard_list = self._step(size), GuardList(guards, steps, shape)
        y = np.zeros(shape, np.int32)
        known, symbols = np.full((size, 2), shape[0], np.int32), np.zeros((size, shape[2]), np.int32)
        with wavefront.float64():
            # Made by JAX: the step takes its buffer over, which must not be one that NumPy owns.
            latent = jnp.zeros((shape[0] + 2, shape[1] + 4, shape[2]), jnp.float64)
            psi = jnp.asarray(psi, jnp.float64)
            for i, step in enumerate(steps):
                n, positions = len(step), wavefront.padded(step, size)
                last = known.copy(), symbols.copy()  # JAX may read them where they lie
                latent, grid = evaluate(self._variables, latent, psi, *last, positions, n)
                values = np.asarray(grid)[:, :n].reshape(len(grid), -1)
                mixtures = Mixtures.from_snapped(
                    snap(values, *guard_list.of_step(i, len(values))), self._kind
                )
                decoded = _checked("y", walk(MixtureModel(mixtures), decide)).reshape(n, -1)
                known[:n], known[n:], symbols[:n] = step, shape[0], decoded
                y[step[:, 0], step[:, 1]] = decoded
        return y


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


def _answers_from(decoder: range_coder.Decoder) -> Decide:
    """A `Decide` that reads the answers from a stream."""
    return lambda indices, rows, question: decoder.decode(indices)


def check_symbols(name: str, symbols: np.ndarray) -> None:
    """Raises ValueError unless symbols are integers that the coder has codes for."""
    low, high = int(symbols.min()), int(symbols.max())
    if not np.issubdtype(symbols.dtype, np.integer) or max(-low, high) > SYMBOL_LIMIT:
        rule = f"{name} must hold integers in +-{SYMBOL_LIMIT}"
        raise ValueError(f"{rule}, got {symbols.dtype} in {low}..{high}: round and clip it first")


def _checked(name: str, symbols: np.ndarray) -> np.ndarray:
    if np.abs(symbols).max() > SYMBOL_LIMIT:
        raise RangeCoderError(f"{name} decodes to a symbol outside +-{SYMBOL_LIMIT}: the payload is corrupt")
    return symbols.astype(np.int32)


def _channels(shape: tuple[int, ...]) -> np.ndarray:
    """int64 [h w C], the channel of each symbol in raster order."""
    return np.tile(np.arange(shape[2]), shape[0] * shape[1])


def _bits_at(
    parameters: wavefront.Parameters,
    kind: str,
    variables: Any,
    latent: jax.Array,
    psi: jax.Array,
    positions: jax.Array,
) -> jax.Array:
    """float64 [P, M], the ideal code lengths at some positions."""
    means, scales, weights = wavefront.mixtures_at(parameters, variables, latent, psi, positions)
    y = latent[positions[:, 0] + 2, positions[:, 1] + 2]
    return mixture_bits(y, means, scales, jnp.log(weights), kind)
