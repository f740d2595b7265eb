"""Drain, enable and weight at a running gateway: at once, over restarts, with nothing lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.standin.behaviour import Behaviour
from gateway.standin.standin import StandIn
from gateway.store.audit import AuditBook
from gateway.store.keys import Keys
from gateway.store.weights import WeightBook
from gateway.types.snapshot import Snapshot
from tests.cli.running import Ran, switchboard
from tests.config.trees import ENV
from tests.gateway.support import Served, route, serving, snapshot, target

SLOW = Behaviour(between_tokens_s=0.05, output_tokens=12, head_first=True)


class Operator:
    """Somebody on call, at the command line and over HTTP."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.secret = Keys(served.gateway.store).create("ops", role="operate").secret
        served.gateway.keyring.refresh()
        self.headers = {"authorization": f"Bearer {self.secret}"}
        served.client.headers.update(self.headers)

    async def __call__(self, *words: str) -> Ran:
        env = {
            **ENV,
            "SWITCHBOARD_GATEWAY": f"http://127.0.0.1:{self._served.port}",
            "SWITCHBOARD_ADMIN_KEY": self.secret,
        }
        return await asyncio.to_thread(switchboard, *words, env=env)


@pytest.fixture
async def servers() -> AsyncIterator[tuple[StandIn, StandIn]]:
    async with StandIn(SLOW) as first, StandIn() as second:
        yield first, second


def configured(first: StandIn, second: StandIn) -> Snapshot:
    targets = [target("one/big", first.url), target("two/big", second.url)]
    return snapshot(targets, [route("general", "one/big", "two/big"), route("alone", "two/big")])


async def test_a_drained_backend_gets_nothing_new_and_finishes_what_it_has(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    first, _ = servers
    async with serving(configured(*servers), tmp_path) as served:
        operator = Operator(served)
        streaming = asyncio.create_task(served.events())
        await first.arrived()
        ran = await operator("drain", "one", "--why", "a new driver")
        assert (ran.code, ran.out) == (0, "one gets no new requests; 1 under way\n")

        answer = await served.chat()
        assert answer.headers["x-switchboard-target"] == "two/big"
        body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
        shown = (await served.client.post("/v1/route", json=body)).json()["decision"]
        assert shown["ruled_out"][0]["by"] == "away"
        assert shown["ruled_out"][0]["reason"] == "one drained by ops: a new driver"
        named = await served.chat(model="one/big")
        assert named.status_code == 503
        assert "one drained by ops: a new driver" in named.json()["error"]["message"]
        weights = (await served.client.get("/ready")).json()["weights"]
        assert [(each["subject"], each["share"]) for each in weights] == [("one", 0.0)]
        assert (await operator("drain", "--list")).out.splitlines()[1].split()[:3] == [
            "one",
            "drained",
            "ops",
        ]
        assert (await streaming)[-1] == "[DONE]"
        assert len(first.seen) == 1

        assert (await operator("enable", "one")).code == 0
        assert (await served.chat()).headers["x-switchboard-target"] == "one/big"
        done = [(each.action, each.subject) for each in AuditBook(served.gateway.store).list()]
        assert done == [("drain", "one"), ("enable", "one")]


async def test_a_drain_outlives_a_restart_and_is_followed_by_other_gateways(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    async with serving(configured(*servers), tmp_path) as served:
        await Operator(served)("drain", "one/big")
    async with serving(configured(*servers), tmp_path) as served:
        served.client.headers["authorization"] = (
            f"Bearer {Keys(served.gateway.store).create('app').secret}"
        )
        served.gateway.keyring.refresh()
        assert (await served.chat()).headers["x-switchboard-target"] == "two/big"
        WeightBook(served.gateway.store).save("one/big", 1.0, "", "another gateway")
        async with asyncio.timeout(20):
            while (await served.chat()).headers["x-switchboard-target"] != "one/big":
                pass


async def test_what_would_leave_a_route_with_nothing_wants_to_be_forced(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    async with serving(configured(*servers), tmp_path) as served:
        operator = Operator(served)
        refused = await operator("drain", "two/big")
        assert refused.code == 1
        assert "That would leave no candidate for: alone." in refused.said
        assert (await served.chat(model="alone")).status_code == 200
        assert (await operator("drain", "two/big", "--force")).code == 0
        assert (await served.chat(model="alone")).status_code == 503
        # What was empty before is no reason against another drain.
        assert (await operator("weight", "two", "50%")).code == 0


async def test_a_weight_is_a_share_of_the_requests(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    _, quick = servers
    targets = [target("one/big", quick.url), target("two/big", quick.url)]
    async with serving(snapshot(targets), tmp_path) as served:
        operator = Operator(served)
        assert (await operator("weight", "one/big", "30%")).out == (
            "one/big gets 30 % of its requests\n"
        )
        answers = [await served.chat() for _ in range(200)]
        counted = Counter(answer.headers["x-switchboard-target"] for answer in answers)
        row = await served.decision(answers[-1])

    assert 30 < counted["one/big"] < 90
    chances: dict[str, Any] = {
        each["target"]: each["propensity"] for each in row["decision"]["ranked"]
    }
    assert chances == pytest.approx({"one/big": 0.3, "two/big": 0.7})


async def test_only_what_there_is_and_only_by_who_may(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    async with serving(configured(*servers), tmp_path) as served:
        operator = Operator(served)
        unknown = await operator("drain", "three")
        assert "There is no target, backend or replica 'three'" in unknown.said
        near = await operator("drain", "two/bgi")
        assert "'two/bgi'; did you mean 'two/big'?" in near.said
        reader = Keys(served.gateway.store).create("eyes", role="read").secret
        served.gateway.keyring.refresh()
        headers = {"authorization": f"Bearer {reader}"}
        told = {"subject": "one", "share": 0}
        tried = await served.client.post("/admin/weights", json=told, headers=headers)
        looked = await served.client.get("/admin/weights", headers=headers)

    assert (tried.status_code, looked.json()["data"]) == (403, [])
