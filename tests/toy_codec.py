"""A codec small enough to read: rounds pixels to a step and deflates them. Stands in for a model in tests."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image


class ToyCodec:
    """`qualities` are steps; a single-rate codec has none and uses `step`."""

    def __init__(self, name: str = "toy", qualities: tuple[float, ...] = (), step: int = 32) -> None:
        self.name, self.qualities, self.step = name, qualities, step
        self.calls = 0

    def compress(self, array: np.ndarray, quality: float | None = None) -> bytes:
        self.calls += 1
        step = int(quality or self.step)
        indices = ((array.astype(int) + step // 2) // step).astype(np.uint8)
        return bytes([*array.shape[:2], step]) + zlib.compress(indices.tobytes(), 9)

    def decompress(self, data: bytes) -> np.ndarray:
        height, width, step = data[:3]
        indices = np.frombuffer(zlib.decompress(data[3:]), np.uint8).astype(int)
        return np.clip(indices * step, 0, 255).astype(np.uint8).reshape(height, width, 3)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth coloured picture with a little noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), float)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def write_pictures(folder: Path, *sizes: tuple[int, int]) -> Path:
    """PNG files p0.png, p1.png, ... of these sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        Image.fromarray(picture(*size, seed=number)).save(folder / f"p{number}.png")
    return folder
