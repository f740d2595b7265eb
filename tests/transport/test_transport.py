"""One suite for both transports, against servers whose every byte the test decides."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import (
    ConnectFailed,
    MalformedAnswer,
    TlsFailed,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.transport.base import Origin, Reply, Transport
from gateway.transport.lean import LeanTransport
from gateway.transport.proxied import AiohttpTransport
from gateway.types.backends import Timeouts
from tests.transport.peer import (
    CHUNKED,
    WAIT_S,
    Connection,
    Handler,
    chunk,
    forwarding,
    peer,
    plain,
)

HEADERS = ((b"content-type", b"application/json"), (b"accept-encoding", b"identity"))
PATIENT = Timeouts(connect=10, first_byte=10, between=10, total=30)

Make = Callable[[ssl.SSLContext | None], Transport]


def lean(context: ssl.SSLContext | None) -> Transport:
    return LeanTransport(ssl_context=context)


def through_aiohttp(context: ssl.SSLContext | None) -> Transport:
    return AiohttpTransport(ssl_context=context)


@pytest.fixture(params=[lean, through_aiohttp], ids=["lean", "aiohttp"])
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.param
    return made


@pytest.fixture
async def transport(make: Make) -> AsyncIterator[Transport]:
    one = make(None)
    yield one
    await one.close()


async def ask(
    transport: Transport,
    origin: Origin,
    body: bytes = b"{}",
    timeouts: Timeouts = PATIENT,
    path: bytes = b"/v1/x",
) -> Reply:
    sent = transport.send(origin, b"POST", path, HEADERS, body, timeouts)
    return await asyncio.wait_for(sent, WAIT_S)


async def whole(reply: Reply) -> bytes:
    pieces = []
    while piece := await asyncio.wait_for(reply.read(), WAIT_S):
        pieces.append(piece)
    return b"".join(pieces)


def answering(*answers: bytes) -> Handler:
    """Answers each request on a connection with the next of `answers`, then waits for its end."""

    async def handle(connection: Connection) -> None:
        for answer in answers:
            if not (await connection.request())[0]:
                return
            await connection.send(answer)
        await connection.gone()

    return handle


# ------------------------------------------------------------ what is sent, what comes back


async def test_a_request_goes_out_exactly_and_its_answer_comes_back_whole(
    transport: Transport,
) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handle(connection: Connection) -> None:
        seen.append(await connection.request())
        await connection.send(plain(b'{"a":1}', b"201 Created", b"X-Mixed: Case\r\n"))

    async with peer(handle) as server:
        reply = await ask(transport, server.origin, b'{"text":"\xc3\xa9"}', path=b"/v1/x?y=%20z")
        body = await whole(reply)
    head, sent = seen[0]
    lines = head.lower().split(b"\r\n")
    assert head.startswith(b"POST /v1/x?y=%20z HTTP/1.1\r\n")
    assert sent == b'{"text":"\xc3\xa9"}'
    assert b"host: " + server.origin.authority in lines
    assert b"content-length: 13" in lines
    assert {name + b": " + value for name, value in HEADERS} <= set(lines)
    assert not any(line.startswith((b"user-agent", b"accept:", b"cookie")) for line in lines)
    assert (reply.status, body) == (201, b'{"a":1}')
    assert (b"x-mixed", b"Case") in list(reply.headers)


async def test_a_large_body_arrives_whole(transport: Transport) -> None:
    async def handle(connection: Connection) -> None:
        _, body = await connection.request()
        await connection.send(plain(b"%d" % len(body)))

    async with peer(handle) as server:
        reply = await ask(transport, server.origin, b"x" * 5_000_000)
        assert await whole(reply) == b"5000000"


@pytest.mark.parametrize("status", [b"301 Moved", b"404 Not Found", b"500 Oh", b"599 Other"])
async def test_every_status_is_an_answer_and_no_redirect_is_followed(
    transport: Transport, status: bytes
) -> None:
    answer = plain(b"text", status, b"location: /elsewhere\r\nset-cookie: a=b\r\n")
    async with peer(answering(answer, plain(b"second"))) as server:
        reply = await ask(transport, server.origin)
        assert (reply.status, await whole(reply)) == (int(status[:3]), b"text")
        assert await whole(await ask(transport, server.origin)) == b"second"


async def test_what_comes_compressed_is_not_decoded(transport: Transport) -> None:
    answer = plain(b"\x1f\x8bnot really", extra=b"content-encoding: gzip\r\n")
    async with peer(answering(answer)) as server:
        assert await whole(await ask(transport, server.origin)) == b"\x1f\x8bnot really"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_status_without_a_body_ends_at_once(transport: Transport, status: bytes) -> None:
    answer = b"HTTP/1.1 %b\r\n\r\n" % status
    async with peer(answering(answer, plain(b"next"))) as server:
        assert await whole(await ask(transport, server.origin)) == b""
        assert await whole(await ask(transport, server.origin)) == b"next"
    assert server.connections == 1


async def test_a_body_without_a_length_ends_with_its_connection(transport: Transport) -> None:
    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

    async with peer(handle) as server:
        assert await whole(await ask(transport, server.origin)) == b"until the end"


async def test_interim_answers_are_passed_over(transport: Transport) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with peer(answering(early + plain(b"final"), early + plain(b"again"))) as server:
        reply = await ask(transport, server.origin)
        assert (reply.status, await whole(reply)) == (200, b"final")
        assert await whole(await ask(transport, server.origin)) == b"again"
    assert server.connections == 1


PIECES = [b"data: one\n\n", b"data: two\n\n", b"x" * 300, b"data: [DONE]\n\n"]
ANSWER = CHUNKED + b"".join(chunk(piece) for piece in PIECES) + b"0\r\n\r\n"


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(1, len(ANSWER) - 1), max_size=12))
async def test_however_an_answer_is_cut_up_it_is_the_same(make: Make, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(ANSWER)]

    async def handle(connection: Connection) -> None:
        await connection.request()
        for start, end in pairwise(edges):
            await connection.send(ANSWER[start:end])
            await asyncio.sleep(0)
        await connection.gone()

    transport = make(None)
    try:
        async with peer(handle) as server:
            assert await whole(await ask(transport, server.origin)) == b"".join(PIECES)
    finally:
        await transport.close()


async def test_each_piece_is_handed_on_before_the_next_is_sent(transport: Transport) -> None:
    read = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED)
        for piece in PIECES:
            await connection.send(chunk(piece))
            await read.wait()
            read.clear()
        await connection.send(b"0\r\n\r\n")

    async with peer(handle) as server:
        reply = await ask(transport, server.origin)
        for piece in PIECES:
            assert await asyncio.wait_for(reply.read(), WAIT_S) == piece
            read.set()
        assert await asyncio.wait_for(reply.read(), WAIT_S) == b""


class Full:
    """A sink that has room for a few pieces at a time."""

    def __init__(self, room: int) -> None:
        self.room = self.left = room
        self.pieces: list[bytes] = []
        self.drained = 0

    def write(self, piece: bytes) -> bool:
        self.pieces.append(piece)
        self.left -= 1
        assert self.left >= 0, "written to though it was full"
        return self.left > 0

    async def drain(self) -> None:
        await asyncio.sleep(0.001)
        self.left = self.room
        self.drained += 1


@pytest.mark.parametrize("room", [1, 3, 1000])
@pytest.mark.parametrize("apart", [False, True])
async def test_pieces_are_pumped_in_order_and_only_while_there_is_room(
    transport: Transport, room: int, apart: bool
) -> None:
    sent = [b"%d;" % number * 100 for number in range(50)]

    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED)
        for piece in sent:
            await connection.send(chunk(piece))
            if apart:
                await asyncio.sleep(0.0005)
        await connection.send(b"0\r\n\r\n")
        await connection.gone()

    sink = Full(room)
    async with peer(handle) as server:
        reply = await ask(transport, server.origin)
        await asyncio.wait_for(reply.pump(sink), WAIT_S)
    assert b"".join(sink.pieces) == b"".join(sent)
    assert sink.drained == len(sink.pieces) // room


async def test_what_breaks_off_while_it_is_pumped_raises(
    transport: Transport,
) -> None:
    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED + chunk(b"one"))

    sink = Full(1000)
    async with peer(handle) as server:
        reply = await ask(transport, server.origin)
        with pytest.raises(UpstreamClosed):
            await asyncio.wait_for(reply.pump(sink), WAIT_S)
    assert b"one".startswith(b"".join(sink.pieces))  # aiohttp drops what it holds when it fails


async def test_a_sink_that_fails_ends_the_pump_with_its_error(transport: Transport) -> None:
    more = asyncio.Event()

    class Broken(Full):
        def write(self, piece: bytes) -> bool:
            more.set()
            if piece == b"two":
                raise ZeroDivisionError
            return True

    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED + chunk(b"one"))
        await more.wait()
        await connection.send(chunk(b"two"))
        await connection.gone()

    async with peer(handle) as server:
        reply = await ask(transport, server.origin)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(reply.pump(Broken(9)), WAIT_S)
        reply.abort()


# ------------------------------------------------------------ connections


async def test_a_connection_is_used_again_even_after_an_error_status(transport: Transport) -> None:
    answers = [plain(b"one"), plain(b"bad", b"500 Oh"), plain(b"three")]
    async with peer(answering(*answers)) as server:
        bodies = [await whole(await ask(transport, server.origin)) for _ in answers]
    assert bodies == [b"one", b"bad", b"three"]
    assert server.connections == 1


async def test_requests_at_a_time_have_connections_of_their_own(transport: Transport) -> None:
    together = asyncio.Barrier(3)

    async def handle(connection: Connection) -> None:
        while (await connection.request())[0]:
            await together.wait()
            await connection.send(plain(b"ok"))

    async with peer(handle) as server:
        replies = await asyncio.gather(*(ask(transport, server.origin) for _ in range(3)))
        assert [await whole(reply) for reply in replies] == [b"ok"] * 3
    assert server.connections == 3


@pytest.mark.parametrize("says", [b"connection: close\r\n", b""])
async def test_a_server_that_closes_after_each_answer_is_asked_on_a_new_connection(
    transport: Transport, says: bytes
) -> None:
    closed = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(plain(b"ok", extra=says))
        connection.writer.close()
        await connection.writer.wait_closed()
        closed.set()

    async with peer(handle) as server:
        for count in (1, 2, 3):
            assert await whole(await ask(transport, server.origin)) == b"ok"
            await asyncio.wait_for(closed.wait(), WAIT_S)
            closed.clear()
            # The goodbye is in the socket; the event loop has yet to be told of it.
            await asyncio.sleep(0.01)
            assert server.connections == count


async def test_a_request_that_a_server_took_and_dropped_is_not_sent_twice(
    transport: Transport,
) -> None:
    taken: list[bytes] = []

    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(plain(b"first"))
        taken.append((await connection.request())[1])

    async with peer(handle) as server:
        assert await whole(await ask(transport, server.origin)) == b"first"
        with pytest.raises(UpstreamClosed):
            await ask(transport, server.origin, b"second")
    assert taken == [b"second"]
    assert server.connections == 1


async def test_what_a_server_says_unasked_is_never_taken_for_an_answer(
    transport: Transport,
) -> None:
    said = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.request()
        first = server.connections == 1
        await connection.send(plain(b"right"))
        if first:
            await connection.send(plain(b"smuggled"))
            said.set()
        await connection.gone()

    async with peer(handle) as server:
        assert await whole(await ask(transport, server.origin)) == b"right"
        await asyncio.wait_for(said.wait(), WAIT_S)
        await asyncio.sleep(0.01)
        assert await whole(await ask(transport, server.origin)) == b"right"
    assert server.connections == 2


async def test_a_unix_socket(transport: Transport, tmp_path: Path) -> None:
    async with peer(answering(plain(b"one"), plain(b"two")), uds=tmp_path / "s.sock") as server:
        assert await whole(await ask(transport, server.origin)) == b"one"
        assert await whole(await ask(transport, server.origin)) == b"two"
    assert server.connections == 1


async def test_nobody_listens(transport: Transport, tmp_path: Path) -> None:
    async with peer(answering()) as server:
        origin = server.origin
    for nowhere in (origin, Origin.parse(f"unix://{tmp_path}/no.sock")):
        with pytest.raises(ConnectFailed):
            await ask(transport, nowhere)


async def test_a_closed_transport_has_closed_its_connections(make: Make) -> None:
    gone = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(plain(b"ok"))
        await connection.gone()
        gone.set()

    transport = make(None)
    async with peer(handle) as server:
        await whole(await ask(transport, server.origin))
        await transport.close()
        await asyncio.wait_for(gone.wait(), WAIT_S)


# ------------------------------------------------------------ TLS


def contexts(authority: trustme.CA, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for a certificate of `name`, and a client's that trusts its authority."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_tls_with_a_good_certificate(make: Make) -> None:
    server_side, client_side = contexts(trustme.CA(), "localhost")
    transport = make(client_side)
    async with peer(
        answering(plain(b"one"), plain(b"two")), tls=server_side, host="localhost"
    ) as server:
        assert await whole(await ask(transport, server.origin)) == b"one"
        assert await whole(await ask(transport, server.origin)) == b"two"
        await transport.close()
    assert server.connections == 1


@pytest.mark.parametrize("fault", ["unknown authority", "other name", "no TLS"])
async def test_tls_that_cannot_be_trusted_sends_nothing(make: Make, fault: str) -> None:
    asked: list[bytes] = []

    async def handle(connection: Connection) -> None:
        if fault == "no TLS":
            await connection.reader.read(1)
            await connection.send(plain(b"What?", b"400 Bad Request"))
        asked.append((await connection.request())[0])

    authority = trustme.CA()
    server_side, client_side = contexts(
        authority, "elsewhere.example" if fault == "other name" else "localhost"
    )
    if fault == "unknown authority":
        client_side = ssl.create_default_context()
    transport = make(client_side)
    tls = None if fault == "no TLS" else server_side
    async with peer(handle, tls=tls, host="localhost") as server:
        origin = Origin("https", "localhost", server.origin.port)
        with pytest.raises(TlsFailed):
            await ask(transport, origin)
    await transport.close()
    assert not any(b"POST" in head for head in asked)


# ------------------------------------------------------------ timeouts


async def test_a_handshake_that_never_comes_is_a_connect_timeout(make: Make) -> None:
    async def silent(connection: Connection) -> None:
        await connection.gone()

    transport = make(ssl.create_default_context())
    async with peer(silent) as server:
        origin = Origin("https", "localhost", server.origin.port)
        with pytest.raises(UpstreamTimeout) as caught:
            await ask(transport, origin, timeouts=Timeouts(0.1, 10, 10, 30))
    await transport.close()
    assert (caught.value.kind, caught.value.seconds) == ("connect", 0.1)


@pytest.mark.parametrize(
    ("timeouts", "kind"),
    [(Timeouts(10, 0.1, 10, 30), "first_byte"), (Timeouts(10, 10, 10, 0.1), "total")],
)
async def test_a_head_that_never_comes(transport: Transport, timeouts: Timeouts, kind: str) -> None:
    gone = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.gone()
        gone.set()

    async with peer(handle) as server:
        with pytest.raises(UpstreamTimeout) as caught:
            await ask(transport, server.origin, timeouts=timeouts)
        await asyncio.wait_for(gone.wait(), WAIT_S)
    assert (caught.value.kind, caught.value.seconds) == (kind, 0.1)


@pytest.mark.parametrize(
    ("timeouts", "kind", "seconds"),
    [(Timeouts(10, 10, 0.1, 30), "between", 0.1), (Timeouts(10, 10, 10, 0.3), "total", 0.3)],
)
async def test_a_body_that_stops(
    transport: Transport, timeouts: Timeouts, kind: str, seconds: float
) -> None:
    gone = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED + chunk(b"one"))
        await connection.gone()
        gone.set()

    async with peer(handle) as server:
        reply = await ask(transport, server.origin, timeouts=timeouts)
        assert await asyncio.wait_for(reply.read(), WAIT_S) == b"one"
        with pytest.raises(UpstreamTimeout) as caught:
            await asyncio.wait_for(reply.read(), WAIT_S)
        await asyncio.wait_for(gone.wait(), WAIT_S)
    assert (caught.value.kind, caught.value.seconds) == (kind, seconds)


async def test_a_slow_reader_is_not_a_slow_server(transport: Transport) -> None:
    body = b"x" * 2_000_000
    async with peer(answering(plain(body))) as server:
        reply = await ask(transport, server.origin, timeouts=Timeouts(10, 0.1, 0.1, 30))
        read = b""
        for _ in range(2):
            await asyncio.sleep(0.25)
            read += await asyncio.wait_for(reply.read(), WAIT_S)
        assert read + await whole(reply) == body


# ------------------------------------------------------------ backpressure and aborts


async def test_a_reader_that_does_not_read_stops_the_server(transport: Transport) -> None:
    piece = chunk(b"x" * 65_000)
    stuck = asyncio.Event()
    sent = 0

    async def handle(connection: Connection) -> None:
        nonlocal sent
        await connection.request()
        connection.writer.transport.set_write_buffer_limits(high=0)
        await connection.send(CHUNKED)
        for _ in range(600):
            connection.writer.write(piece)
            try:
                await asyncio.wait_for(connection.writer.drain(), 0.3)
            except TimeoutError:
                stuck.set()
                await connection.writer.drain()
            sent += 1
        await connection.send(b"0\r\n\r\n")

    async with peer(handle) as server:
        reply = await ask(transport, server.origin)
        await asyncio.wait_for(stuck.wait(), WAIT_S)
        # What the two sockets' buffers hold, and little more: 39 MB are to be sent.
        assert sent < 300
        assert len(await whole(reply)) == 600 * 65_000
    assert sent == 600


async def test_an_abort_in_mid_stream_reaches_the_server(transport: Transport) -> None:
    gone = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED + chunk(b"one"))
        await connection.gone()
        gone.set()

    async with peer(handle) as server:
        reply = await ask(transport, server.origin)
        assert await asyncio.wait_for(reply.read(), WAIT_S) == b"one"
        reply.abort()
        reply.abort()
        await asyncio.wait_for(gone.wait(), WAIT_S)


@pytest.mark.parametrize("part", ["before the head", "while a body is read"])
async def test_a_cancelled_caller_reaches_the_server(transport: Transport, part: str) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.request()
        if part != "before the head":
            await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        asked.set()
        await connection.gone()
        gone.set()

    async def call() -> None:
        reply = await ask(transport, server.origin)
        try:
            await whole(reply)
        finally:
            reply.abort()

    async with peer(handle) as server:
        task = asyncio.create_task(call())
        await asyncio.wait_for(asked.wait(), WAIT_S)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), WAIT_S)


@pytest.mark.parametrize("turns", range(2, 14))
async def test_a_caller_that_leaves_as_its_answer_comes_takes_no_connection_from_the_next(
    transport: Transport, turns: int
) -> None:
    """However many of the loop's turns it stays: its answer may be whole before it knows."""

    async def handle(connection: Connection) -> None:
        while (await connection.request())[0]:
            await connection.send(plain(b"whole"))

    async with peer(handle) as server:
        first = await ask(transport, server.origin)
        assert await whole(first) == b"whole"
        for _ in range(5):
            leaves = asyncio.create_task(ask(transport, server.origin))
            for _ in range(turns):
                await asyncio.sleep(0)
            leaves.cancel()
            async with asyncio.timeout(WAIT_S):
                assert await whole(await ask(transport, server.origin)) == b"whole"
            await asyncio.gather(leaves, return_exceptions=True)


