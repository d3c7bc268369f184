"""The tensorflow-compression binding: streams of binary decisions. The only file that touches TensorFlow.

TensorFlow is imported when the first stream is written or read. It gets one thread and no GPU: the operations
are serial, and the GPU is JAX's.
"""

import contextlib
import functools
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ltchm_jax.entropy import tables


class RangeCoderError(ValueError):
    """A payload that the coder cannot have written; `stream` is its number among those decoded together."""

    stream = 0


class GuardError(RangeCoderError):
    """A guard that lies outside the latent."""


_STARTING = threading.Lock()


def _backend() -> tuple[Any, Any, Any]:
    """(tensorflow, the module that holds the operations, the lookup tensor)."""
    with _STARTING:  # of several threads one imports, with the environment changed for so long
        return _imported()


@functools.cache
def _imported() -> tuple[Any, Any, Any]:
    try:
        tf = small_tensorflow()
        try:
            import tensorflow_compression_ops as ops
        except ImportError:
            import tensorflow_compression as ops
    except ImportError as error:
        raise ImportError(
            f"bitstreams need tensorflow and tensorflow-compression-ops, and one is missing ({error}):"
            " install them, or this package with its extra 'codec'"
        ) from error
    return tf, ops, tf.constant(tables.range_coder_lookup())


def small_tensorflow() -> Any:
    """TensorFlow with one thread and no GPU; where it has started before, its owner's settings stand."""
    if sys.flags.optimize > 1:
        raise ImportError("TensorFlow needs docstrings, which -OO and PYTHONOPTIMIZE=2 take away")
    with _quiet():
        import tensorflow as tf
    for configure in (
        lambda: tf.config.set_visible_devices([], "GPU"),
        lambda: tf.config.threading.set_intra_op_parallelism_threads(1),
        lambda: tf.config.threading.set_inter_op_parallelism_threads(1),
    ):
        with contextlib.suppress(RuntimeError):
            configure()
    return tf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what TensorFlow says at its start, about GPUs and Matplotlib's folders, off the terminal."""
    logging.getLogger("matplotlib").addHandler(logging.NullHandler())
    before = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
        else:
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = before


@functools.lru_cache(maxsize=1 << 14)
def _shape(n: int) -> Any:
    """The int32 tensor [n]. Making one costs as much as decoding a thousand decisions, hence the cache."""
    return _backend()[0].constant([n], dtype="int32")


class Encoder:
    """Writes one stream, in pieces; how it is cut into pieces leaves no trace."""

    def __init__(self) -> None:
        _, self._ops, lookup = _backend()
        self._handle = self._ops.create_range_encoder([], lookup)

    def encode(self, indices: np.ndarray, bits: np.ndarray) -> None:
        """Writes some decisions.

        Args:
          indices: int [n], the Bernoulli table (row of `tables.range_coder_lookup`) of each decision.
          bits: int or bool [n], the decisions.

        Raises:
          ValueError: if the two are no vectors of one length, or an index is not a table.
        """
        if indices.shape != bits.shape or indices.ndim != 1:
            raise ValueError(f"indices and bits must be equal vectors, got {indices.shape} and {bits.shape}")
        _check_indices(indices)
        indices, bits = indices.astype(np.int32), bits.astype(np.int32)
        self._handle = self._ops.entropy_encode_index(self._handle, indices, bits)

    def finish(self) -> bytes:
        """The payload. Nothing can be written afterwards."""
        return self._ops.entropy_encode_finalize(self._handle).numpy()


class Decoder:
    """Reads one stream, in pieces. The indices must be those it was written with.

    Any bytes decode to some bits, in time and memory proportional to the number asked for. Wrong bytes give
    wrong bits, which only a checksum of the outcome can find.
    """

    def __init__(self, payload: bytes) -> None:
        tf, self._ops, lookup = _backend()
        self._dtype = tf.int32
        self._handle = self._ops.create_range_decoder(tf.constant(payload), lookup)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """The next decisions, bool [n], for int32 indices [n] of Bernoulli tables."""
        if not indices.size:
            return np.zeros(0, bool)
        _check_indices(indices)
        shape = _shape(indices.size)
        self._handle, bits = self._ops.entropy_decode_index(self._handle, indices, shape, self._dtype)
        return bits.numpy() != 0

    def finish(self) -> None:
        """To be called when everything is read.

        Raises:
          RangeCoderError: if the range coder's own (weak) check says that the payload is not what it wrote.
        """
        if not bool(self._ops.entropy_decode_finalize(self._handle).numpy()):
            raise RangeCoderError("the payload does not end where its last symbol does")


def _check_indices(indices: np.ndarray) -> None:
    count = len(tables.range_coder_lookup())
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        raise ValueError(f"Bernoulli tables are 0..{count - 1}, got {indices.min()}..{indices.max()}")
