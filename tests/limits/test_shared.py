"""Limits of four workers that share a Redis: never passed, whatever happens to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.standin.behaviour import Behaviour, to_length
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.types.limits import NANO, Quota, Rate
from tests import servers
from tests.gateway.support import Served, serving
from tests.limits.shared import USD, configured, until, working

WORKERS = 4


@pytest.fixture
def redis() -> Iterator[servers.RealServer]:
    with servers.redis() as server:
        yield server


@pytest.fixture
async def provider() -> AsyncIterator[StandIn]:
    """Says 10 words, or as many as it is let, in 20 ms."""
    words = to_length("word", 10)
    behaviour = Behaviour(answer=lambda _: words, between_tokens_s=0.002)
    async with StandIn(behaviour) as standin:
        yield standin


def known(served: Served) -> bool:
    """Whether Redis decides, and knows all that was spent."""
    shared = served.gateway.shared_limits
    return shared is not None and shared.seeded and shared.settled


async def test_200_at_once_from_four_workers_pass_no_budget(
    redis: servers.RealServer, provider: StandIn, tmp_path: Path
) -> None:
    quota = Quota(day=0.2, month=5.0, concurrent=150, tokens=Rate(10**6, 60))
    configuration = configured(provider, redis.url)
    async with working(configuration, provider, tmp_path, WORKERS, quota) as workers:
        await workers.known()
        statuses = await workers.ask(200, max_tokens=10)
        assert set(statuses) == {200, 429}
        while 200 in await workers.ask(20, max_tokens=10):
            pass
        spent = await workers.spent()
        assert 0.18 < spent <= 0.2
        await workers.settled()
        told = await workers.told()
        assert told["day"]["used"] == pytest.approx(spent, abs=1e-9)
        assert told["month"]["used"] == pytest.approx(spent, abs=1e-9)
        assert told["concurrent"]["used"] == 0
        row = (await workers.served[0].gateway.limiter.shown())[0]
        assert row["reserved_usd"] == 0
        rows = workers.served[0].gateway.reader.recent(limit=10_000)
        used = sum(row["input_tokens"] + row["output_tokens"] for row in rows)
        assert told["tokens"]["used"] == used


async def test_requests_and_requests_at_once_are_those_of_all_workers(
    redis: servers.RealServer, tmp_path: Path
) -> None:
    slow = Behaviour(answer=lambda _: "word", first_token_s=0.5)
    async with StandIn(slow) as provider:
        quota = Quota(requests=Rate(30, 60), concurrent=10)
        configuration = configured(provider, redis.url)
        async with working(configuration, provider, tmp_path, WORKERS, quota) as workers:
            await workers.known()
            statuses = await workers.ask(40)
            assert statuses.count(200) == 10
            assert max(provider.running, len(provider.seen)) == 10
            while (statuses := await workers.ask(8)).count(200):
                pass
            assert len(provider.seen) == 30
            answer = await workers.served[2].chat("hello")
            assert "30 requests per minute, 30 made" in answer.text
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"


async def test_redis_killed_and_started_again_forgets_no_money(
    redis: servers.RealServer, provider: StandIn, tmp_path: Path
) -> None:
    """While it is away each worker goes on within its share; what it had in mind is lost with it,
    and comes back from the log, what was spent meanwhile with it, once."""
    quota = Quota(day=0.6)
    configuration = configured(provider, redis.url)
    async with working(configuration, provider, tmp_path, WORKERS, quota) as workers:
        await workers.known()
        before = await workers.ask(40, max_tokens=10)
        assert before.count(200) == 40
        under_way = asyncio.create_task(workers.ask(40, max_tokens=10))
        await asyncio.sleep(0.005)
        redis.kill()
        assert (await under_way).count(200) == 40
        await until(lambda: not workers.here())
        assert (await workers.ask(20, max_tokens=10)).count(200) == 20
        redis.start()
        await until(workers.here)
        assert (await workers.ask(20, max_tokens=10)).count(200) == 20
        await workers.known()
        await workers.settled()
        spent = await workers.spent()
        told = await workers.told()
        assert told["day"]["used"] == pytest.approx(spent, abs=1e-9)
        while 200 in await workers.ask(20, max_tokens=10):
            pass
        assert 0.58 < await workers.spent() <= 0.6


async def test_what_is_left_is_shared_also_by_workers_that_did_not_spend(
    redis: servers.RealServer, provider: StandIn, tmp_path: Path
) -> None:
    quota = Quota(day=0.2)
    configuration = configured(provider, redis.url)
    async with working(configuration, provider, tmp_path, WORKERS, quota) as workers:
        await workers.known()
        one = workers.served[0]
        while await workers.spent() < 0.15:
            assert (await one.chat("hello", max_tokens=10)).status_code == 200
        redis.kill()
        await until(lambda: not workers.here())

        def known(least: float) -> bool:
            return all(
                account.day is None or account.day.spent >= least * NANO
                for each in workers.served
                for account in each.gateway.limiter.accounts()
            )

        await until(lambda: known(0.15))
        while 200 in await workers.ask(8, max_tokens=10):
            pass
        assert 0.15 < await workers.spent() <= 0.2
        refused = await one.chat("hello", max_tokens=10)
        assert "this worker may use 1/4 for now. Try again" in refused.text


async def test_where_nothing_bounds_answers_workers_overrun_by_what_was_under_way(
    redis: servers.RealServer, tmp_path: Path
) -> None:
    """As docs/limits.md has it: requests under way x (longest answer - reserved output) x price."""
    longest, reserved = 300, 56  # 2.8 times the usual, before one was seen
    long = Behaviour(answer=lambda _: to_length("word", longest), between_tokens_s=0.0005)
    async with StandIn(long) as provider:
        quota = Quota(day=0.1, concurrent=12)
        configuration = configured(provider, redis.url)
        async with working(configuration, provider, tmp_path, WORKERS, quota) as workers:
            await workers.known()
            while 200 in await workers.ask(40):
                pass
            assert 0.1 < await workers.spent() <= 0.1 + 12 * (longest - reserved) * USD


async def test_a_held_redis_delays_nobody_for_long_and_is_told_what_it_missed(
    redis: servers.RealServer, provider: StandIn, tmp_path: Path
) -> None:
    quota = Quota(day=0.4, concurrent=100, requests=Rate(10_000, 60))
    configuration = configured(provider, redis.url)
    async with working(configuration, provider, tmp_path, WORKERS, quota) as workers:
        await workers.known()
        assert (await workers.ask(20, max_tokens=10)).count(200) == 20
        redis.hold()
        try:
            for _ in range(3):
                assert (await workers.ask(20, max_tokens=10)).count(200) == 20
            assert not workers.here()
            # Its share, and no more: the rest of the budget over four workers.
            one = workers.served[0]
            while (await one.chat("hello", max_tokens=10)).status_code == 200:
                pass
            spent = await workers.spent()
            assert spent <= 0.4
        finally:
            redis.go_on()
        await until(workers.here)
        await workers.settled()
        told = await workers.told()
        assert told["day"]["used"] == pytest.approx(spent, abs=1e-9)
        assert told["concurrent"]["used"] == 0
        while 200 in await workers.ask(20, max_tokens=10):
            pass
        assert await workers.spent() <= 0.4


async def test_limits_beyond_all_bounds_are_none(
    redis: servers.RealServer, provider: StandIn, tmp_path: Path
) -> None:
    quota = Quota(requests=Rate(10**12, 60), concurrent=10**30, day=1e30, month=1e305)
    configuration = configured(provider, redis.url)
    async with working(configuration, provider, tmp_path, 1, quota) as workers:
        await workers.known()
        assert await workers.ask(3, max_tokens=10) == [200, 200, 200]
        await workers.settled()
        assert (await workers.told())["day"]["used"] == pytest.approx(await workers.spent())


async def test_what_a_worker_spent_that_stopped_while_redis_was_away_comes_from_the_log(
    redis: servers.RealServer, provider: StandIn, tmp_path: Path
) -> None:
    configuration, quota = configured(provider, redis.url), Quota(day=1.0, month=1.0)
    async with serving(configuration, tmp_path, key=True, quota=quota) as served:
        await until(lambda: known(served))
        assert (await served.chat("hello", max_tokens=10)).status_code == 200
        await until(lambda: known(served))
        redis.hold()
        for _ in range(3):
            assert (await served.chat("hello", max_tokens=10)).status_code == 200
        await asyncio.to_thread(served.gateway.writer.flush)
        rows = served.gateway.reader.recent(limit=10)
    redis.go_on()
    async with serving(configuration, tmp_path) as served:
        await until(lambda: known(served))
        (row,) = await served.gateway.limiter.shown()
    spent = pytest.approx(sum(row["cost_usd"] for row in rows), abs=1e-9)
    assert len(rows) == 4
    assert (row["limits"]["day"]["used"], row["limits"]["month"]["used"]) == (spent, spent)


async def test_what_was_spent_while_a_budget_was_lifted_is_of_it_when_it_is_set_again(
    redis: servers.RealServer, provider: StandIn, tmp_path: Path
) -> None:
    quota = Quota(day=1.0)
    configuration = configured(provider, redis.url)
    async with working(configuration, provider, tmp_path, 2, quota) as workers:
        await workers.known()
        keys = Keys(workers.served[0].gateway.store)
        accounts = [
            account
            for each in workers.served
            for account in each.gateway.limiter.accounts()
            if account.id.startswith("key:")
        ]
        assert (await workers.ask(4, max_tokens=10)).count(200) == 4
        keys.limit("test", lambda _: Quota())
        await until(lambda: not any(account.has_money for account in accounts))
        assert (await workers.ask(4, max_tokens=10)).count(200) == 4
        keys.limit("test", lambda _: quota)
        await until(lambda: all(account.has_money for account in accounts))
        assert (await workers.ask(4, max_tokens=10)).count(200) == 4
        await workers.known()
        await workers.settled()
        told = await workers.told()
        assert told["day"]["used"] == pytest.approx(await workers.spent(), abs=1e-9)


async def test_what_a_dead_worker_had_under_way_is_free_again(
    redis: servers.RealServer, tmp_path: Path
) -> None:
    """A worker that is gone is known by its silence; until then it holds what it held."""
    from gateway.coordination.coordinator import Coordinator
    from gateway.limits import scripts

    pack = msgspec.msgpack.encode
    coordinator = Coordinator(redis.url, timeout_s=5.0)
    await coordinator.start()
    admit = coordinator.script(scripts.ADMIT)
    hello = coordinator.script(scripts.HELLO)
    key = coordinator.key("limits", "key:a")

    async def ask(worker: str) -> list[int]:
        whose = pack(["alive", f"hash:{worker}", worker, 1, 0, 0, 0])
        reply: list[int] = await admit.ask([whose, 0, 0, pack([key, -1, 0, -1, 0, 1, -1, -1])])
        return reply

    for worker in ("dead", "other"):
        assert await hello.ask(["alive", f"hash:{worker}", worker, 1])
    assert (await ask("dead"))[0] == 1
    assert (await ask("other"))[:3] == [0, 1, b"concurrent"]
    await coordinator.ask("ZADD", "alive", 1, "dead")  # heard of last long ago
    assert (await ask("other"))[0] == 1
    assert (await ask("other"))[:3] == [0, 1, b"concurrent"]
    await coordinator.ask("ZREM", "alive", "other")  # or so long ago that nobody knows of it
    assert await hello.ask(["alive", "hash:third", "third", 1])
    assert (await ask("third"))[0] == 1
    assert await hello.ask(["alive", "hash:other", "other", 0]) == 0  # an older round is not heard
    await coordinator.stop()


async def test_a_client_that_goes_in_the_turn_of_redis_answer_holds_nothing(
    redis: servers.RealServer, provider: StandIn, tmp_path: Path
) -> None:
    configuration, quota = configured(provider, redis.url), Quota(concurrent=5, day=1.0)
    async with working(configuration, provider, tmp_path, 1, quota) as workers:
        await workers.known()
        gateway = workers.served[0].gateway
        shared = gateway.shared_limits
        assert shared is not None
        accounts = [each for each in gateway.limiter.accounts() if each.id.startswith("key:")]
        asking = shared.admit(accounts, 10, 10, time.time())
        answer = asking.send(None)
        assert isinstance(answer, asyncio.Future)
        answer._asyncio_future_blocking = False
        assert (await answer)[0] == 1
        with pytest.raises(asyncio.CancelledError):
            asking.throw(asyncio.CancelledError())
        await workers.settled()
        assert (await workers.told())["concurrent"]["used"] == 0


async def test_a_worker_whose_clock_is_ahead_keeps_nothing_from_being_counted(
    redis: servers.RealServer,
) -> None:
    """What was spent before an instant comes from the log; and that is none that is to come."""
    from gateway.coordination.coordinator import Coordinator
    from gateway.limits import scripts

    coordinator = Coordinator(redis.url, timeout_s=5.0)
    await coordinator.start()
    key = coordinator.key("limits", "key:a")
    ahead = int(time.time()) + 600
    assert int(time.time()) < await coordinator.script(scripts.CLAIM).ask([key, ahead]) < ahead - 60
    other, pack = coordinator.key("limits", "key:b"), msgspec.msgpack.encode
    assert await coordinator.script(scripts.HELLO).ask(["alive", "hash:w", "w", 1])
    whose = pack(["alive", "hash:w", "w", 1, 0, 0, ahead])
    asked: list[bytes | int] = [whose, 0, 0, pack([other, -1, 0, -1, 0, -1, 10, -1])]
    reply = await coordinator.script(scripts.ADMIT).ask(asked)
    assert (reply[0], int(time.time()) < reply[2] < ahead - 60) == (-1, True)
    await coordinator.stop()
