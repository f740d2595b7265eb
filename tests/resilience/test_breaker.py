"""Breakers: when they open, for what, and how they close; and whole requests past open ones."""

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.policy.gates import sort_of
from gateway.policy.live import Live
from gateway.resilience.breaker import Breakers, Turned
from gateway.standin.behaviour import Behaviour, Fault, FaultKind, say
from gateway.standin.standin import StandIn
from gateway.types.policies import Breaking, Policy
from gateway.types.requests import Needs
from tests.gateway.support import Served, route, serving, snapshot, target

URL = "http://a/v1"
TARGET = target("p/m", URL)
RULE = Breaking(failures=3, share=0.5, window_s=30.0, first_s=2.0, most_s=10.0)
PLAIN, STREAMED = "chat/completions", "chat/completions (streamed)"


class Bench:
    """One target's breakers, and what they told."""

    def __init__(self) -> None:
        self.live = Live()
        self.breakers = Breakers(self.live, lambda: 0.5)
        self.told: list[Turned] = []
        self.breakers.observer = self.told.append
        self.now = 100.0

    def fails(self, times: int = 1, sort: str = PLAIN, *, connected: bool = True) -> None:
        for _ in range(times):
            self.breakers.failed(TARGET, URL, sort, RULE, self.now, "500", connected=connected)

    def answers(self, times: int = 1, sort: str = PLAIN) -> None:
        for _ in range(times):
            self.breakers.answered(TARGET, URL, sort, self.now)

    def shut(self, sort: str = PLAIN) -> str:
        gate = self.live.estimate(TARGET, URL).gate
        return "" if gate is None else gate.shut(sort, self.now)

    def enter(self, sort: str = PLAIN) -> None:
        gate: Any = self.live.estimate(TARGET, URL).gate
        gate.enter(sort, self.now)


def test_failures_in_a_row_open_it_for_their_sort_of_request() -> None:
    bench = Bench()
    bench.fails(2)
    assert bench.shut() == ""
    bench.fails()
    assert bench.shut() == "500; tried again in 2.0 s"
    assert bench.shut(STREAMED) == ""
    assert bench.told == [Turned("p/m", URL, PLAIN, 2.0, "500")]


def test_an_answer_ends_the_row_and_a_share_opens_it_all_the_same() -> None:
    bench = Bench()
    for _ in range(4):
        bench.fails()
        bench.answers()
    assert bench.shut() == ""
    bench.fails()
    bench.answers()
    bench.fails()
    assert bench.shut()


def test_what_is_long_past_does_not_count() -> None:
    bench = Bench()
    for _ in range(9):
        bench.fails()
        bench.answers(2)
        bench.now += 20.0
    assert bench.shut() == ""


def test_two_sorts_that_fail_open_it_for_all() -> None:
    bench = Bench()
    bench.fails(3)
    bench.fails(3, STREAMED)
    assert bench.shut("embeddings")


def test_no_connection_opens_it_for_all() -> None:
    bench = Bench()
    bench.fails(3, connected=False)
    assert bench.shut(STREAMED)
    assert bench.shut("embeddings")


def test_one_request_at_a_time_tries_it_after_ever_longer_pauses() -> None:
    bench = Bench()
    bench.fails(3)
    pauses = []
    for _ in range(5):
        pauses.append(bench.told[-1].pause_s)
        bench.now += pauses[-1]
        assert bench.shut() == ""
        bench.enter()
        assert "another request is trying it" in bench.shut()
        bench.fails()
        assert "tried again" in bench.shut()
    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0]
    bench.now += 10.0
    bench.enter()
    bench.answers()
    assert bench.shut() == ""
    assert bench.told[-1] == Turned("p/m", URL, PLAIN, 0.0)


def test_what_has_failed_for_days_is_tried_as_often_as_before() -> None:
    bench = Bench()
    bench.fails(3)
    for _ in range(1_100):
        bench.now += 20.0
        bench.enter()
        bench.fails()
    assert bench.shut() == "500; tried again in 10.0 s"


def test_an_answer_to_what_was_under_way_does_not_close_it() -> None:
    bench = Bench()
    bench.fails(3)
    bench.answers()
    assert bench.shut()


def test_a_try_that_says_nothing_lets_another_one_in() -> None:
    bench = Bench()
    bench.fails(3)
    bench.now += 2.0
    bench.enter()
    bench.breakers.left(TARGET, URL, PLAIN)
    assert bench.shut() == ""


def test_nothing_is_kept_of_a_target_that_is_well_again() -> None:
    bench = Bench()
    bench.fails()
    bench.answers(30)
    assert bench.live.estimate(TARGET, URL).gate is None


