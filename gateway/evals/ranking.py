"""One order of many targets, from who is preferred to whom case by case. Pure.

Bradley and Terry (1952, "Rank analysis of incomplete block designs"): every target i has a strength
s_i > 0, and of two answers that of i is preferred with the chance

    P(i before j) = s_i / (s_i + s_j)

A tie counts as half a win for each. The most likely strengths are found by Hunter's iteration
(2004, "MM algorithms for generalized Bradley-Terry models"), with w_ij the wins of i against j:

    s_i <- sum_j w_ij / sum_j (w_ij + w_ji) / (s_i + s_j)

To these, half a win for each side of each pair is added, which keeps the strength of one that
always wins finite. What is told of a target is how often it would be preferred to the others, each
as often: the mean of P(i before j) over j.

Intervals are of a Bayesian bootstrap (Rubin 1981): cases are weighed anew, by exponential weights,
as all pairs of a case are of one question; and so are the halves that were added, by gamma weights
of mean 1/2. For two targets without ties that is Jeffreys' interval of a share, which is right also
where one always wins.
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from gateway.evals.compare import SEED
from gateway.evals.runs import Result
from gateway.evals.wins import Preference, Votes, preferences, votes_by_score

TIMES = 2000
LEAST = 3
"""Fewer targets need no order: how two compare is all that there is."""
ITERATIONS, ENOUGH = 2000, 1e-5

Wins: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Ranked(msgspec.Struct, frozen=True):
    """A target's place among all. `preferred` is how often it would be preferred to the others,
    with its interval at 95 %, and so is its place, from 1; of so many comparisons of its own."""

    target: str
    place: int
    first: int
    last: int
    preferred: float
    low: float
    high: float
    comparisons: int


class Preferred(msgspec.Struct, frozen=True):
    """Who is preferred to whom: every two targets, and all of them in one order."""

    pairs: tuple[Preference, ...]
    ranking: tuple[Ranked, ...]


def by_score(results: Sequence[Result], scorer: str) -> Preferred:
    """By a scorer's scores of each case."""
    votes = votes_by_score(results, scorer)
    return Preferred(preferences(votes), ranking(votes))


def ranking(votes: Votes) -> tuple[Ranked, ...]:
    """The targets, the most preferred first; none where they are fewer than three."""
    names = list(dict.fromkeys(name for pair in votes for name in pair))
    if len(names) < LEAST:
        return ()
    by_case = _by_case(votes, names)
    k, n = len(names), len(by_case)
    half = 0.5 * (1.0 - np.eye(k))
    found = _preferred(_strengths(by_case.sum(axis=0)[None] + half))[0]
    rng = np.random.default_rng(SEED)
    weights = rng.exponential(size=(TIMES, n))
    halves = rng.gamma(0.5, size=(TIMES, k, k)) * (1.0 - np.eye(k))
    drawn = _preferred(_strengths(np.einsum("tn,nij->tij", weights, by_case) + halves))
    places = 1 + (drawn[:, None, :] > drawn[:, :, None]).sum(axis=2)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    first, last = np.quantile(places, [0.025, 0.975], axis=0, method="nearest")
    counts = {
        name: sum(len(each) for pair, each in votes.items() if name in pair) for name in names
    }
    order = sorted(range(k), key=lambda i: -found[i])
    return tuple(
        Ranked(
            names[i], 1 + place, int(first[i]), int(last[i]),
            float(found[i]), float(low[i]), float(high[i]), counts[names[i]],
        )
        for place, i in enumerate(order)
    )  # fmt: skip


def words(ranked: tuple[Ranked, ...]) -> list[str]:
    """The order, a line each."""
    return [
        f"{each.place}. {each.target}: preferred to the others in {100 * each.preferred:.1f} %"
        f" (95 %: {100 * each.low:.1f} to {100 * each.high:.1f}); {_places(each)}"
        for each in ranked
    ]


def _places(each: Ranked) -> str:
    if each.first == each.last:
        return f"surely place {each.first}"
    return f"place {each.first} to {each.last}"


def _by_case(votes: Votes, names: list[str]) -> Wins:
    """Of each case a matrix of who was preferred to whom."""
    at = {name: place for place, name in enumerate(names)}
    cases = list(dict.fromkeys(case for each in votes.values() for case in each))
    place_of = {case: place for place, case in enumerate(cases)}
    found = np.zeros((len(cases), len(names), len(names)))
    for (one, other), each in votes.items():
        for case, vote in each.items():
            found[place_of[case], at[one], at[other]] = (1 + vote) / 2
            found[place_of[case], at[other], at[one]] = (1 - vote) / 2
    return found


def _strengths(wins: Wins) -> Wins:
    """The strengths of each of many matrices of wins, with the geometric mean 1."""
    found: Wins = np.ones(wins.shape[:2])
    going = np.arange(len(wins))
    for _ in range(ITERATIONS):
        mine, before = wins[going], found[going]
        together = before[:, :, None] + before[:, None, :]
        after = mine.sum(axis=2) / ((mine + mine.swapaxes(1, 2)) / together).sum(axis=2)
        after /= np.exp(np.log(after).mean(axis=1, keepdims=True))
        found[going] = after
        going = going[np.abs(np.log(after / before)).max(axis=1) > ENOUGH]
        if not len(going):
            break
    return found


def _preferred(strengths: Wins) -> Wins:
    """How often each would be preferred to each of the others, on the mean."""
    k = strengths.shape[1]
    share = strengths[:, :, None] / (strengths[:, :, None] + strengths[:, None, :])
    found: Wins = (share.sum(axis=2) - 0.5) / (k - 1)
    return found
