"""Streams written once must decode for ever: one of each preset, with weights that NumPy draws."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import page_decoder
import page_reader
import pytest
from drawn_model import drawn_model
from PIL import Image

from ltchm_jax.block_coder import entropy_parameters, latent_shape, latents_crc
from ltchm_jax.codec import Codec
from ltchm_jax.container.header import READABLE
from ltchm_jax.devices import float64
from ltchm_jax.entropy import boundaries
from ltchm_jax.entropy.snapping import grid_values
from ltchm_jax.model import PRESETS

pytest.importorskip("tensorflow_compression_ops")

GOLDEN = Path(__file__).parent / "golden"  # a folder for each version of the format


def golden_codec(preset: str) -> Codec:
    return Codec(drawn_model(dataclasses.replace(PRESETS[preset], width=32)), preset)


@pytest.mark.slow
@pytest.mark.parametrize("version", READABLE)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_stream_of_the_past_decodes(preset, version):
    """Latents are compared by the checksum in the stream; pixels may differ by a rounding."""
    path = GOLDEN / str(version) / preset
    data = path.with_suffix(".ltc").read_bytes()
    assert Codec.info(data).version == version
    pixels = golden_codec(preset).decompress(data)
    want = np.asarray(Image.open(path.with_suffix(".png"))).astype(int)
    assert np.abs(pixels - want).max() <= 1
    assert want.std() > 5


def page_latents_crc(codec: Codec, data: bytes, noise: float = 0.0) -> tuple[int, int, int]:
    """CRC-32 of the first block's latents as the page says, the one in the stream, and the number of guards.

    `noise`: the largest of what is added to the real numbers of the model.
    """
    page, model, rng = page_reader.read(data), codec.model, np.random.default_rng(0)
    (payload, crc, guards), rows, columns = page.blocks[0], *page.rects[0][2:]
    y_shape = latent_shape(rows, columns, Codec.info(data).version)
    variables = {"params": {"prior_y": model.variables["params"]["prior_y"]}}

    def parameters(taps: np.ndarray, psi: np.ndarray) -> np.ndarray:
        with float64():
            mixture = entropy_parameters(model.config)(variables, jnp.asarray(taps, jnp.float64), psi)
            values = np.moveaxis(np.asarray(grid_values(*mixture)), 0, -1)
        return values + noise * rng.uniform(-1, 1, values.shape)

    z, y = page_decoder.decode(
        payload,
        guards,
        (model.z_tables.cdf.tolist(), model.z_tables.offset),
        (-(-rows // 64), -(-columns // 64), model.config.width),
        (*y_shape, model.config.latent_channels),
        model.config.mixture,
        model.config.context == "masked",
        lambda z: codec.blocks.psi(z, page.quality, y_shape),
        parameters,
    )
    return latents_crc(z, y), crc, len(guards)


@pytest.mark.slow
@pytest.mark.parametrize("version", READABLE)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_page_is_enough_to_decode_latents(preset, version):
    data = (GOLDEN / str(version) / preset).with_suffix(".ltc").read_bytes()
    found, crc, _ = page_latents_crc(golden_codec(preset), data)
    assert found == crc


@pytest.mark.slow
def test_guards_are_what_the_page_says(monkeypatch):
    """Values near a boundary are listed, so that noise below the distance of a guard changes nothing."""
    monkeypatch.setattr(boundaries, "DISTANCE", 0.02)
    codec = golden_codec("released")
    data = codec.compress(np.random.default_rng(0).integers(0, 256, (33, 48, 3), np.uint8))
    found, crc, guards = page_latents_crc(codec, data, noise=0.019)
    assert guards > 50
    assert found == crc
    found, crc, _ = page_latents_crc(codec, data, noise=0.3)
    assert found != crc
