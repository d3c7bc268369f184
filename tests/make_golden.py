"""Writes the golden streams: once for each version of the format, never to make a failing test pass.

python tests/make_golden.py
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from test_golden import GOLDEN, PRESETS, golden_codec  # noqa: E402

from ltchm_jax.container.header import VERSION  # noqa: E402
from ltchm_jax.imagery.scenes import draw_scene  # noqa: E402

for preset in PRESETS:
    codec = golden_codec(preset)
    data = codec.compress(draw_scene(40, 56, 3))
    path = GOLDEN / str(VERSION) / preset
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".ltc").write_bytes(data)
    Image.fromarray(np.asarray(codec.decompress(data))).save(path.with_suffix(".png"))
    print(preset, len(data), "bytes")
