"""What people's labels of a run say, how far raters agree, and scorers with them. Pure.

- Of a pair of targets a case counts once, by what most of its raters prefer, over its repetitions
  together; what is said of two texts counts at each repetition that has them. The cases that one
  wins against those that it loses make a sign test, in its mid-p form; ties do not count in it. Of
  many pairs the p-values are Holm's. The interval of the share that is won is Wilson's.
- Raters agree by Krippendorff's alpha for named categories (Krippendorff 2011, "Computing
  Krippendorff's alpha-reliability"): 1 is always, 0 as often as by chance. It takes any number of
  raters, of whom each may have seen a part. Its interval is a bootstrap's over what was rated.
- A scorer agrees with people by the share of cases and by Cohen's kappa (1960), on which of two
  answers is better (a scorer's tie is the same score), and on which are right.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from gateway.evals.compare import SEED, wilson
from gateway.evals.labels import Key, Label, spread
from gateway.evals.ranking import Ranked, ranking
from gateway.evals.runs import Result, Run
from gateway.evals.wins import Preference, Votes, preferences

TIMES = 2000
"""Bootstraps of alpha."""

Counts: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Marked(msgspec.Struct, frozen=True):
    """A target's share of right answers by people, over cases, with its interval."""

    target: str
    cases: int
    right: float
    low: float
    high: float


class Agreement(msgspec.Struct, frozen=True):
    """How far raters agree on what at least two of them have seen: the share of two raters' words
    that are the same, and alpha with its interval, None where there is nothing to tell."""

    on: str
    rated: int
    same: float | None
    alpha: float | None
    low: float | None
    high: float | None


class ScorerAgreement(msgspec.Struct, frozen=True):
    """How far a scorer says what people say of so many `cases`: pairs, or answers, each repetition
    by itself. `judge` is whether a model scores."""

    scorer: str
    judge: bool
    on: str
    cases: int
    same: float
    kappa: float | None


class Labelled(msgspec.Struct, frozen=True):
    """All that labels say of a run; `unread` lines of them could not be read."""

    raters: dict[str, int]
    labels: int
    preferences: tuple[Preference, ...]
    ranking: tuple[Ranked, ...]
    marks: tuple[Marked, ...]
    agreements: tuple[Agreement, ...]
    scorers: tuple[ScorerAgreement, ...]
    unread: int = 0


def labelled(
    run: Run, results: Sequence[Result], labels: Sequence[Label], unread: int = 0
) -> Labelled | None:
    """What the labels say; None where there are none. Each rater's last of a pair is in `labels`
    once."""
    if not labels:
        return None
    words = _preferred(labels)
    marks = _marks(labels)
    everywhere = spread(labels, results)
    votes = _votes(_preferred(everywhere))
    return Labelled(
        dict(Counter(each.rater for each in labels)),
        len(labels),
        preferences(votes),
        ranking(votes),
        _marked(everywhere),
        (
            agreement("which is better", words.values()),
            agreement("what is right", [_yes_no(said) for said in marks.values()]),
        ),
        _scorers(run, results, words, marks),
        unread,
    )


def shares(labels: Iterable[Label]) -> dict[str, dict[str, float]]:
    """By target and case, the share of raters who say that the answer is right; of several
    repetitions the mean."""
    by_case: dict[tuple[str, str], list[float]] = {}
    for (case, target, _), said in _marks(labels).items():
        by_case.setdefault((target, case), []).append(sum(said.values()) / len(said))
    found: dict[str, dict[str, float]] = {}
    for (target, case), each in by_case.items():
        found.setdefault(target, {})[case] = sum(each) / len(each)
    return found


# ---------------------------------------------------------------- what was said


def _preferred(labels: Iterable[Label]) -> dict[Key, list[str]]:
    """By pair what raters prefer."""
    found: dict[Key, list[str]] = {}
    for each in labels:
        if each.preferred is not None:
            found.setdefault(each.key, []).append(each.preferred)
    return found


def _marks(labels: Iterable[Label]) -> dict[tuple[str, str, int], dict[str, bool]]:
    """By (case, target, repetition) who says that the answer is right; who said it of two pairs,
    last."""
    found: dict[tuple[str, str, int], dict[str, bool]] = {}
    for each in sorted(labels, key=lambda label: label.at):
        for target, right in each.right.items():
            found.setdefault((each.case, target, each.rep), {})[each.rater] = right
    return found


def _yes_no(said: Mapping[str, bool]) -> list[str]:
    return ["right" if right else "wrong" for right in said.values()]


def _most(said: Sequence[str]) -> int:
    """1 where most prefer one, -1 where most prefer the other, 0 where neither."""
    balance = said.count("one") - said.count("other")
    return (balance > 0) - (balance < 0)