async def test_an_abort_after_the_end_keeps_the_connection(transport: Transport) -> None:
    async with peer(answering(plain(b"one"), plain(b"two"))) as server:
        reply = await ask(transport, server.origin)
        assert await whole(reply) == b"one"
        reply.abort()
        assert await whole(await ask(transport, server.origin)) == b"two"
    assert server.connections == 1


# ------------------------------------------------------------ malformed answers


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-huge: " + b"h" * 200_000 + b"\r\n\r\n",
    ],
    ids=["not HTTP", "status", "length", "two lengths", "header", "huge"],
)
async def test_a_malformed_head(transport: Transport, answer: bytes) -> None:
    async with peer(answering(answer)) as server:
        with pytest.raises(MalformedAnswer):
            await ask(transport, server.origin)


async def test_a_head_that_never_ends_is_refused_while_it_comes(transport: Transport) -> None:
    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await connection.send(b"x-more: " + b"m" * 8000 + b"\r\n")

    async with peer(handle) as server:
        with pytest.raises(MalformedAnswer):
            await ask(transport, server.origin)


async def read_to_failure(reply: Reply) -> tuple[bytes, UpstreamError]:
    body = b""
    while True:
        try:
            piece = await asyncio.wait_for(reply.read(), WAIT_S)
        except UpstreamError as error:
            return body, error
        assert piece, "the answer ended as if it were whole"
        body += piece


