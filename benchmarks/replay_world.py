"""A world whose truth is known, to ask of replay's intervals how often they hold it.

Each request has a length; each target is right with a probability, and takes seconds and dollars,
that depend on it. The logged policy takes its best and explores; the new one prefers another.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from gateway.experiments.estimators import (
    METHODS,
    Floats,
    Logged,
    Method,
    influences,
    weights,
)


class Regime(msgspec.Struct, frozen=True):
    """A way that logs can be. `explore` is the share explored over three targets; `shift` the share
    of requests that the new policy sends elsewhere; `tail` the sigma of log-normal dollars and
    seconds; `told` the share of answers of which it is known whether they were right."""

    name: str
    requests: int
    explore: float
    shift: float
    tail: float = 0.5
    told: float = 1.0


REGIMES = (
    Regime("plain: 10 % explored, 30 % moved", 4000, 0.10, 0.3),
    Regime("low exploration: 2 % explored, 30 % moved", 4000, 0.02, 0.3),
    Regime("shifted: 5 % explored, all moved", 4000, 0.05, 1.0),
    Regime("heavy tails: sigma 1.5, 5 % explored", 4000, 0.05, 0.5, tail=1.5),
    Regime("sparse feedback: 1 in 5 told, 10 % explored", 8000, 0.10, 0.5, told=0.2),
    Regime("few requests: 500, 10 % explored", 500, 0.10, 0.5),
)

RIGHT = np.array([[0.90, 0.85, 0.70], [0.80, 0.82, 0.50]])
"""P(right) by whether the request is short, and the target."""
COST = np.array([[0.004, 0.001, 0.0004], [0.012, 0.003, 0.001]])


def run(regime: Regime, seed: int) -> Mapping[str, Mapping[Method, tuple[bool, float]]]:
    """Whether each estimator's interval held the truth, and its width, for right and cost."""
    rng = np.random.default_rng(seed)
    n = regime.requests
    rows = np.arange(n)
    length = rng.lognormal(5.0, 1.0, n)
    long = (length > 150).astype(int)
    scale = length / 150
    old = np.full((n, 3), regime.explore / 3)
    old[:, 0] += 1.0 - regime.explore
    moves = rng.random(n) < regime.shift
    new = np.full((n, 3), regime.explore / 3)
    new[rows, moves.astype(int)] += 1.0 - regime.explore
    taken = (rng.random(n)[:, None] > np.cumsum(old, axis=1)[:, :2]).sum(axis=1)
    noise = rng.lognormal(-(regime.tail**2) / 2, regime.tail, n)
    right = (rng.random(n) < RIGHT[long, taken]).astype(float)
    cost = COST[long, taken] * scale * noise
    right[rng.random(n) >= regime.told] = np.nan
    quantiles = np.quantile(length, [0.2, 0.4, 0.6, 0.8])
    logged = Logged(taken, old, new, np.searchsorted(quantiles, length))
    found = weights(logged)
    expected: Floats = np.full((n, 3), 0.5)
    held: dict[str, dict[Method, tuple[bool, float]]] = {}
    for what, outcome, true in (
        ("right", right, _true_right(regime)),
        ("cost", cost, _true_cost(regime)),
    ):
        told = influences(logged, found, outcome, expected)
        held[what] = {}
        for method in METHODS:
            each = told[method].interval()
            held[what][method] = (each.low <= true <= each.high, each.high - each.low)
    return held


def _true_right(regime: Regime) -> float:
    share = _share_long()
    gain = RIGHT[:, 1] - RIGHT[:, 0]
    return _moved(regime) * float((1 - share) * gain[0] + share * gain[1])


def _true_cost(regime: Regime) -> float:
    """E[length; long] of the log-normal is e^(5.5) P(Z > (ln 150 - 6))."""
    gain = COST[:, 1] - COST[:, 0]
    mean = float(np.exp(5.5)) / 150
    long = mean * _above(float(np.log(150)) - 6.0)
    return _moved(regime) * float((mean - long) * gain[0] + long * gain[1])


def _moved(regime: Regime) -> float:
    return regime.shift * (1.0 - regime.explore)


def _share_long() -> float:
    return _above(float(np.log(150)) - 5.0)


def _above(z: float) -> float:
    from statistics import NormalDist

    return 1.0 - NormalDist().cdf(z)


def coverage(
    regime: Regime, runs: int, seed: int = 1
) -> Mapping[str, Mapping[Method, tuple[float, float]]]:
    """The share of `runs` whose interval held the truth, and the mean width of the intervals."""
    found = [run(regime, seed * 1_000_003 + each) for each in range(runs)]
    return {
        what: {
            method: (
                sum(each[what][method][0] for each in found) / runs,
                sum(each[what][method][1] for each in found) / runs,
            )
            for method in METHODS
        }
        for what in ("right", "cost")
    }
