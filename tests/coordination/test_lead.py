"""One of several workers leads, by a real Redis, and another soon after it has gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.coordination.coordinator import Coordinator
from gateway.coordination.hints import Place, ResidencyHints
from gateway.coordination.lead import Lead
from tests import servers
from tests.servers import RealServer


@asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[Coordinator]:
    coordinator = Coordinator(url, name=name, timeout_s=2.0, retry_s=0.05)
    await coordinator.start()
    try:
        yield coordinator
    finally:
        await coordinator.stop()


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what another process brings about has no event
            await asyncio.sleep(0.01)


async def test_one_leads_and_hands_over(redis_server: RealServer) -> None:
    async with (
        connected(redis_server.url, "lead-1") as first,
        connected(redis_server.url, "lead-1") as second,
    ):
        one, two = Lead(first, "one", first=True), Lead(second, "two", first=False)
        await one.take()
        await two.take()
        assert (one.mine, two.mine) == (True, False)
        await one.leave()
        await two.take()
        await one.take()
        assert (one.mine, two.mine) == (False, True)


async def test_another_leads_when_the_lease_of_one_that_vanished_is_over(
    redis_server: RealServer,
) -> None:
    async with connected(redis_server.url, "lead-2") as coordinator:
        gone = Lead(coordinator, "gone", first=False, lease_s=0.3)
        next_one = Lead(coordinator, "next", first=False, lease_s=5, renew_s=0.05)
        await gone.take()
        running = asyncio.create_task(next_one.run())
        await until(lambda: next_one.mine)
        assert not gone.mine
        running.cancel()


async def test_each_hosts_first_leads_while_redis_is_away() -> None:
    with servers.redis() as server:
        async with connected(server.url, "lead-3") as coordinator:
            at = [100.0]
            holder = Lead(coordinator, "holder", first=False, clock=lambda: at[0])
            first = Lead(coordinator, "first", first=True, clock=lambda: at[0])
            await holder.take()
            await first.take()
            assert (holder.mine, first.mine) == (True, False)
            server.kill()
            await until(lambda: not coordinator.here)
            assert first.mine
            assert holder.mine  # until its lease is over
            at[0] += 5.0
            assert not holder.mine


class Heard:
    """Writes down what other workers tell."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def loaded_elsewhere(self, place: Place) -> None:
        self.all.append(("loaded", place))

    def gone_elsewhere(self, place: Place) -> None:
        self.all.append(("gone", place))

    def used_elsewhere(self, place: Place, times: int) -> None:
        self.all.append(("used", place, times))


async def test_what_one_learns_of_replicas_the_others_hear_and_not_itself(
    redis_server: RealServer,
) -> None:
    async with (
        connected(redis_server.url, "hints") as first,
        connected(redis_server.url, "hints") as second,
    ):
        one, two, mine, theirs = (
            ResidencyHints(first, "1"),
            ResidencyHints(second, "2"),
            Heard(),
            Heard(),
        )
        one.listen(mine)
        two.listen(theirs)
        place = ("local", "http://gpu-1:8000", "contracts@v1-abcd")
        async with asyncio.timeout(20):
            while not theirs.all:  # it may not listen yet
                for _ in range(3):
                    one.used(place)
                one.loaded(place)
                one.gone(place)
                await one.tell()
                await asyncio.sleep(0.02)
        assert theirs.all[:3] == [("loaded", place), ("gone", place), ("used", place, 3)]
        assert mine.all == []
