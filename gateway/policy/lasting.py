"""How long a composition takes, from what is declared of its steps: means and 95th percentiles.

Pure: its draws are seeded, and the same every time. The time to a call's first token and that of
its generation are drawn by themselves, log-normal around what is declared, with a 95th percentile
that is `TAIL` times the mean, as that of any target until it is known. Their means are exactly what
is declared, so that those of the whole are sums:

- a cascade ends at step n (from 0) with the chance escalates^n (1 - escalates), the last with what
  is left; it has waited for every step before, whole, and for what its checks asked;
- a chain has waited for all of its steps;
- the best of several is there with the slowest of them, and the slowest mark of the judge.

What streams is the last step of a cascade or a chain; else the whole is there with its first token.
The percentiles are those of the mixture, which no multiple of a mean gives: a cascade that asks a
slow step one time in ten is slow in ten of a hundred.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from gateway.policy.estimates import TAIL
from gateway.types.backends import Target
from gateway.types.compositions import Composition, Step

DRAWS, SEED = 8_000, 20_260_101

SIGMA = 0.5
"""Of a log-normal whose 95th percentile is twice its mean."""

Seconds: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
Way: TypeAlias = tuple[float, Seconds, Seconds]
"""One way that a request may take: its chance, seconds to the first token, and in all."""


class Lasts(msgspec.Struct, frozen=True):
    """Mean seconds to the first token and in all, and their 95th percentiles over these."""

    first_s: float
    whole_s: float
    first_tail: float
    whole_tail: float


def lasts(composition: Composition, targets: Mapping[str, Target]) -> Lasts:
    """How long a composition takes whose steps' targets are declared."""
    ways = _Calls(targets).ways(composition)
    first_s = sum(chance * float(first.mean()) for chance, first, _ in ways)
    whole_s = sum(chance * float(whole.mean()) for chance, _, whole in ways)
    first = _p95([(chance, first) for chance, first, _ in ways])
    whole = _p95([(chance, whole) for chance, _, whole in ways])
    return Lasts(
        first_s,
        whole_s,
        first / first_s if first_s > 0.0 else TAIL,
        whole / whole_s if whole_s > 0.0 else TAIL,
    )


class _Calls:
    """Draws of calls, each by itself."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets
        self._rng = np.random.default_rng(SEED)

    def ways(self, composition: Composition) -> list[Way]:
        """Every way that a request may take."""
        if composition.kind == "best_of":
            return [self._best_of(composition)]
        escalates = composition.escalates if composition.kind == "cascade" else 1.0
        waited, chance = np.zeros(DRAWS), 1.0
        found: list[Way] = []
        for step in composition.steps[:-1]:
            waited = waited + self._whole(step.target) + self._checks(step)
            found.append((chance * (1.0 - escalates), waited, waited))
            chance *= escalates
        first, whole = self._call(composition.steps[-1].target)
        found.append((chance, waited + first, waited + whole))
        return [way for way in found if way[0] > 0.0]

    def _checks(self, step: Step) -> Seconds:
        waited = np.zeros(DRAWS)
        for check in step.checks:
            if check.kind == "agreement":
                waited = waited + self._slowest([step.target] * (check.samples - 1))
            elif check.judge is not None:
                waited = waited + self._whole(check.judge.target)
        return waited

    def _best_of(self, composition: Composition) -> Way:
        asked = [step.target for step in composition.steps for _ in range(composition.samples)]
        waited = self._slowest(asked)
        if composition.judge is not None:
            waited = waited + self._slowest([composition.judge.target] * len(asked))
        return 1.0, waited, waited

    def _slowest(self, names: Sequence[str]) -> Seconds:
        """The slowest of calls that are made at the same time."""
        waited = np.zeros(DRAWS)
        for name in names:
            waited = np.maximum(waited, self._whole(name))
        return waited

    def _whole(self, name: str) -> Seconds:
        return self._call(name)[1]

    def _call(self, name: str) -> tuple[Seconds, Seconds]:
        target = self._targets[name]
        first = target.first_token_s * self._noise()
        return first, first + target.output_tokens / target.tokens_per_s * self._noise()

    def _noise(self) -> Seconds:
        drawn = self._rng.lognormal(sigma=SIGMA, size=DRAWS)
        noise: Seconds = drawn / drawn.mean()
        return noise


def _p95(ways: Sequence[tuple[float, Seconds]]) -> float:
    """The 95th percentile of a mixture of draws."""
    values = np.concatenate([drawn for _, drawn in ways])
    weights = np.concatenate([np.full(DRAWS, chance / DRAWS) for chance, _ in ways])
    order = np.argsort(values)
    place = int(np.searchsorted(np.cumsum(weights[order]), 0.95))
    return float(values[order][min(place, len(values) - 1)])
