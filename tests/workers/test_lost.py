"""What is lost with a whole host, and with the database: as docs/scaling.md says, and no more."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from gateway.standin.behaviour import Fault, FaultKind
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.reader import Reader
from gateway.store.store import Store
from gateway.types.limits import Quota
from tests import servers
from tests.gateway.files import ROUTE, write
from tests.store.world import until
from tests.workers.support import Running, serving, shared, texts
from tests.workers.test_together import SERVES, asked, comes


class Load(msgspec.Struct):
    """What requests to a host came to."""

    host: Running
    ids: dict[str, float] = {}
    """The instant (monotonic) at which each answer was there, by the request's id."""
    failed: list[str] = []
    stopped: bool = False

    async def run(self) -> None:
        """One request after the other, each on a connection of its own."""
        while not self.stopped:
            try:
                answer = await asked(self.host)
            except httpx.HTTPError as error:
                self.failed.append(repr(error))
                continue
            if answer.status_code == 200:
                self.ids[answer.headers["x-request-id"]] = time.monotonic()
            else:
                self.failed.append(answer.text)

    async def more(self, count: int) -> None:
        """Back when so many more are answered."""
        many = len(self.ids) + count

        async def enough() -> bool:
            return len(self.ids) >= many

        await comes(enough, 60.0)


@asynccontextmanager
async def loaded(host: Running) -> AsyncIterator[Load]:
    load = Load(host)
    asking = [asyncio.create_task(load.run()) for _ in range(2)]
    try:
        yield load
    finally:
        load.stopped = True
        await asyncio.gather(*asking)


def psql(url: str, *words: str) -> None:
    command = [servers.program("psql"), "-qX", "-v", "ON_ERROR_STOP=1", url, *words]
    subprocess.run(command, check=True, capture_output=True)


async def ended(host: Running) -> None:
    """In order; one without workers ends by the signal itself."""
    host.process.send_signal(signal.SIGTERM)
    assert await host.ended() in (0, -signal.SIGTERM)


async def test_a_host_takes_what_lay_in_its_spool_and_nothing_of_the_others(
    tmp_path: Path, provider: StandIn
) -> None:
    with servers.postgres() as database, servers.redis() as coordinator:
        homes = [tmp_path / name for name in ("first", "second")]
        for home in homes:
            home.mkdir()
            write(home, provider.url, shared(database.url, coordinator.url))
        async with serving(homes[0]) as first, serving(homes[1], workers=1) as second:
            for host in (first, second):
                host.url = await host.says(r"serves (http://\S+)")
            async with loaded(second) as on_second:
                async with loaded(first) as on_first:
                    await on_first.more(12)
                    away = time.monotonic()
                    database.kill()
                    await on_first.more(12)
                spool = homes[0] / ".switchboard" / "spool"
                await asyncio.to_thread(until, lambda: any(spool.glob("*/*.rows")))
                for pid in (first.process.pid, *await first.pids()):
                    os.kill(pid, signal.SIGKILL)
                await first.ended()
                shutil.rmtree(homes[0])
                database.start()
                await on_second.more(12)
            spool = homes[1] / ".switchboard" / "spool"
            await asyncio.to_thread(until, lambda: not any(spool.glob("*/*.rows")))
            await ended(second)
        store = Store.open(database.url)
        kept = [row["id"] for row in Reader(store).recent(limit=None)]
        store.close()
    assert not on_first.failed
    assert not on_second.failed
    assert len(kept) == len(set(kept))
    assert set(on_second.ids) <= set(kept)
    lost = set(on_first.ids) - set(kept)
    assert lost
    # What was written before lies in the database; half a second and a write were under way.
    assert all(on_first.ids[id] >= away - 3.0 for id in lost)


