"""What another policy would have brought, from what was logged under this one. Pure.

For each request the log has the probability p(a) with which each target a was chosen, the one that
was (A), and what came of it (Y). The new policy would have chosen with probabilities q(a). With
w = q(A)/p(A), the change of the mean, new minus logged, is estimated by

    IPS    mean of (w - 1) Y                                   Horvitz and Thompson (1952)
    SNIPS  sum of w Y / sum of w - mean of Y                    Swaminathan and Joachims (2015)
    DR     mean of sum_a (q(a) - p(a)) m(a) + (w - 1) (Y - m(A))      Dudik, Langford, Li (2011)

where m is a simple model of what comes of each target: the mean of its logged outcomes at requests
of about the same length, fitted on four fifths of the requests and used on the last (cross-fitting;
Chernozhukov and others 2018), so that no request explains itself. All three are paired: what both
policies share cancels out.

Where an outcome is known of some requests only, such as what users say, each known one stands for
1/e of its like, where e is the share known among requests of that kind that went to that target.
That is right as far as those that are known are like those that are not.

Intervals are the mean of each request's influence with its spread (delta method), shifted by its
skewness (Johnson 1978). Where a new policy's choices were explored a dozen times, that alone would
be too sure: eight answers of which all were right have no spread. So each target's residuals are
taken together with `PRIOR` requests of the spread that all targets' have in proportion to their
means, and Student's t has the degrees of freedom that the targets' counts and the influences'
kurtosis leave (Satterthwaite 1946). `benchmarks/replay.py` measures how often intervals hold.

Weights above `CAP` times the square root of their number are cut to that; how many is told.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
Method: TypeAlias = Literal["ips", "snips", "dr"]

METHODS: tuple[Method, ...] = ("ips", "snips", "dr")
FOLDS = 5
CAP = 20.0
SHRINK = 5.0
"""Requests that a target's mean over all lengths is worth for its mean at one length."""
TINY = 1e-6
"""A logged probability at or below which a target counts as never chosen."""
Z95 = 1.959964
PRIOR = 8.0
"""Requests that each target's spread is taken together with, as all targets' would have it."""


class Logged(msgspec.Struct, frozen=True):
    """n requests of one route, over k targets.

    `taken` [n] is the target that was chosen, `old` and `new` [n, k] each one's probability when it
    was logged and under the new policy, `kind` [n] numbers requests that are alike, such as by
    their length. `sure` are the targets whose outcome needs no log, since it is always the expected
    one: that nobody is asked at all.
    """

    taken: Ints
    old: Floats
    new: Floats
    kind: Ints
    sure: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        return len(self.taken)


class Weights(msgspec.Struct, frozen=True):
    """How much each logged request counts for the new policy.

    `effective` is how many requests of equal weight tell as much, (sum w)^2 / sum w^2 (Kish 1965);
    `cut` how many weights were over `cap`; `unsupported` the share of the new policy's choices that
    the log says nothing of, since they were never made there.
    """

    values: Floats
    cap: float
    cut: int
    effective: float
    unsupported: float


class Interval(msgspec.Struct, frozen=True):
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


class Influence(msgspec.Struct, frozen=True):
    """An estimate, and what each request adds to its error: `each` [n] has the mean nought.

    `more` is what is to be added to the estimate's variance, and `freedom` its degrees of freedom,
    where few choices of a target tell of it.
    """

    estimate: float
    each: Floats
    more: float = 0.0
    freedom: float = math.inf

    def interval(self) -> Interval:
        """The 95 % interval; infinite where there are too few requests to tell."""
        return interval(self)


def weights(logged: Logged) -> Weights:
    """The importance weights of the logged choices."""
    rows = np.arange(logged.n)
    p = logged.old[rows, logged.taken].astype(np.float64)
    q = logged.new[rows, logged.taken].astype(np.float64)
    plain = np.where(p > TINY, q / np.maximum(p, TINY), 0.0)
    cap = CAP * math.sqrt(max(logged.n, 1))
    values = np.minimum(plain, cap)
    squares = float(np.sum(values**2))
    return Weights(
        values=values,
        cap=cap,
        cut=int(np.sum(plain > cap)),
        effective=float(np.sum(values)) ** 2 / squares if squares else 0.0,
        unsupported=float(np.mean(np.sum(unsupported(logged), axis=1))) if logged.n else 0.0,
    )


def unsupported(logged: Logged) -> Floats:
    """[n, k]: the new policy's probability of what the logged one did not choose."""
    found: Floats = np.where(logged.old > TINY, 0.0, logged.new)
    found[:, list(logged.sure)] = 0.0
    return found


