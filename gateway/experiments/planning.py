"""How many units a question takes, before it is asked. Pure.

By trying it: experiments of the expected rates are simulated and read after every unit by the very
test that will be used. What is told is the number within which four of five of them are answered.
"""

import math

import msgspec
import numpy as np

from gateway.experiments.stats import Contrasts, contrasts, evidence

POWER = 0.8
RUNS = 200
LONGER = 5.0
"""How many times a fixed horizon's number of units is looked at, at most."""
MOST_UNITS = 400_000
AT_ONCE = 4_000_000


class Sizes(msgspec.Struct, frozen=True):
    """Units of both arms together. `fixed` is what a z-test that is read once, at its end, takes;
    `mean` and `most` are those of this test, which is read all the time: the mean, and the number
    within which `power` of the experiments are answered; None if that is beyond what was tried."""

    fixed: int
    mean: int | None
    most: int | None
    power: float = POWER


def fixed_horizon(rate: float, other: float, gap: float, alpha: float, share: float = 0.5) -> int:
    """Units for a one-sided z-test of the means with power POWER, `gap` away from what is tested.

    n = (z_alpha + z_power)^2 (v1 / p + v0 / (1 - p)) / gap^2.
    """
    spread = rate * (1.0 - rate) / share + other * (1.0 - other) / (1.0 - share)
    return math.ceil((_quantile(1.0 - alpha) + _quantile(POWER)) ** 2 * spread / gap**2)


def sizes(
    treated: float, control: float, margin: float, alpha: float, share: float = 0.5, seed: int = 0
) -> Sizes:
    """What it takes to show that the treated arm's rate is above the control's less `margin`, if
    the rates are those; `share` is the treated arm's of the two. Raises ValueError where there is
    nothing to show."""
    gap = treated - control + margin
    if gap <= 0.0:
        raise ValueError("with these rates there is nothing to show")
    fixed = max(fixed_horizon(treated, control, gap, alpha, share), 20)
    n = min(math.ceil(LONGER * fixed), MOST_UNITS)
    rng = np.random.default_rng(seed)
    found: list[int] = []
    batch = max(1, min(RUNS, AT_ONCE // n))
    for start in range(0, RUNS, batch):
        seen = simulated(rng, treated, control, share, (min(batch, RUNS - start), n))
        found += answered_after(seen, -margin, alpha)
    ended = np.array(found)
    within = float(np.quantile(ended, POWER, method="higher"))
    return Sizes(
        fixed,
        int(ended.mean()) if (ended <= n).all() else None,
        int(within) if within <= n else None,
    )


def simulated(
    rng: np.random.Generator, treated: float, control: float, share: float, shape: tuple[int, int]
) -> Contrasts:
    """Contrasts of `shape` (runs, units) with those true rates."""
    z = rng.random(shape) < share
    scores = (rng.random(shape) < np.where(z, treated, control)).astype(np.float64)
    return contrasts(z, scores, np.array(share))


def answered_after(seen: Contrasts, null: float, alpha: float) -> list[int]:
    """After how many units each run has refuted `null`; one more than there are if it has not."""
    over = np.atleast_2d(evidence(seen, null) >= -math.log(alpha))
    first = np.where(over.any(axis=-1), over.argmax(axis=-1), over.shape[-1])
    return [int(after) + 1 for after in first]


def _quantile(share: float) -> float:
    """The standard normal's, by bisection of erfc."""
    low, high = -10.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2.0
        if 0.5 * math.erfc(-middle / math.sqrt(2.0)) < share:
            low = middle
        else:
            high = middle
    return low
