"""Hedging: only where it pays, only so often, and the one that is later is gone at once."""

import asyncio
import contextlib
from pathlib import Path

import httpx
import msgspec
import pytest

from gateway.policy.live import Live
from gateway.resilience.base import Ask, Once
from gateway.resilience.hedge import SOONER, Hedge, _end
from gateway.standin.behaviour import Behaviour, Fault, FaultKind, say
from gateway.standin.standin import StandIn
from gateway.types.decisions import Choice
from gateway.types.policies import Policy
from gateway.types.snapshot import Snapshot
from tests.gateway.support import route, serving, snapshot, target
from tests.resilience.asking import Scripted, choice, never

IMPATIENT = Policy("quality", waiting_first_token=1.0, hedge=0.5, retries=0)
HANGS = Behaviour(first_token_s=30.0)


def two(first: StandIn, second: StandIn, policy: Policy = IMPATIENT) -> Snapshot:
    """The first is thought to be quick."""
    targets = [
        target("p0/m", first.url, first_token_s=0.02, output_tokens=2.0, tokens_per_s=1000.0),
        target("p1/m", second.url, first_token_s=0.02, output_tokens=2.0, tokens_per_s=1000.0),
    ]
    # So close in quality that it does not matter which answers.
    made = snapshot(targets, [route("general", "p0/m", "p1/m", value=1e-4)])
    return snapshot(targets, list(made.routes.values()), policies={"quality": policy})


@pytest.mark.parametrize("stream", [False, True])
async def test_the_second_answers_and_the_first_is_cancelled(stream: bool, tmp_path: Path) -> None:
    async with StandIn(HANGS) as first, StandIn(Behaviour(answer=say("second"))) as second:
        async with serving(two(first, second), tmp_path) as served:
            answer = await served.chat(stream=stream)
            assert answer.status_code == 200
            assert "second" in answer.text
            await (await first.arrived()).aborted.wait()
            row = await served.decision(answer)
    attempts = {each["target"]: each for each in row["attempts"]}
    late, sooner = attempts["p0/m"], attempts["p1/m"]
    assert (late["reason"], late["outcome"], late["error"]) == (
        "first",
        "abandoned",
        "another was sooner",
    )
    assert late["estimated"]
    assert late["input_tokens"] > 0
    assert (sooner["reason"], sooner["outcome"]) == ("hedge", "ok")
    assert row["cost_usd"] == pytest.approx(late["cost_usd"] + sooner["cost_usd"])
    assert answer.headers["x-switchboard-target"] == "p1/m"


async def test_one_that_is_late_and_still_sooner_answers(tmp_path: Path) -> None:
    slow = Behaviour(answer=say("first"), first_token_s=0.3)
    async with StandIn(slow) as first, StandIn(HANGS) as second:
        async with serving(two(first, second), tmp_path) as served:
            answer = await served.chat()
            assert answer.headers["x-switchboard-target"] == "p0/m"
            await (await second.arrived()).aborted.wait()
            row = await served.decision(answer)
    assert {(each["target"], each["reason"], each["outcome"]) for each in row["attempts"]} == {
        ("p0/m", "first", "ok"),
        ("p1/m", "hedge", "abandoned"),
    }


async def test_when_both_fail_the_client_hears_of_both(tmp_path: Path) -> None:
    broken = Fault(kind=FaultKind.STATUS, status=500)
    async with StandIn(Behaviour(first_token_s=0.3)) as first, StandIn() as second:
        first.fault = Fault(kind=FaultKind.CUT, after=0)
        second.fault = broken
        async with serving(two(first, second), tmp_path) as served:
            answer = await served.chat(stream=True)
    assert answer.status_code == 502
    assert "p0/m" in answer.json()["error"]["message"]
    assert "p1/m" in answer.json()["error"]["message"]


