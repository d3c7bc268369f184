"""What is shown of a reconstruction: its pixels, and a line under them."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tile:
    """A picture with its caption, uint8 [H, W, 3]; `bpp` is None for the original."""

    title: str
    pixels: np.ndarray
    bpp: float | None = None
    psnr: float = math.inf

    def caption(self) -> str:
        """What is written under it."""
        height, width, _ = self.pixels.shape
        return f"{height}x{width}" if self.bpp is None else f"{self.bpp:.3f} bpp, {self.psnr:.2f} dB"


def crop(pixels: np.ndarray, side: int) -> np.ndarray:
    """The middle `side` x `side` of [H, W, C], or all of a shorter side."""
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]
