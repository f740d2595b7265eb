"""The difference of two arms' means, with statements that hold however often they are read. Pure.

Scores are in 0..1: right or not, or a share. For the i-th unit, treated (Z = 1) with the known
probability p and scored Y, the contrast is

    f = m1 - m0 + Z (Y - m1) / p - (1 - Z) (Y - m0) / (1 - p)

where m1 and m0 are the arms' mean scores among the units before it (augmented inverse propensity
weighting; Robins, Rotnitzky and Zhao 1994). Given what came before, its mean is the difference of
the arms' true means, whatever p is and however it was chosen from the past: so the same holds for
fixed shares and for a bandit's weights.

For each hypothesis "the difference is at most d" a bettor with one dollar stakes a share g of the
most that can be lost on each f against it:

    K = product of (1 + g (f - d) / (d - least f possible))

If the hypothesis is true, K is a non-negative supermartingale, and by Ville's inequality (1939) it
ever reaches 1/alpha with a probability of at most alpha. The mean of K over several g is one as
well. Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting". No
part of it is asymptotic: it holds from the first unit on, for rates near 0 and 1 too.
"""

from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Side: TypeAlias = Literal["above", "below"]

STAKES = 0.8 * 0.5 ** np.arange(8.0)
"""What shares of the most that can be lost are staked: from bold ones, that find a large difference
soon, to those that find a fiftieth of it."""

_NULLS = 161
_LEAST_ROOM = 1e-9


class Contrasts(msgspec.Struct, frozen=True):
    """Each unit's contrast, and the least and the most that it could have been by what was known
    before it. Arrays of one shape, time along the last axis."""

    values: Floats
    least: Floats
    most: Floats

    def mirrored(self) -> "Contrasts":
        """Those of the arms in the other order."""
        return Contrasts(-self.values, -self.most, -self.least)


def contrasts(treated: NDArray[np.bool_], scores: Floats, propensity: Floats) -> Contrasts:
    """From who was treated, scores in 0..1, and P(treated) of each, in order of time."""
    z = treated.astype(np.float64)
    p = np.broadcast_to(propensity, z.shape)
    m1, m0 = _means_before(z, scores), _means_before(1.0 - z, scores)
    base = m1 - m0
    return Contrasts(
        base + z * (scores - m1) / p - (1.0 - z) * (scores - m0) / (1.0 - p),
        base - np.maximum(m1 / p, (1.0 - m0) / (1.0 - p)),
        base + np.maximum((1.0 - m1) / p, m0 / (1.0 - p)),
    )


def between(
    mine: NDArray[np.bool_],
    others: NDArray[np.bool_],
    scores: Floats,
    drawn: Floats,
    least_mine: Floats | float,
    least_others: Floats | float,
) -> Contrasts:
    """Those of two arms of several, over all units: who is in the one, who in the other, and the
    chance that each unit's own arm had. The two arms' chances were never under the least ones.

    A unit of a third arm has no part in a sum but the arms' means before it, whose difference is
    then all that it says; the mean of each contrast is the difference of the true means still.
    """
    a, b = mine.astype(np.float64), others.astype(np.float64)
    m1, m0 = _means_before(a, scores), _means_before(b, scores)
    base = m1 - m0
    p, q = least_mine, least_others
    return Contrasts(
        base + a * (scores - m1) / drawn - b * (scores - m0) / drawn,
        base - np.maximum(m1 / p, (1.0 - m0) / q),
        base + np.maximum((1.0 - m1) / p, m0 / q),
    )


def _means_before(mine: Floats, scores: Floats) -> Floats:
    """An arm's mean score among the units before each; one of 1/2 is there from the start."""
    n = np.cumsum(mine, axis=-1) - mine
    total = np.cumsum(mine * scores, axis=-1) - mine * scores
    return np.asarray((total + 0.5) / (n + 1.0))


def evidence(seen: Contrasts, null: float, side: Side = "above") -> Floats:
    """ln K after each unit, against "the difference is at most `null`", or at least for `below`.

    `null` is in -1..1. A value of ln(1/alpha) at any time refutes it at the level alpha.
    """
    if side == "below":
        seen, null = seen.mirrored(), -null
    won = (seen.values - null) / np.maximum(null - seen.least, _LEAST_ROOM)
    total: Floats | None = None
    for stake in STAKES:
        logged = np.cumsum(np.log1p(stake * won), axis=-1)
        total = logged if total is None else np.logaddexp(total, logged)
    assert total is not None
    return np.asarray(total - np.log(len(STAKES)))


def refuted_at(seen: Contrasts, null: float, alpha: float, side: Side = "above") -> int | None:
    """The number of units after which the hypothesis was refuted, None if it is not."""
    over = evidence(seen, null, side) >= -np.log(alpha)
    return int(over.argmax()) + 1 if over.any() else None


def estimate(seen: Contrasts) -> float:
    """The difference of the means; without a bias, whatever the weights were."""
    return float(seen.values.mean()) if seen.values.size else 0.0


def intervals(
    seen: Contrasts, alpha: float, looks: NDArray[np.int64] | None = None
) -> list[tuple[float, float]]:
    """After each number of units in `looks` (all of them, if None): from where to where the
    difference is; all of it at once with a probability of 1 - alpha at least.

    Each end is what a test at alpha/2 does not refute. An interval never grows.
    """
    n = seen.values.shape[-1]
    if looks is None:
        looks = np.array([n])
    low = _ends(seen, alpha / 2.0, looks)
    high = [-end for end in _ends(seen.mirrored(), alpha / 2.0, looks)]
    return list(zip(low, high, strict=True))


def _ends(seen: Contrasts, alpha: float, looks: NDArray[np.int64]) -> list[float]:
    """The lower end after each look: between two of a grid of hypotheses, ln K is taken as
    straight, and the ends are coarse where they are far from the estimate."""
    centre = estimate(seen)
    steps = np.sinh(np.linspace(-6.0, 6.0, _NULLS)) / np.sinh(6.0)
    nulls = np.unique(np.clip(centre + 2.0 * steps, -1.0, 1.0))
    best = np.full((len(nulls), len(looks)), -np.inf)
    for index, null in enumerate(nulls):
        logged = np.maximum.accumulate(evidence(seen, float(null)))
        known = looks > 0
        best[index, known] = logged[looks[known] - 1]
    return [_crossing(nulls, best[:, look], -np.log(alpha)) for look in range(len(looks))]


def _crossing(nulls: Floats, logged: Floats, level: float) -> float:
    """The hypothesis up to which all are refuted; ln K falls with it."""
    refuted = int((logged >= level).sum())
    if refuted == 0:
        return -1.0
    if refuted == len(nulls):
        return float(nulls[-1])
    above, below = logged[refuted - 1], logged[refuted]
    part = (above - level) / (above - below) if np.isfinite(below) else 0.0
    return float(nulls[refuted - 1] + part * (nulls[refuted] - nulls[refuted - 1]))
