import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from toy_codec import ToyCodec

from ltchm_jax.evaluation import bd, summary
from ltchm_jax.evaluation.contenders import Contender, of_codec
from ltchm_jax.evaluation.measurement import Failure, Outcome
from ltchm_jax.evaluation.pictures import Picture
from ltchm_jax.evaluation.rows import Row

ROW = Row(
    "set",
    "a.png",
    "0" * 16,
    8,
    9,
    "toy",
    "1",
    "v",
    100,
    0.1,
    30.0,
    0.9,
    10.0,
    0.5,
    math.nan,
    "",
    0.01,
    0.02,
    1,
)


def contender(curve: str, *settings: str, is_model: bool = False) -> Contender:
    return Contender(curve, curve.upper(), "v", settings, lambda x, s: b"", lambda d: d, is_model)  # type: ignore[arg-type,return-value]


def summarised(table: list[Row], *competitors: Contender, failures: tuple[Failure, ...] = ()) -> Any:
    names = dict.fromkeys((row.dataset, row.image) for row in table)
    pictures = [Picture(dataset, image, Path(image)) for dataset, image in names]
    outcome = Outcome(table, list(failures))
    return summary.summarise(outcome, pictures, competitors, {"bpg": "no bpg"}, ["set/x.txt"], ["eval"])


def curve_rows(codec: str, points: dict[str, tuple[float, float]], image: str = "a.png") -> list[Row]:
    return [
        dataclasses.replace(ROW, codec=codec, setting=setting, image=image, bpp=rate, psnr=quality)
        for setting, (rate, quality) in points.items()
    ]


def test_averages_are_means_of_pictures_and_times_are_medians() -> None:
    seconds = (0.1, 0.2, 0.9)
    table = [
        dataclasses.replace(ROW, image=f"{n}.png", psnr=30.0 + n, encode_seconds=value)
        for n, value in enumerate(seconds)
    ]
    data = summarised(table, contender("toy", "1"))["datasets"]["set"]
    (point,) = data["points"]["toy"]
    assert data["pictures"] == 3
    assert point["psnr"] == 31.0
    assert point["encode_seconds"] == 0.2
    assert point["num_bytes"] == 300
    assert point["lpips"] is None


@pytest.mark.parametrize(("other", "expected"), [("alex@0", 0.25), ("vgg@0", None)])
def test_lpips_of_different_weights_is_not_averaged(other: str, expected: float | None) -> None:
    table = [
        dataclasses.replace(ROW, image=image, lpips=0.25, lpips_version=version)
        for image, version in (("a.png", "alex@0"), ("b.png", other))
    ]
    (point,) = summarised(table, contender("toy", "1"))["datasets"]["set"]["points"]["toy"]
    assert point["lpips"] == expected


def test_a_codec_without_lpips_leaves_that_of_the_others() -> None:
    measured = dataclasses.replace(ROW, lpips=0.25, lpips_version="alex@0")
    table = [measured, dataclasses.replace(ROW, codec="other")]
    points = summarised(table, contender("toy", "1"), contender("other", "1"))["datasets"]["set"]["points"]
    assert [points[codec][0]["lpips"] for codec in ("toy", "other")] == [0.25, None]


def test_codecs_are_compared_on_the_same_pictures() -> None:
    table = [
        dataclasses.replace(ROW, image="a.png", codec="one", psnr=30.0),
        dataclasses.replace(ROW, image="b.png", codec="one", psnr=50.0),
        dataclasses.replace(ROW, image="a.png", codec="two", psnr=31.0),
    ]
    failure = Failure("set", "b.png", "two", "1", "broke")
    result = summarised(table, contender("one", "1"), contender("two", "1"), failures=(failure,))
    data = result["datasets"]["set"]
    assert (data["pictures"], data["left_out"]) == (1, ["b.png"])
    assert data["points"]["one"][0]["psnr"] == 30.0
    assert result["failures"] == [vars(failure)]


def test_codec_that_always_fails_leaves_the_others() -> None:
    data = summarised([ROW], contender("toy", "1"), contender("dead", "1"))["datasets"]["set"]
    assert list(data["points"]) == ["toy"]
    assert data["pictures"] == 1


def test_lossless_pictures_have_no_mean_and_json_stays_valid() -> None:
    table = [ROW, dataclasses.replace(ROW, image="b.png", psnr=math.inf, ms_ssim_db=math.inf)]
    result = summarised(table, contender("toy", "1"))
    assert result["datasets"]["set"]["points"]["toy"][0]["psnr"] is None
    json.dumps(result, allow_nan=False)


def test_deltas_use_the_papers_settings_of_a_baseline_and_all_of_the_anchor() -> None:
    anchor = {
        "13": (2.0, 40.0),
        "20": (1.0, 35.0),
        "40": (0.5, 30.0),
        "160": (0.1, 25.0),
        "400": (0.05, 20.0),
    }
    test = {"1": (0.2, 26.0), "20": (0.4, 29.0), "80": (0.9, 35.0), "95": (1.9, 39.9)}
    table = curve_rows("jpeg2000", anchor) + curve_rows("webp", test)
    data = summarised(table, contender("jpeg2000", *anchor), contender("webp", *test))["datasets"]["set"]
    paper = [test[setting] for setting in ("1", "20", "80")]
    expected = bd.bd_rate(bd.curve(*zip(*anchor.values(), strict=True)), bd.curve(*zip(*paper, strict=True)))
    assert data["bd"]["jpeg2000"]["webp"]["bd_rate_percent"] == vars(expected)
    assert list(data["bd"]) == ["jpeg2000"]
    assert "jpeg2000" not in data["bd"]["jpeg2000"]


def test_refused_deltas_say_why() -> None:
    table = curve_rows("jpeg2000", {"20": (1.0, 35.0), "40": (0.5, 30.0)}) + curve_rows(
        "toy", {"1": (0.3, 30.0)}
    )
    data = summarised(table, contender("jpeg2000", "20", "40"), contender("toy", "1"))["datasets"]["set"]
    assert "two points" in data["bd"]["jpeg2000"]["toy"]["bd_psnr_db"]["refused"]


def test_single_rate_models_join_in_one_curve() -> None:
    models = [of_codec(ToyCodec(name), curve="toys") for name in ("low", "high")]
    table = [dataclasses.replace(ROW, codec="toys", setting=name) for name in ("low", "high")]
    result = summarised(table, *models)
    assert [point["setting"] for point in result["datasets"]["set"]["points"]["toys"]] == ["low", "high"]
    assert result["codecs"]["toys"]["is_model"]
    assert result["codecs"]["toys"]["versions"] == ["high", "low"]


@pytest.mark.parametrize(
    ("sizes", "text"), [([(4, 5), (4, 5)], "4x5"), ([(9, 9), (4, 5)], "4x5 to 9x9"), ([], "")]
)
def test_sizes(sizes: list[tuple[int, int]], text: str) -> None:
    assert summary._sizes(dataclasses.replace(ROW, height=h, width=w) for h, w in sizes) == text


def test_machine_and_versions_are_named() -> None:
    machine = summary.hardware()
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert {"jax", "numpy", "pillow", "python"} <= set(summary.versions())
