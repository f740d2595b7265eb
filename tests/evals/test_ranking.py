"""One order of several targets: known strengths are found again, and intervals hold them."""

from itertools import combinations

import numpy as np
import pytest

from gateway.evals.ranking import Ranked, ranking, words
from gateway.evals.wins import Votes

NAMES = ("a", "b", "c", "d")
STRENGTHS = np.array([4.0, 2.0, 2.0, 1.0])
TRUTH = {
    name: float(
        np.mean([STRENGTHS[i] / (STRENGTHS[i] + other) for other in np.delete(STRENGTHS, i)])
    )
    for i, name in enumerate(NAMES)
}


def drawn(cases: int, seed: int, strengths: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Votes:
    """Votes on every pair of every case, where who is preferred is a matter of the strengths."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, str], dict[str, int]] = {}
    for i, j in combinations(range(len(strengths)), 2):
        won = rng.random(cases) < strengths[i] / (strengths[i] + strengths[j])
        found[NAMES[i], NAMES[j]] = {str(n): 1 if each else -1 for n, each in enumerate(won)}
    return found


def by_name(ranked: tuple[Ranked, ...]) -> dict[str, Ranked]:
    return {each.target: each for each in ranked}


def test_known_strengths_are_found_again() -> None:
    ranked = ranking(drawn(4000, 1, STRENGTHS))
    assert [each.target for each in ranked][::3] == ["a", "d"]
    for each in ranked:
        assert each.preferred == pytest.approx(TRUTH[each.target], abs=0.02)
        assert each.low < each.preferred < each.high
    found = by_name(ranked)
    assert (found["a"].first, found["a"].last, found["d"].first) == (1, 1, 4)
    # Two that are alike share two places.
    assert {(found[name].first, found[name].last) for name in "bc"} == {(2, 3)}


def test_pairs_that_were_compared_less_say_as_much_as_their_strengths() -> None:
    """By wins alone `c`, which met the best only, would be the last."""
    votes = dict(drawn(3000, 2, STRENGTHS))
    del votes["b", "c"], votes["c", "d"]
    found = by_name(ranking(votes))
    assert found["c"].preferred == pytest.approx(TRUTH["c"], abs=0.04)
    assert found["c"].comparisons == 3000


@pytest.mark.parametrize(
    "strengths", [[4.0, 2.0, 2.0, 1.0], [50.0, 1.0, 1.0], [1.0, 1.0, 1.0]], ids=str
)
def test_intervals_hold_the_truth_as_often_as_they_say(strengths: list[float]) -> None:
    s = np.array(strengths)
    truth = [float(np.mean(s[i] / (s[i] + np.delete(s, i)))) for i in range(len(s))]
    held = total = 0
    for seed in range(40):
        found = by_name(ranking(drawn(30, seed, s)))
        for i in range(len(s)):
            held += found[NAMES[i]].low <= truth[i] <= found[NAMES[i]].high
            total += 1
    assert held / total >= 0.9


def test_of_one_that_always_wins_it_is_not_said_that_it_always_will() -> None:
    """Of n wins of n the upper and lower end are a share's, not the share itself."""
    always: Votes = {
        pair: {str(n): 1 for n in range(10)} for pair in (("a", "b"), ("a", "c"), ("b", "c"))
    }
    found = by_name(ranking(always))
    assert found["a"].preferred > 0.9
    assert found["a"].low < 0.95
    assert found["a"].high <= 1.0
    assert [each.target for each in ranking(always)] == ["a", "b", "c"]
    assert words(ranking(always))[0].startswith("1. a: preferred to the others in 9")


def test_ties_are_half_a_win_for_each_and_two_need_no_order() -> None:
    ties: Votes = {pair: {str(n): 0 for n in range(20)} for pair in combinations("abc", 2)}
    assert [each.preferred for each in ranking(ties)] == pytest.approx([0.5] * 3)
    assert ranking({("a", "b"): {"1": 1}}) == ()
    assert ranking({}) == ()