@pytest.mark.parametrize(
    ("answer", "before"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", b"half"),
        (CHUNKED + chunk(b"one"), b"one"),
        (CHUNKED + b"5\r\nab", b"ab"),
    ],
    ids=["short", "no last chunk", "in a chunk"],
)
async def test_a_body_that_breaks_off_is_never_taken_for_whole(
    transport: Transport, answer: bytes, before: bytes
) -> None:
    async def handle(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer)

    async with peer(handle) as server:
        body, error = await read_to_failure(await ask(transport, server.origin))
    assert isinstance(error, UpstreamClosed)
    assert before.startswith(body)


async def test_a_malformed_chunk_ends_the_answer(transport: Transport) -> None:
    async with peer(answering(CHUNKED + chunk(b"one") + b"zz\r\nno\r\n")) as server:
        try:
            reply = await ask(transport, server.origin)
        except MalformedAnswer:
            return  # head and fault came in one piece
        body, _ = await read_to_failure(reply)
    assert b"one".startswith(body)


async def test_a_server_that_closes_without_a_word(transport: Transport) -> None:
    async def handle(connection: Connection) -> None:
        await connection.request()

    async with peer(handle) as server:
        with pytest.raises(UpstreamClosed):
            await ask(transport, server.origin)
    assert server.connections == 1


