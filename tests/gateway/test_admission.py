"""Admission over a whole gateway: bounds at a backend, who waits, who is refused, who overflows."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.standin.behaviour import Fault, FaultKind
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.types.backends import Admission
from gateway.types.snapshot import Snapshot
from tests.gateway.files import ROUTE, write
from tests.gateway.support import (
    Served,
    answering,
    route,
    serving,
    serving_home,
    snapshot,
    target,
)

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }
).encode()
WAIT_S = 20.0


class Holding:
    """A provider that answers when it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.running = 0
        self.most = 0
        self.seen = 0
        self._changed = asyncio.Condition()
        self._may_go = asyncio.Semaphore(0)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Back when that is so."""
        async with self._changed, asyncio.timeout(WAIT_S):
            await self._changed.wait_for(holds)

    def answer(self, count: int = 1) -> None:
        """So many of those that are under way, or come, are answered."""
        for _ in range(count):
            self._may_go.release()

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.running += change
            self.most = max(self.most, self.running)
            self.seen += change > 0
            self._changed.notify_all()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                await self._count(1)
                gone = asyncio.create_task(reader.read(1))
                going = asyncio.create_task(self._may_go.acquire())
                await asyncio.wait([gone, going], return_when=asyncio.FIRST_COMPLETED)
                await self._count(-1)
                if gone.done():
                    going.cancel()
                    break
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)
                lines = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
                writer.write(b"HTTP/1.1 200 OK\r\n" + lines % len(ANSWER) + ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def holding() -> AsyncIterator[Holding]:
    provider = Holding()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    async with server:
        provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield provider
        provider.answer(1000)


def bounded(configuration: Snapshot, **terms: Admission) -> Snapshot:
    """The snapshot with backends on these terms."""
    backends = {
        name: msgspec.structs.replace(backend, admission=terms.get(name, Admission()))
        for name, backend in configuration.backends.items()
    }
    return msgspec.structs.replace(configuration, backends=backends)


def one(provider: Holding, terms: Admission) -> Snapshot:
    return bounded(snapshot([target("openai/mini", provider.url)]), openai=terms)


def asked(served: Served, count: int, **more: Any) -> list[asyncio.Task[httpx.Response]]:
    return [asyncio.create_task(served.chat(**more)) for _ in range(count)]


async def until_waiting(served: Served, count: int) -> None:
    """Until so many stand in line."""
    async with asyncio.timeout(WAIT_S):
        while sum(each.waiting for _, _, each in served.gateway.entrances) != count:  # noqa: ASYNC110
            await asyncio.sleep(0)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_a_backend_has_no_more_than_its_bound_and_all_are_answered(tmp_path: Path) -> None:
    async with holding() as provider:
        configuration = one(provider, Admission(concurrent=2, wait=WAIT_S))
        async with serving(configuration, tmp_path) as served:
            requests = asked(served, 6)
            await provider.until(lambda: provider.running == 2)
            await until_waiting(served, 4)
            provider.answer(6)
            answers = await asyncio.gather(*requests)
            assert [answer.status_code for answer in answers] == [200] * 6
            assert (provider.most, provider.seen) == (2, 6)
            overheads = [float(a.headers["x-switchboard-overhead-ms"]) for a in answers]
            page = (await served.client.get("/metrics")).text
            ready = (await served.client.get("/ready")).json()
    assert max(overheads) < 1000 * WAIT_S  # time in line is not ours
    assert "switchboard_admission_waited_seconds_count{" in page
    assert "} 4.0\n" in page.partition("switchboard_admission_waited_seconds_count")[2]
    assert ready["admission"][f"openai {provider.url}"] == {
        "running": 0,
        "limit": 2,
        "waiting": 0,
        "wait_s": 0.0,
    }


async def test_where_as_many_wait_as_may_the_next_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with holding() as provider:
        configuration = one(provider, Admission(concurrent=1, queue=1, wait=WAIT_S))
        async with serving(configuration, tmp_path) as served:
            requests = asked(served, 1)
            await provider.until(lambda: provider.running == 1)
            requests += asked(served, 1)
            await until_waiting(served, 1)
            refused = await served.chat()
            provider.answer(2)
            assert [answer.status_code for answer in await asyncio.gather(*requests)] == [200, 200]
            page = (await served.client.get("/metrics")).text
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    error = error_of(refused)
    assert (error["code"], error["type"]) == ("overloaded", "rate_limit_error")
    assert provider.seen == 2
    assert refused_for(page) == {"full": 1.0}


async def test_the_next_candidate_takes_what_the_first_has_no_room_for(tmp_path: Path) -> None:
    async with holding() as first, holding() as second:
        targets = [target("one/mini", first.url), target("two/mini", second.url)]
        configuration = bounded(snapshot(targets), one=Admission(1, 0), two=Admission(1, 0))
        async with serving(configuration, tmp_path) as served:
            requests = asked(served, 1)
            await first.until(lambda: first.running == 1)
            requests += asked(served, 1)
            await second.until(lambda: second.running == 1)
            refused = await served.chat()
            first.answer()
            second.answer()
            answers = await asyncio.gather(*requests)
            row = await served.decision(answers[1])
    assert [a.headers["x-switchboard-target"] for a in answers] == ["one/mini", "two/mini"]
    assert [attempt["target"] for attempt in row["attempts"]] == ["two/mini"]
    assert (refused.status_code, error_of(refused)["code"]) == (429, "overloaded")
    assert (first.seen, second.seen) == (1, 1)


@pytest.mark.parametrize("full_first", [True, False])
async def test_where_one_fails_and_another_has_no_room_the_client_may_come_back(
    tmp_path: Path, full_first: bool
) -> None:
    async with holding() as busy, answering([], b"this is no answer") as broken:
        targets = [target("full/mini", busy.url), target("bad/mini", broken)]
        order = ("full/mini", "bad/mini") if full_first else ("bad/mini", "full/mini")
        configuration = bounded(snapshot(targets, [route("general", *order)]), full=Admission(1, 0))
        async with serving(configuration, tmp_path) as served:
            requests = asked(served, 1, model="full/mini")
            await busy.until(lambda: busy.running == 1)
            refused = await served.chat()
            busy.answer()
            await asyncio.gather(*requests)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert "no answer" in error_of(refused)["message"]


async def test_what_is_refused_for_what_it_is_is_not_told_to_come_back(tmp_path: Path) -> None:
    async with holding() as busy, StandIn() as other:
        other.fault = Fault(kind=FaultKind.STATUS, status=400)
        targets = [target("full/mini", busy.url), target("other/mini", other.url)]
        configuration = bounded(snapshot(targets), full=Admission(1, 0))
        async with serving(configuration, tmp_path) as served:
            requests = asked(served, 1)
            await busy.until(lambda: busy.running == 1)
            refused = await served.chat()
            busy.answer()
            await asyncio.gather(*requests)
    assert refused.status_code == 400
    assert "retry-after" not in refused.headers


async def test_what_has_too_little_time_to_wait_is_refused_at_once(tmp_path: Path) -> None:
    async with holding() as provider:
        configuration = one(provider, Admission(concurrent=1, wait=WAIT_S))
        async with serving(configuration, tmp_path) as served:
            requests = asked(served, 1)
            await provider.until(lambda: provider.running == 1)
            ((_, _, entrance),) = served.gateway.entrances
            entrance.hold_s = 10.0
            hurried = await served.client.post(
                "/v1/chat/completions",
                json={"model": "auto", "messages": [{"role": "user", "content": "x"}]},
                headers={"x-request-timeout": "5 s"},
            )
            provider.answer()
            await asyncio.gather(*requests)
    assert (hurried.status_code, error_of(hurried)["code"]) == (429, "overloaded")
    assert hurried.headers["retry-after"] == "10"


async def chat(served: Served, model: str, key: str | None) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return await served.client.post("/v1/chat/completions", json=body, headers=headers)


async def served_in_turn(
    served: Served, provider: Holding, lines: Sequence[tuple[int, str, str | None]]
) -> list[int]:
    """Which of these lines each answer was of, where the first request of the first is held and the
    others wait. A line is so many requests to a model, by a key."""
    waiting = 0
    running: dict[asyncio.Task[httpx.Response], int] = {}
    for which, (count, model, key) in enumerate(lines):
        for _ in range(count):
            running[asyncio.create_task(chat(served, model, key))] = which
            if len(running) == 1:
                await provider.until(lambda: provider.running == 1)
            else:
                waiting += 1
                await until_waiting(served, waiting)
    order = []
    while running:
        provider.answer()
        done, _ = await asyncio.wait(running, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        (answered,) = done
        assert answered.result().status_code == 200
        order.append(running.pop(answered))
    return order


async def test_a_key_that_sends_many_waits_behind_its_own(tmp_path: Path) -> None:
    async with holding() as provider:
        configuration = one(provider, Admission(concurrent=1, queue=64, wait=1000.0))
        async with serving(configuration, tmp_path) as served:
            many, few = (Keys(served.gateway.store).create(name).secret for name in ("many", "few"))
            served.gateway.keyring.refresh()
            lines = [(11, "auto", many), (1, "auto", few)]
            order = await served_in_turn(served, provider, lines)
    assert order.index(1) <= 2  # one is held, and one may have come before it


async def test_a_routes_priority_says_who_is_next(tmp_path: Path) -> None:
    async with holding() as provider:
        write(tmp_path, provider.url)
        declared = (tmp_path / "gateway.yaml").read_text()
        bound = "kind: openai\n    admission: {concurrent: 1, wait: 1000 s}\n"
        (tmp_path / "gateway.yaml").write_text(declared.replace("kind: openai\n", bound))
        for name in ("low", "high"):
            text = ROUTE.format(name=name) + f"priority: {name}\n"
            (tmp_path / f"routes/{name}.yaml").write_text(text)
        async with serving_home(tmp_path) as served:
            order = await served_in_turn(served, provider, [(5, "low", None), (3, "high", None)])
    assert order == [0, 1, 1, 1, 0, 0, 0, 0]


async def test_a_client_that_goes_away_leaves_the_line(tmp_path: Path) -> None:
    async with holding() as provider:
        configuration = one(provider, Admission(concurrent=1, wait=WAIT_S))
        async with serving(configuration, tmp_path) as served:
            (running,) = asked(served, 1)
            await provider.until(lambda: provider.running == 1)
            (waiting,) = asked(served, 1)
            await until_waiting(served, 1)
            waiting.cancel()
            await until_waiting(served, 0)
            provider.answer()
            assert (await running).status_code == 200
            assert provider.seen == 1
            (later,) = asked(served, 1)
            provider.answer()
            assert (await later).status_code == 200


async def test_a_client_that_goes_away_gives_its_place_to_who_waits(tmp_path: Path) -> None:
    async with holding() as provider:
        configuration = one(provider, Admission(concurrent=1, wait=WAIT_S))
        async with serving(configuration, tmp_path) as served:
            (running,) = asked(served, 1)
            await provider.until(lambda: provider.running == 1)
            (waiting,) = asked(served, 1)
            await until_waiting(served, 1)
            running.cancel()
            await provider.until(lambda: provider.seen == 2)
            provider.answer()
            assert (await waiting).status_code == 200


async def test_a_line_makes_another_candidate_worth_more(tmp_path: Path) -> None:
    async with holding() as first, holding() as second:
        targets = [target("one/mini", first.url), target("two/mini", second.url)]
        general = route("general", "one/mini", "two/mini")
        configuration = bounded(
            snapshot(targets, [general]), one=Admission(1, 8, 1000.0), two=Admission(64)
        )
        policy = msgspec.structs.replace(
            configuration.policies["quality"], waiting_first_token=0.01
        )
        configuration = msgspec.structs.replace(configuration, policies={"quality": policy})
        async with serving(configuration, tmp_path) as served:
            requests = asked(served, 1)
            await first.until(lambda: first.running == 1)
            for _, _, entrance in served.gateway.entrances:
                entrance.hold_s = 60.0
            requests += asked(served, 1)  # nobody waits yet: it looks no worse than before
            await until_waiting(served, 1)
            requests += asked(served, 1)
            await second.until(lambda: second.running == 1)
            first.answer(2)
            second.answer(1)
            answers = await asyncio.gather(*requests)
    assert sorted(a.headers["x-switchboard-target"] for a in answers) == [
        "one/mini",
        "one/mini",
        "two/mini",
    ]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_provider_that_is_busy_is_given_less(tmp_path: Path, status: int) -> None:

    async with StandIn() as provider:
        provider.fault = Fault(kind=FaultKind.STATUS, status=status)
        configuration = snapshot([target("openai/mini", provider.url)])
        async with serving(configuration, tmp_path) as served:
            await served.chat()
            ((_, _, entrance),) = served.gateway.entrances
            assert entrance.limit == 4.0
            assert entrance.running == 0


def refused_for(page: str) -> dict[str, float]:
    """How many were refused for each reason, over all replicas."""
    lines = [
        line for line in page.split("\n") if line.startswith("switchboard_admission_refused_total{")
    ]
    return {line.split('reason="')[1].split('"')[0]: float(line.rsplit(" ")[-1]) for line in lines}
