"""Both latents through one stream: exact, near the ideal cost, indifferent to noise, safe on garbage."""

import entropy_model
import jax
import numpy as np
import pytest

from ltchm_jax.devices import float64
from ltchm_jax.entropy import boundaries, tables, wavefront
from ltchm_jax.entropy.snapping import SYMBOL_LIMIT

pytest.importorskip("tensorflow_compression_ops")
from ltchm_jax.entropy.latent_coder import CodedLatents, LatentCoder
from ltchm_jax.entropy.range_coder import RangeCoderError

CHANNELS, FEATURES = 16, 8


def _z_tables(channels=4):
    pmf = np.exp(-np.abs(np.arange(-8, 9))[None] / np.linspace(0.3, 3, channels)[:, None])
    return tables.quantise_pmf(pmf, -8)


def _coder(kind="laplace", log_scale=-1.0, model=entropy_model.parameters, v=None, context=True):
    v = entropy_model.variables(0, CHANNELS, FEATURES, log_scale) if v is None else v
    return LatentCoder(model, v, _z_tables(), kind, context)


def _latents(shape, kind="laplace", log_scale=-1.0, model=entropy_model.parameters):
    """z, y, psi; y is drawn from the model."""
    rng = np.random.default_rng(1)
    psi = rng.normal(size=(*shape, FEATURES))
    v = entropy_model.variables(0, CHANNELS, FEATURES, log_scale)
    y = entropy_model.sample_latent(model, v, psi, CHANNELS, kind)
    return rng.integers(-3, 4, (2, 3, 4)), y, psi


def _decode(coder, coded, z, y, psi):
    z, y = coder.decode([coded], z.shape, y.shape, lambda z: psi)
    return z[0], y[0]


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (2, 40), (30, 30)])
def test_decode_equals_encode(shape, kind):
    z, y, psi = _latents(shape, kind)
    coder = _coder(kind)
    coded = coder.encode(z, y, psi)
    z_hat, y_hat = _decode(coder, coded, z, y, psi)
    assert z_hat.dtype == y_hat.dtype == np.int32
    np.testing.assert_array_equal(z_hat, z)
    np.testing.assert_array_equal(y_hat, y)


@pytest.mark.parametrize("streams", [2, 5])
def test_streams_decoded_together_are_those_decoded_alone(streams):
    z, y, psi = _latents((7, 9))
    coder = _coder()
    turned = [(z * (-1) ** i, np.roll(y, i, axis=1), psi + 0.1 * i) for i in range(streams)]
    coded = [coder.encode(*latents) for latents in turned]
    given = iter([psi for _, _, psi in turned])
    z_hat, y_hat = coder.decode(coded, z.shape, y.shape, lambda z: next(given))
    np.testing.assert_array_equal(z_hat, [z for z, _, _ in turned])
    np.testing.assert_array_equal(y_hat, [y for _, y, _ in turned])


def test_the_bad_one_of_several_streams_is_named():
    z, y, psi = _latents((3, 4))
    coder = _coder()
    good = coder.encode(z, y, psi)
    with pytest.raises(RangeCoderError) as caught:
        coder.decode(
            [good, good, CodedLatents(good.payload, ((y.size * 8, 0),))], z.shape, y.shape, lambda z: psi
        )
    assert caught.value.stream == 2


def test_without_context_blocks_of_positions_decode_at_once():
    z, y, psi = _latents((20, 30), model=entropy_model.without_context)
    coder = _coder(model=entropy_model.without_context, context=False)
    coded = coder.encode(z, y, psi)
    np.testing.assert_array_equal(_decode(coder, coded, z, y, psi)[1], y)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("log_scale", [-2.5, -1.5, 0.0, 2.0, 4.5])
def test_bytes_are_within_a_fraction_of_a_percent_of_the_ideal(kind, log_scale):
    z, y, psi = _latents((24, 24), kind, log_scale)
    coder = _coder(kind, log_scale)
    with_y = len(coder.encode(z, y, psi).payload)
    ideal = coder.ideal_bits(y, psi) / 8
    z_alone = len(coder.encode(z, y[:1, :1, :] * 0, psi[:1, :1]).payload)
    assert with_y <= 1.005 * ideal + z_alone + 40
    assert with_y >= ideal - 8


def test_ideal_bits_are_the_bits_of_the_float_model():
    _, y, psi = _latents((4, 5))
    v = entropy_model.variables(0, CHANNELS, FEATURES, -1.0)
    positions = np.indices((4, 5)).reshape(2, -1).T
    with float64():
        taps, psi_at = wavefront.gather(wavefront.padded_latent(y[None]), psi[None], positions, 20)
        mixtures = entropy_model.parameters(v, taps.astype(np.float64), psi_at)
    means, scales, weights = (np.asarray(a) for a in mixtures)
    distance = np.abs(y.reshape(20, CHANNELS, 1) - means)
    cdf = lambda t: np.where(t < 0, 0.5 * np.exp(np.minimum(t, 0)), 1 - 0.5 * np.exp(-np.maximum(t, 0)))  # noqa: E731
    mass = cdf((distance + 0.5) / scales) - cdf((distance - 0.5) / scales)
    want = -np.log2((weights * mass).sum(-1)).sum()
    assert _coder().ideal_bits(y, psi) == pytest.approx(want, rel=1e-9)