def test_a_hint_from_another_worker_opens_and_closes_and_is_not_told_on() -> None:
    bench = Bench()
    bench.live.estimate(TARGET, URL)
    bench.breakers.hint(Turned("p/m", URL, "", 5.0, "away"), bench.now)
    assert bench.shut() == "away; tried again in 5.0 s"
    assert bench.breakers.shown(bench.now)[0]["state"] == "open"
    bench.breakers.hint(Turned("p/m", URL, "", 0.0), bench.now)
    assert bench.shut() == ""
    assert bench.told == []


def test_a_sort_of_request_in_words() -> None:
    assert sort_of(Needs(), stream=False) == "chat/completions"
    needs = Needs(tools=True, json_schema=True)
    assert sort_of(needs, stream=True) == "chat/completions (streamed, tools, JSON schema)"


def test_the_same_model_by_another_name_rests_too() -> None:
    again = target("twin/n", URL, served="m")
    other_key = target("other/m", URL)
    made = snapshot(
        [TARGET, again, target("p/o", URL), other_key],
        keys={"p": "sk-1", "twin": "sk-1", "other": "sk-2"},
    )
    bench = Bench()
    bench.breakers.rest(made, TARGET, URL, 7.0, "429", bench.now)
    rests = {each["target"] for each in bench.breakers.shown(bench.now)}
    assert rests == {"p/m", "twin/n"}


def test_none_rests_for_longer_than_an_hour() -> None:
    bench = Bench()
    bench.breakers.rest(snapshot([TARGET]), TARGET, URL, 86400.0, "429", bench.now)
    assert bench.shut() == "429; asked again in 3600.0 s"


# ---------------------------------------------------------------- whole requests


BROKEN = Fault(kind=FaultKind.STATUS, status=500)


def two(first: StandIn, second: StandIn, **policy: Any) -> Any:
    chosen = Policy("quality", retries=0, breaking=RULE, **policy)
    targets = [target("p0/m", first.url), target("p1/m", second.url)]
    return snapshot(
        targets, [route("general", *(t.name for t in targets))], policies={"quality": chosen}
    )


async def statuses(served: Served, times: int, **more: Any) -> list[int]:
    return [(await served.chat(**more)).status_code for _ in range(times)]


