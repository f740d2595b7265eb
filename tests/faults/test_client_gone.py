"""The client's side of it: whoever goes away, whenever, leaves no backend at work."""

import asyncio
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import pytest

from gateway.standin import Behaviour, Fault, FaultKind, Seen, StandIn
from gateway.types.backends import Admission
from gateway.types.policies import Policy
from gateway.types.snapshot import Server
from tests.faults.client import request_bytes
from tests.gateway.support import Served, serving, snapshot, target

WITHIN_S = 0.1
"""From the client's going to the backend's seeing it: half of the times at least, as a busy machine
may take longer."""

TIMES = 5

HANGS = Fault(kind=FaultKind.HANG_BEFORE_HEAD)
STALLS = Fault(kind=FaultKind.HANG, after=2)
FAILS = Fault(kind=FaultKind.STATUS, status=500)
ENDLESS = Fault(kind=FaultKind.ENDLESS, after=1, seconds=0.0)
BUSY = Fault(kind=FaultKind.STATUS, status=503, retry_after=2.0)


class Left(msgspec.Struct, frozen=True):
    """One client that went away: what its backend saw, and how long that took, in seconds."""

    seen: Seen
    after_s: float


async def leaves(served: Served, provider: StandIn, nth: int, *, stream: bool, wait: bytes) -> Left:
    """Asks, waits for the backend's call (and those bytes of the answer), and is gone."""
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
    if stream:
        body["stream"] = True
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request_bytes(body))
    seen = await asyncio.wait_for(provider.arrived(nth), 10)
    if wait:
        await asyncio.wait_for(reader.readuntil(wait), 10)
    loop = asyncio.get_running_loop()
    gone_at = loop.time()
    writer.transport.abort()
    await asyncio.wait_for(seen.aborted.wait(), 10)
    return Left(seen, loop.time() - gone_at)


async def rows(served: Served, count: int) -> list[dict[str, Any]]:
    """The whole rows of so many requests, as soon as they are kept."""
    reader = served.gateway.reader
    async with asyncio.timeout(10):
        while True:
            await asyncio.to_thread(served.gateway.writer.flush)
            listed = reader.recent(limit=None)
            if len(listed) >= count:
                found = [reader.find(row["id"]) for row in listed]
                return [row for row in found if row is not None]
            await asyncio.sleep(0)


@pytest.mark.parametrize("candidates", [1, 2])
@pytest.mark.parametrize(
    ("stream", "fault", "wait"),
    [(True, HANGS, b""), (True, STALLS, b"two"), (False, HANGS, b"")],
    ids=["before the first token", "in mid-stream", "whole"],
)
async def test_the_backend_is_hung_up_on_at_once(
    candidates: int, stream: bool, fault: Fault, wait: bytes, tmp_path: Path
) -> None:
    """With two candidates the first has failed by then, and it is the second that works."""
    words = Behaviour(answer=lambda _: "one two three", fault=fault)
    async with StandIn(Behaviour(fault=FAILS)) as failing, StandIn(words) as working:
        targets = [target("failing/m", failing.url), target("working/m", working.url)]
        targets = targets[2 - candidates :]
        policy = Policy("quality", tries=3, retries=0)
        made = snapshot(targets, policies={"quality": policy})
        async with serving(made, tmp_path) as served:
            left = [
                await leaves(served, working, n + 1, stream=stream, wait=wait) for n in range(TIMES)
            ]
            kept = await rows(served, TIMES)
            await asyncio.wait_for(working.until(lambda: working.running == 0), 10)
    assert median(each.after_s for each in left) <= WITHIN_S
    assert len(working.seen) == TIMES
    for row in kept:
        assert row["outcome"] == "abandoned"
        assert row["status"] == (200 if wait else 499)
        assert [each["outcome"] for each in row["attempts"]][-1] == "abandoned"
        assert len(row["attempts"]) <= candidates
        assert row["estimated"] or not wait


async def test_nobody_is_asked_after_the_client_left_while_waiting_to_try_again(
    tmp_path: Path,
) -> None:
    async with StandIn(Behaviour(fault=BUSY)) as busy:
        policy = Policy("quality", tries=1, retries=3)
        made = snapshot([target("busy/m", busy.url)], policies={"quality": policy})
        async with serving(made, tmp_path) as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            body = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
            writer.write(request_bytes(body))
            seen = await asyncio.wait_for(busy.arrived(), 10)
            await asyncio.wait_for(seen.answered.wait(), 10)
            writer.transport.abort()
            (row,) = await rows(served, 1)
    assert row["outcome"] == "abandoned"
    assert [each["status"] for each in row["attempts"]] == [503]
    assert len(busy.seen) == 1


