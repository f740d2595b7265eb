"""What a run says of its targets, and how sure it is. Pure.

Shares have Wilson's interval at 95 % (Wilson 1927), over cases: a case that was asked several times
counts once, by its share. Two targets are compared on the cases that both have answered:

- right or wrong, once each: McNemar's test in its mid-p form (Fagerland, Lydersen and Laake 2013),
  exact but for being a little less cautious than the exact one;
- else by a paired bootstrap over cases, 10,000 times, with a fixed seed.

Of many comparisons the p-values are Holm's (1979). The interval of a difference is the bootstrap's.
"""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist
from typing import TypeAlias

import msgspec
import numpy as np

from gateway.evals.runs import Result, Run

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]

TIMES, SEED = 10_000, 20_260_101
SURE = 0.05
_Z = NormalDist().inv_cdf(0.975)


class Standing(msgspec.Struct, frozen=True):
    """One target in a run. Dollars a request, seconds; None where it was not seen.

    `cases` were scored; `quality` is the share of right answers, with its interval.
    """

    target: str
    cases: int
    errors: int
    quality: float
    low: float
    high: float
    scores: dict[str, float]
    cost_usd: float
    judge_usd: float
    first_p50: float | None
    first_p95: float | None
    whole_p50: float | None
    whole_p95: float | None
    on_front: bool = False


