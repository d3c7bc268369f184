"""Streams written once must decode for ever: one of each preset, with weights that NumPy draws."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from drawn_model import drawn_model
from PIL import Image

from ltchm_jax.codec import Codec
from ltchm_jax.container.header import READABLE
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
