"""Shedding by the loop's own lateness: how much, and how it is answered."""

import asyncio
import contextlib
import itertools
from typing import Any

from gateway.http.pressure import FEW, LATE_S, MOST, Pressure
from gateway.types.snapshot import Server
from tests.http.test_protocol import echo, error_of, parsed, served


def test_nobody_is_turned_away_while_the_loop_keeps_up() -> None:
    pressure = Pressure()
    for _ in range(100):
        pressure.saw(0.5 * LATE_S)
    assert (pressure.share, pressure.sheds(already=FEW), pressure.shed) == (0.0, False, 0)


def test_long_steps_now_and_then_are_no_pressure() -> None:
    pressure = Pressure()
    for _ in range(20):
        pressure.saw(30 * LATE_S)
        pressure.saw(0.5 * LATE_S)
    assert pressure.share == 0.0


def test_the_share_grows_to_its_bound_and_goes_back_to_none() -> None:
    pressure = Pressure()
    shares = []
    for _ in range(40):
        pressure.saw(1.0)
        shares.append(pressure.share)
    assert shares == sorted(shares)
    assert shares[-1] == MOST
    for _ in range(100):
        pressure.saw(0.0)
    assert pressure.share == 0.0


def test_it_settles_where_the_loop_is_about_as_late_as_it_may_be() -> None:
    """A loop with four times the work that it has time for, its lateness a queue's."""
    pressure, late = Pressure(), 0.0
    seen = []
    for _ in range(600):
        work = 4.0 * (1.0 - pressure.share) * 0.1
        late = max(0.0, late + work - 0.1)
        pressure.saw(late)
        seen.append((pressure.share, late))
    shares, lates = zip(*seen[300:], strict=True)
    assert 0.7 < sum(shares) / 300 < 0.8
    assert sum(lates) / 300 < 4 * LATE_S


async def test_ticks_are_measured_by_the_clock() -> None:
    times = itertools.count(0.0, 1.0)  # a second passes in each tick of a tenth

    async def sleep(_: float) -> None:
        if next(ticks) > 20:
            raise asyncio.CancelledError

    ticks = itertools.count()
    pressure = Pressure()
    with contextlib.suppress(asyncio.CancelledError):
        await pressure.watch(lambda: next(times), sleep)
    assert pressure.share > 0.5


async def test_who_is_turned_away_keeps_the_connection_and_others_pass() -> None:
    pressure = Pressure(draw=lambda: 0.5)
    asked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok"
    health = b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok"
    slow = b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok"
    reached: list[str] = []
    all_open, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        if reached.count("/slow") == FEW:
            all_open.set()
        if scope["path"] == "/slow":
            await ended.wait()
        await echo(scope, receive, send)

    async with served(app, Server(), pressure=pressure) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def talk(request: bytes) -> tuple[int, dict[str, str], bytes]:
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            status, headers, _ = parsed(head)
            return status, headers, await reader.readexactly(int(headers["content-length"]))

        pressure.share = 0.9
        assert (await talk(asked))[0] == 200  # no queue is shorter without it
        others = [await asyncio.open_connection("127.0.0.1", port) for _ in range(FEW)]
        for _, other in others:
            other.write(slow)
        await asyncio.wait_for(all_open.wait(), 10)
        status, headers, body = await talk(asked)
        assert (await talk(health))[0] == 200
        pressure.share = 0.4
        assert (await talk(asked))[0] == 200
        ended.set()
        for _, other in [*others, (reader, writer)]:
            other.close()
    assert (status, headers["retry-after"]) == (429, "1")
    assert "connection" not in headers
    assert error_of(body)["code"] == "overloaded"
    assert pressure.shed == 1
    passed = [path for path in reached if path != "/slow"]
    assert passed == ["/v1/chat/completions", "/health", "/v1/chat/completions"]