def influences(
    logged: Logged,
    found: Weights,
    outcome: Floats,
    expected: Floats,
    certain: Flags | None = None,
) -> Mapping[Method, Influence]:
    """What each estimator says of the change of the mean outcome.

    `outcome` [n] is NaN where it is not known; `expected` [n, k] is what the decision expected of
    each target, which the model falls back on for a target that nothing is known of. `certain` are
    the requests whose outcome would be known whatever is said of it, such as failures.
    """
    rows = np.arange(logged.n)
    counts = known_weights(logged, outcome, certain)
    y = np.where(counts > 0, np.nan_to_num(outcome), 0.0)
    w = found.values
    plain = counts * (w - 1.0) * y
    model = outcome_model(logged, outcome, counts, expected)
    moved = np.einsum("nk,nk->n", logged.new - logged.old, model)
    foreseen = model[rows, logged.taken]
    rest = y - foreseen
    doubly = moved + counts * (w - 1.0) * rest
    new, of_new = _ratio(counts * w, y)
    old, of_old = _ratio(counts, y)
    more, freedom = _few(logged, counts, w - 1.0, rest, foreseen)
    return {
        "ips": _influence(plain, *_few(logged, counts, w - 1.0, y, foreseen)),
        "snips": Influence(new - old, of_new - of_old, more, freedom),
        "dr": _influence(doubly, more, freedom),
    }


def _influence(values: Floats, more: float, freedom: float) -> Influence:
    mean = float(np.mean(values))
    return Influence(mean, values - mean, more, freedom)


def _few(
    logged: Logged, counts: Floats, factor: Floats, rest: Floats, foreseen: Floats
) -> tuple[float, float]:
    """What the estimate's variance lacks where few choices of a target tell of it, and its degrees
    of freedom."""
    known = counts > 0
    if not known.any():
        return 0.0, 1.0
    k, n = logged.old.shape[1], logged.n
    at = logged.taken[known]
    force = (counts * factor)[known] ** 2
    squares, size = rest[known] ** 2, foreseen[known] ** 2
    pull: Floats = np.bincount(at, weights=force, minlength=k).astype(np.float64)
    hits = pull**2 / np.maximum(np.bincount(at, weights=force**2, minlength=k), 1e-300)
    some = np.maximum(pull, 1e-300)
    spread = np.bincount(at, weights=force * squares, minlength=k) / some
    ratio = float(np.sum(squares)) / max(float(np.sum(size)), 1e-300)
    usual = ratio * np.bincount(at, weights=force * size, minlength=k) / some
    taken_with = (hits * spread + PRIOR * usual) / (hits + PRIOR)
    pull = pull / n**2
    more = float(np.sum(pull * np.maximum(taken_with - spread, 0.0)))
    parts = pull * np.maximum(taken_with, spread)
    whole = float(np.sum(parts))
    if whole <= 0.0:
        return 0.0, math.inf
    return more, whole**2 / float(np.sum(parts**2 / np.maximum(hits - 1.0, 1.0)))


def _ratio(weight: Floats, y: Floats) -> tuple[float, Floats]:
    total = float(np.mean(weight))
    if total <= 0.0:
        return 0.0, np.zeros(len(y))
    mean = float(np.mean(weight * y)) / total
    return mean, weight * (y - mean) / total


def known_weights(logged: Logged, outcome: Floats, certain: Flags | None) -> Floats:
    """[n]: 1/e where the outcome is known, 0 where it is not."""
    known = ~np.isnan(outcome)
    if known.all():
        return np.ones(logged.n)
    asked = np.ones(logged.n, dtype=bool) if certain is None else ~certain
    k = logged.old.shape[1]
    of = np.bincount(logged.taken[asked], minlength=k)
    seen = np.bincount(logged.taken[known & asked], minlength=k)
    each = of / np.maximum(seen, 1)
    result: Floats = np.where(known, np.where(asked, each[logged.taken], 1.0), 0.0)
    return result


def outcome_model(logged: Logged, outcome: Floats, counts: Floats, expected: Floats) -> Floats:
    """[n, k]: what comes of each target at each request, from other requests than itself."""
    n, k = logged.old.shape
    kinds = int(logged.kind.max()) + 1 if n else 1
    fold = np.arange(n) % FOLDS
    at = fold * (kinds * k) + logged.kind * k + logged.taken

    def summed_up(values: Floats) -> Floats:
        found = np.bincount(at, weights=values, minlength=FOLDS * kinds * k).astype(np.float64)
        by_fold = found.reshape(FOLDS, kinds, k)
        others: Floats = by_fold.sum(axis=0) - by_fold
        return others

    count, total = summed_up(counts), summed_up(counts * np.nan_to_num(outcome))
    of_target, sum_of_target = count.sum(1, keepdims=True), total.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sum_of_target / of_target
        cells = (total + SHRINK * mean) / (count + SHRINK)
    model = cells[fold, logged.kind]
    result: Floats = np.where(np.isnan(model), expected, model)
    return result