def _votes(words: Mapping[Key, Sequence[str]]) -> Votes:
    """By pair of targets and case what most prefer, over the case's repetitions together."""
    said: dict[tuple[str, str], dict[str, list[str]]] = {}
    for (case, one, other, _), each in words.items():
        said.setdefault((one, other), {}).setdefault(case, []).extend(each)
    return {
        pair: {case: _most(each) for case, each in by_case.items()}
        for pair, by_case in said.items()
    }


def _marked(labels: Iterable[Label]) -> tuple[Marked, ...]:
    found = []
    for target, by_case in shares(labels).items():
        n, total = len(by_case), sum(by_case.values())
        found.append(Marked(target, n, total / n, *wilson(total, n)))
    return tuple(found)


# ---------------------------------------------------------------- who agrees


def agreement(on: str, seen: Iterable[Sequence[str]]) -> Agreement:
    """How far raters agree on what at least two of them have seen."""
    rated = [said for said in seen if len(said) > 1]
    if not rated:
        return Agreement(on, 0, None, None, None, None)
    counts = _coincidences(rated)
    total = counts.sum(axis=0)
    same = float(np.trace(total) / total.sum())
    rng = np.random.default_rng(SEED)
    n = len(rated)
    drawn = rng.multinomial(n, np.full(n, 1.0 / n), size=TIMES)
    again = np.einsum("dn,nij->dij", drawn.astype(np.float64), counts)
    alphas = [value for each in again if (value := _alpha(each)) is not None]
    low, high = np.quantile(alphas, [0.025, 0.975]) if alphas else (None, None)
    alpha = _alpha(total)
    if alpha is None or low is None or high is None:
        return Agreement(on, n, same, None, None, None)
    return Agreement(on, n, same, alpha, float(low), float(high))


def _coincidences(
    rated: Sequence[Sequence[str]],
) -> Counts:
    """Of each thing the pairs of values that two raters gave it, each over raters less one."""
    values = sorted({value for said in rated for value in said})
    place = {value: index for index, value in enumerate(values)}
    found = np.zeros((len(rated), len(values), len(values)))
    for index, said in enumerate(rated):
        counts = np.zeros(len(values))
        for value in said:
            counts[place[value]] += 1.0
        found[index] = (np.outer(counts, counts) - np.diag(counts)) / (len(said) - 1)
    return found


def _alpha(counts: Counts) -> float | None:
    """Krippendorff's alpha of a matrix of coincidences; None where only one value was given."""
    n, each = float(counts.sum()), counts.sum(axis=0)
    by_chance = float((n * n - each @ each) / (n - 1.0))
    if by_chance <= 0.0:
        return None
    return 1.0 - float(n - np.trace(counts)) / by_chance


def kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Cohen's kappa of two raters' values of the same things; None where both only have one."""
    n = len(one)
    if not n:
        return None
    seen = sum(a == b for a, b in zip(one, other, strict=True)) / n
    mine, others = Counter(one), Counter(other)
    chance = sum(mine[value] * others[value] for value in mine) / (n * n)
    return None if chance >= 1.0 else (seen - chance) / (1.0 - chance)


# ---------------------------------------------------------------- scorers


def _scorers(
    run: Run,
    results: Sequence[Result],
    words: Mapping[Key, Sequence[str]],
    marks: Mapping[tuple[str, str, int], Mapping[str, bool]],
) -> tuple[ScorerAgreement, ...]:
    by_place = {(each.case, each.target, each.rep): each for each in results}
    found = []
    for scorer in run.scorers:
        judge = scorer in run.judges
        people, scored = [], []
        for (case, one, other, rep), said in words.items():
            a, b = by_place.get((case, one, rep)), by_place.get((case, other, rep))
            if a is not None and b is not None and scorer in a.scores and scorer in b.scores:
                difference = a.scores[scorer] - b.scores[scorer]
                people.append(_most(said))
                scored.append((difference > 0) - (difference < 0))
        if people:
            found.append(_agreed(scorer, judge, "which is better", people, scored))
        if scorer == run.right:
            found += _on_right(scorer, judge, by_place, marks)
    return tuple(found)


def _on_right(
    scorer: str,
    judge: bool,
    by_place: Mapping[tuple[str, str, int], Result],
    marks: Mapping[tuple[str, str, int], Mapping[str, bool]],
) -> list[ScorerAgreement]:
    people, scored = [], []
    for place, said in marks.items():
        balance = 2 * sum(said.values()) - len(said)
        result = by_place.get(place)
        if balance and result is not None and result.right is not None:
            people.append(balance > 0)
            scored.append(result.right)
    return [_agreed(scorer, judge, "what is right", people, scored)] if people else []


def _agreed(
    scorer: str, judge: bool, on: str, people: Sequence[Hashable], scored: Sequence[Hashable]
) -> ScorerAgreement:
    same = sum(a == b for a, b in zip(people, scored, strict=True)) / len(people)
    return ScorerAgreement(scorer, judge, on, len(people), same, kappa(people, scored))