async def test_a_client_that_goes_away_takes_both_along(tmp_path: Path) -> None:
    async with StandIn(HANGS) as first, StandIn(HANGS) as second:
        async with serving(two(first, second), tmp_path) as served:
            body = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
            with pytest.raises(httpx.ReadTimeout):
                await served.client.post("/v1/chat/completions", json=body, timeout=0.5)
            await (await first.arrived()).aborted.wait()
            await (await second.arrived()).aborted.wait()


def quick(name: str) -> Choice:
    """One that is late after 40 ms."""
    return msgspec.structs.replace(choice(name), first_token_s=0.01, total_s=0.02)


def hedge(share: float = 0.1, waiting: float = 1.0) -> Hedge:
    live = Live()
    policy = Policy("p", waiting_first_token=waiting, hedge=share)
    return Hedge(Once(), policy, lambda: live.estimates)


async def test_where_waiting_costs_nothing_nobody_else_is_asked() -> None:
    backends = Scripted(a="a", b="b")
    assert await backends.given(hedge(waiting=0.0), choice("a"), choice("b")) == "a"
    assert backends.asked == [("a", "first")]


async def test_it_pays_only_where_the_seconds_saved_cost_more_than_the_second() -> None:
    async def late(waiting: float) -> list[str]:
        backends = Scripted(a=[never()], b="b")
        dear = msgspec.structs.replace(quick("b"), cost=0.002, net=0.008)
        opener = hedge(waiting=waiting)
        asking = asyncio.ensure_future(backends.given(opener, quick("a"), dear))
        if waiting >= 1.0:
            assert await asyncio.wait_for(asking, 10) == "b"
        else:
            await asyncio.wait({asking}, timeout=0.3)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        return [name for name, _ in backends.asked]

    assert await late(1.0) == ["a", "b"]
    assert await late(0.001) == ["a"]


async def test_each_is_late_after_its_own_95th_percentile() -> None:
    """Both are expected as soon, and the same wait is late for the steady one alone."""
    live = Live()
    for name, rare_s in (("steady", 0.1), ("fickle", 3.0)):
        estimate = live.estimate(Scripted().target(name), f"http://{name}")
        for n in range(400):
            estimate.saw_first_token(rare_s if n % 10 == 0 else 0.1, 0, float(n))
    policy = Policy("p", waiting_first_token=1.0, hedge=1.0)
    opener = Hedge(Once(), policy, lambda: live.estimates)

    async def hedged(name: str) -> bool:
        backends = Scripted(steady=[never()], fickle=[never()], b="b")
        asking = asyncio.ensure_future(backends.given(opener, choice(name), choice("b")))
        done, _ = await asyncio.wait({asking}, timeout=1.0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert bool(done) == (("b", "hedge") in backends.asked)
        return bool(done)

    assert (await hedged("steady"), await hedged("fickle")) == (True, False)


async def test_a_client_that_leaves_while_the_later_one_ends_leaves_nothing_behind() -> None:
    backends = Scripted(a=[never()], b="b")
    asking = asyncio.ensure_future(backends.given(hedge(), quick("a"), quick("b")))
    await asyncio.wait_for(backends.leaving.wait(), 10)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()
    assert backends.dropped == ["b"]


async def test_a_loser_that_is_there_in_the_same_turn_is_given_up_before_the_answer_is() -> None:
    ask: Ask[str] = Ask(Scripted(), {}, 0.0, drop=lambda answer, why: dropped.append(answer))
    dropped: list[str] = []

    async def answer() -> str:
        return "late"

    loser = asyncio.ensure_future(answer())
    await loser
    ending = _end(ask, [loser], SOONER)
    # As far as it comes without a turn of the loop.
    with contextlib.suppress(StopIteration):
        ending.send(None)
    ending.close()
    assert dropped == ["late"]


async def test_no_more_than_its_share_of_requests_is_asked_twice() -> None:
    opener = hedge(share=0.25)
    asked = []
    for _ in range(9):
        backends = Scripted(a=[never()], b="b")
        asking = asyncio.ensure_future(backends.given(opener, quick("a"), quick("b")))
        await asyncio.wait({asking}, timeout=0.3)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        asked.append(len(backends.asked))
    assert sum(asked) - len(asked) == 3
