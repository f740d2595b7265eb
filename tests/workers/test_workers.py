"""Several real worker processes on one port, with a real PostgreSQL and a real Redis."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from gateway.standin.behaviour import Behaviour, to_length
from gateway.standin.standin import StandIn
from gateway.store.reader import Reader
from gateway.store.revisions import Revisions
from gateway.store.store import Store
from tests.gateway.files import write
from tests.servers import RealServer
from tests.store.world import until
from tests.workers.support import alive, chat, serving, shared


async def test_workers_share_a_port_a_log_and_their_metrics_and_end_together(
    home: Path, database: str
) -> None:
    async with serving(home) as running:
        running.url = await running.says(r"serves (http://\S+) \(2 workers")
        pids = await running.pids()
        async with httpx.AsyncClient(
            base_url=running.url, limits=httpx.Limits(max_keepalive_connections=0), timeout=20
        ) as client:
            answers = await asyncio.gather(*(chat(client) for _ in range(40)))
        for _ in range(3):  # whichever worker is asked
            assert await running.total("switchboard_requests_total") == 40
        assert await running.total("switchboard_workers") == 2
        async with serving(home, "--listen", running.url.removeprefix("http://")) as second:
            assert await second.ended() == 1
        running.process.send_signal(signal.SIGTERM)
        code = await running.ended()
    assert code == 0
    assert "in use" in second.printed
    assert {answer.status_code for answer in answers} == {200}
    assert not any(alive(pid) for pid in pids)
    store = Store.open(database)
    kept = {row["id"] for row in Reader(store).recent(limit=100)}
    store.close()
    assert kept == {answer.headers["x-request-id"] for answer in answers}


async def test_a_worker_that_is_killed_is_started_again_and_no_counter_goes_back(
    home: Path,
) -> None:
    async with serving(home) as running:
        running.url = await running.says(r"serves (http://\S+) \(2 workers")
        before = await running.pids()
        async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
            assert (await chat(client)).status_code == 200
        counted = await running.total("switchboard_requests_total")
        assert counted == 1
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await running.says(r"(worker 0 ended with -9; started again)")
        await running.says(r"(worker 1 ended with -9; started again)")
        # A connection made meanwhile waits for the next worker: it is not refused.
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            assert (await chat(client)).status_code == 200
        assert await running.total("switchboard_requests_total") == counted + 1
        assert await running.total("switchboard_worker_restarts_total") == 2
        after = await running.pids()
        assert not set(before) & set(after)
        running.process.send_signal(signal.SIGINT)
        assert await running.ended() == 0


async def test_no_worker_outlives_a_supervisor_that_is_killed_and_no_stream_breaks_off(
    tmp_path: Path, database: str, redis_server: RealServer
) -> None:
    slow = Behaviour(answer=lambda _: to_length("one two three", 20), between_tokens_s=0.05)
    async with StandIn(slow) as provider:
        write(tmp_path, provider.url, shared(database, redis_server.url))
        async with serving(tmp_path) as running:
            running.url = await running.says(r"serves (http://\S+) \(2 workers")
            pids = await running.pids()
            async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
                asking = [asyncio.create_task(chat(client, stream=True)) for _ in range(8)]
                async with asyncio.timeout(30):
                    await provider.until(lambda: provider.running == 8)
                running.process.kill()
                answers = await asyncio.gather(*asking)
            await asyncio.to_thread(until, lambda: not any(alive(pid) for pid in pids))
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    store = Store.open(database)
    rows = {row["id"]: row["outcome"] for row in Reader(store).recent(limit=100)}
    store.close()
    assert rows == {answer.headers["x-request-id"]: "ok" for answer in answers}


async def test_what_is_under_way_ends_well(
    tmp_path: Path, database: str, redis_server: RealServer
) -> None:
    slow = Behaviour(answer=lambda _: to_length("one two three", 20), between_tokens_s=0.05)
    async with StandIn(slow) as provider:
        write(tmp_path, provider.url, shared(database, redis_server.url))
        async with serving(tmp_path) as running:
            running.url = await running.says(r"serves (http://\S+) \(2 workers")
            async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
                asking = [asyncio.create_task(chat(client, stream=True)) for _ in range(8)]
                async with asyncio.timeout(30):
                    await provider.until(lambda: provider.running == 8)
                running.process.send_signal(signal.SIGTERM)
                answers = await asyncio.gather(*asking)
            assert await running.ended() == 0
    assert all("data: [DONE]" in answer.text for answer in answers)


@pytest.mark.parametrize("new", [True, False], ids=["a new store", "a store of keys"])
async def test_several_without_what_they_need_are_refused_with_the_lines_to_add(
    tmp_path: Path, new: bool
) -> None:
    url = f"sqlite:///{tmp_path}/switchboard.db"
    if not new:
        Store.open(url).close()
    write(tmp_path, "http://127.0.0.1:9/v1", shared(url, "redis://127.0.0.1:1"))
    text = (tmp_path / "gateway.yaml").read_text()
    without = [line for line in text.splitlines() if not line.startswith("coordinator:")]
    (tmp_path / "gateway.yaml").write_text("\n".join(without))
    async with serving(tmp_path) as running:
        assert await running.ended() == 1
    assert "add the line `coordinator: redis://HOST:6379`" in running.printed
    assert "`store: postgresql://USER@HOST/DATABASE`" in running.printed
    # Nothing of it is left behind: what is mended is the first that is served.
    assert (tmp_path / "switchboard.db").exists() is not new
    book = Revisions(Store.open(url))
    assert book.latest() is None
    assert book.homes() == set()