async def test_what_keeps_failing_is_left_alone_and_shown(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn() as second:
        first.fault = BROKEN
        async with serving(two(first, second), tmp_path) as served:
            assert await statuses(served, 6) == [200] * 6
            assert len(first.seen) == RULE.failures
            answer = await served.chat()
            row = await served.decision(answer)
            assert [attempt["target"] for attempt in row["attempts"]] == ["p1/m"]
            (out,) = row["decision"]["ruled_out"]
            assert out["by"] == "away"
            assert "tried again in" in out["reason"]
            (shown,) = (await served.client.get("/ready")).json()["breakers"]
            assert (shown["target"], shown["state"]) == ("p0/m", "open")
            page = (await served.client.get("/metrics")).text
            assert "switchboard_breakers_open 1.0" in page


async def test_one_sort_that_fails_does_not_take_out_the_others(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn() as second:
        async with serving(two(first, second), tmp_path) as served:
            for _ in range(RULE.failures):
                first.next(Fault(kind=FaultKind.CUT, after=0))
                assert (await served.events())[-1] == "[DONE]"
            streamed = await served.chat(stream=True)
            assert streamed.headers["x-switchboard-target"] == "p1/m"
            assert (await served.chat()).headers["x-switchboard-target"] == "p0/m"


async def test_when_all_are_left_alone_they_are_asked_all_the_same(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn() as second:
        first.fault = second.fault = BROKEN
        async with serving(two(first, second), tmp_path) as served:
            assert await statuses(served, 4) == [502] * 4
            first.fault = second.fault = None
            answer = await served.chat()
            assert answer.status_code == 200
            assert answer.headers["x-switchboard-target"] == "p0/m"


async def test_one_that_is_left_alone_is_asked_when_no_other_answers(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn() as second:
        first.fault = BROKEN
        async with serving(two(first, second), tmp_path) as served:
            assert await statuses(served, 3) == [200] * 3
            first.fault = None
            second.next(BROKEN)
            answer = await served.chat()
            assert answer.headers["x-switchboard-target"] == "p0/m"


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_clients_faults_open_nothing(status: int, tmp_path: Path) -> None:
    async with StandIn() as first, StandIn() as second:
        first.fault = Fault(kind=FaultKind.STATUS, status=status)
        async with serving(two(first, second), tmp_path) as served:
            assert await statuses(served, 8) == [status] * 8
            assert len(first.seen) == 8


async def test_what_goes_on_with_a_response_that_is_not_there_opens_nothing(
    tmp_path: Path,
) -> None:
    async with StandIn() as first, StandIn() as second:
        words = "Response with id 'resp_made_up' not found."
        first.fault = Fault(kind=FaultKind.STATUS, status=404, message=words)
        async with serving(two(first, second), tmp_path) as served:
            body = {"model": "auto", "input": "on", "previous_response_id": "resp_made_up"}
            for _ in range(8):
                answer = await served.client.post("/v1/responses", json=body)
                assert answer.status_code == 404
                assert answer.json()["error"]["message"] == words
            assert len(first.seen) == 8
            assert (await served.client.get("/ready")).json()["breakers"] == []


async def test_a_busy_provider_is_left_alone_for_as_long_as_it_says(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn(Behaviour(answer=say("other"))) as second:
        first.next(Fault(kind=FaultKind.STATUS, status=429, retry_after=30))
        async with serving(two(first, second), tmp_path) as served:
            assert await statuses(served, 3) == [200] * 3
            assert len(first.seen) == 1
            (shown,) = (await served.client.get("/ready")).json()["breakers"]
            assert shown["state"] == "resting"
            second.fault = BROKEN
            answer = await served.chat()
            # The one that is broken was asked; the other is not, whatever happens.
            assert len(first.seen) == 1
            assert 20 <= float(answer.headers["retry-after"]) <= 30


async def test_a_wait_without_an_end_is_not_believed(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn() as second:
        words = f"Rate limited; try again in {'9' * 400} s."
        first.next(Fault(kind=FaultKind.STATUS, status=429, message=words))
        async with serving(two(first, second), tmp_path) as served:
            assert await statuses(served, 2) == [200] * 2
            assert len(first.seen) == 2


async def test_internal_data_stays_inside_whatever_fails(tmp_path: Path) -> None:
    async with StandIn() as inside, StandIn() as outside:
        inside.fault = BROKEN
        own = target("local/m", inside.url, internal=True)
        away = target("p/m", outside.url)
        made = snapshot([own, away], [route("general", "local/m", "p/m", internal=True)])
        backends = {
            name: msgspec.structs.replace(each, kind="openai")
            for name, each in made.backends.items()
        }
        made = msgspec.structs.replace(made, backends=backends)
        async with serving(made, tmp_path) as served:
            assert await statuses(served, 8) == [502] * 8
        assert not outside.seen


# ---------------------------------------------------------------- replicas of one target


SLOW = Behaviour(first_token_s=0.1)


def replicated(first: StandIn, second: StandIn, pause_s: float) -> Any:
    """One target at two replicas, declared quicker than one that is SLOW. One failure is enough to
    open a breaker: after it the other replica is preferred, and more would come only under load."""
    rule = Breaking(failures=1, first_s=pause_s)
    urls = (first.url, second.url)
    own = target("own/m", first.url, replicas=urls, first_token_s=0.001, tokens_per_s=10_000.0)
    chosen = Policy("quality", retries=0, breaking=rule)
    return snapshot([own], policies={"quality": chosen})


def forget_what_failing_cost(served: Served) -> None:
    """As minutes do: then only a breaker keeps requests from a replica that has failed."""
    served.gateway.live.advance(time.perf_counter() + 300.0)


async def open_ones(served: Served) -> list[tuple[str, str, str]]:
    ready = await served.client.get("/ready")
    assert ready.status_code == 200
    return [(each["target"], each["replica"], each["state"]) for each in ready.json()["breakers"]]


async def test_a_replica_that_fails_is_left_alone_and_its_target_goes_on(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn(SLOW) as second:
        first.fault = BROKEN
        async with serving(replicated(first, second, pause_s=60.0), tmp_path) as served:
            row = await served.decision(await served.chat())
            assert [(each["replica"], each["outcome"]) for each in row["attempts"]] == [
                (first.url, "error"),
                (second.url, "ok"),
            ]
            assert await open_ones(served) == [("own/m", first.url, "open")]
            forget_what_failing_cost(served)
            assert await statuses(served, 6) == [200] * 6
            row = await served.decision(await served.chat())
            assert [choice["replica"] for choice in row["decision"]["ranked"]] == [second.url]
            (out,) = row["decision"]["ruled_out"]
            assert (out["target"], out["by"]) == ("own/m", "away")
            assert out["reason"].startswith(f"at {first.url}: ")
            assert await open_ones(served) == [("own/m", first.url, "open")]
        assert (len(first.seen), len(second.seen)) == (1, 8)


async def test_a_replica_that_is_well_again_is_asked_after_its_pause(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn(SLOW) as second:
        first.next(BROKEN)
        async with serving(replicated(first, second, pause_s=0.05), tmp_path) as served:
            assert await statuses(served, 1) == [200]
            async with asyncio.timeout(10.0):
                while await open_ones(served) != [("own/m", first.url, "half-open")]:
                    pass
            forget_what_failing_cost(served)
            row = await served.decision(await served.chat())
            assert [(each["replica"], each["outcome"]) for each in row["attempts"]] == [
                (first.url, "ok")
            ]
            assert await open_ones(served) == []
        assert (len(first.seen), len(second.seen)) == (2, 1)