async def test_nobody_is_asked_after_the_client_left_while_waiting_for_its_turn(
    tmp_path: Path,
) -> None:
    async with StandIn(Behaviour(fault=HANGS)) as provider:
        made = snapshot([target("p/m", provider.url)])
        bound = msgspec.structs.replace(
            made.backends["p"], admission=Admission(concurrent=1, wait=30.0)
        )
        made = msgspec.structs.replace(made, backends={"p": bound})
        async with serving(made, tmp_path) as served:
            body = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
            _, first = await asyncio.open_connection("127.0.0.1", served.port)
            first.write(request_bytes(body))
            seen = await asyncio.wait_for(provider.arrived(), 10)
            _, second = await asyncio.open_connection("127.0.0.1", served.port)
            second.write(request_bytes(body))
            entrance = served.gateway.entrances.at("p", provider.url)
            async with asyncio.timeout(10):
                while not entrance.waiting:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0)
            second.transport.abort()
            (row,) = await rows(served, 1)
            first.transport.abort()
            await asyncio.wait_for(seen.aborted.wait(), 10)
    assert row["outcome"] == "abandoned"
    assert row["attempts"] == []
    assert len(provider.seen) == 1


async def asked_for_a_stream(
    served: Served,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with a stream asked for, which reads only what it is told to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=4096)
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    writer.write(request_bytes(body))
    return reader, writer


async def test_a_client_that_never_reads_holds_the_backend_back_and_no_memory(
    tmp_path: Path,
) -> None:
    """An endless answer stops at what connections take, and goes when the client does."""
    endless = Behaviour(lambda _: "one two three", fault=ENDLESS)
    async with StandIn(endless) as provider:
        made = snapshot([target("p/m", provider.url)])
        async with serving(made, tmp_path) as served:
            reader, writer = await asked_for_a_stream(served)
            seen = await asyncio.wait_for(provider.arrived(), 10)
            await asyncio.wait_for(reader.readuntil(b"data: "), 10)
            before = resident_bytes()
            await asyncio.sleep(0.5)
            assert resident_bytes() - before < 32 * 1024 * 1024
            writer.transport.abort()
            await asyncio.wait_for(seen.aborted.wait(), 10)
            (row,) = await rows(served, 1)
    assert row["outcome"] == "abandoned"


async def test_a_client_that_stops_reading_is_as_good_as_gone(tmp_path: Path) -> None:
    """Its place, its backend and its limits are not held until it happens to leave."""
    endless = Behaviour(lambda _: "one two three", fault=ENDLESS)
    async with StandIn(endless) as provider:
        made = snapshot([target("p/m", provider.url)], server=Server(body_timeout=0.5))
        async with serving(made, tmp_path) as served:
            reader, writer = await asked_for_a_stream(served)
            seen = await asyncio.wait_for(provider.arrived(), 10)
            await asyncio.wait_for(reader.readuntil(b"data: "), 10)
            try:
                await asyncio.wait_for(seen.aborted.wait(), 10)
                (row,) = await rows(served, 1)
                running = served.gateway.entrances.at("p", provider.url).running
            finally:
                writer.transport.abort()
    assert (row["outcome"], row["status"]) == ("abandoned", 200)
    assert [each["outcome"] for each in row["attempts"]] == ["abandoned"]
    assert running == 0


async def test_a_client_that_stops_reading_has_no_more_time_than_its_request(
    tmp_path: Path,
) -> None:
    """Its time to catch up is longer, and a whole answer's is over first."""
    endless = Behaviour(lambda _: " ".join(3 * ["long" * 10_000]), fault=ENDLESS)
    async with StandIn(endless) as provider:
        policy = Policy("quality", tries=1, retries=0, total_s=1.0)
        made = snapshot([target("p/m", provider.url)], policies={"quality": policy})
        async with serving(made, tmp_path) as served:
            _, writer = await asked_for_a_stream(served)
            try:
                (row,) = await rows(served, 1)
                running = served.gateway.entrances.at("p", provider.url).running
            finally:
                writer.transport.abort()
    assert (row["outcome"], row["status"]) == ("truncated", 200)
    assert running == 0


async def test_an_endless_answer_is_relayed_in_flat_memory_until_its_time_is_over(
    tmp_path: Path,
) -> None:
    endless = Behaviour(lambda _: "one two three", fault=ENDLESS)
    async with StandIn(endless) as provider:
        policy = Policy("quality", tries=1, retries=0, total_s=2.0)
        made = snapshot([target("p/m", provider.url)], policies={"quality": policy})
        async with serving(made, tmp_path) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            writer.write(request_bytes(body))
            await asyncio.wait_for(reader.readexactly(1_000_000), 20)
            before, size, last = resident_bytes(), 0, b""
            async with asyncio.timeout(30):
                while piece := await reader.read(262_144):
                    size += len(piece)
                    last = (last + piece)[-400:]
            writer.close()
            grown = resident_bytes() - before
    assert b"stream_truncated" in last
    assert last.endswith(b"\n\n\r\n0\r\n\r\n")
    assert grown < 16 * 1024 * 1024, (grown, size)


def resident_bytes() -> int:
    """Of this process, in which all of them are."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096
