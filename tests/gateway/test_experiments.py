"""Experiments at a running gateway: who gets which arm, what is kept of it, how it ends."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.standin.standin import StandIn
from gateway.types import Experiment, Snapshot
from tests.gateway.support import route, serving, snapshot, target

EVEN = {"old": 0.5, "new": 0.5}
ARMS = {"old": "one/big", "new": "two/big"}


@pytest.fixture
async def servers() -> AsyncIterator[tuple[StandIn, StandIn]]:
    async with StandIn() as first, StandIn() as second:
        yield first, second


def configured(servers: tuple[StandIn, StandIn], **changes: Any) -> Snapshot:
    """Two targets, the first of which is worth more; an experiment with both of half the users."""
    first, second = servers
    plain = Experiment("old-vs-new", ARMS, EVEN, 0.5)
    return snapshot(
        [target("one/big", first.url), target("two/big", second.url)],
        [route("general", "one/big", experiments=(msgspec.structs.replace(plain, **changes),))],
    )


async def test_users_keep_their_arm_over_a_restart_and_the_log_knows_it(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    users = [f"user {n}" for n in range(60)]
    seen: list[dict[str, str]] = []
    for _ in range(2):
        async with serving(configured(servers), tmp_path) as served:
            answers = {user: await served.chat(user=user) for user in users}
            seen.append({u: a.headers["x-switchboard-target"] for u, a in answers.items()})
            rows = {user: await served.decision(answer) for user, answer in answers.items()}
    trials = {user: row["decision"]["trial"] for user, row in rows.items()}

    assert seen[0] == seen[1]
    arms = Counter(trial and trial["arm"] for trial in trials.values())
    assert min(arms[None], arms["old"], arms["new"]) >= 8
    for user, trial in trials.items():
        ranked = rows[user]["decision"]["ranked"]
        if trial is None:
            assert [each["target"] for each in ranked] == ["one/big"]
            continue
        assert trial["share"] == 0.5
        assert ranked[0]["target"] == ARMS[trial["arm"]]
        assert [each["propensity"] for each in ranked] == [0.5, 0.5]


async def test_where_an_arm_fails_the_others_answer(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    _, second = servers
    only_new = configured(servers, traffic=1.0, shares={"old": 0.0, "new": 1.0})
    async with serving(only_new, tmp_path) as served:
        assert (await served.chat()).headers["x-switchboard-target"] == "two/big"
        await second.stop()
        answer = await served.chat()

    assert answer.status_code == 200
    assert answer.headers["x-switchboard-target"] == "one/big"


async def test_a_winner_answers_everybody(servers: tuple[StandIn, StandIn], tmp_path: Path) -> None:
    async with serving(configured(servers, winner="new"), tmp_path) as served:
        answers = [await served.chat(user=f"{n}") for n in range(10)]
        row = await served.decision(answers[0])
        body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
        shown = (await served.client.post("/v1/route", json=body)).json()["decision"]

    assert {answer.headers["x-switchboard-target"] for answer in answers} == {"two/big"}
    assert row["decision"]["trial"] is None
    assert shown["ranked"][0]["verdict"] == "the winner of an experiment"
