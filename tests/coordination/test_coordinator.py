"""The coordinator against a real Redis: batches, bounded time, away and back."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.coordination.coordinator import Coordinator
from gateway.errors import CoordinatorAway
from gateway.standin.standin import StandIn
from gateway.types.snapshot import Server
from tests import servers
from tests.gateway.support import serving, snapshot, target

ECHO = """
local replies, at = {}, 1
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  replies[#replies + 1] = redis.call('INCRBY', ARGV[at + 1], ARGV[at + 2])
  at = at + count + 1
end
return replies
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[servers.RealServer]:
    with servers.redis() as server:
        yield server


@asynccontextmanager
async def coordinating(url: str, **more: float) -> AsyncIterator[Coordinator]:
    coordinator = Coordinator(url, name="test", retry_s=0.05, **more)  # type: ignore[arg-type]
    await coordinator.start()
    try:
        yield coordinator
    finally:
        await coordinator.stop()


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_is_asked_together_leaves_in_one_trip(redis: servers.RealServer) -> None:
    async with coordinating(redis.url, timeout_s=5.0) as coordinator:
        script = coordinator.script(ECHO)
        before = coordinator.state.trips
        key = coordinator.key("sum")
        asked = [script.ask([key, n]) for n in range(100)]
        replies = await asyncio.gather(*asked, coordinator.ask("SET", coordinator.key("x"), "y"))
        assert coordinator.state.trips == before + 1
        assert replies[:100] == [sum(range(n + 1)) for n in range(100)]
        assert replies[100] == b"OK"
        assert await coordinator.ask("GET", "test:x") == b"y"

        await coordinator.ask("SCRIPT", "FLUSH")
        assert await script.ask([key, 1]) == sum(range(100)) + 1

        with pytest.raises(CoordinatorAway, match="Redis refused"):
            await coordinator.ask("INCR", coordinator.key("x"))
        assert coordinator.here


async def test_a_held_redis_costs_its_time_once_and_comes_back(redis: servers.RealServer) -> None:
    async with coordinating(redis.url) as coordinator:
        told: list[str] = []
        coordinator.on_away(lambda: told.append("away"))
        coordinator.on_back(lambda: told.append("back"))
        generation = coordinator.generation
        redis.hold()
        try:
            asked = [coordinator.ask("GET", "a") for _ in range(10)]
            replies = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(each, CoordinatorAway) and each.sent for each in replies)
            assert not coordinator.here
            began = time.perf_counter()
            for _ in range(100):
                with pytest.raises(CoordinatorAway) as caught:
                    await coordinator.ask("GET", "a")
                assert not caught.value.sent
            assert time.perf_counter() - began < 1.0  # a hundred waits would take ten seconds
            assert "no answer within" in coordinator.state.error or not coordinator.here
        finally:
            redis.go_on()
        await until(lambda: coordinator.here)
        assert await coordinator.ask("SET", coordinator.key("b"), 1) == b"OK"
        assert told == ["away", "back"]
        assert coordinator.generation > generation


async def test_one_that_is_not_there_at_the_start_is_found_later() -> None:
    with servers.redis() as server:
        server.kill()
        async with coordinating(server.url) as coordinator:
            script = coordinator.script(ECHO)
            assert not coordinator.here
            with pytest.raises(CoordinatorAway):
                await script.ask(["test:n", 1])
            server.start()
            await until(lambda: coordinator.here)
            assert await script.ask(["test:n", 1]) == 1
            server.kill()
            # An idle one is looked at, so that its death is known without a request.
            await until(lambda: not coordinator.here)
            server.start()
            await until(lambda: coordinator.here)
            assert await script.ask(["test:n", 5]) == 5


async def test_messages_reach_all_who_subscribed_also_after_a_restart() -> None:
    with servers.redis() as server:
        async with coordinating(server.url) as one, coordinating(server.url) as two:
            heard: list[tuple[str, bytes]] = []
            looked: list[str] = []
            for name, each in (("one", one), ("two", two)):
                each.subscribe(
                    "news",
                    lambda message, name=name: heard.append((name, message)),  # type: ignore[misc]
                    again=lambda name=name: looked.append(name),  # type: ignore[misc]
                )
            two.subscribe("other", lambda message: heard.append(("other", message)))
            await until(lambda: {"one", "two"} <= set(looked))
            await one.publish("news", b"1")
            await until(lambda: len(heard) == 2)
            assert sorted(heard) == [("one", b"1"), ("two", b"1")]
            looked.clear()
            server.kill()
            await until(lambda: not one.here and not two.here)
            server.start()
            await until(lambda: {"one", "two"} <= set(looked))
            await two.publish("news", b"2")
            await two.publish("other", b"3")
            await until(lambda: len(heard) == 5)


def test_a_url_that_is_none_is_refused_and_secrets_are_not_shown() -> None:
    with pytest.raises(ValueError, match="scheme"):
        Coordinator("http://host")
    shown = Coordinator("redis://me:hush@host:1/2?ssl_cert_reqs=none")
    assert shown.state.url == "redis://host:1/2"
    assert "hush" not in repr(shown)


async def test_a_gateway_serves_without_its_redis_and_says_so(
    redis: servers.RealServer, tmp_path: Path
) -> None:
    async with StandIn() as provider:
        plain = snapshot([target("a/m", provider.url)])
        for url, here in ((redis.url, True), (f"redis://127.0.0.1:{servers.free_port()}", False)):
            declared = msgspec.structs.replace(plain, server=Server(coordinator=url))
            async with serving(declared, tmp_path) as served:
                assert (await served.chat(model="a/m")).status_code == 200
                ready = await served.client.get("/ready")
                assert ready.status_code == 200
                assert ready.json()["coordinator"]["here"] is here
