"""Code lengths, in bits, of unit-width bins under mixtures and under a logistic density: the training rate.

Everything stays in the log domain, and no formula subtracts two numbers that are close to one. So a symbol
far out in a tail costs what it should even in float32, where a difference of two CDFs is exactly zero, and it
has a useful gradient. There is no floor and no cap. Inputs may be non-integer (noisy). float32 and float64.

Where two formulas meet both are evaluated, each with its argument clamped a little beyond its own range. A
compiler may compute an argument twice and round it in two ways, so that a value at the border counts as on
one side in one place and on the other in another: both formulas then must be right there.
"""

from collections.abc import Callable
from math import log, pi

import jax
import jax.numpy as jnp

_LOG_SQRT_2PI = 0.5 * log(2 * pi)
_FAR = -10.0  # in standard deviations; further out erfc may underflow in float32, so a series takes over
_THIN = 0.125  # in standard deviations; narrower bins are integrated by a series around their centre


def log1mexp(x: jax.Array) -> jax.Array:
    """log(1 - exp(-x)) for x > 0, accurate near 0 and for large x. Any shape; the gradient is finite."""
    small = jnp.log(-jnp.expm1(-jnp.minimum(x, 1.0)))
    large = jnp.log1p(-jnp.exp(-jnp.maximum(x, 0.5)))
    return jnp.where(x < log(2), small, large)


@jax.custom_jvp
def log_normal_cdf(x: jax.Array) -> jax.Array:
    """log of the standard normal CDF; any shape. Value and all derivatives hold far into the lower tail."""
    lower = jnp.log(0.5 * jax.lax.erfc(-jnp.clip(x, _FAR - 0.5, 1.5) * 0.5**0.5))
    upper = jnp.log1p(-0.5 * jax.lax.erfc(jnp.maximum(x, 0.5) * 0.5**0.5))
    far = jnp.minimum(x, _FAR + 0.5)
    tail = _log_normal(far) - jnp.log(-far) + jnp.log1p(_tail_series(far))
    return jnp.where(x < _FAR, tail, jnp.where(x > 1.0, upper, lower))


def normal_hazard(x: jax.Array) -> jax.Array:
    """phi(x) / Phi(x), the derivative of `log_normal_cdf`: about -x in the lower tail, 0 in the upper."""
    near = jnp.maximum(x, _FAR - 0.5)
    far = jnp.minimum(x, _FAR + 0.5)
    return jnp.where(
        x < _FAR, -far / (1 + _tail_series(far)), jnp.exp(_log_normal(near) - log_normal_cdf(near))
    )


log_normal_cdf.defjvps(lambda tangent, _, x: tangent * normal_hazard(x))


def _log_normal(x: jax.Array) -> jax.Array:
    """log phi(x), the standard normal density."""
    return -0.5 * x * x - _LOG_SQRT_2PI


def _tail_series(x: jax.Array) -> jax.Array:
    """Phi(x) |x| / phi(x) - 1 for x <= -9.5 by six terms of -1/x^2 + 3/x^4 - 15/x^6 + ..."""
    r = 1.0 / (x * x)
    return -r * (1 - 3 * r * (1 - 5 * r * (1 - 7 * r * (1 - 9 * r * (1 - 11 * r)))))


def gaussian_log_mass(distance: jax.Array, scale: jax.Array) -> jax.Array:
    """Natural log of the N(0, scale^2) mass of distance + [-1/2, 1/2]. Equal shapes; scale > 0."""
    width = 1.0 / scale
    centre = jnp.abs(distance) * width
    thin = (width < _THIN) & (centre * width < 0.5)
    lower, upper = -centre - 0.5 * width, -centre + 0.5 * width  # symmetry: measured in the lower tail
    log_upper = log_normal_cdf(upper)
    gap = jnp.maximum(log_upper - log_normal_cdf(lower), 0.5 * _THIN)  # 0.099 at least if not thin
    wide = log_upper + log1mexp(gap)
    return jnp.where(thin, _thin_gaussian_log_mass(centre, width), wide)


def _thin_gaussian_log_mass(centre: jax.Array, width: jax.Array) -> jax.Array:
    """log of w phi(c) (1 + w^2 He2(c)/24 + w^4 He4(c)/1920), the integral of phi over a narrow bin at c."""
    w = jnp.minimum(width, 2 * _THIN)
    c = jnp.minimum(centre, 1 / w)
    c2, w2 = c * c, w * w
    series = w2 * (c2 - 1) / 24 + w2 * w2 * (c2 * c2 - 6 * c2 + 3) / 1920
    return jnp.log(w) - 0.5 * c2 - _LOG_SQRT_2PI + jnp.log1p(series)


def laplace_log_mass(distance: jax.Array, scale: jax.Array) -> jax.Array:
    """Natural log of the Laplace(0, scale) mass of distance + [-1/2, 1/2]. Equal shapes; scale > 0."""
    rate = 1.0 / scale
    a = jnp.abs(distance)
    h = jnp.minimum(a, 0.5)  # the bin holds the peak: add its two halves, each 1/2 (1 - exp(-length/scale))
    halves = -0.5 * (jnp.expm1((h - 0.5) * rate) + jnp.expm1(-(h + 0.5) * rate))
    tail = log(0.5) - (a - 0.5) * rate + log1mexp(rate)
    return jnp.where(a < 0.5, jnp.log(halves), tail)


LOG_MASS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "gaussian": gaussian_log_mass,
    "laplace": laplace_log_mass,
}


def mixture_bits(
    y: jax.Array, means: jax.Array, scales: jax.Array, logits: jax.Array, kind: str = "gaussian"
) -> jax.Array:
    """-log2 of the mixture mass of [y - 1/2, y + 1/2] (paper eq. 2, with K components).

    Args:
      y: [..., M] latents, integer or not.
      means, scales: [..., M, K]; scales > 0 (the caller applies the model's floor).
      logits: [..., M, K]; a softmax over K gives the weights, so log-weights are logits too.
      kind: 'gaussian' (the paper) or 'laplace' (the released code).

    Returns:
      [..., M] bits, >= 0 up to rounding, unbounded.

    Raises:
      ValueError: for another kind.
    """
    if kind not in LOG_MASS:
        raise ValueError(f"kind must be one of {sorted(LOG_MASS)}, got {kind!r}")
    log_mass = LOG_MASS[kind](y[..., None] - means, scales)
    return -jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=-1) + log_mass, axis=-1) / log(2)


def logistic_bin_bits(lower_logits: jax.Array, upper_logits: jax.Array) -> jax.Array:
    """-log2(sigmoid(upper) - sigmoid(lower)), upper > lower: one bin of the factorised prior (paper eq. 4).

    Uses sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), where nothing cancels.
    Equal shapes; the result is in bits. Logits that are the same number count as half its last place apart:
    a bin is never impossible.
    """
    log_mass = jax.nn.log_sigmoid(upper_logits) + jax.nn.log_sigmoid(-lower_logits)
    precision = jnp.finfo(lower_logits.dtype)
    least = jnp.maximum(precision.eps / 2 * jnp.abs(lower_logits), precision.tiny)
    return -(log_mass + log1mexp(jnp.maximum(upper_logits - lower_logits, least))) / log(2)