def _perturbed(v, psi, size):
    """The same weights and psi, with relative noise."""
    rng = np.random.default_rng(9)
    noise = lambda a: a * (1 + size * rng.uniform(-1, 1, np.shape(a)))  # noqa: E731
    with float64():
        return jax.tree.map(lambda a: jax.numpy.asarray(noise(np.asarray(a))), v), noise(psi)


def test_a_decoder_with_noise_in_every_weight_decodes_the_same():
    z, y, psi = _latents((16, 16))
    v = entropy_model.variables(0, CHANNELS, FEATURES, -1.0)
    coded = _coder().encode(z, y, psi)
    noisy, noisy_psi = _perturbed(v, psi, 1e-12)
    np.testing.assert_array_equal(_decode(_coder(v=noisy), coded, z, y, noisy_psi)[1], y)


def test_the_guards_are_what_makes_noise_harmless(monkeypatch):
    """Where noise is large enough to cross boundaries, a stream decodes with its list and not without."""
    z, y, psi = _latents((16, 16))
    v = entropy_model.variables(0, CHANNELS, FEATURES, -1.0)
    monkeypatch.setattr(boundaries, "DISTANCE", 0.2)
    coded = _coder().encode(z, y, psi)
    assert len(coded.guards) > 10
    noisy, noisy_psi = _perturbed(v, psi, 1e-6)
    np.testing.assert_array_equal(_decode(_coder(v=noisy), coded, z, y, noisy_psi)[1], y)
    naked = CodedLatents(coded.payload, ())
    assert not np.array_equal(_decode_or_none(_coder(v=noisy), naked, z, y, noisy_psi), y)


def _decode_or_none(coder, coded, z, y, psi):
    try:
        return _decode(coder, coded, z, y, psi)[1]
    except ValueError:
        return None


@pytest.mark.parametrize("seed", range(5))
def test_hostile_payloads_end_in_wrong_latents_or_a_value_error(seed):
    rng = np.random.default_rng(seed)
    z, y, psi = _latents((6, 6))
    coder = _coder()
    coded = coder.encode(z, y, psi)
    flipped = bytearray(coded.payload)
    flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
    guards = ((int(rng.integers(0, y.size * 8)), 1),)
    for bad in (
        CodedLatents(b"", ()),
        CodedLatents(coded.payload[: len(coded.payload) // 2], ()),
        CodedLatents(bytes(flipped), ()),
        CodedLatents(rng.bytes(100), ()),
        CodedLatents(b"\xff" * 300, ()),
        CodedLatents(coded.payload, guards),
    ):
        try:
            z_hat, y_hat = _decode(coder, bad, z, y, psi)
        except ValueError:
            continue
        assert z_hat.shape == z.shape
        assert y_hat.shape == y.shape
        assert max(np.abs(y_hat).max(), np.abs(z_hat).max()) <= SYMBOL_LIMIT
    with pytest.raises(ValueError, match="guards of this latent"):
        _decode(coder, CodedLatents(coded.payload, ((y.size * 8, 0),)), z, y, psi)


def test_outliers_are_coded_and_symbols_out_of_range_refused():
    z, y, psi = _latents((4, 4))
    y[0, 0, 0], y[3, 3, 5], z[0, 0, 0] = SYMBOL_LIMIT, -SYMBOL_LIMIT, 5000
    coder = _coder()
    coded = coder.encode(z, y, psi)
    z_hat, y_hat = _decode(coder, coded, z, y, psi)
    np.testing.assert_array_equal(y_hat, y)
    np.testing.assert_array_equal(z_hat, z)
    y[1, 1, 1] = SYMBOL_LIMIT + 1
    with pytest.raises(ValueError, match=r"y must hold integers in \+-32768, got int32 in .*clip it first"):
        coder.encode(z, y, psi)
    with pytest.raises(ValueError, match="z must hold integers"):
        coder.encode(z + 0.5, y, psi)


def test_parameters_that_are_not_finite_are_refused():
    z, y, psi = _latents((4, 4))
    with pytest.raises(ValueError, match="must be finite"):
        _coder().encode(z, y, psi * np.nan)


def test_a_second_latent_of_the_same_size_compiles_nothing():
    z, y, psi = _latents((5, 5))
    traces = []

    def model(v, taps, psi):
        traces.append(taps.shape)
        return entropy_model.parameters(v, taps, psi)

    coder = _coder(model=model)
    _decode(coder, coder.encode(z, y, psi), z, y, psi)
    count = len(traces)
    assert count > 0
    _decode(coder, coder.encode(z, -y, psi), z, y, psi)
    assert len(traces) == count