# ---------------------------------------------------------------- intervals


def interval(of: Influence) -> Interval:
    """The 95 % interval of a mean from what each of n independent requests adds to it."""
    n = len(of.each)
    if n < 2:
        return Interval(of.estimate, -math.inf, math.inf)
    square = of.each * of.each
    variance = float(np.mean(square))
    if variance <= 0.0 and of.more <= 0.0:
        return Interval(of.estimate, of.estimate, of.estimate)
    cubed = float(np.mean(square * of.each))
    kurtosis = float(np.mean(square * square)) / max(variance**2, 1e-300)
    freedom = max(min(of.freedom, 2.0 * (n - 1) / max(kurtosis - 1.0, 1e-9), n - 1.0), 3.0)
    half = student(freedom) * math.sqrt(variance / (n - 1) + of.more)
    shift = cubed / max(variance, 1e-300) / (6.0 * n) * (1.0 + 2.0 * Z95**2)
    # What a few requests say of the skewness may not move the interval by more than half of itself.
    shift = max(-0.5 * half, min(0.5 * half, shift))
    return Interval(of.estimate, of.estimate - half + shift, of.estimate + half + shift)


def student(freedom: float) -> float:
    """The 97.5 % point of Student's t, by Cornish and Fisher's expansion (within 1 % from 3 on)."""
    z, f = Z95, freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / f + second / f**2 + third / f**3 + fourth / f**4


# ---------------------------------------------------------------- together


def combined(parts: Sequence[tuple[int, Influence]]) -> Influence:
    """The mean over all requests of several routes, from each route's."""
    total = sum(n for n, _ in parts)
    if not total:
        return Influence(0.0, np.zeros(0))
    estimate = sum(n * part.estimate for n, part in parts) / total
    more = sum((n / total) ** 2 * part.more for n, part in parts)
    return Influence(
        estimate, np.concatenate([part.each for _, part in parts]), more, _freedom(parts)
    )


def summed(parts: Sequence[tuple[float, Influence]]) -> Influence:
    """A weighted sum of outcomes of the same requests, such as the net value."""
    estimate = sum(factor * part.estimate for factor, part in parts)
    each = sum((factor * part.each for factor, part in parts), np.zeros(len(parts[0][1].each)))
    more = sum(factor**2 * part.more for factor, part in parts)
    return Influence(estimate, each, more, _freedom(parts))


def _freedom(parts: Sequence[tuple[float, Influence]]) -> float:
    """Satterthwaite's: each part's variance with its own degrees of freedom."""
    variances = [
        factor**2 * (float(np.mean(part.each**2)) / max(len(part.each), 1) + part.more)
        for factor, part in parts
    ]
    shares = sum(v * v / part.freedom for v, (_, part) in zip(variances, parts, strict=True))
    return sum(variances) ** 2 / shares if shares > 0.0 else math.inf


class Exploring(msgspec.Struct, frozen=True):
    """What it would take to know a change to within `within`: so many requests logged as these
    were, or, of as many as these, such a share explored. None where that would not do it, or is so
    already."""

    within: float
    requests: int | None
    share: float | None


def exploring(logged: Logged, found: Weights, spread: float, within: float) -> Exploring:
    """How much must be logged, or explored, for an interval of +-`within`.

    `spread` is the outcome's standard deviation at one target. The variance of the doubly robust
    estimate is about spread^2/n x mean of sum_a (q(a) - p(a))^2 / p(a).
    """
    moved = np.abs(logged.new - logged.old)
    supported = logged.old > TINY
    need = (Z95 * spread / within) ** 2
    requests: int | None = None
    if found.unsupported <= TINY:
        ratio = np.where(supported, moved**2 / np.maximum(logged.old, TINY), 0.0)
        requests = math.ceil(need * float(np.mean(ratio.sum(axis=1))))
    choices = np.maximum((logged.new > TINY) | supported, False).sum(axis=1)
    gained = np.maximum(logged.new - logged.old, 0.0).sum(axis=1)
    share = need * float(np.mean(gained**2 * choices)) / max(logged.n, 1)
    return Exploring(within, requests, share if share <= 1.0 else None)