async def test_a_killed_processs_place_among_those_at_once_is_free_again(
    tmp_path: Path, provider: StandIn, database: str, redis_server: servers.RealServer
) -> None:
    store = Store.open(database)
    token = Keys(store).create("app", quota=Quota(concurrent=1)).secret
    store.close()
    homes = [tmp_path / name for name in ("first", "second")]
    for home in homes:
        home.mkdir()
        write(home, provider.url, shared(database, redis_server.url))
    async with serving(homes[0], workers=1) as first, serving(homes[1], workers=1) as second:
        for host in (first, second):
            host.url, host.token = await host.says(r"serves (http://\S+)"), token
        provider.next(Fault(kind=FaultKind.HANG_BEFORE_HEAD))
        holding = asyncio.create_task(asked(first))
        async with asyncio.timeout(20):
            await provider.arrived()
        while (refused := await asked(second)).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        first.process.kill()
        killed = time.monotonic()
        with pytest.raises(httpx.HTTPError):
            await holding
        while (answer := await asked(second)).status_code == 429:
            assert time.monotonic() - killed < 30
            await asyncio.sleep(0.25)
        took = time.monotonic() - killed
        await ended(second)
    assert "1 requests at once, 1 under way" in refused.json()["error"]["message"]
    assert answer.status_code == 200
    # Ten seconds after Redis heard of it last, which was up to two before.
    assert 7.5 < took < 12.0


async def test_a_lost_database_takes_what_it_had_and_no_request_with_it(
    home: Path, database: str, tmp_path: Path
) -> None:
    store = Store.open(database)
    keys = Keys(store)
    boss, app = keys.create("boss", role="admin").secret, keys.create("app").secret
    async with serving(home) as running:
        running.url, running.token = await running.says(SERVES), boss
        (first,) = {worker["snapshot"] for worker in (await running.ready())["workers"]}
        before = {(await asked(running)).headers["x-request-id"] for _ in range(3)}
        reader = Reader(store)
        await asyncio.to_thread(until, lambda: len(reader.recent(limit=None)) == len(before))
        dump = tmp_path / "dump.sql"
        made = [servers.program("pg_dump"), "--clean", "--if-exists", "-f", str(dump), database]
        await asyncio.to_thread(subprocess.run, made, check=True, capture_output=True)

        late = keys.create("late").secret
        running.token = late
        await comes(lambda: _is(running, 200))
        running.token = boss
        (home / "routes/legal.yaml").write_text(ROUTE.format(name="legal"))
        async with running.client() as client:
            assert (await client.post("/admin/revisions", json=texts(home))).is_success
        keys.revoke("boss")
        await comes(lambda: _is(running, 401))

        running.token = app
        async with loaded(running) as load:
            await load.more(10)
            await asyncio.to_thread(psql, database, "-f", str(dump))
            await load.more(10)

        running.token = boss  # it was revoked after the dump, so nobody knows that it was
        await comes(lambda: _is(running, 200))

        async def back() -> bool:
            # A worker that has not yet seen the key again tells no detail.
            told = (await running.ready()).get("workers", [])
            return {each["snapshot"] for each in told} == {first}

        await comes(back)
        running.token = late
        await comes(lambda: _is(running, 401))
        await comes(lambda: _kept(reader, before))

        # Now an empty one in its place, and nothing to restore it from.
        running.token = app
        spool = home / ".switchboard" / "spool"
        async with loaded(running) as after:
            await after.more(10)
            anew = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
            await asyncio.to_thread(psql, database, "-c", anew)
            lost = set(after.ids)
            await asyncio.to_thread(until, lambda: any(spool.glob("*/*.rows")))
            Store.open(database).close()  # as `switchboard migrate` does
            await after.more(10)
        await asyncio.to_thread(until, lambda: not any(spool.glob("*/*.rows")))
        running.token = None
        assert await _is(running, 401)  # no key is in it, and no door is open
        await ended(running)
    kept = {row["id"] for row in reader.recent(limit=None)}
    store.close()
    assert not load.failed
    assert not after.failed
    assert set(after.ids) - lost <= kept


async def _kept(reader: Reader, ids: set[str]) -> bool:
    return ids <= {row["id"] for row in reader.recent(limit=None)}


async def _is(running: Running, status: int) -> bool:
    """At either worker, as far as six connections tell."""
    return {(await asked(running)).status_code for _ in range(6)} == {status}
