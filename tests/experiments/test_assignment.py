"""Who gets which arm: by hashes alone, in shares, and nobody in two experiments."""

import subprocess
import sys
from collections import Counter
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.experiments.assignment import Assigned, Lanes, declaration, lanes, unit_of
from gateway.types.experiments import Experiment, Standing
from gateway.types.requests import Caller, Endpoint, Needs, Request
from gateway.types.routes import Match, Route

EVEN = {"old": 0.5, "new": 0.5}
ARMS = {"old": "a/one", "new": "a/two"}


def experiment(name: str, traffic: float, **changes: Any) -> Experiment:
    plain = Experiment(name, ARMS, EVEN, traffic)
    return msgspec.structs.replace(plain, **changes)


def route(*experiments: Experiment) -> Route:
    return Route("general", "", 0.1, False, Match(), (), "plain", experiments=experiments)


def request(user: str | None = None, **changes: Any) -> Request:
    fields = {} if user is None else {"user": msgspec.Raw(msgspec.json.encode(user))}
    plain = Request(
        "req_1", Endpoint.CHAT, "auto", False, fields, {}, Caller("key_1"), Needs(), ("hello",)
    )
    return msgspec.structs.replace(plain, **changes)


def at(lane: Lanes | None, user: str, when: float = 0.0) -> Assigned | None:
    assert lane is not None
    return lane.assigned(request(user), when)


def test_shares_are_kept_and_nobody_is_in_two_experiments() -> None:
    both = lanes(
        route(experiment("first", 0.2), experiment("second", 0.3, shares={"old": 0.8, "new": 0.2})),
        {},
    )
    found = Counter(
        None
        if (given := at(both, f"user {n}")) is None or given.trial is None
        else (given.trial.experiment, given.trial.arm)
        for n in range(20_000)
    )

    assert abs(found[None] / 20_000 - 0.5) < 0.02
    assert abs(found["first", "new"] / 20_000 - 0.1) < 0.01
    assert abs(found["second", "old"] / 20_000 - 0.24) < 0.01


def test_two_experiments_choose_their_arms_independently() -> None:
    one, other = lanes(route(experiment("a", 1.0)), {}), lanes(route(experiment("b", 1.0)), {})
    same = [at(one, f"{n}").target == at(other, f"{n}").target for n in range(4000)]  # type: ignore[union-attr]

    assert 0.46 < sum(same) / 4000 < 0.54


@given(st.text(), st.floats(0.01, 1.0), st.floats(0, 2e9))
def test_whoever_is_in_stays_with_the_same_arm_while_the_traffic_grows(
    user: str, traffic: float, when: float
) -> None:
    small, large = (
        lanes(route(experiment("x", traffic)), {}),
        lanes(route(experiment("x", 1.0)), {}),
    )
    before = at(small, user, when)

    assert before is None or before == at(large, user, when + 1e6)


def test_another_process_says_the_same() -> None:
    """So workers need not speak with each other, and a restart changes nothing."""
    script = (
        "from tests.experiments.test_assignment import *\n"
        "lane = lanes(route(experiment('x', 0.5)), {})\n"
        "print([a and a.target for a in (at(lane, f'user {n}') for n in range(200))])"
    )
    there = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    lane = lanes(route(experiment("x", 0.5)), {})
    here = [given and given.target for given in (at(lane, f"user {n}") for n in range(200))]

    assert {each.stdout.strip() for each in there} == {str(here)}


def test_what_an_arm_sticks_to() -> None:
    one = request("mia", turns=("more", "first"), headers={"x-team": "red"})

    assert unit_of(one, "user") == 'key_1 "mia"'
    assert unit_of(request(turns=("more", "first")), "user") == "key_1 first"
    assert unit_of(one, "conversation") == "key_1 first"
    assert unit_of(one, "key") == "key_1"
    assert unit_of(one, "header:x-team") == "key_1 red"
    assert unit_of(one, "header:x-other") == "key_1 first"
    assert unit_of(request(turns=()), "conversation") == "key_1 req_1"


def test_a_slot_of_time_has_one_arm_whoever_asks() -> None:
    lane = lanes(route(experiment("x", 1.0, slot_s=60.0)), {})
    slots = [{at(lane, f"{n}", 60.0 * slot).target for n in range(20)} for slot in range(40)]  # type: ignore[union-attr]

    assert all(len(each) == 1 for each in slots)
    assert len(set.union(*slots)) == 2


def test_what_has_become_of_an_experiment_changes_who_gets_what() -> None:
    declared = experiment("x", 1.0)
    of = declaration(declared)
    going = lanes(route(declared), {"x": Standing(of, 0.0, shares={"old": 0.0, "new": 1.0})})
    stopped = lanes(route(declared), {"x": Standing(of, 0.0, "stopped")})
    guarded = lanes(route(declared), {"x": Standing(of, 0.0, "stopped", guarded=True)})
    another = lanes(route(declared), {"x": Standing("of another declaration", 0.0, "stopped")})
    won = lanes(route(msgspec.structs.replace(declared, winner="new")), {})

    assert {at(going, f"{n}").target for n in range(50)} == {"a/two"}  # type: ignore[union-attr]
    assert stopped is None
    assert at(guarded, "mia") == Assigned("a/one")
    assert len({at(another, f"{n}").target for n in range(50)}) == 2  # type: ignore[union-attr]
    assert at(won, "mia") == Assigned("a/two")


def test_an_ended_experiment_keeps_its_place_so_that_others_keep_theirs() -> None:
    both = route(experiment("first", 0.4), experiment("second", 0.4))
    ended = {"first": Standing(declaration(both.experiments[0]), 0.0, "answered")}
    before, after = lanes(both, {}), lanes(both, ended)

    for n in range(500):
        was, now = at(before, f"{n}"), at(after, f"{n}")
        assert now == (was if was and was.trial and was.trial.experiment == "second" else None)
