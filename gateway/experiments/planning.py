"""How many units a question takes, before it is asked. Pure.

By trying it: experiments of the expected rates are simulated and read after every unit by the very
test that will be used. What is told is the number within which four of five of them are answered.
"""

import math

import msgspec
import numpy as np

from gateway.experiments.answers import asked_words
from gateway.experiments.stats import Contrasts, contrasts, evidence
from gateway.types.experiments import Experiment

POWER = 0.8
BETTER_BY = 5.0
"""Points that an arm is expected to be better by, beyond the margin, where nothing else is said."""
RUNS = 200
FEWEST_RUNS = 40
DRAWN = 16_000_000
"""Units that are simulated in all, about: where each run is long there are fewer, FEWEST_RUNS at
least, and the share that is answered by then is 6 points unsure, not 3."""
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


class Logged(msgspec.Struct, frozen=True):
    """What the log says of a route: requests in so many days, the keys that they came with, how
    many of them have an outcome by the metric, and the mean of these."""

    days: float
    requests: int
    keys: int
    scored: int
    mean: float | None


class Plan(msgspec.Struct, frozen=True):
    """How long an experiment would take. `treated` and `control` are the rates that are expected,
    `a_day` the outcomes of both arms in a day; None where that is not known."""

    asked: str
    treated: float
    control: float
    sizes: Sizes
    a_day: float | None
    days: float | None
    notes: tuple[str, ...]


def planned(
    experiment: Experiment, logged: Logged, rate: float | None, effect: float | None
) -> Plan:
    """The plan by what was logged; `rate` instead of the logged one, `effect` in points. Raises
    ValueError where there is nothing to plan."""
    asked = experiment.asked
    if asked is None:
        raise ValueError("the experiment has no question, so there is nothing that takes its time")
    if rate is None and logged.mean is not None:
        rate = logged.mean
        if rate in (0.0, 1.0):  # of few outcomes, and none is ever told from the other
            rate = (logged.scored * rate + 0.5) / (logged.scored + 1.0)
    if rate is None:
        raise ValueError(
            f"the log has no outcome of {asked.metric} on this route: say the rate with --rate"
        )
    if effect is None:
        alike = asked.no_worse or (asked.best and asked.margin > 0.0)
        effect = 0.0 if alike else 100.0 * asked.margin + BETTER_BY
    treated = min(max(rate + effect / 100.0, 0.0), 1.0)
    margin = asked.margin if asked.no_worse or asked.best else -asked.margin
    shares, alpha = experiment.shares, 1.0 - experiment.confidence
    if asked.best:
        mine, other = min(shares.values()), max(shares.values())
        alpha /= len(shares) - 1
    else:
        mine, other = shares[asked.arm], shares[asked.than]
    share = mine / (mine + other)
    found = sizes(treated, rate, margin, alpha, share)
    a_day = None
    if logged.requests and logged.days > 0.0 and logged.scored:
        scored = logged.scored / logged.days
        a_day = scored * experiment.traffic * (mine + other)
    days = found.most / a_day if a_day and found.most is not None else None
    return Plan(
        asked_words(experiment),
        treated,
        rate,
        found,
        a_day,
        days,
        tuple(_notes(experiment, logged)),
    )


def _notes(experiment: Experiment, logged: Logged) -> list[str]:
    told = []
    if experiment.asked is not None and experiment.asked.best:
        told.append("this is the best arm against one other; against all of them it takes longer")
    if experiment.bandit:
        told.append(
            "a bandit's shares move, and with them how long it takes: days are those of its"
            " first shares"
        )
    if not logged.scored:
        told.append("no request of the log has an outcome: days cannot be told")
    if experiment.slot_s is not None:
        told.append("a slot of time counts once, however many requests it has: count slots instead")
    elif experiment.stick_to == "key":
        told.append(f"there are only {logged.keys} keys, and each counts once")
    else:
        told.append(
            "every outcome is counted as another user's; users with several make it longer, for "
            "each counts once"
        )
    return told


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
    runs = max(FEWEST_RUNS, min(RUNS, DRAWN // n))
    batch = max(1, min(runs, AT_ONCE // n))
    for start in range(0, runs, batch):
        seen = simulated(rng, treated, control, share, (min(batch, runs - start), n))
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
