"""A lean HTTP/1.1 client on asyncio's protocols and httptools: what one request needs, no more.

No task, no timer and no copy is made per request: a connection keeps one lazy timer, waits are
plain futures, and a request's head and body leave in one write. Bodies are never decoded: callers
that do not want compressed answers send `accept-encoding: identity`.
"""

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import httptools

from gateway.errors import (
    ConnectFailed,
    MalformedAnswer,
    TimeoutKind,
    TlsFailed,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
    unconnected,
)
from gateway.transport.base import MAX_HEAD, Headers, Origin, Sink, size_of
from gateway.types.backends import Timeouts

HIGH_WATER, LOW_WATER = 131_072, 32_768
"""Unread bytes of a body at which reading from the backend stops, and starts again."""

PEEK_AFTER_S = 0.5
"""A connection idle for longer is looked at before it is used: the peer may have closed it."""

HEADS = 64
"""Rendered heads that are kept for each origin; paths that hold an id would have no end."""

NEVER = float("inf")
NO_BODY = frozenset({204, 304})
_FRAMED = frozenset({b"content-length", b"transfer-encoding"})


class LeanReply:
    """An answer whose head is in; its body is read piece by piece."""

    __slots__ = (
        "_connection",
        "_error",
        "_full",
        "_pieces",
        "_sink",
        "_size",
        "_waiter",
        "done",
        "headers",
        "status",
    )

    def __init__(
        self, connection: "Connection", status: int, headers: list[tuple[bytes, bytes]]
    ) -> None:
        self.status = status
        self.headers: Sequence[tuple[bytes, bytes]] = headers
        self.done = False
        self._connection: Connection | None = connection
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._full = False
        self._error: Exception | None = None

    async def read(self) -> bytes:
        """The next piece as it arrived; b"" at the end. Raises UpstreamError when it breaks off."""
        while not self._pieces:
            if self.done:
                return b""
            if self._error is not None:
                raise self._error
            await self._more()
        return self._taken()

    async def pump(self, sink: Sink) -> None:
        """Gives `sink` each piece as it arrives, until the end. Raises UpstreamError.

        While there is room, pieces go straight from the parser to the sink: nothing is woken and
        nothing waits for the event loop's next turn.
        """
        try:
            while True:
                while self._pieces:
                    if not sink.write(self._taken()):
                        await sink.drain()
                if self.done:
                    return
                if self._error is not None:
                    raise self._error
                self._sink, self._full = sink, False
                await self._more()
                if self._full:
                    await sink.drain()
        finally:
            self._sink = None

    def abort(self) -> None:
        """Closes the connection unless the whole body has arrived."""
        connection, self._connection = self._connection, None
        if connection is not None and not self.done:
            connection.give_up()
        self._error = None  # where it was raised, its traceback holds this

    def feed(self, piece: bytes) -> bool:
        """Takes a piece of the body; false when too much waits unread."""
        sink = self._sink
        if sink is not None and self._connection is not None:
            self._connection.wait("between")
            try:
                if not sink.write(piece):
                    self._sink, self._full = None, True
                    self._wake()
            except Exception as error:  # noqa: BLE001 - raised in `pump`, whose caller made the sink
                self._sink = None
                self._error = error
                self._wake()
            return True
        self._pieces.append(piece)
        self._size += len(piece)
        self._wake()
        return self._size < HIGH_WATER

    def finish(self) -> None:
        """The body is whole."""
        self.done = True
        self._connection = None
        self._wake()

    def fail(self, error: UpstreamError) -> None:
        """The body will not become whole."""
        self._error = error
        self._connection = None
        self._wake()

    async def _more(self) -> None:
        """Waits until something has come: a piece, the end, or an error."""
        connection = self._connection
        if connection is None:
            raise UpstreamClosed("the answer was given up")
        connection.wait("between")
        self._waiter = connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _taken(self) -> bytes:
        """The oldest piece that waits; reading goes on when few are left."""
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._size < LOW_WATER and self._connection is not None:
            self._connection.resume()
        return piece

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection to an origin, used for one request at a time."""

    def __init__(self, pool: "Pool") -> None:
        self.loop = pool.loop
        self.idle_since = 0.0
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[LeanReply] | None = None
        self._asked: asyncio.Future[LeanReply] | None = None
        self._reply: LeanReply | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._head_only = False
        self._until_close = False
        self._paused = False
        self._timeouts = Timeouts()
        self._kind: TimeoutKind = "first_byte"
        self._deadline = NEVER
        self._total_at = NEVER
        self._timer: asyncio.TimerHandle | None = None

    # -------------------------------------------------------- for the transport

    @property
    def usable(self) -> bool:
        """Whether a request may be written: open, and not closed by the peer while idle."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if self.loop.time() - self.idle_since < PEEK_AFTER_S:
            return True
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        # Whatever there is to read was not asked for; mostly it is the peer's goodbye.
        return not poll.poll(0)

    def request(
        self, raw: bytes, head_only: bool, timeouts: Timeouts, began: float
    ) -> "asyncio.Future[LeanReply]":
        """Writes one whole request; the future resolves when the answer's head is in."""
        assert self._transport is not None
        self._timeouts = timeouts
        self._total_at = began + timeouts.total
        self._head_only = head_only
        self._head = self._asked = self.loop.create_future()
        self._transport.write(raw)
        self.wait("first_byte")
        return self._head

    def wait(self, kind: TimeoutKind) -> None:
        """Starts the clock of one phase; the timer is only ever moved to an earlier time."""
        seconds = self._timeouts.first_byte if kind == "first_byte" else self._timeouts.between
        at = self.loop.time() + seconds
        if at < self._total_at:
            self._kind, self._deadline = kind, at
        else:
            self._kind, self._deadline = "total", self._total_at
        self._arm(self._deadline)

    def _arrived(self) -> None:
        """Something came: until more is waited for, only the whole has a limit."""
        self._kind, self._deadline = "total", self._total_at

    def resume(self) -> None:
        """The reader has room again."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def leave(self, head: "asyncio.Future[LeanReply]") -> None:
        """Whoever waited for this head has gone: what was asked is given up.

        Its answer may have become whole a moment ago, without its being told yet. The connection is
        somebody else's then, or nobody's.
        """
        if self._asked is head:
            self.give_up()

    def give_up(self) -> None:
        """Closes at once, so that the backend stops working on the request."""
        self._fail(UpstreamClosed("the request was given up", at=self._where))

    def expire_at(self, when: float) -> None:
        """Idle from now on; closes at `when` unless it is used before."""
        self._deadline = when
        self._arm(when)

    # -------------------------------------------------------- asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:
            if self._head is None:
                # Nothing was asked: whatever this is, the connection cannot be trusted with more.
                self.give_up()
                return
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(MalformedAnswer(f"the answer is not HTTP/1.1: {error}", at=self._where))
            return
        if self._reply is None and self._head is not None and self._head_bytes > MAX_HEAD:
            self._fail(MalformedAnswer(f"the head is over {MAX_HEAD} bytes", at=self._where))

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pool.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reply = self._reply
        if reply is not None and self._until_close and exc is None:
            self._reply = None
            reply.finish()
            return
        part = "its answer was whole" if reply is not None else "an answer"
        self._fail(UpstreamClosed(f"the connection closed before {part}", at=self._where))

    # -------------------------------------------------------- httptools' callbacks

    def on_message_begin(self) -> None:
        self._headers = []
        if self._head is None:
            # A second answer behind the one asked for: the connection is not used again.
            self.give_up()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._head is None:
            return
        headers = self._headers
        size = size_of(headers)
        if size > MAX_HEAD:
            self._fail(MalformedAnswer(f"the head is over {MAX_HEAD} bytes", at=self._where))
            return
        self._until_close = not self._head_only and status not in NO_BODY and _unframed(headers)
        self._reply = reply = LeanReply(self, status, headers)
        self._arrived()
        head, self._head = self._head, None
        if not head.done():
            head.set_result(reply)
        if self._head_only:
            self._finish(keep=False)

    def on_body(self, body: bytes) -> None:
        reply = self._reply
        self._arrived()
        if reply is not None and not reply.feed(body) and not self._paused:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._reply is not None:
            self._finish(keep=self._parser.should_keep_alive())

    # -------------------------------------------------------- inside

    @property
    def _where(self) -> str:
        return self._pool.origin.authority.decode()

    def _finish(self, keep: bool) -> None:
        reply, self._reply = self._reply, None
        assert reply is not None
        self._asked = None
        self._head_bytes = 0
        self._deadline = NEVER
        self.resume()
        if keep and not self._until_close:
            self._pool.release(self)
        elif self._transport is not None:
            self._transport.close()
        reply.finish()

    def _fail(self, error: UpstreamError) -> None:
        head, self._head = self._head, None
        reply, self._reply = self._reply, None
        self._asked = None
        if head is not None and not head.done():
            head.set_exception(error)
        if reply is not None:
            reply.fail(error)
        if self._transport is not None:
            self._transport.abort()

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._deadline == NEVER:
            return
        if self.loop.time() < self._deadline - 0.001:
            self._arm(self._deadline)
        elif self._head is None and self._reply is None:
            self.give_up()
        else:
            seconds: float = getattr(self._timeouts, self._kind)
            self._fail(UpstreamTimeout(self._kind, seconds, at=self._where))


class Pool:
    """The idle connections of one origin, the latest used first."""

    __slots__ = ("_heads", "_idle", "keep", "keep_s", "loop", "open", "origin")

    def __init__(
        self, origin: Origin, loop: asyncio.AbstractEventLoop, keep: int, keep_s: float
    ) -> None:
        self.origin = origin
        self.loop = loop
        self._heads: dict[tuple[bytes, bytes, Headers], bytes] = {}
        self.keep = keep
        self.keep_s = keep_s
        self.open: set[Connection] = set()
        self._idle: list[Connection] = []

    def head(self, method: bytes, path: bytes, headers: Headers) -> bytes:
        """The rendered head; a backend's are few and the same again and again."""
        key = (method, path, headers)
        head = self._heads.get(key)
        if head is None:
            head = _rendered(self.origin.authority, method, path, headers)
            if len(self._heads) < HEADS:
                self._heads[key] = head
        return head

    def take(self) -> Connection | None:
        """A connection that is idle and still open, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.give_up()
        return None

    def release(self, connection: Connection) -> None:
        """The connection's answer is whole: it may be used again."""
        if len(self._idle) >= self.keep:
            connection.give_up()
            return
        now = connection.loop.time()
        connection.idle_since = now
        connection.expire_at(now + self.keep_s)
        self._idle.append(connection)

    def retire(self) -> None:
        """No connection is kept any more: idle ones close now, others once they would be idle."""
        self.keep = 0
        for connection in self._idle[:]:
            connection.give_up()

    def discard(self, connection: Connection) -> None:
        """The connection is closed."""
        self.open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class LeanTransport:
    """Connections to any number of origins; `keep` idle ones for `keep_s` seconds at each."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        keep: int = 512,
        keep_s: float = 15.0,
    ) -> None:
        self._pools: dict[Origin, Pool] = {}
        self._retired: list[Pool] = []
        self._ssl = ssl_context
        self._keep = keep
        self._keep_s = keep_s

    async def send(
        self,
        origin: Origin,
        method: bytes,
        path: bytes,
        headers: Headers,
        body: bytes,
        timeouts: Timeouts,
    ) -> LeanReply:
        """The answer's head. Raises UpstreamError; cancelled, it closes its connection at once."""
        pool = self._pools.get(origin) or self._begun(origin)
        began = pool.loop.time()
        connection = pool.take()
        if connection is None:
            connection = await self._connect(pool, timeouts)
        raw = b"%b%d\r\n\r\n%b" % (pool.head(method, path, headers), len(body), body)
        head = connection.request(raw, method == b"HEAD", timeouts, began)
        try:
            return await head
        except asyncio.CancelledError:
            connection.leave(head)
            raise

    async def warm(self, origin: Origin, timeouts: Timeouts) -> None:
        """Opens a connection ahead, where there is none yet. Raises UpstreamError."""
        pool = self._pools.get(origin) or self._begun(origin)
        if not pool.open:
            pool.release(await self._connect(pool, timeouts))

    def keep(self, origins: Collection[Origin]) -> None:
        """Goes on with these; of every other, connections close once their answer is whole.

        A request to another is still carried.
        """
        for origin in self._pools.keys() - origins:
            pool = self._pools.pop(origin)
            pool.retire()
            self._retired.append(pool)
        self._retired = [pool for pool in self._retired if pool.open]

    async def close(self) -> None:
        """Closes every connection."""
        for pool in (*self._pools.values(), *self._retired):
            for connection in list(pool.open):
                connection.give_up()
        self._pools.clear()
        self._retired.clear()

    def _begun(self, origin: Origin) -> Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools[origin] = Pool(origin, loop, self._keep, self._keep_s)
        return pool

    async def _connect(self, pool: Pool, timeouts: Timeouts) -> Connection:
        origin = pool.origin
        where = origin.authority.decode()
        seconds = min(timeouts.connect, timeouts.total)
        try:
            async with asyncio.timeout(seconds):
                connection = await self._open(pool)
        except TimeoutError:
            raise UpstreamTimeout("connect", seconds, at=where) from None
        except ssl.SSLError as error:
            raise TlsFailed(f"TLS failed: {error.reason or error}", at=where) from error
        except OSError as error:
            raise ConnectFailed(unconnected(error), at=where) from error
        pool.open.add(connection)
        return connection

    async def _open(self, pool: Pool) -> Connection:
        origin, loop = pool.origin, pool.loop

        def protocol() -> Connection:
            return Connection(pool)

        made: Any
        if origin.uds is not None:
            made = await loop.create_unix_connection(protocol, origin.uds)
        elif origin.scheme == "https":
            made = await loop.create_connection(
                protocol, origin.host, origin.port, ssl=self._context(), server_hostname=origin.host
            )
        else:
            made = await loop.create_connection(protocol, origin.host, origin.port)
        connection: Connection = made[1]
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = ssl.create_default_context()
        return self._ssl


def _rendered(authority: bytes, method: bytes, path: bytes, headers: Headers) -> bytes:
    """A request's head up to the length of its body."""
    lines = [method, b" ", path, b" HTTP/1.1\r\nhost: ", authority, b"\r\n"]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"content-length: ")
    return b"".join(lines)


def _unframed(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the body ends only with the connection."""
    return _FRAMED.isdisjoint(dict(headers))
