"""Shares of traffic: what is drained, what is drawn, and that propensities are what happens."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.decide import Decider
from gateway.policy.draws import mixed
from gateway.policy.live import Live
from gateway.policy.weights import weighed
from gateway.policy.words import verdicts
from gateway.types.backends import Canary
from gateway.types.decisions import Decision
from gateway.types.snapshot import Snapshot, Weight
from tests.policy.world import POLICY, ROUTE, laws, policy, question, route, snapshot, target

DRAWS = 4_000
BEST, SECOND, THIRD = "a/best", "b/second", "c/third"
TWO = ("http://one:8000", "http://two:8000")


def world(*, explore: float = 0.0, waiting: float = 0.0, **weights: float) -> Snapshot:
    targets = [target(BEST, replicas=TWO), target(SECOND), target(THIRD)]
    plain = snapshot(
        [route([(BEST, 0.9), (SECOND, 0.8), (THIRD, 0.7)])],
        targets,
        policy(explore=explore, waiting_first_token=waiting, waiting_whole=0.0),
    )
    return weighed(plain, {name: Weight(share, "tried", "ops") for name, share in weights.items()})


def decisions(of: Snapshot, draws: int = DRAWS) -> list[Decision]:
    decider, live = Decider(of), Live()
    return [decider.decide(question(), live, n / draws) for n in range(draws)]


def firsts(made: list[Decision]) -> dict[str, float]:
    counted = Counter(each.ranked[0].target for each in made)
    return {name: count / DRAWS for name, count in counted.items()}


@pytest.mark.parametrize("subject", [BEST, "a"])
def test_what_is_drained_is_away_and_says_by_whom(subject: str) -> None:
    decision = Decider(world(**{subject: 0.0})).decide(question(), Live(), 0.5)

    assert [each.target for each in decision.ranked] == [SECOND, THIRD]
    assert [(out.target, out.by, out.reason) for out in decision.ruled_out] == [
        (BEST, "away", f"{subject} drained by ops: tried")
    ]


def test_a_drained_replica_is_out_and_its_target_with_the_last_of_them() -> None:
    one = Decider(world(**{TWO[0]: 0.0})).decide(question(), Live(), 0.5)
    both = Decider(world(**{TWO[0]: 0.0, TWO[1]: 0.0})).decide(question(), Live(), 0.5)

    assert [each.replica for each in one.ranked if each.target == BEST] == [TWO[1]]
    assert both.ruled_out[0].reason == (
        f"{TWO[0]} drained by ops: tried; {TWO[1]} drained by ops: tried"
    )


def test_a_client_that_names_it_gets_nothing_from_what_is_drained() -> None:
    asked = msgspec.structs.replace(question(), only=BEST)
    decision = Decider(world(a=0.0)).decide(asked, Live(), 0.5)

    assert (decision.ranked, decision.ruled_out[0].by) == ((), "away")


def test_a_drained_version_gets_no_canarys_share() -> None:
    plain = world()
    trial = msgspec.structs.replace(plain.targets[BEST], canary=Canary(SECOND, 0.5))
    tried = msgspec.structs.replace(plain, targets={**plain.targets, BEST: trial})

    assert weighed(tried, {}).targets[BEST].canary is not None
    assert weighed(tried, {SECOND: Weight(0.0)}).targets[BEST].canary is None


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.9])
def test_of_what_it_would_win_it_gets_its_share(share: float) -> None:
    made = decisions(world(**{BEST: share}))

    assert firsts(made) == pytest.approx({BEST: share, SECOND: 1 - share}, abs=0.02)
    behind = next(each for each in made if each.ranked[0].target == SECOND)
    assert behind.withheld == (BEST,)
    assert [each.target for each in behind.ranked] == [SECOND, THIRD, BEST, BEST]


def test_shares_of_several_are_drawn_each_for_itself() -> None:
    found = firsts(decisions(world(**{BEST: 0.5, "b": 0.4})))

    assert found == pytest.approx({BEST: 0.5, SECOND: 0.2, THIRD: 0.3}, abs=0.02)


def test_what_has_nothing_beside_it_is_asked_whatever_its_share() -> None:
    asked = msgspec.structs.replace(question(), only=SECOND)
    decider = Decider(world(**{SECOND: 0.1}))

    assert {decider.decide(asked, Live(), n / 50).ranked[0].target for n in range(50)} == {SECOND}


def test_under_load_a_replica_has_its_share_of_the_queue_of_its_equals() -> None:
    """Requests arrive one after the other and none ends: where do they go?"""
    of = world(waiting=0.01, **{TWO[0]: 0.25})
    decider, live = Decider(of), Live()
    asked = msgspec.structs.replace(question(), only=BEST)
    counted: Counter[str] = Counter()
    for n in range(1, 1001):
        choice = decider.decide(asked, live, (n * 0.6180339887) % 1.0).ranked[0]
        live.started(of.targets[BEST], choice.replica, ROUTE, 0.0)
        counted[choice.replica] += 1

    assert counted[TWO[0]] / counted[TWO[1]] == pytest.approx(0.25, abs=0.05)


shares = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])


@settings(laws, max_examples=15)
@given(shares, shares, shares, shares, st.sampled_from([0.0, 0.2]))
def test_propensities_are_how_often_each_stands_first(
    best: float, second: float, backend: float, replica: float, explore: float
) -> None:
    weights = {BEST: best, SECOND: second, "c": backend, TWO[0]: replica}
    made = decisions(world(explore=explore, **weights), 1000)
    if not made[0].ranked:
        return
    said = {(each.target, each.replica): each.propensity for each in made[0].ranked}
    counted = Counter((each.ranked[0].target, each.ranked[0].replica) for each in made)

    assert sum(said.values()) == pytest.approx(1.0)
    for choice, chance in said.items():
        assert counted[choice] / len(made) == pytest.approx(chance, abs=0.06)
    for decision in made[::100]:  # a propensity does not depend on the draw
        again = {(each.target, each.replica): each.propensity for each in decision.ranked}
        assert again == pytest.approx(said)


def test_draws_of_different_subjects_have_nothing_to_do_with_each_other() -> None:
    pairs = [(mixed(n / DRAWS, 1) < 0.5, mixed(n / DRAWS, 2) < 0.5) for n in range(DRAWS)]

    assert all(count / DRAWS == pytest.approx(0.25, abs=0.03) for count in Counter(pairs).values())


def test_it_is_said_in_words() -> None:
    of = world(**{BEST: 0.25})
    decision = next(each for each in decisions(of) if each.withheld)
    first, *others = verdicts(decision, of)

    assert first == "the greatest net value of what its share of the traffic lets in"
    assert others[1].endswith("more, but a/best gets a share, and not this request")


def test_what_a_share_left_out_does_not_make_an_incumbent() -> None:
    live, of = Live(), world(**{BEST: 0.25})
    for decision in decisions(of):
        live.chose(question(), decision)

    assert live.incumbents == {(ROUTE, POLICY): BEST}
