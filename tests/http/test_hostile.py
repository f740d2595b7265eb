"""What a client that means harm may send: each is refused as HTTP has it, with memory flat."""

import asyncio
import contextlib
import gzip
import resource
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.http.cycle import CYCLE
from gateway.http.head import judge
from gateway.types.snapshot import Server
from tests.http.test_protocol import echo, error_of, parsed, served, talk

LIMITS = Server(max_head=4000, max_body=1_000_000, head_timeout=0.3, body_timeout=0.3)
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
BEHIND = b"GET /behind HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        HEAD + b"content-length: 1\r\ncontent-length: 1\r\n\r\na",
        HEAD + b"content-length: 1, 1\r\n\r\na",
        HEAD + b"content-length: +1\r\n\r\na",
        HEAD + b"content-length: -1\r\n\r\na",
        HEAD + b"content-length: 0x1\r\n\r\na",
        HEAD + b"content-length: 99999999999999999999999\r\n\r\na",
        HEAD + b"content-length : 1\r\n\r\na",
        HEAD + b"x-folded: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\nhost: x\ncontent-length: 0\n\n",
        HEAD + b"x: a\ncontent-length: 0\r\n\r\n",
        HEAD + b"x: a\rb: c\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"x: a\0b\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"x\0y: a\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"1\nx\r\n0\r\n\r\n",
        CHUNKED + b"1\r\nx\n0\r\n\r\n",
        CHUNKED + b"1 \r\nx\r\n0\r\n\r\n",
        CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"ffffffffffffffffff\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"-1\r\nx\r\n0\r\n\r\n",
        HEAD + b"host: y\r\ncontent-length: 0\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_two_servers_might_read_differently_is_refused(request_bytes: bytes) -> None:
    """One refusal, and nothing that stands behind it is taken for a request."""
    async with served(echo, LIMITS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes + BEHIND)
        raw = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert raw.count(b"connection: close\r\n") == 1
    status, headers, body = parsed(raw)
    assert status == 400
    assert headers["connection"] == "close"
    assert error_of(body)["type"] == "invalid_request_error"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, identity"])
async def test_a_compressed_body_is_not_unpacked(encoding: bytes) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    head = HEAD + b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (encoding, len(bomb))
    async with served(echo, LIMITS) as port:
        status, headers, body = await talk(port, head, bomb)
    assert (status, error_of(body)["code"]) == (415, "unsupported_content_encoding")
    assert headers["accept-encoding"] == "identity"


async def test_extensions_of_chunks_are_passed_over_and_trailers_dropped() -> None:
    seen: dict[str, Any] = {}

    async def keeps(scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)
        seen["headers"] = dict(scope["headers"])

    body = b"1;a=b\r\nx\r\n0;c\r\nauthorization: Bearer theirs\r\nx-switchboard-route: r\r\n\r\n"
    head = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    async with served(keeps, LIMITS) as port:
        status, _, said = await talk(port, head + body)
    assert (status, said) == (200, b"x")
    assert set(seen["headers"]) == {b"host", b"connection", b"transfer-encoding"}


@pytest.mark.parametrize(
    ("opening", "again"),
    [
        (CHUNKED + b"1;", b"x" * 50_000),  # an extension without an end
        (CHUNKED + b"0\r\n", b"x: " + b"y" * 1_000 + b"\r\n"),  # trailers without an end
        (CHUNKED + b"0\r\nx: ", b"y" * 50_000),  # one trailer without an end
        (HEAD + b"x: ", b"y" * 50_000),
        (HEAD, b"x: y\r\n"),
        (b"GET /", b"y" * 50_000),
    ],
)
async def test_what_never_ends_is_refused_with_memory_flat(opening: bytes, again: bytes) -> None:
    limits = msgspec.structs.replace(LIMITS, head_timeout=20, body_timeout=20)
    async with served(echo, limits) as port:
        before = resident()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = asyncio.create_task(reader.read())
        writer.write(opening)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not answer.done() and sent < 50_000_000:
                writer.write(again)
                sent += len(again)
                await writer.drain()
        status, _, body = parsed(await asyncio.wait_for(answer, 10))
        grown = resident() - before
        writer.close()
    assert (status, error_of(body)["code"]) == (431, "head_too_large")
    assert sent < 10_000_000
    assert grown < 32_000_000


