"""Counts against what they should be, by tests that may be read at any time. Pure.

Sample ratio: whether arms got units in the shares that were declared. The Dirichlet mixture over
other shares against the declared ones is a non-negative martingale under these (Lindon and Malek
2022, "Anytime-valid inference for multinomial count data"). It makes sense for fixed shares only.

Guards: whether a rate is above its limit. The mixture of likelihood ratios of higher rates against
the limit is a supermartingale for every rate up to it.
"""

import math
from collections.abc import Mapping

CONCENTRATION = 100.0
"""How close to the declared shares others are looked for: as if so many units had been seen."""

SRM_ALPHA = 0.001
"""When the shares are surely wrong: rarely by chance, since nothing of such an experiment holds."""

_HIGHER = tuple(0.5**k for k in range(8))


def ratio_p(units: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """A p-value that holds at any time: how sure it is that units did not come by `shares`."""
    n = sum(units.values())
    logged = math.lgamma(CONCENTRATION) - math.lgamma(CONCENTRATION + n)
    for arm, share in shares.items():
        mine, prior = units.get(arm, 0), CONCENTRATION * share
        logged += math.lgamma(prior + mine) - math.lgamma(prior) - mine * math.log(share)
    return min(1.0, math.exp(-logged)) if logged > 0.0 else 1.0


def above(limit: float, bad: int, n: int) -> float:
    """The e-value against "the rate is at most `limit`" by `bad` of `n`: 1/alpha refutes it."""
    if not 0.0 < limit < 1.0:
        return math.inf if limit <= 0.0 and bad else 0.0
    logged = [
        bad * math.log(rate / limit) + (n - bad) * math.log((1.0 - rate) / (1.0 - limit))
        for rate in (limit + (0.999 - limit) * part for part in _HIGHER)
    ]
    most = max(logged)
    if most > 700.0:
        return math.inf
    return sum(math.exp(each) for each in logged) / len(logged)
