"""What several workers, and several hosts, do as one: revisions, drains, keys, rows."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from gateway.standin.behaviour import Behaviour, Fault, FaultKind
from gateway.standin.standin import StandIn
from gateway.store.audit import ITSELF, AuditBook
from gateway.store.keys import Keys
from gateway.store.reader import Reader
from gateway.store.revisions import Revisions
from gateway.store.store import Store
from gateway.types.limits import Quota
from tests import servers
from tests.gateway.files import ROUTE, write
from tests.gateway.support import serving_home
from tests.store.world import until
from tests.workers.support import Running, chat, serving, shared, texts

SERVES = r"serves (http://\S+) \(2 workers"


async def comes(asked: Any, timeout_s: float = 30.0) -> Any:
    """The first answer that is not empty or false."""
    async with asyncio.timeout(timeout_s):
        while not (answer := await asked()):  # noqa: ASYNC110 - other processes have no event
            await asyncio.sleep(0.02)
        return answer


async def test_what_is_commanded_at_one_worker_holds_at_all_of_them_on_two_hosts(
    home: Path, database: str
) -> None:
    store = Store.open(database)
    token = Keys(store).create("ops", role="admin").secret
    async with serving(home) as first, serving(home) as second:
        first.url, second.url = await first.says(SERVES), await second.says(SERVES)
        hosts = (first, second)
        for host in hosts:
            host.token = token
        async with first.client() as client:

            async def all_serve_it() -> bool:
                seen = [(await host.ready())["workers"] for host in hosts]
                return {worker["snapshot"] for workers in seen for worker in workers} == {newest}

            took, newest = [], ""
            for name in ("legal", "tax", "travel"):
                (home / f"routes/{name}.yaml").write_text(ROUTE.format(name=name))
                applied = await client.post("/admin/revisions", json=texts(home))
                assert applied.is_success, applied.text
                began = time.monotonic()
                newest = applied.json()["hash"]
                await comes(all_serve_it)
                took.append(time.monotonic() - began)
            assert median(took) < 1.0, took

            drained = await client.post(
                "/admin/weights", json={"subject": "openai/mini", "share": 0, "force": True}
            )
            assert drained.is_success, drained.text

        async def refused_everywhere() -> bool:
            answers = [await asked(host) for host in hosts for _ in range(6)]
            return {answer.status_code for answer in answers} == {503}

        await comes(refused_everywhere)
        Keys(store).revoke("ops")

        async def unknown_everywhere() -> bool:
            answers = [await asked(host) for host in hosts for _ in range(6)]
            return {answer.status_code for answer in answers} == {401}

        await comes(unknown_everywhere)
        for host in hosts:
            host.process.send_signal(signal.SIGTERM)
        assert [await host.ended() for host in hosts] == [0, 0]
    store.close()


async def test_by_redis_all_serve_a_revision_before_they_look_at_the_store(home: Path) -> None:
    store = Store.open(f"sqlite:///{home}/switchboard.db")
    token = Keys(store).create("ops", role="admin").secret
    store.close()
    async with (
        serving_home(home, token) as first,
        serving_home(home, token, look_every_s=3600.0) as second,
    ):

        async def serves_it() -> bool:
            return second.gateway.running.seq == first.gateway.running.seq

        for name in (
            "legal",
            "tax",
            "travel",
        ):  # what is told while Redis is late is not told again
            (home / f"routes/{name}.yaml").write_text(ROUTE.format(name=name))
            applied = await first.client.post("/admin/revisions", json=texts(home))
            assert applied.is_success, applied.text
            with suppress(TimeoutError):
                await comes(serves_it, 5.0)
                break
        assert await serves_it()


async def asked(host: Running) -> httpx.Response:
    """One request over a connection of its own, so at either worker."""
    async with host.client() as client:
        return await chat(client)


async def test_200_at_once_at_four_processes_pass_no_budget(home: Path, database: str) -> None:
    store = Store.open(database)
    budget = 0.003
    token = Keys(store).create("spender", quota=Quota(day=budget)).secret
    async with serving(home, workers=4) as running:
        running.url = await running.says(r"serves (http://\S+) \(4 workers")
        running.token = token

        async def once() -> httpx.Response:
            async with running.client() as client:
                return await chat(client, max_tokens=5)

        async def at_once(count: int) -> set[int]:
            answers = await asyncio.gather(*(once() for _ in range(count)))
            refused = [answer.json()["error"] for answer in answers if answer.status_code == 429]
            assert all(error["type"] == "insufficient_quota" for error in refused)
            return {answer.status_code for answer in answers}

        assert await at_once(200) == {200, 429}
        while 200 in await at_once(20):
            pass
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    rows = Reader(store).recent(limit=1_000)
    store.close()
    assert {row["outcome"] for row in rows} == {"ok", "refused"}
    spent = sum(row["cost_usd"] for row in rows)
    dearest = 400e-6  # what one of these reserves at most, by its bytes
    assert budget - dearest < spent <= budget


async def test_a_killed_worker_takes_at_most_its_last_moment_of_rows(
    home: Path, database: str
) -> None:
    ends: dict[str, float] = {}
    async with serving(home) as running:
        running.url = await running.says(SERVES)
        pid = (await running.pids())[0]
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                try:
                    answer = await asked(running)
                except httpx.HTTPError:
                    continue  # its worker was killed under it
                if answer.status_code == 200:
                    ends[answer.headers["x-request-id"]] = time.monotonic()

        loading = [asyncio.create_task(load()) for _ in range(4)]
        await comes(lambda: _enough(ends, 100))
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        many = len(ends)
        await comes(lambda: _enough(ends, many + 50))
        stop.set()
        await asyncio.gather(*loading)
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    store = Store.open(database)
    kept = {row["id"] for row in Reader(store).recent(limit=None)}
    store.close()
    lost = set(ends) - kept
    # Half a second between two looks at the queue, and the time that a write takes; an answer that
    # was sent before may be read a while after.
    assert all(-3.0 <= killed - ends[id] <= 3.0 for id in lost), (len(lost), len(ends))
    assert len(lost) < len(ends) / 2


async def _enough(ends: dict[str, float], many: int) -> bool:
    return len(ends) >= many


async def test_no_row_is_lost_while_postgres_and_redis_are_killed_and_come_back(
    tmp_path: Path, provider: StandIn
) -> None:
    with servers.postgres() as database, servers.redis() as coordinator:
        write(tmp_path, provider.url, shared(database.url, coordinator.url))
        async with serving(tmp_path) as running:
            running.url = await running.says(SERVES)
            answers = [await asked(running) for _ in range(10)]
            database.kill()
            coordinator.kill()
            answers += [await asked(running) for _ in range(40)]
            spool = tmp_path / ".switchboard" / "spool"
            await asyncio.to_thread(until, lambda: any(spool.glob("*/*.rows")))
            database.start()
            coordinator.start()
            await asyncio.to_thread(until, lambda: not any(spool.glob("*/*.rows")))
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended() == 0
        store = Store.open(database.url)
        kept = [row["id"] for row in Reader(store).recent(limit=None)]
        store.close()
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(kept) == sorted(answer.headers["x-request-id"] for answer in answers)


async def hashes(running: Running) -> set[str]:
    """Which snapshots its workers serve."""
    return {worker["snapshot"] for worker in (await running.ready())["workers"]}


async def test_all_workers_go_back_when_one_of_them_sees_worse(home: Path, database: str) -> None:
    """All requests go to one worker: what it sees is in the store, and whoever looks goes back."""
    store = Store.open(database)
    token = Keys(store).create("ops", role="admin").secret
    async with (
        serving(home) as running,
        StandIn(Behaviour(fault=Fault(kind=FaultKind.STATUS, status=500))) as broken,
    ):
        running.url = await running.says(SERVES)
        running.token = token
        async with running.client() as client:  # one connection, so one worker
            for _ in range(25):
                assert (await chat(client)).status_code == 200
            (good,) = await hashes(running)
            text = (home / "gateway.yaml").read_text()
            url = next(line for line in text.splitlines() if "url:" in line)
            (home / "gateway.yaml").write_text(text.replace(url, f"    url: {broken.url}"))
            body = {**texts(home), "guard": {"window": 120}}
            assert (await client.post("/admin/revisions", json=body)).is_success

            async def went_back() -> bool:
                await chat(client)
                return len(Revisions(store).list()) == 3

            await comes(went_back)
            began = time.monotonic()

            async def all_serve_it() -> bool:
                return await hashes(running) == {good}

            await comes(all_serve_it)
            assert time.monotonic() - began < 10  # a second, on a machine that does nothing else
            assert (await chat(client)).status_code == 200

            # A rollback by a command is as quick; what the guard left is not come back to.
            (home / "gateway.yaml").write_text(text + "aliases: {other: auto}\n")
            assert (await client.post("/admin/revisions", json=texts(home))).is_success
            began = time.monotonic()
            back = await client.post("/admin/rollback", json={})
            assert back.is_success, back.text
            await comes(all_serve_it)
            assert time.monotonic() - began < 10
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    kinds = [(each.seq, each.kind, each.verdict[:11]) for each in Revisions(store).list()]
    audit = [each for each in AuditBook(store).list() if each.name == ITSELF]
    store.close()
    assert kinds == [
        (5, "rollback", ""),
        (4, "apply", ""),
        (3, "guard", ""),
        (2, "apply", "rolled back"),
        (1, "start", ""),
    ]
    assert [(each.action, each.subject) for each in audit] == [("guard rollback", "revision 2")]
