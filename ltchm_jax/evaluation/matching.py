"""The setting of a conventional codec at which its file is as large as another one's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltchm_jax.baselines import Baseline

# Settings from the smallest file to the largest. The ratios are 0.6% apart: bytes match within about 0.3%.
_SETTINGS: dict[str, Sequence[float]] = {
    "compression ratio": tuple(float(ratio) for ratio in np.geomspace(1000, 2, 1000)),
    "quality": range(101),
    "quantiser": range(51, -1, -1),
}


@dataclass(frozen=True)
class Match:
    """A file of a baseline, and the setting that made it."""

    setting: float
    data: bytes


def match_size(baseline: Baseline, pixels: np.ndarray, num_bytes: int) -> Match:
    """Encodes uint8 [H, W, 3] so that the file is nearest to `num_bytes`, above or below.

    A bisection over all settings of the codec: 7 to 10 files. Sizes need not rise at every single setting;
    where they don't, the best of those tried is taken.
    """
    settings = _SETTINGS[baseline.setting]
    low, high = 0, len(settings) - 1
    tried: list[Match] = []
    while low <= high:
        middle = (low + high) // 2
        tried.append(Match(settings[middle], baseline.encode(pixels, settings[middle])))
        larger = len(tried[-1].data) > num_bytes
        low, high = (low, middle - 1) if larger else (middle + 1, high)
    return min(tried, key=lambda match: abs(len(match.data) - num_bytes))
