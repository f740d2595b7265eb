"""Alerts about budgets: signed, tried again, told once, and nowhere but where was declared."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.limits.accounts import Account, Budget
from gateway.limits.alerts import BudgetAlerts
from gateway.standin.behaviour import Behaviour, say
from gateway.standin.standin import StandIn
from gateway.store.spending import SpendingBook
from gateway.store.store import Store, StoreError
from gateway.types.backends import Price
from gateway.types.limits import NANO, Alerts, Quota, Quotas
from tests import servers
from tests.gateway.support import serving, snapshot, target
from tests.limits.shared import configured, working

AT = 1_764_028_800.0
SECRET = "hush"


class Webhook:
    """A receiver that answers as it is told, and keeps what came."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.paths: list[str] = []
        self.heard: list[tuple[str, bytes]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        self.paths.append(head.split()[1])
        status = self.statuses.pop(0) if self.statuses else 204
        if status == 204:
            self.heard.append((headers["x-switchboard-signature"], body))
        more = f"location: {self.url}/elsewhere\r\n" if status == 307 else ""
        answer = f"HTTP/1.1 {status} X\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n"
        writer.write(answer.encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def webhook() -> AsyncIterator[Webhook]:
    hook = Webhook()
    server = await asyncio.start_server(hook.serve, "127.0.0.1", 0)
    hook.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield hook


async def until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def spent(account: Account, share: float) -> Budget:
    account.roll(0, AT)
    assert account.day is not None
    account.day.own = round(share * account.day.limit)
    account.book()
    return account.day


async def test_each_share_is_told_once_by_all_workers_signed_and_tried_again(
    tmp_path: Path,
) -> None:
    book = SpendingBook(Store.open(f"sqlite:///{tmp_path}/s.db"))
    waited: list[float] = []

    async def claim(account: str, period: str, starts: float, share: float) -> bool:
        return await asyncio.to_thread(book.claim_alert, account, period, starts, share, AT)

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async with webhook() as hook, httpx.AsyncClient(trust_env=False) as http:
        hook.statuses = [500, 307, 429]
        workers = [BudgetAlerts(http, claim, now=lambda: AT, sleep=sleep) for _ in range(2)]
        for worker in workers:
            worker.alerts = Alerts((0.5, 0.8, 1.0), f"{hook.url}/x?token=t", SECRET)
            account = Account("tenant:acme", "tenant 'acme'", Quota(day=10.0))
            budget = spent(account, 0.6)
            assert worker.passed(account, "day", budget) == 8 * NANO
            assert worker.passed(account, "day", budget) == 8 * NANO
        await until(lambda: hook.heard)
        assert worker.passed(account, "day", spent(account, 1.5)) == float("inf")
        await until(lambda: len(hook.heard) == 3)
        for worker in workers:
            await worker.stop()
    assert len(waited) == 3
    assert set(hook.paths) == {"/x?token=t"}  # the redirect was not followed
    told = [json.loads(body) for _, body in hook.heard]
    assert sorted(each["share"] for each in told) == [0.5, 0.8, 1.0]
    assert told[0] == {
        "event": "budget.share_spent",
        "account": "tenant:acme",
        "who": "tenant 'acme'",
        "period": "day",
        "starts": "2025-11-25T00:00:00Z",
        "ends": "2025-11-26T00:00:00Z",
        "share": 0.5,
        "spent_usd": 6.0,
        "limit_usd": 10.0,
        "at": "2025-11-25T00:00:00Z",
    }
    signature, body = hook.heard[0]
    wanted = hmac.new(SECRET.encode(), b"%d." % AT + body, sha256).hexdigest()
    assert signature == f"t={int(AT)},v1={wanted}"


async def test_it_is_told_although_the_store_is_away_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with servers.postgres() as server:
        store = Store.open(server.url)
        book = SpendingBook(store)

        async def claim(account: str, period: str, starts: float, share: float) -> bool:
            return await asyncio.to_thread(book.claim_alert, account, period, starts, share, AT)

        async def sleep(_: float) -> None:
            """The store is there again when this one is over."""
            await asyncio.to_thread(server.start)

        async with webhook() as hook, httpx.AsyncClient(trust_env=False) as http:
            alerts = BudgetAlerts(http, claim, now=lambda: AT, sleep=sleep)
            alerts.alerts = Alerts((0.5,), hook.url, SECRET)
            server.stop()
            account = Account("key:a", "key 'a'", Quota(day=10.0))
            alerts.passed(account, "day", spent(account, 0.6))
            await until(lambda: hook.heard or alerts.failed)
            await alerts.stop()
        store.close()
    assert [json.loads(body)["share"] for _, body in hook.heard] == [0.5]
    assert caplog.text.count("who tells of the day's budget of key:a is not known yet") == 1


async def test_a_claim_that_may_be_our_own_is_said_to_be_in_doubt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was written, and the store went before it could say so."""
    claims = iter((StoreError("gone"), False))

    async def claim(*_: object) -> bool:
        said = next(claims)
        if isinstance(said, StoreError):
            raise said
        return said

    async def sleep(_: float) -> None: ...

    async with webhook() as hook, httpx.AsyncClient(trust_env=False) as http:
        alerts = BudgetAlerts(http, claim, now=lambda: AT, sleep=sleep)
        alerts.alerts = Alerts((0.5,), hook.url, SECRET)
        account = Account("key:a", "key 'a'", Quota(day=10.0))
        alerts.passed(account, "day", spent(account, 0.6))
        await until(lambda: "it may be that nobody tells" in caplog.text)
        await alerts.stop()
    assert hook.heard == []


async def test_nobody_hears_a_secret_where_nobody_could_be_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def claim(*_: Any) -> bool:
        return True

    async def sleep(_: float) -> None:
        """At once."""

    async with httpx.AsyncClient(trust_env=False) as http:
        alerts = BudgetAlerts(http, claim, now=lambda: AT, sleep=sleep)
        alerts.alerts = Alerts((0.5,), "http://127.0.0.1:1/path-token", SECRET)
        account = Account("key:a", "key 'a'", Quota(day=1.0))
        alerts.passed(account, "day", spent(account, 1.0))
        await until(lambda: alerts.failed == 1)
    assert "nobody could be told of the day's budget of key:a" in caplog.text
    assert "path-token" not in caplog.text
    assert SECRET not in caplog.text


async def test_a_gateway_tells_when_a_share_is_spent(tmp_path: Path) -> None:
    async with webhook() as hook, StandIn() as provider:
        priced = target("a/m", provider.url, price=Price(output=0.01), output_tokens=2.0)
        quotas = Quotas(alerts=Alerts((0.5, 1.0), hook.url, SECRET))
        configuration = snapshot([priced], quotas=quotas)
        async with serving(configuration, tmp_path, key=True, quota=Quota(month=0.1)) as served:
            for _ in range(6):
                assert (await served.chat("hello", max_tokens=2)).status_code == 200
            await until(lambda: len(hook.heard) == 1)
    (told,) = [json.loads(body) for _, body in hook.heard]
    assert (told["who"], told["share"], told["period"]) == ("key 'test'", 0.5, "month")
    assert told["spent_usd"] >= 0.05


async def test_alerts_declared_while_it_runs_tell_of_what_is_spent_already(tmp_path: Path) -> None:
    async with webhook() as hook, StandIn() as provider:
        priced = target("a/m", provider.url, price=Price(output=0.01), output_tokens=2.0)
        quota = Quota(month=0.1)
        async with serving(snapshot([priced]), tmp_path, key=True, quota=quota) as served:
            for _ in range(3):
                assert (await served.chat("hello", max_tokens=2)).status_code == 200
            for at in ((0.2,), (0.1, 0.2)):
                quotas = Quotas(alerts=Alerts(at, hook.url, SECRET))
                await served.gateway.swap(snapshot([priced], quotas=quotas))
                assert (await served.chat("hello", max_tokens=2)).status_code == 200
                await until(lambda: len(hook.heard) == len(at))  # noqa: B023 - within its turn
    assert [json.loads(body)["share"] for _, body in hook.heard] == [0.2, 0.1]


async def test_it_is_told_of_what_all_workers_have_spent(
    redis_server: servers.RealServer, tmp_path: Path
) -> None:
    """None of them has spent that share by itself."""
    async with webhook() as hook, StandIn(Behaviour(answer=say("word " * 20))) as provider:
        quotas = Quotas(alerts=Alerts((0.5,), hook.url, SECRET))
        configuration = configured(provider, redis_server.url, quotas=quotas)
        async with working(configuration, provider, tmp_path, 3, Quota(day=0.1)) as workers:
            await workers.known()
            while await workers.spent() < 0.051:
                assert set(await workers.ask(3, max_tokens=20)) == {200}
                await workers.settled()
            await until(lambda: hook.heard)
    (told,) = [json.loads(body) for _, body in hook.heard]
    assert told["share"] == 0.5
    assert told["spent_usd"] >= 0.05
