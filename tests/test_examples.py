from pathlib import Path

import numpy as np
from toy_codec import ToyCodec, picture, write_pictures

from ltchm_jax.evaluation import examples
from ltchm_jax.evaluation.contenders import of_codec
from ltchm_jax.evaluation.evaluate import evaluate
from ltchm_jax.evaluation.pictures import list_pictures


def test_pictures_are_spread_over_the_list(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "in", *[(8, 8)] * 5)
    (folder / "p1.png").write_bytes(b"bad")
    pictures, _ = list_pictures([folder])
    table = evaluate(tmp_path / "rows.csv", pictures, [of_codec(ToyCodec())]).rows
    assert [p.name for p in examples.choose(pictures, table, 2)] == ["p0.png", "p4.png"]
    assert [p.name for p in examples.choose(pictures, table, 9)] == ["p0.png", "p2.png", "p3.png", "p4.png"]
    assert examples.choose(pictures, table, 0) == []


def test_reconstructions_are_those_nearest_in_rate(tmp_path: Path) -> None:
    pictures, _ = list_pictures([write_pictures(tmp_path / "in", (40, 40))])
    steps = (64.0, 16.0, 4.0)
    codec = ToyCodec("model", qualities=steps)
    other = ToyCodec("other", qualities=steps)
    competitors = [of_codec(codec), of_codec(other)]
    table = evaluate(tmp_path / "rows.csv", pictures, competitors).rows
    original, first, second = examples.tiles(pictures[0], competitors, table)
    x = picture(40, 40)
    assert original.bpp is None
    assert np.array_equal(original.pixels, x)
    assert np.array_equal(first.pixels, codec.decompress(codec.compress(x, 16)))  # the middle of the model
    assert second.bpp == first.bpp
    lowest = examples.tiles(pictures[0], competitors, table, target=0.0)[1]
    assert np.array_equal(lowest.pixels, codec.decompress(codec.compress(x, 64)))
