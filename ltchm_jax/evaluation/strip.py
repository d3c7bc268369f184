"""Crops of reconstructions in a row, every pixel of the picture a square of whole screen pixels."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ltchm_jax.evaluation.tiles import Tile, crop

_GAP, _FONT = 8, 20


def strip(tiles: Sequence[Tile], side: int = 192, zoom: int = 2) -> np.ndarray:
    """The middle `side` x `side` of each tile, enlarged `zoom` times without smoothing, over its caption.

    Returns:
      uint8 [H, W, 3] on white.

    Raises:
      ValueError: there is no tile, or the pictures differ in size.
    """
    shapes = {tile.pixels.shape for tile in tiles}
    if len(shapes) != 1:
        raise ValueError(f"a strip needs pictures of one size, got {sorted(shapes) or 'none'}")
    crops = [crop(tile.pixels, side).repeat(zoom, 0).repeat(zoom, 1) for tile in tiles]
    height, width, _ = crops[0].shape
    pitch, font = width + _GAP, ImageFont.load_default(_FONT)
    page = Image.new("RGB", (pitch * len(tiles) + _GAP, height + 4 * _FONT), "white")
    draw = ImageDraw.Draw(page)
    for place, (tile, pixels) in enumerate(zip(tiles, crops, strict=True)):
        left = _GAP + place * pitch
        page.paste(Image.fromarray(pixels), (left, _GAP))
        text = f"{tile.title}\n{tile.caption()}"
        draw.multiline_text((left, height + _GAP + _FONT // 2), text, "black", font, spacing=_FONT // 4)
    return np.asarray(page)