# ------------------------------------------------------------ through a proxy


async def test_a_proxy_carries_plain_calls() -> None:
    seen: list[bytes] = []
    async with peer(forwarding(seen)) as proxy, peer(answering(plain(b"far"))) as server:
        transport = AiohttpTransport(proxy=f"http://127.0.0.1:{proxy.origin.port}")
        assert await whole(await ask(transport, server.origin)) == b"far"
        await transport.close()
    assert seen == [b"POST http://%b/v1/x" % server.origin.authority]


async def test_a_proxy_carries_tls_without_seeing_into_it() -> None:
    seen: list[bytes] = []
    server_side, client_side = contexts(trustme.CA(), "localhost")
    async with (
        peer(forwarding(seen)) as proxy,
        peer(answering(plain(b"far")), tls=server_side, host="localhost") as server,
    ):
        transport = AiohttpTransport(
            proxy=f"http://127.0.0.1:{proxy.origin.port}", ssl_context=client_side
        )
        assert await whole(await ask(transport, server.origin)) == b"far"
        await transport.close()
    assert seen == [b"CONNECT " + server.origin.authority]


async def test_a_proxy_that_is_not_there_is_no_connection() -> None:
    async with peer(answering()) as nobody:
        port = nobody.origin.port
    transport = AiohttpTransport(proxy=f"http://127.0.0.1:{port}")
    async with peer(answering(plain(b"far"))) as server:
        with pytest.raises(ConnectFailed):
            await ask(transport, server.origin)
    await transport.close()
    assert server.connections == 0
