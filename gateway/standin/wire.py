"""A stand-in's HTTP/1.1 server: it records every request and can break any answer at any byte."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools
import msgspec

Headers = Iterable[tuple[str, str]]

UNTIL_CLOSE = -1
"""In the place of a body's length: it ends where the connection does."""


class Seen:
    """One request as it arrived. `at` and `aborted_at` are readings of the stand-in's clock."""

    def __init__(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes, at: float
    ) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.raw_headers = headers
        self.body = body
        self.at = at
        self.connection = 0
        self.aborted = asyncio.Event()
        """Set when the client went away before its answer was whole."""
        self.aborted_at: float | None = None
        self.answered = asyncio.Event()
        """Set when the answer's last byte was written."""

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case name; repeated ones are joined with a comma."""
        joined: dict[str, str] = {}
        for name, value in self.raw_headers:
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return joined

    def json(self) -> Any:
        """The body decoded; msgspec.DecodeError if it is not JSON."""
        return msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        return f"<Seen {self.method} {self.path} {self.body[:80]!r}>"


class Exchange(Protocol):
    """One request and the means to answer it, well or badly."""

    seen: Seen

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        """Begins the answer; without a length its body is chunked. Sent with the first bytes.

        The length may be UNTIL_CLOSE.
        """

    async def write(self, data: bytes) -> None:
        """A piece of the body, at once on its way."""

    def finish(self) -> None:
        """Ends the answer as HTTP wants it."""

    async def raw(self, data: bytes) -> None:
        """Bytes with no framing."""

    def cut(self, reset: bool = False) -> None:
        """Closes the connection here; with `reset` by a TCP reset."""


class _Exchange:
    def __init__(self, connection: "Connection", seen: Seen, keep_alive: bool) -> None:
        self.seen = seen
        self._connection = connection
        self._keep_alive = keep_alive
        self._head = b""
        self._chunked = False
        self.over = False

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if length is None:
            lines.append("transfer-encoding: chunked")
        elif length != UNTIL_CLOSE and status != HTTPStatus.NO_CONTENT:
            lines.append(f"content-length: {length}")
        if not self._keep_alive or length == UNTIL_CLOSE:
            lines.append("connection: close")
        self._chunked = length is None
        self._head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def write(self, data: bytes) -> None:
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        await self.raw(data)

    async def raw(self, data: bytes) -> None:
        head, self._head = self._head, b""
        self._connection.send(head + data)
        await self._connection.drained()

    def finish(self) -> None:
        tail = self._head + (b"0\r\n\r\n" if self._chunked else b"")
        self._head = b""
        if tail:
            self._connection.send(tail)
        self._end()
        if not self._keep_alive:
            self._connection.close()

    def cut(self, reset: bool = False) -> None:
        self._end()
        self._connection.close(reset=reset)

    def _end(self) -> None:
        self.over = True
        self.seen.answered.set()


class Connection(asyncio.Protocol):
    """One client's connection: requests are answered one after the other, in order."""

    def __init__(
        self,
        serve: Callable[[Exchange], Awaitable[None]],
        record: Callable[[Seen], None],
        open: "set[Connection]",
        clock: Callable[[], float],
    ) -> None:
        self._serve = serve
        self._record = record
        self._open = open
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[_Exchange] = deque()
        self._current: _Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()

    # -------------------------------------------------------- connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class.
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            self.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.close()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._transport = None
        self._may_write.set()
        at = self._clock()
        for exchange in [self._current, *self._waiting]:
            if exchange is not None and not exchange.over:
                exchange.seen.aborted_at = at
                exchange.seen.aborted.set()
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def send(self, data: bytes) -> None:
        """Writes bytes, unless the client is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Returns when the client has taken enough of what was sent."""
        if not self._may_write.is_set():
            await self._may_write.wait()

    def close(self, *, reset: bool = False) -> None:
        """Closes after what was sent; with `reset` at once, by a TCP reset."""
        transport = self._transport
        if transport is None:
            return
        if not reset:
            transport.close()
            return
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def abort(self) -> "asyncio.Task[None] | None":
        """Ends the connection from this side, whatever is under way; the task it was in."""
        for exchange in [self._current, *self._waiting]:
            if exchange is not None:
                exchange.over = True
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task

    # -------------------------------------------------------- parser callbacks

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", [], bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if ("expect", "100-continue") in self._headers:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode("ascii")
        target = self._url.decode("latin-1")
        seen = Seen(method, target, self._headers, bytes(self._body), self._clock())
        seen.connection = id(self)
        self._record(seen)
        self._waiting.append(_Exchange(self, seen, self._parser.should_keep_alive()))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                self._current = self._waiting.popleft()
                await self._serve(self._current)
                self._current = None
        except asyncio.CancelledError:
            if self._transport is not None:
                self._transport.abort()
            raise
        except BaseException:
            # The loop reports the error; the client must not wait for ever.
            self.close()
            raise
        finally:
            self._task = None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
