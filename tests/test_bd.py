import numpy as np
import pytest

from ltchm_jax.evaluation import bd

RATES = (0.1, 0.2, 0.4, 0.8)
QUALITY = (26.0, 29.0, 32.0, 35.0)


def test_same_curve_differs_by_nothing() -> None:
    points = bd.curve(RATES, QUALITY)
    assert bd.bd_rate(points, points).value == pytest.approx(0, abs=1e-9)
    assert bd.bd_psnr(points, points).value == pytest.approx(0, abs=1e-9)
    assert bd.bd_rate(points, points).overlap == 1.0


def test_rate_scaled_by_a_factor() -> None:
    half = bd.curve([rate / 2 for rate in RATES], QUALITY)
    delta = bd.bd_rate(bd.curve(RATES, QUALITY), half)
    assert delta.value == pytest.approx(-50.0)
    assert (delta.low, delta.high) == (26.0, 35.0)


def test_quality_lifted_by_a_constant() -> None:
    lifted = bd.curve(RATES, [value + 1.5 for value in QUALITY])
    delta = bd.bd_psnr(bd.curve(RATES, QUALITY), lifted)
    assert delta.value == pytest.approx(1.5)
    assert (delta.low, delta.high) == pytest.approx((0.1, 0.8))


def test_overlap_is_the_covered_share_of_the_test_curve() -> None:
    anchor = bd.curve(RATES, QUALITY)
    test = bd.curve([0.4, 0.8, 1.6], [32.0, 35.0, 38.0])
    assert bd.bd_rate(anchor, test).overlap == pytest.approx(0.5)
    assert bd.bd_psnr(anchor, test).overlap == pytest.approx(0.5)


@pytest.mark.parametrize("delta", [bd.bd_rate, bd.bd_psnr])
def test_curves_apart_are_refused(delta) -> None:
    far = bd.curve([5.0, 6.0, 7.0], [50.0, 51.0, 52.0])
    with pytest.raises(bd.CurveError, match="must cover at least 50%"):
        delta(bd.curve(RATES, QUALITY), far)


def test_points_beaten_by_others_and_lossless_points_are_dropped() -> None:
    points = bd.curve([0.4, 0.1, 0.3, 0.2, 3.0], [32.0, 26.0, 28.0, 29.0, np.inf])
    assert points == bd.Curve((0.1, 0.2, 0.4), (26.0, 29.0, 32.0))


def test_one_point_is_no_curve() -> None:
    with pytest.raises(bd.CurveError, match="two points or more"):
        bd.curve([0.1, 0.2], [30.0, 29.0])


@pytest.mark.parametrize(
    ("rates", "quality"), [((0.2, 0.1), (1, 2)), ((0, 1), (1, 2)), ((1, 2), (1, np.inf))]
)
def test_curve_checks_its_points(rates, quality) -> None:
    with pytest.raises(bd.CurveError):
        bd.Curve(rates, quality)