class Compared(msgspec.Struct, frozen=True):
    """Two targets on the cases of both: `difference` is one's share of right answers less the
    other's, with its interval; `p` after Holm, and by which test."""

    one: str
    other: str
    cases: int
    difference: float
    low: float
    high: float
    p: float
    test: str
    only_one: int
    only_other: int

    @property
    def sure(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p < SURE


class Disagreement(msgspec.Struct, frozen=True):
    """A case that targets answer differently, one rightly and one not."""

    case: str
    input: str
    expected: str
    said: dict[str, str]
    right: dict[str, bool]


class Report(msgspec.Struct, frozen=True):
    """All that is said of a run."""

    run: Run
    standings: tuple[Standing, ...]
    compared: tuple[Compared, ...]
    disagreements: tuple[Disagreement, ...]


def report(run: Run, results: Sequence[Result], disagreements: int = 20) -> Report:
    """What a run says; at most so many disagreements, those that split targets most first."""
    rows = by_target(results)
    standings = on_front([_standing(name, each) for name, each in rows.items()])
    shares = {name: case_shares(each) for name, each in rows.items()}
    return Report(run, standings, compared(shares), _disagreements(results)[:disagreements])


# ---------------------------------------------------------------- each target


def wilson(right: float, n: int) -> tuple[float, float]:
    """The interval of a share at 95 %."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = _Z / (1 + z2 / n) * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def on_front(standings: Sequence[Standing]) -> tuple[Standing, ...]:
    """With those marked that no other beats at once in quality and cost; of what was not scored
    nothing is known."""

    def beaten(one: Standing) -> bool:
        return any(
            other.quality >= one.quality
            and other.cost_usd <= one.cost_usd
            and (other.quality > one.quality or other.cost_usd < one.cost_usd)
            for other in standings
        )

    return tuple(
        msgspec.structs.replace(one, on_front=one.cases > 0 and not beaten(one))
        for one in standings
    )


def by_target(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Each target's results."""
    rows: dict[str, list[Result]] = {}
    for each in results:
        rows.setdefault(each.target, []).append(each)
    return rows


def case_shares(rows: Sequence[Result]) -> dict[str, float]:
    """Each case's share of right answers, of those that were scored."""
    counts: dict[str, list[bool]] = {}
    for each in rows:
        if each.right is not None:
            counts.setdefault(each.case, []).append(each.right)
    return {case: sum(right) / len(right) for case, right in counts.items()}


def _standing(target: str, rows: Sequence[Result]) -> Standing:
    shares = case_shares(rows)
    quality = sum(shares.values()) / len(shares) if shares else 0.0
    low, high = wilson(quality * len(shares), len(shares))
    first = [each.first_token_s for each in rows if each.first_token_s is not None]
    whole = [each.total_s for each in rows if each.total_s is not None]
    names = {name for each in rows for name in each.scores}
    scores = {
        name: float(np.mean([each.scores[name] for each in rows if name in each.scores]))
        for name in sorted(names)
    }
    return Standing(
        target=target,
        cases=len(shares),
        errors=sum(each.error is not None for each in rows),
        quality=quality,
        low=low,
        high=high,
        scores=scores,
        cost_usd=sum(each.cost_usd for each in rows) / len(rows),
        judge_usd=sum(each.judge_usd for each in rows) / len(rows),
        first_p50=_percentile(first, 50),
        first_p95=_percentile(first, 95),
        whole_p50=_percentile(whole, 50),
        whole_p95=_percentile(whole, 95),
    )


def _percentile(values: Sequence[float], share: int) -> float | None:
    """Nearest rank."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-share * len(ordered) // 100) - 1)]


# ---------------------------------------------------------------- two of them


def compared(shares: dict[str, dict[str, float]]) -> tuple[Compared, ...]:
    """Every pair of targets on the cases of both, with Holm's p-values."""
    names = list(shares)
    pairs = [(one, other) for n, one in enumerate(names) for other in names[n + 1 :]]
    found = [pair for one, other in pairs if (pair := _pair(one, other, shares)) is not None]
    corrected = holm([each.p for each in found])
    return tuple(
        msgspec.structs.replace(each, p=p) for each, p in zip(found, corrected, strict=True)
    )


def _pair(one: str, other: str, shares: dict[str, dict[str, float]]) -> Compared | None:
    cases = [case for case in shares[one] if case in shares[other]]
    if not cases:
        return None
    a = np.array([shares[one][case] for case in cases])
    b = np.array([shares[other][case] for case in cases])
    better, worse = int(np.sum(a > b)), int(np.sum(a < b))
    low, high, p = bootstrap(a - b)
    test = "paired bootstrap"
    if np.all(np.isin(a, (0.0, 1.0)) & np.isin(b, (0.0, 1.0))):
        p, test = mcnemar(better, worse), "McNemar's mid-p test"
    difference = float(np.mean(a - b))
    return Compared(one, other, len(cases), difference, low, high, p, test, better, worse)


def mcnemar(better: int, worse: int) -> float:
    """The two-sided mid-p value of McNemar's test, of the cases on which only one is right."""
    n = better + worse
    if n == 0:
        return 1.0
    least = min(better, worse)
    halves = 2 * sum(comb(n, k) for k in range(least)) + comb(n, least)
    return min(1.0, float(halves / 2**n))


def bootstrap(differences: Floats) -> tuple[float, float, float]:
    """The interval of the mean at 95 %, and a two-sided p of its being 0: cases drawn again."""
    n = len(differences)
    rng = np.random.default_rng(SEED)
    values, counts = np.unique(differences, return_counts=True)
    drawn = rng.multinomial(n, counts / n, size=TIMES) @ values / n
    low, high = np.quantile(drawn, [0.025, 0.975])
    below, above = float(np.mean(drawn <= 0.0)), float(np.mean(drawn >= 0.0))
    p = min(1.0, 2.0 * max(min(below, above), 1.0 / TIMES))
    return float(low), float(high), p


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given."""
    adjusted, least = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _disagreements(results: Sequence[Result]) -> tuple[Disagreement, ...]:
    """Cases on which targets differ, by their first answers; the most evenly split first."""
    cases: dict[str, list[Result]] = {}
    for each in results:
        if each.rep == 0 and each.right is not None:
            cases.setdefault(each.case, []).append(each)
    found = []
    for case, rows in cases.items():
        right = sum(bool(each.right) for each in rows)
        if 0 < right < len(rows):
            found.append((abs(2 * right - len(rows)), case, rows))
    return tuple(
        Disagreement(
            case,
            rows[0].input,
            rows[0].expected,
            {each.target: each.output for each in rows},
            {each.target: bool(each.right) for each in rows},
        )
        for _, case, rows in sorted(found, key=lambda each: each[0])
    )


# ---------------------------------------------------------------- two runs


class Changed(msgspec.Struct, frozen=True):
    """A target in two runs: how its share of right answers has changed, and on which cases."""

    target: str
    compared: Compared
    regressions: tuple[Disagreement, ...]
    improvements: int

    @property
    def worse(self) -> bool:
        """Whether it is surely worse."""
        return self.compared.sure and self.compared.difference < 0.0


def changed(before: Sequence[Result], after: Sequence[Result]) -> tuple[Changed, ...]:
    """Each target that both runs asked, on the cases of both; p-values are Holm's."""
    old, new = by_target(before), by_target(after)
    shares: dict[str, tuple[dict[str, float], dict[str, float]]] = {
        name: (case_shares(new[name]), case_shares(old[name])) for name in new if name in old
    }
    pairs = {
        name: pair
        for name, (now, then) in shares.items()
        if (pair := _pair("after", "before", {"after": now, "before": then})) is not None
    }
    corrected = holm([pair.p for pair in pairs.values()])
    found = []
    for (name, pair), p in zip(pairs.items(), corrected, strict=True):
        worse = _regressions(old[name], new[name])
        pair = msgspec.structs.replace(pair, p=p)
        found.append(Changed(name, pair, worse, pair.only_one))
    return tuple(found)


def _regressions(old: Sequence[Result], new: Sequence[Result]) -> tuple[Disagreement, ...]:
    before = {each.case: each for each in old if each.rep == 0}
    return tuple(
        Disagreement(
            each.case,
            each.input,
            each.expected,
            {"before": before[each.case].output, "after": each.output},
            {"before": True, "after": False},
        )
        for each in new
        if each.rep == 0 and each.right is False and each.case in before and before[each.case].right
    )
