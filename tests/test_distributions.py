"""Code lengths against closed forms, an independent high-precision implementation, and limits."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import integrate, special, stats

from ltchm_jax.devices import float64
from ltchm_jax.entropy import distributions as d

SCALES = np.array([0.02, 0.11, 0.5, 1.0, 3.0, 7.9, 8.1, 40.0, 300.0, 5e3], np.float32)
OFFSETS = np.array([0.0, 0.2, 0.499, 0.5, 0.501, 1.0, 3.25, 17.0, 60.0, 400.0], np.float32)


def _exact_laplace_log_mass(a: float, b: float) -> float:
    with localcontext() as context:
        context.prec = 60
        a, b = abs(Decimal(a)), Decimal(b)
        half = Decimal(1) / 2
        cdf = lambda t: half * (t / b).exp() if t < 0 else 1 - half * (-t / b).exp()  # noqa: E731
        return float((cdf(half - a) - cdf(-half - a)).ln())


def _exact_gaussian_log_mass(a: float, s: float) -> float:
    """log of the integral of the density, scaled by its value at the bin's nearest point to the mean."""
    near = max(abs(a) - 0.5, 0.0)
    reach = min(abs(a) + 0.5, near + 40 * s / max(1.0, near / s))
    start = abs(a) - 0.5
    start = max(start, -40 * s)
    integrand = lambda t: np.exp((near**2 - t**2) / (2 * s * s))  # noqa: E731
    points = [0.0] if start < 0 < reach else None
    area = integrate.quad(integrand, start, reach, points=points, epsabs=0, epsrel=1e-10, limit=400)[0]
    return float(np.log(area) - near**2 / (2 * s * s) - np.log(s) - 0.5 * np.log(2 * np.pi))


EXACT = {"laplace": _exact_laplace_log_mass, "gaussian": _exact_gaussian_log_mass}


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_log_mass_matches_exact_arithmetic_in_float32(kind, sign):
    a, s = (v.ravel() for v in np.meshgrid(OFFSETS, SCALES))
    got = np.asarray(d.LOG_MASS[kind](jnp.asarray(sign * a), jnp.asarray(s)))
    want = np.array([EXACT[kind](float(x), float(y)) for x, y in zip(a, s, strict=True)])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_bin_masses_sum_to_one(kind):
    for scale in (0.05, 0.9, 12.0, 150.0):
        y = jnp.arange(-4000.0, 4001.0)
        bits = d.mixture_bits(y[:, None], *(jnp.full((8001, 1, 1), v) for v in (0.3, scale, 0.0)), kind)
        assert float(jnp.sum(jnp.exp2(-bits))) == pytest.approx(1.0, abs=3e-5)