@pytest.mark.parametrize("declared", [True, False])
async def test_a_slow_body_is_given_up_though_bytes_keep_coming(declared: bool) -> None:
    head = HEAD + b"content-length: 1000\r\n\r\n" if declared else CHUNKED
    piece = b"x" if declared else b"1\r\nx\r\n"
    async with served(echo, LIMITS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = asyncio.create_task(reader.read())
        writer.write(head)
        while not answer.done():
            writer.write(piece)
            await asyncio.wait([answer], timeout=0.02)
        status, _, body = parsed(await answer)
        writer.close()
    assert (status, error_of(body)["code"]) == (408, "request_timeout")


async def test_a_slow_head_is_given_up_though_bytes_keep_coming() -> None:
    async with served(echo, LIMITS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = asyncio.create_task(reader.read())
        writer.write(HEAD + b"x: ")
        while not answer.done():
            writer.write(b"y")
            await asyncio.wait([answer], timeout=0.02)
        status, _, body = parsed(await answer)
        writer.close()
    assert (status, error_of(body)["code"]) == (408, "request_timeout")


async def test_a_large_body_that_keeps_coming_is_waited_for() -> None:
    limits = msgspec.structs.replace(LIMITS, body_timeout=0.1)
    piece = bytes(20_000)
    head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % (30 * len(piece))
    async with served(echo, limits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        for _ in range(30):  # three times the timeout in all
            writer.write(piece)
            await asyncio.sleep(0.01)
        status, _, body = parsed(await asyncio.wait_for(reader.read(), 10))
        writer.close()
    assert (status, len(body)) == (200, 600_000)


LARGE = 16 * 1024 * 1024
"""Bytes of an answer that is more than what connections take."""


async def test_the_connection_of_a_client_that_takes_nothing_is_closed() -> None:
    ended = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not scope[CYCLE].disconnected:
            await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})
        ended.set()

    async with served(endless, LIMITS) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            await asyncio.wait_for(ended.wait(), 10)
        finally:
            writer.transport.abort()


async def test_a_whole_answer_that_nobody_takes_is_dropped() -> None:
    async with served(large, LIMITS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await asyncio.sleep(3 * LIMITS.body_timeout)
        size = 0
        while piece := await asyncio.wait_for(reader.read(131_072), 10):
            size += len(piece)
        writer.close()
    assert 0 < size < LARGE


async def test_a_large_answer_that_is_being_taken_is_waited_for() -> None:
    size = 0
    async with served(large, LIMITS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65_536)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while piece := await asyncio.wait_for(reader.read(131_072), 10):
            size += len(piece)
            await asyncio.sleep(0.01)  # several times the timeout in all
        writer.close()
    assert size > LARGE


@pytest.mark.parametrize("half_closed", [False, True])
async def test_the_rest_of_an_answer_that_nobody_takes_keeps_no_connection_open(
    half_closed: bool,
) -> None:
    """So little of it that the answer itself is long at its end."""

    async def filling(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        transport = scope[CYCLE]._protocol.transport
        while not transport.get_write_buffer_size():
            await send({"type": "http.response.body", "body": bytes(8192), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with served(filling, LIMITS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        if half_closed:
            await asyncio.sleep(LIMITS.body_timeout / 4)
            writer.write_eof()
        await asyncio.sleep(3 * LIMITS.body_timeout)
        raw = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := await asyncio.wait_for(reader.read(131_072), 10):
                raw = raw[-16:] + piece
        writer.close()
    assert not raw.endswith(b"\r\n0\r\n\r\n")


async def large(scope: Any, receive: Any, send: Any) -> None:
    head = {"type": "http.response.start", "status": 200}
    await send({**head, "headers": [(b"content-length", b"%d" % LARGE)]})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


async def test_bodies_share_one_bound_and_give_it_back() -> None:
    limits = msgspec.structs.replace(LIMITS, max_bodies=900_000, body_timeout=10)
    head = HEAD + b"content-length: 500000\r\n\r\n"
    async with served(echo, limits) as port:
        _, holding = await asyncio.open_connection("127.0.0.1", port)
        holding.write(head + bytes(499_999))
        await holding.drain()

        async def another() -> tuple[int, dict[str, str], bytes]:
            return await talk(
                port, head.replace(b"host", b"connection: close\r\nhost"), bytes(500_000)
            )

        while (refused := await another())[0] == 200:
            pass  # until what is held has been read
        assert (refused[0], refused[1]["retry-after"]) == (503, "1")
        assert error_of(refused[2])["code"] == "too_much_in_bodies"
        holding.transport.abort()
        for _ in range(3):  # a refused one and an answered one have given back, too
            while (await another())[0] != 200:
                pass


async def test_a_client_that_is_still_sending_sees_why_it_is_refused() -> None:
    body = bytes(3_000_000)
    async with served(echo, LIMITS) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        status, _, said = parsed(await asyncio.wait_for(reader.read(), 10))
        writer.close()
    assert (status, error_of(said)["code"]) == (413, "body_too_large")


async def test_over_the_limit_of_connections_is_503() -> None:
    limits = msgspec.structs.replace(LIMITS, max_connections=1, head_timeout=20)
    async with served(echo, limits) as port:
        _, first = await asyncio.open_connection("127.0.0.1", port)
        status, headers, body = await talk(port)
        first.close()
    assert (status, headers["retry-after"]) == (503, "1")
    assert error_of(body)["code"] == "too_many_connections"


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def test_a_head_may_be_as_large_as_its_limit_and_no_larger() -> None:
    lines = [(b"host", b"here"), (b"x-note", b"n" * 90), (b"x-none", b"")]
    size = len(b"/" + b"".join(b"%s: %s\r\n" % line for line in lines))
    assert judge(b"/", lines, "1.1", Server(max_head=size)) is None
    refused = judge(b"/", lines, "1.1", Server(max_head=size - 1))
    assert refused is not None
    assert refused.status == 431
