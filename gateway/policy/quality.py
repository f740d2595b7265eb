"""What is known of how often a target is right on a route. Pure.

The share of right answers has a Beta distribution, which begins as what was declared is worth and
takes in what was seen: with `n` observations of which `right` were right,

    a = declared x declared_n + sum of right,   b = (1 - declared) x declared_n + sum of the others

Observations lose half their weight in each half-life. The interval has 95 % of the distribution,
2.5 % on either side; of a target of which nothing was declared it is that of Jeffreys (a and b
larger by 1/2), as a few answers that were all right do not make it sure that all are.

A change: outcomes of one target, in order, are split where that explains them best. With k of the n
before the split and p the share that is right (before, after, in all),

    GLR = max over k of  k x kl(p_before, p) + (n - k) x kl(p_after, p)

speaks of a change where it passes ln(3 n sqrt(n) / delta): the form for use of the threshold of
Besson, Kaufmann, Maillard and Seznec (2022, "Efficient change-point detection for tackling
piecewise-stationary bandits"), with which one is seen where there is none, however often it is
looked for, with a probability of about `delta`. A test measures that.
"""

from collections.abc import Iterable, Sequence
from math import exp, inf, lgamma, log, log1p, sqrt
from typing import TypeAlias

import msgspec
import numpy as np

from gateway.types.snapshot import Quality

WITHIN = 0.95
"""How much of the distribution an interval has."""

Floats: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"

_TINY = 1e-300
_STEPS = 300


class Tally(msgspec.Struct, frozen=True):
    """Of `n` answers so many were right, `age_s` seconds ago."""

    n: float
    right: float
    age_s: float = 0.0


class Change(msgspec.Struct, frozen=True):
    """From the outcome `at` on another share is right than before."""

    at: int
    before: float
    after: float


def posterior(
    declared: float, declared_n: float, seen: Iterable[Tally], half_life_s: float
) -> Quality:
    """What is known of P(right) after all of that; `seen` counts are 0 for nothing."""
    a, b = declared * declared_n, (1.0 - declared) * declared_n
    observed = 0.0
    for tally in seen:
        weight = 0.5 ** (max(0.0, tally.age_s) / half_life_s)
        a += weight * tally.right
        b += weight * (tally.n - tally.right)
        observed += weight * tally.n
    if a + b <= 0.0:
        return Quality(declared, 0.0, 0.0, 0.0, 1.0)
    tail = (1.0 - WITHIN) / 2
    more = 0.0 if declared_n else 0.5
    low = beta_quantile(tail, a + more, b + more) if a else 0.0
    high = beta_quantile(1.0 - tail, a + more, b + more) if b else 1.0
    return Quality(a / (a + b), a + b, observed, low, high)


def change_of(outcomes: Sequence[bool], delta: float) -> Change | None:
    """Where the share that is right has surely changed, if it has.

    `delta` is about the probability that a change is ever seen where there is none.
    """
    n = len(outcomes)
    if n < 2:
        return None
    right = np.cumsum(np.asarray(outcomes, dtype=np.float64))
    k = np.arange(1, n, dtype=np.float64)
    before, after, whole = right[:-1] / k, (right[-1] - right[:-1]) / (n - k), right[-1] / n
    ratio = k * _kl(before, whole) + (n - k) * _kl(after, whole)
    best = int(np.argmax(ratio))
    if ratio[best] <= log(3.0 * n * sqrt(n) / delta):
        return None
    return Change(best + 1, float(before[best]), float(after[best]))


def _kl(p: Floats, q: float) -> Floats:
    """Kullback-Leibler divergence of Bernoulli distributions, in nats."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.where(p > 0, p * np.log(p / q), 0.0)
        zero = np.where(p < 1, (1 - p) * np.log((1 - p) / (1 - q)), 0.0)
    total: Floats = one + zero
    return total


def beta_quantile(share: float, a: float, b: float) -> float:
    """The x below which that share of Beta(a, b) lies, to 1e-9. `a` or `b` of 0 is a point."""
    if a <= 0.0 or b <= 0.0:
        return 0.0 if a <= 0.0 else 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    By its continued fraction (DLMF 8.17.22), evaluated by Lentz's method; the symmetry
    I_x(a, b) = 1 - I_{1-x}(b, a) is taken where it converges faster.
    """
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - beta_cdf(1.0 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    return front / a * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """The value of 1/(1 + d1/(1 + d2/(1 + ...))) of DLMF 8.17.22."""
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = inf
        for term in (even, odd):
            d = 1.0 + term * d
            c = 1.0 + term / c
            d = 1.0 / (d if abs(d) > _TINY else _TINY)
            c = c if abs(c) > _TINY else _TINY
            change = c * d
            value *= change
        if abs(change - 1.0) < 1e-12:
            break
    return value
