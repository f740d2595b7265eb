"""Times of arms that had whole slots of time each, compared. Pure.

A slot's value is the mean of the logarithms of its seconds, so that exp of a difference is a ratio
of geometric means. Slots' contrasts (see `stats`) have no bounds, so the interval is an asymptotic
confidence sequence: the normal mixture of Robbins (1970) with the variance seen so far.

    mean +- sqrt(2 (n v r + 1) / (n^2 r) x ln(sqrt(n v r + 1) / alpha))

Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), "Time-uniform central limit theory and
asymptotic confidence sequences". It may be read at any time from FEWEST slots on.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from gateway.experiments.stats import Floats, contrasts

FEWEST = 20
"""Slots before anything is said."""
SHARPEST_AT = 100
"""The number of slots at which the interval is as narrow as it can be for its confidence."""


class Slot(msgspec.Struct):
    """One slot: its arm, and the seconds of its good answers as sums of their logarithms."""

    arm: str
    share: float
    n: int = 0
    log_s: float = 0.0

    def add(self, seconds: float) -> None:
        """One more answer."""
        self.n += 1
        self.log_s += math.log(max(seconds, 1e-6))


class Ratio(msgspec.Struct, frozen=True):
    """How many times as long one arm takes as the other: between `low` and `high`."""

    slots: int
    mean: float
    low: float
    high: float


def ratio(
    slots: Sequence[Slot], arm: str, other: str, fixed: float | None, alpha: float
) -> Ratio | None:
    """Of two arms' slots, in order of time; None while there are too few. The first's probability
    among the two is `fixed`, or, of two arms alone, each slot's own."""
    used = [slot for slot in slots if slot.n and slot.arm in (arm, other)]
    if len(used) < FEWEST or len({slot.arm for slot in used}) < 2:
        return None
    values = np.array([slot.log_s / slot.n for slot in used])
    treated = np.array([slot.arm == arm for slot in used])
    chances = np.array([slot.share if slot.arm == arm else 1.0 - slot.share for slot in used])
    if fixed is not None:
        chances = np.full(len(used), fixed)
    # What is not known yet is taken to be as the first.
    seen = contrasts(treated, values - values[0] + 0.5, chances).values
    mean, width = float(seen.mean()), half_width(seen, alpha)
    return Ratio(len(used), math.exp(mean), math.exp(mean - width), math.exp(mean + width))


def half_width(seen: Floats, alpha: float) -> float:
    """The interval's on each side of the mean."""
    n, spread = len(seen), float(seen.var())
    r = (-2.0 * math.log(alpha) + math.log(-2.0 * math.log(alpha)) + 1.0) / SHARPEST_AT
    r /= max(spread, 1e-12)
    inside = n * spread * r + 1.0
    return math.sqrt(2.0 * inside / (n * n * r) * math.log(math.sqrt(inside) / alpha))
