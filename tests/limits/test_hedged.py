"""A request that may be asked twice reserves for both, and is settled by what both have cost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.limits.accounts import Account
from gateway.standin.behaviour import Behaviour, to_length
from gateway.standin.standin import StandIn
from gateway.types.backends import Price
from gateway.types.limits import NANO, Quota, Rate
from gateway.types.policies import Policy
from gateway.types.snapshot import Server, Snapshot
from tests import servers
from tests.gateway.support import Served, route, serving, snapshot, target
from tests.limits.shared import Workers, working

USD = 1e-4
"""What a token costs here, of what is read and of what is said."""

WORDS = 8
IMPATIENT = Policy("quality", waiting_first_token=100.0, hedge=1.0, retries=0)


@pytest.fixture
async def late() -> AsyncIterator[StandIn]:
    """One that is thought to be quick, and never answers."""
    async with StandIn(Behaviour(first_token_s=60.0)) as standin:
        yield standin


@pytest.fixture
async def sooner() -> AsyncIterator[StandIn]:
    words = to_length("word", WORDS)
    async with StandIn(Behaviour(answer=lambda _: words)) as standin:
        yield standin


def hedged(late: StandIn, sooner: StandIn, **changes: Any) -> Snapshot:
    """The late one first; the other, at twice the price, beside it. Nobody else is there."""
    targets = [
        target(
            name,
            standin.url,
            price=Price(factor * USD, factor * USD, factor * USD),
            first_token_s=0.02,
            output_tokens=2.0,
            tokens_per_s=1000.0,
        )
        for name, standin, factor in (("p0/m", late, 1.0), ("p1/m", sooner, 2.0))
    ]
    general = route("general", "p0/m", "p1/m", value=1.0)
    return snapshot(targets, [general], policies={"quality": IMPATIENT}, **changes)


def account_of(served: Served) -> Account:
    (account,) = [a for a in served.gateway.limiter.accounts() if a.id.startswith("key:")]
    return account


async def test_both_are_reserved_for_and_settled_by_what_they_cost(
    late: StandIn, tmp_path: Path
) -> None:
    quota = Quota(day=1.0, tokens=Rate(10_000, 60.0))
    words = to_length("word", WORDS)
    async with (
        StandIn(Behaviour(answer=lambda _: words, first_token_s=0.5)) as sooner,
        serving(hedged(late, sooner), tmp_path, key=True, quota=quota) as served,
    ):
        account = account_of(served)
        asking = asyncio.create_task(served.chat("hello", max_tokens=WORDS))
        await sooner.arrived()
        (seen,) = late.seen
        size = len(seen.body)  # as it was sent on, so within a few bytes of what was asked
        both = (size + WORDS) * 3 * USD
        assert account.reserved / NANO == pytest.approx(both, rel=0.3)
        answer = await asking
        assert answer.headers["x-switchboard-target"] == "p1/m"
        row = await served.decision(answer)
        assert {each["reason"] for each in row["attempts"]} == {"first", "hedge"}
        costs = [each["cost_usd"] for each in row["attempts"]]
        assert all(costs)
        assert (account.running, account.reserved) == (0, 0)
        assert account.day is not None
        assert account.day.spent / NANO == pytest.approx(sum(costs), abs=1e-9)
        # A rate is of the answer's tokens: the one that was late has given none.
        assert account.tokens_used == answer.json()["usage"]["total_tokens"]


async def test_room_for_one_of_them_is_none(late: StandIn, sooner: StandIn, tmp_path: Path) -> None:
    """What is left would pay the dearer one alone."""
    async with serving(hedged(late, sooner), tmp_path, key=True, quota=Quota(day=0.025)) as served:
        answer = await served.chat("hello", max_tokens=WORDS)
        assert answer.status_code == 429
        assert "this request may cost" in answer.text
        assert (await served.chat("hello", model="p1/m", max_tokens=WORDS)).status_code == 200
    assert not late.seen


async def test_however_many_are_asked_twice_at_two_workers_no_budget_is_passed(
    late: StandIn, sooner: StandIn, tmp_path: Path
) -> None:
    quota = Quota(day=0.25)
    with servers.redis() as redis:
        configuration = hedged(late, sooner, server=Server(coordinator=redis.url))
        async with working(configuration, sooner, tmp_path, 2, quota) as workers:
            await workers.known()
            statuses = await workers.ask(60, max_tokens=WORDS)
            assert set(statuses) == {200, 429}
            while 200 in await workers.ask(10, max_tokens=WORDS):
                pass
            await _settled(workers)
            spent = await workers.spent()
            told = await workers.told()
    assert late.seen
    assert spent <= 0.25
    assert told["day"]["used"] == pytest.approx(spent, abs=1e-9)


async def _settled(workers: Workers) -> None:
    await workers.settled()
    row = (await workers.served[0].gateway.limiter.shown())[0]
    assert row["reserved_usd"] == 0
