"""A decision with an arm's target first: who stands where, and with which chance."""

from collections.abc import Sequence

import msgspec

from gateway.experiments.assignment import Assigned
from gateway.experiments.ranking import with_arm_first
from gateway.types.decisions import Choice, Decision, Question, Trial
from gateway.types.requests import Caller, Needs

QUESTION = Question("general", "plain", Needs(), Caller())
TRIAL = Trial("x", "new", 0.25, "u")
BOTH = Assigned("a/new", TRIAL, (("a/old", 0.75), ("a/new", 0.25)))


def choice(target: str, propensity: float = 0.0, replica: str = "r") -> Choice:
    return Choice(target, replica, 0, 0.9, 0.0, 0.1, 1.0, 0.5, propensity)


def decision(*ranked: Choice, explored: bool = False) -> Decision:
    return Decision("general", "plain", "s", ranked, (), 0.5, explored)


def nothing(target: str) -> Sequence[Choice]:
    return ()


def told(found: Decision) -> list[tuple[str, float]]:
    return [(each.target, each.propensity) for each in found.ranked]


def test_the_arm_stands_first_and_the_others_behind_it_as_they_were() -> None:
    ranked = decision(choice("a/best", 0.9), choice("a/old", 0.1), choice("a/new"))

    found = with_arm_first(QUESTION, ranked, BOTH, nothing)

    assert told(found) == [("a/new", 0.25), ("a/best", 0.0), ("a/old", 0.75)]
    assert found.trial == TRIAL


def test_an_arm_that_is_no_candidate_is_looked_at_by_its_name() -> None:
    found = with_arm_first(
        QUESTION, decision(choice("a/old", 1.0)), BOTH, lambda target: [choice(target)]
    )

    assert told(found) == [("a/new", 0.25), ("a/old", 0.75)]


def test_a_request_that_one_arm_cannot_take_is_in_no_experiment() -> None:
    for arm in ("a/new", "a/old"):
        plain = decision(choice(arm, 1.0))
        assert with_arm_first(QUESTION, plain, BOTH, nothing) is plain


def test_who_names_a_target_gets_it() -> None:
    plain = decision(choice("a/old", 1.0), choice("a/new"))
    named = msgspec.structs.replace(QUESTION, only="a/old")

    assert with_arm_first(named, plain, BOTH, nothing) is plain


def test_of_several_replicas_the_best_has_the_arms_chance() -> None:
    ranked = decision(choice("a/old", 1.0, "r1"), choice("a/new", 0.0, "r1"), choice("a/new"))

    found = with_arm_first(QUESTION, ranked, BOTH, nothing)

    assert [each.propensity for each in found.ranked] == [0.25, 0.75, 0.0]
    assert found.ranked[0].replica == "r1"


def test_a_winner_takes_the_place_of_the_best_and_leaves_exploring_alone() -> None:
    pinned = Assigned("a/new")
    best, new = choice("a/best", 0.95), choice("a/new", 0.05)

    kept = with_arm_first(QUESTION, decision(best, new), pinned, nothing)
    explored = with_arm_first(QUESTION, decision(best, new, explored=True), pinned, nothing)
    away = with_arm_first(QUESTION, decision(best), pinned, nothing)
    named = with_arm_first(QUESTION, decision(best), pinned, lambda target: [choice(target)])

    assert told(kept) == [("a/new", 0.95), ("a/best", 0.05)]
    assert kept.pinned == "a/new"
    assert told(explored) == [("a/best", 0.05), ("a/new", 0.95)]
    assert told(away) == [("a/best", 0.95)]
    assert told(named) == [("a/new", 0.95), ("a/best", 0.0)]