def test_mixture_matches_scipy():
    rng = np.random.default_rng(0)
    y = rng.integers(-6, 7, (5, 4)).astype(np.float32)
    means, scales = rng.normal(0, 3, (5, 4, 3)), rng.uniform(0.3, 4, (5, 4, 3))
    weights = rng.dirichlet(np.ones(3), (5, 4))
    for kind, dist in (("gaussian", stats.norm), ("laplace", stats.laplace)):
        upper, lower = (dist.cdf(y[..., None] + e, means, scales) for e in (0.5, -0.5))
        want = -np.log2(np.sum(weights * (upper - lower), -1))
        args = [jnp.asarray(v, jnp.float32) for v in (y, means, scales, np.log(weights))]
        np.testing.assert_allclose(d.mixture_bits(*args, kind), want, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_gradients_are_finite_and_point_the_right_way(kind):
    y, s = (v.ravel() for v in np.meshgrid(np.append(OFFSETS, [1e4]), np.append(SCALES, [1e-4, 1e6])))
    column = lambda v: jnp.asarray(v, jnp.float32)[:, None, None]  # noqa: E731
    bits = lambda y, m, s, w: d.mixture_bits(y, m, s, w, kind).sum()  # noqa: E731
    args = (jnp.asarray(y, jnp.float32)[:, None], column(0 * y), column(s), column(0 * y))
    grads = jax.grad(bits, argnums=(0, 1, 2, 3))(*args)
    assert all(bool(jnp.isfinite(g).all()) for g in grads)
    assert bool(jnp.isfinite(d.mixture_bits(*args, kind)).all())
    assert bool((grads[0] >= -1e-6).all())  # moving away from the mean never saves bits
    np.testing.assert_allclose(grads[0].ravel(), -grads[1].ravel(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_gradient_matches_finite_differences(kind):
    def bits(y, m, s, w):
        return d.mixture_bits(y, m, s, w, kind).sum()

    rng = np.random.default_rng(1)
    args = [rng.normal(0, 4, (6, 2)), rng.normal(0, 2, (6, 2, 3)), rng.uniform(0.3, 12, (6, 2, 3))]
    args = [jnp.asarray(a, jnp.float32) for a in [*args, rng.normal(0, 1, (6, 2, 3))]]
    check_grads(bits, args, order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)


def test_far_tail_costs_grow_without_a_cap():
    far = jnp.array([[1e3], [2e3]])
    one = jnp.ones((2, 1, 1))
    laplace = np.asarray(d.mixture_bits(far, 0 * one, one, 0 * one, "laplace")).ravel()
    assert laplace[1] - laplace[0] == pytest.approx(1e3 / np.log(2), rel=1e-4)
    gaussian = np.asarray(d.mixture_bits(far, 0 * one, one, 0 * one, "gaussian")).ravel()
    assert gaussian[1] / gaussian[0] == pytest.approx(4.0, rel=1e-2)


def test_log_normal_cdf_matches_scipy_across_the_switches():
    x = np.concatenate([np.linspace(-40, 9, 400), [-1e4, -10.0, -10.001, 1.0, 1.001]])
    want = special.log_ndtr(x.astype(np.float32))
    np.testing.assert_allclose(d.log_normal_cdf(jnp.asarray(x, jnp.float32)), want, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("end", [-0.5, 0.5])
@pytest.mark.parametrize("border", [-1.0, 10.0])
def test_a_border_between_two_formulas_is_seamless_when_compiled(border, end):
    """Compiled in one piece, one argument may be rounded in two ways: on both sides of the border at once."""
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.11, 3, (20_000, 3)).astype(np.float32)
    y = np.round(rng.normal(0, 3, 20_000)).astype(np.float32)
    means = (y[:, None] - border * scales - end).astype(np.float32)  # an end of the bin lies there
    weights = np.full_like(scales, 1 / 3)

    def bits(y, means, scales, weights):
        return d.mixture_bits(y, means, scales, jnp.log(weights))

    args = [jnp.asarray(v) for v in (y, means, scales, weights)]
    compiled = jax.jit(bits).lower(*args).compile({"xla_backend_optimization_level": 3})
    np.testing.assert_allclose(compiled(*args), bits(*args), rtol=1e-5, atol=1e-5)


def test_logistic_bins_against_sigmoids_and_in_the_tail():
    lower = np.linspace(-6, 6, 25)
    want = -np.log2(special.expit(lower + 0.7) - special.expit(lower))
    f32 = lambda v: jnp.asarray(v, jnp.float32)  # noqa: E731
    np.testing.assert_allclose(d.logistic_bin_bits(f32(lower), f32(lower + 0.7)), want, rtol=1e-4)
    # Far out the density is exp(-|t|): the mass of [t, t+1] is exp(-t)(1 - exp(-1)), equally on both sides.
    want = (200 - np.log1p(-np.exp(-1))) / np.log(2)
    assert float(d.logistic_bin_bits(f32(200.0), f32(201.0))) == pytest.approx(want, rel=1e-6)
    assert float(d.logistic_bin_bits(f32(-201.0), f32(-200.0))) == pytest.approx(want, rel=1e-6)
    assert all(np.isfinite(jax.grad(d.logistic_bin_bits, argnums=(0, 1))(f32(300.0), f32(300.01))))


@pytest.mark.parametrize("logit", [0.0, 50.0, -100.0, 1e5])
def test_a_logistic_bin_too_narrow_for_its_logits_is_dear_but_not_impossible(logit):
    one, two = np.float32(logit), np.float32(logit + 1e-6 * (logit != 0))
    bits = float(d.logistic_bin_bits(one, two))
    exact = (abs(logit) + np.log(1 / 1e-6)) / np.log(2)  # far out, of a bin of 1e-6
    assert bits == pytest.approx(exact, abs=14) if logit else 120 < bits < 140
    assert all(np.isfinite(jax.grad(d.logistic_bin_bits, argnums=(0, 1))(one, two)))


def test_unknown_kind_is_named():
    one = jnp.ones((1, 1, 1))
    with pytest.raises(ValueError, match=r"kind must be one of.*'cauchy'"):
        d.mixture_bits(one[0], one, one, one, "cauchy")


def test_the_second_derivative_of_a_log_cdf_is_its_closed_form():
    x = np.array([-300, -30, -10.4, -9.9, -9, -5, -1, 0, 0.9, 1.1, 3, 8, 40], np.float32)
    hazard = np.exp(stats.norm.logpdf(x.astype(float)) - special.log_ndtr(x.astype(float)))
    np.testing.assert_allclose(jax.vmap(jax.grad(d.log_normal_cdf))(x), hazard, rtol=5e-6, atol=1e-30)
    got = jax.vmap(jax.grad(jax.grad(d.log_normal_cdf)))(x)
    np.testing.assert_allclose(got, -hazard * (x + hazard), rtol=5e-4, atol=1e-30)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_second_derivatives_are_finite_and_equal_differences_of_gradients(kind):
    a, s = (v.ravel() for v in np.meshgrid(OFFSETS + 0.01, SCALES))
    gradient = jax.grad(lambda a, s: d.LOG_MASS[kind](a, s).sum(), (0, 1))
    points = jnp.asarray(a), jnp.asarray(s)
    along = jax.jvp(gradient, points, (jnp.ones_like(a), jnp.ones_like(s)))[1]
    assert np.isfinite(along).all()
    with float64():
        a, s, step = a.astype(np.float64), s.astype(np.float64), 1e-6
        for direction in ((np.ones_like(a), 0 * s), (0 * a, s)):
            got = jax.jvp(gradient, (a, s), direction)[1]
            beyond, before = (
                gradient(*(v + sign * step * w for v, w in zip((a, s), direction, strict=True)))
                for sign in (1, -1)
            )
            for mine, high, low in zip(got, beyond, before, strict=True):
                want = (high - low) / (2 * step)
                off = np.abs(mine - want) / (1e-3 * np.abs(want) + 1e-4 * (1 + np.abs(high)))
                assert off.max() < 1, (a[off.argmax()], s[off.argmax()])
