"""The range coder binding: round trips, the cost it promises, and bytes that it never wrote."""

import subprocess
import sys

import numpy as np
import pytest

from ltchm_jax.entropy import tables

pytest.importorskip("tensorflow_compression_ops")
from ltchm_jax.entropy import range_coder


def _decisions(n, seed=0):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, len(tables.range_coder_lookup()), n).astype(np.int32)
    bits = rng.random(n) < tables.bernoulli_probabilities()[indices] / 2**16
    return indices, bits


def _encoded(indices, bits):
    encoder = range_coder.Encoder()
    encoder.encode(indices, bits)
    return encoder.finish()


def test_pieces_decode_to_what_was_written_at_the_ideal_cost():
    indices, bits = _decisions(50_000)
    encoder = range_coder.Encoder()
    for some in np.array_split(np.arange(50_000), 7):
        encoder.encode(indices[some], bits[some])
    payload = encoder.finish()
    assert payload == _encoded(indices, bits)
    p = tables.bernoulli_probabilities()[indices] / 2**16
    ideal = -np.log2(np.where(bits, p, 1 - p)).sum() / 8
    assert ideal - 2 <= len(payload) <= ideal * 1.0005 + 4
    decoder = range_coder.Decoder(payload)
    pieces = [decoder.decode(part) for part in np.array_split(indices, 13)]
    decoder.finish()
    np.testing.assert_array_equal(np.concatenate(pieces), bits)


def test_nothing_is_a_stream_too():
    payload = _encoded(np.zeros(0, np.int32), np.zeros(0, bool))
    decoder = range_coder.Decoder(payload)
    assert decoder.decode(np.zeros(0, np.int32)).shape == (0,)
    decoder.finish()


@pytest.mark.parametrize("seed", range(6))
def test_any_bytes_decode_to_bits_or_end_in_a_named_error(seed):
    rng = np.random.default_rng(seed)
    indices, bits = _decisions(3000, seed)
    payload = _encoded(indices, bits)
    damaged = bytearray(payload)
    damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
    cut = payload[: len(payload) // 2]
    for data in (b"", cut, bytes(damaged), rng.bytes(500), b"\xff" * 500, payload * 2):
        decoder = range_coder.Decoder(data)
        out = decoder.decode(indices)
        assert out.shape == indices.shape
        assert out.dtype == bool
        try:
            decoder.finish()
        except range_coder.RangeCoderError as error:
            assert "does not end" in str(error)  # noqa: PT017


def test_indices_that_are_no_tables_are_refused():
    count = len(tables.range_coder_lookup())
    for index in (-1, count):
        bad = np.array([index], np.int32)
        with pytest.raises(ValueError, match="Bernoulli tables are 0"):
            range_coder.Encoder().encode(bad, bad)
        with pytest.raises(ValueError, match="Bernoulli tables are 0"):
            range_coder.Decoder(b"").decode(bad)
    with pytest.raises(ValueError, match="equal vectors"):
        range_coder.Encoder().encode(np.zeros(2, np.int32), np.zeros(3, bool))


def test_importing_the_binding_does_not_import_tensorflow():
    code = "import sys, ltchm_jax.entropy.latent_coder; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
