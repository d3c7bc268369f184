"""Reconstructions to look at: for some pictures, each codec at the rate nearest to a common one.

Nothing is kept while measuring; the few that are shown are coded again.
"""

from collections.abc import Sequence

import numpy as np

from ltchm_jax.evaluation.contenders import Contender
from ltchm_jax.evaluation.measurement import measure
from ltchm_jax.evaluation.pictures import Picture
from ltchm_jax.evaluation.rows import Row
from ltchm_jax.evaluation.tiles import Tile

# Without a model to follow: the middle of the paper's rates.
_RATE = 0.4


def choose(pictures: Sequence[Picture], table: Sequence[Row], count: int) -> list[Picture]:
    """At most `count` of the pictures that have rows, spread evenly over the list."""
    measured = {(row.dataset, row.image) for row in table}
    usable = [picture for picture in pictures if (picture.dataset, picture.name) in measured]
    places = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int)
    return [usable[place] for place in places]


def tiles(
    picture: Picture, competitors: Sequence[Contender], table: Sequence[Row], target: float | None = None
) -> list[Tile]:
    """The original and one reconstruction for each curve, at the rate nearest to `target`.

    Args:
      picture: which one.
      competitors: what to show.
      table: rows of the run.
      target: bpp; None takes the middle rate of the first model's curve, or 0.4 without a model.
    """
    own = [row for row in table if (row.dataset, row.image) == (picture.dataset, picture.name)]
    rate = _common_rate(competitors, own) if target is None else target
    pixels = picture.pixels()
    shown = [Tile("original", pixels)]
    for curve in dict.fromkeys(contender.curve for contender in competitors):
        points = [row for row in own if row.codec == curve]
        if points:
            row = min(points, key=lambda row: abs(row.bpp - rate))
            contender = next(c for c in competitors if c.curve == curve and row.setting in c.settings)
            x_hat = measure(contender, row.setting, pixels).x_hat
            shown.append(Tile(contender.title, x_hat, row.bpp, row.psnr))
    return shown


def _common_rate(competitors: Sequence[Contender], own: Sequence[Row]) -> float:
    for contender in competitors:
        rates = sorted(row.bpp for row in own if row.codec == contender.curve)
        if contender.is_model and rates:
            return rates[(len(rates) - 1) // 2]
    return _RATE
