"""The limits of the server's protocol, over raw sockets: each answer is a proper HTTP error."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvicorn

from gateway.http.cycle import CYCLE
from gateway.http.pressure import Pressure
from gateway.http.protocol import limited
from gateway.types.snapshot import Server


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    body = message["body"]
    head = {"type": "http.response.start", "status": 200}
    await send({**head, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served(
    app: Any, limits: Server, keep_alive: int = 5, pressure: Pressure | None = None
) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app,
        port=0,
        http=limited(limits, pressure),
        lifespan="off",
        log_level="critical",
        timeout_keep_alive=keep_alive,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


async def talk(port: int, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Sends the pieces, then reads until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    raw = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return parsed(raw)


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


def error_of(body: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


SMALL = Server(max_head=2000, max_body=1000, head_timeout=0.2, body_timeout=0.2)


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 3000, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 3000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000000\r\n\r\n", 413, None),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "missing_host"),
        (b"this is not http\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nslow", 408, "request_timeout"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab", 408, "request_timeout"),
    ],
)
async def test_refuses(request_bytes: bytes, status: int, code: str | None) -> None:
    async with served(echo, SMALL) as port:
        got, headers, body = await talk(port, request_bytes)
    assert got == status
    assert headers["connection"] == "close"
    assert error_of(body)["code"] == (code or "body_too_large")


async def test_a_chunked_body_over_the_limit_is_refused_while_it_comes() -> None:
    chunk = b"190\r\n" + b"x" * 400 + b"\r\n"
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    async with served(echo, SMALL) as port:
        status, _, body = await talk(port, head, chunk, chunk, chunk)
    assert (status, error_of(body)["code"]) == (413, "body_too_large")


async def test_a_silent_connection_is_closed_without_an_answer() -> None:
    async with served(echo, SMALL) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_over_the_limit_of_open_requests_is_503_with_retry_after() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await leave.wait()
        await echo(scope, receive, send)

    request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    async with served(wait, msgspec.structs.replace(SMALL, max_open=1)) as port:
        first = asyncio.create_task(talk(port, request))
        await asyncio.wait_for(entered.wait(), 10)
        status, headers, body = await talk(port, request)
        leave.set()
        assert (await first)[0] == 200
    assert (status, headers["retry-after"]) == (503, "1")
    assert error_of(body)["code"] == "too_many_open_requests"


async def test_pipelined_requests_are_answered_in_order() -> None:
    def request(body: bytes, close: bool) -> bytes:
        end = b"connection: close\r\n" if close else b""
        return b"POST / HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n%s" % (
            end,
            len(body),
            body,
        )

    async with served(echo, SMALL) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"one", False) + request(b"two", False) + request(b"three", True))
        raw = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert [part.rsplit(b"\r\n\r\n", 1)[1] for part in raw.split(b"HTTP/1.1 200 OK")[1:]] == [
        b"one",
        b"two",
        b"three",
    ]


async def test_a_bad_request_behind_a_good_one_leaves_the_good_ones_answer_alone() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await leave.wait()
        await echo(scope, receive, send)

    async with served(wait, SMALL) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\ngood")
        await asyncio.wait_for(entered.wait(), 10)
        writer.write(b"this is not http\r\n\r\n")
        leave.set()
        raw = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    first, second = raw.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert first.endswith(b"\r\n\r\ngood")
    assert second.startswith(b"400")


async def test_an_offer_of_another_protocol_is_passed_over() -> None:
    offer = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
    async with served(echo, SMALL) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n" + offer + b"\r\nok")
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 10)
            assert answer.startswith(b"HTTP/1.1 200 OK")
        writer.close()


async def test_a_kept_connection_is_closed_when_it_is_idle_for_too_long() -> None:
    async with served(echo, SMALL, keep_alive=1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 10)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


@pytest.mark.parametrize("starts", [False, True])
async def test_an_application_that_fails_gives_a_500_or_a_broken_answer(starts: bool) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        if starts:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("a defect")

    async with served(broken, SMALL) as port:
        status, _, body = await talk(port, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert status == (200 if starts else 500)
    assert body.startswith(b"4\r\nhalf\r\n" if starts else b'{"error":')
    assert not body.endswith(b"0\r\n\r\n")


async def test_a_chunked_body_in_many_pieces_arrives_whole() -> None:
    raw = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    raw += b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with served(echo, SMALL) as port:
        status, _, body = await talk(port, *(raw[i : i + 1] for i in range(len(raw))))
    assert (status, body) == (200, b"abcde")


async def test_expect_continue_is_answered_before_the_body_is_sent() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    async with served(echo, SMALL) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.write(b"ok")
        answer = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        writer.close()
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_a_pipelined_expect_continue_is_answered_in_its_turn() -> None:
    leave = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/second":
            return await echo(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await leave.wait()
        await send({"type": "http.response.body", "body": b"two"})

    first = b"GET /first HTTP/1.1\r\nhost: x\r\n\r\n"
    second = b"POST /second HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
    async with served(slow, SMALL) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first + second + b"content-length: 2\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"one\r\n"), 10)
        await asyncio.sleep(2 * SMALL.body_timeout)  # waiting for its turn, it is not too slow
        leave.set()
        rest = await asyncio.wait_for(reader.readuntil(b"100 Continue\r\n\r\n"), 10)
        writer.write(b"ok")
        answer = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
        writer.close()
    assert rest == b"3\r\ntwo\r\n0\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("more", [b"x: y", b"content-length: 2\r\n\r\n"])
async def test_who_expects_to_be_asked_has_no_more_time(more: bytes) -> None:
    whole = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    slow = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n" + more
    async with served(echo, SMALL) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(whole + slow)
        raw = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert b"HTTP/1.1 408" in raw


async def test_a_client_that_goes_away_cancels_what_was_registered() -> None:
    entered: asyncio.Event = asyncio.Event()
    cancelled: asyncio.Event = asyncio.Event()

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        scope[CYCLE].cancels = True
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()

    async with served(hang, SMALL) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(entered.wait(), 10)
        writer.transport.abort()
        await asyncio.wait_for(cancelled.wait(), 10)


async def test_a_second_request_on_a_kept_connection() -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n%d"
    async with served(echo, SMALL) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(3):
            writer.write(request % number)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert answer.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(1) == b"%d" % number
        writer.close()
