"""Which of two is better, case by case: wins, ties and losses, and how sure that is. Pure.

The cases that one wins against those that it loses make a sign test, in its mid-p form; ties do not
count in it. Of many pairs the p-values are Holm's. The interval of the share that is won is
Wilson's.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

import msgspec

from gateway.evals.compare import SURE, by_target, holm, mcnemar, wilson
from gateway.evals.runs import Result

Votes: TypeAlias = Mapping[tuple[str, str], Mapping[str, int]]
"""By pair (one, other) and case: 1 where one is better, -1 where the other is, 0 where neither."""

SAME = 1e-9
"""Means of scores that are no further apart are the same."""


class Preference(msgspec.Struct, frozen=True):
    """Two targets: cases on which one's answer is better, worse or neither. `share` of
    those that differ is `one`'s, with its interval; None where none differ."""

    one: str
    other: str
    cases: int
    wins: int
    losses: int
    ties: int
    share: float | None
    low: float
    high: float
    p: float

    @property
    def sure(self) -> bool:
        """Whether it is more than chance."""
        return self.p < SURE


def preference(one: str, other: str, votes: Sequence[int]) -> Preference:
    """Of each case 1, 0 or -1: how often one is better, and how sure that is."""
    wins, losses = votes.count(1), votes.count(-1)
    decided = wins + losses
    low, high = wilson(wins, decided)
    share = wins / decided if decided else None
    return Preference(
        one, other, len(votes), wins, losses, votes.count(0),
        share, low, high, mcnemar(wins, losses),
    )  # fmt: skip


def preferences(votes: Votes) -> tuple[Preference, ...]:
    """Of each pair (one, other), with Holm's correction for all of them."""
    found = [preference(one, other, list(each.values())) for (one, other), each in votes.items()]
    corrected = holm([each.p for each in found])
    return tuple(
        msgspec.structs.replace(each, p=p) for each, p in zip(found, corrected, strict=True)
    )


def by_score(
    results: Sequence[Result], scorer: str, against: str | None = None
) -> tuple[Preference, ...]:
    """Every two targets by a scorer, or each `against` one."""
    return preferences(votes_by_score(results, scorer, against))


def votes_by_score(results: Sequence[Result], scorer: str, against: str | None = None) -> Votes:
    """Of a case that is better which has the higher score, over its repetitions."""
    scores = {
        target: _means(rows, scorer)
        for target, rows in by_target(results).items()
        if any(scorer in each.scores for each in rows)
    }
    pairs = list(combinations(scores, 2))
    if against is not None:
        pairs = [(target, against) for target in scores if target != against]
    votes: dict[tuple[str, str], dict[str, int]] = {}
    for one, other in pairs:
        for case in scores[one].keys() & scores[other].keys():
            difference = scores[one][case] - scores[other][case]
            if abs(difference) < SAME:
                difference = 0.0
            vote = (difference > 0) - (difference < 0)
            votes.setdefault((one, other), {})[case] = vote
    return votes


def _means(rows: Sequence[Result], scorer: str) -> dict[str, float]:
    """By case the mean of its scores."""
    found: dict[str, list[float]] = {}
    for each in rows:
        if scorer in each.scores:
            found.setdefault(each.case, []).append(each.scores[scorer])
    return {case: sum(each) / len(each) for case, each in found.items()}


def words(each: Preference) -> str:
    """It in words."""
    ties = f"{each.ties} tie{'' if each.ties == 1 else 's'}"
    counts = f"{each.wins} wins, {ties}, {each.losses} losses on {each.cases} cases"
    if each.share is None:
        return f"{each.one} against {each.other}: {counts}"
    share, low, high = (100 * value for value in (each.share, each.low, each.high))
    chance = f"p {'< 0.001' if each.p < 0.001 else f'= {each.p:.3f}'}, sign test"
    verdict = "not surely different"
    if each.sure:
        verdict = f"{each.one if each.wins > each.losses else each.other} is preferred"
    return (
        f"{each.one} against {each.other}: {counts}; {share:.1f} % of those that differ"
        f" (95 %: {low:.1f} to {high:.1f}; {chance}): {verdict}"
    )
