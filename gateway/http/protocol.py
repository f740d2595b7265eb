"""The server's HTTP/1.1 protocol: uvicorn's, with limits on what a client may make us hold.

uvicorn enforces nothing at its defaults, and an ASGI application is called too late to do it: a
slow head never reaches one, and a declared 100 GB body is waited for. So the limits live here.
Requests are handed over whole: the application starts when the last byte of the body is in.
"""

import asyncio
import logging
import re
from collections import deque
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.errors import ApiError, BadRequest, Overloaded
from gateway.http.cycle import CYCLE, Cycle
from gateway.http.head import body_too_large, head_too_large, judge
from gateway.http.pressure import Pressure
from gateway.types.snapshot import Server

log = logging.getLogger("switchboard")

FREE_BODY = 65_536
"""Bytes of a body that are not booked: a head may be as large."""

MIN_BYTES_PER_S = 32_768
"""A body that takes longer than its timeout has to come as fast as this; and an answer that a
client falls behind with has to be taken as fast."""

LINGER_S = 2.0
"""How long a refused client may take to notice."""

ASGI = {"version": "3.0", "spec_version": "2.3"}


def plain_response(error: ApiError) -> bytes:
    """An error as a whole HTTP answer that closes the connection."""
    body = msgspec.json.encode(error.body())
    retry = b"retry-after: %d\r\n" % round(error.retry_after) if error.retry_after else b""
    more = b"".join(b"%b: %b\r\n" % header for header in error.headers)
    return (
        STATUS_LINE[error.status]
        + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        + retry
        + more
        + b"connection: close\r\n\r\n"
        + body
    )


FULL = plain_response(
    Overloaded(
        "There are too many connections; try again shortly.",
        code="too_many_connections",
        retry_after=1,
    )
)
BUSY_AND_CLOSE = plain_response(
    Overloaded(
        "The gateway has more to do than it has time for; try again shortly.",
        status=429,
        code="overloaded",
        retry_after=1,
    )
)
BUSY = BUSY_AND_CLOSE.replace(b"connection: close\r\n", b"")
"""Made once: they are needed when time is short."""


def without_offer(data: bytes) -> bytes:
    """A request's first bytes without an offer to speak another protocol, which may be declined.

    Java's own client makes one for HTTP/2 with every request, and the parser would stop there and
    lose the body.
    """
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    return _UPGRADE.sub(b"", head) + data[len(head) :]


_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class Bodies:
    """How many bytes the large bodies of all open requests take together."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0


class LimitedProtocol(HttpToolsProtocol):
    """One connection. What is shared is set on a subclass made by `limited`."""

    limits: Server
    bodies: Bodies
    pressure: Pressure
    free: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._barren = 0
        self._got_body = False
        self._had = 0
        self._in_head = True
        self._whole = True
        self._refused = False
        self._refusal: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading: Cycle | None = None
        self._running: Cycle | None = None
        self._waiting: deque[Cycle] = deque()
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._untaken = 0
        self._taking: asyncio.TimerHandle | None = None

    # -------------------------------------------------------- connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refused = True
            transport.write(FULL)
            transport.close()
            return
        self._arm(self.limits.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self.connections.discard(self)
        if self._running is not None:
            self._running.lost()
        for cycle in (self._reading, self._running, *self._waiting):
            self._let_go(cycle)
        self._waiting.clear()
        self._reading = self._running = None
        self.flow.resume_writing()
        self._stop_taking()
        self.parser = None  # type: ignore[assignment]

    def shutdown(self) -> None:
        """Called when the server stops: what is under way is finished first."""
        if self._running is None:
            self._close()
        else:
            self._running.keep_alive = False

    def eof_received(self) -> None:
        """The client sends no more; it may still take what was written."""
        self._close()

    def pause_writing(self) -> None:
        """The client has fallen behind with what it is sent. Only such a one pays for a timer."""
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        """The client has caught up; before a connection is closed it is to take all of it."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_taking()

    def _close(self) -> None:
        """Closes the connection once the client has what was written, for which it has its time."""
        self.transport.close()
        if self._taking is None and self.transport.get_write_buffer_size():
            self._await_taking()

    def _stop_taking(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _await_taking(self) -> None:
        self._untaken = self.transport.get_write_buffer_size()
        self._taking = self.loop.call_later(self.limits.body_timeout, self._fallen_behind)

    def _fallen_behind(self) -> None:
        """A client that stops reading would keep its place, its backend and its answer for ever: it
        is as good as gone, unless it takes a long answer at a fair pace."""
        taken = self._untaken - self.transport.get_write_buffer_size()
        if taken >= self.limits.body_timeout * MIN_BYTES_PER_S:
            self._await_taking()
        else:
            self._taking = None
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._whole and b"pgrade:" in data:
            data = without_offer(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(BadRequest("The request is not valid HTTP/1.1.", code="invalid_http"))
            return
        if self._whole or self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.max_head:
                self._refuse(head_too_large(self.limits))
                return
        elif self._got_body:
            self._got_body, self._barren = False, 0
        else:
            # Neither head nor body: chunk extensions, or trailers.
            self._barren += len(data)
            if self._barren > self.limits.max_head:
                self._refuse(head_too_large(self.limits))
                return
        if self._timer is None and (self._in_head or not self.expect_100_continue):
            # Only a request that did not come in one piece pays for a timer. One whose body is not
            # asked for yet, since the answer before it is under way, is not slow.
            limits = self.limits
            self._arm(limits.head_timeout if self._in_head else limits.body_timeout)

    # -------------------------------------------------------- parser callbacks

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line of the head. Trailers are dropped: nobody asked for any, and among the headers
        they could pass for what a proxy before us had checked."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Judges the head; the application is not started before the body is whole."""
        if self._refused:
            return
        self._disarm()
        self._in_head = False
        self._head_bytes = 0
        version = self.parser.get_http_version()
        error = self._judge_head(version)
        if error is not None:
            self._refuse(error)
            return
        if self.expect_100_continue and self._running is None:
            self._ask_for_body()  # else in its turn: it would stand in the middle of an answer
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self._reading = Cycle(self, self._scope(version), keep_alive)
        self._had = 0

    def _ask_for_body(self) -> None:
        self.expect_100_continue = False
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self.expect_100_continue = False  # it did not wait to be asked
        cycle = self._reading
        assert cycle is not None
        if not cycle.body:
            cycle.body = body
        elif isinstance(cycle.body, bytearray):
            cycle.body += body
        else:
            cycle.body = bytearray(cycle.body) + body
        self._got_body = True
        if len(cycle.body) > self.free:
            self._hold(cycle)

    def _hold(self, cycle: Cycle) -> None:
        """Books what a large body takes, until its request has ended."""
        size = len(cycle.body)
        self.bodies.held += size - cycle.held
        cycle.held = size
        if size > self.limits.max_body:
            self._refuse(body_too_large(self.limits))
        elif self.bodies.held > self.limits.max_bodies:
            self._refuse(
                Overloaded(
                    "The bodies of other requests take all the memory that there is for them; "
                    "try again shortly.",
                    code="too_much_in_bodies",
                    retry_after=1,
                )
            )

    def _let_go(self, cycle: Cycle | None) -> None:
        """The request has ended, or will never begin: its body is nobody's any more."""
        if cycle is not None and cycle.held:
            self.bodies.held -= cycle.held
            cycle.held = 0
            cycle.body = b""

    def on_message_complete(self) -> None:
        if self._refused:
            return
        self._disarm()
        self._whole = True
        cycle, self._reading = self._reading, None
        assert cycle is not None
        if self._running is None:
            pressure = self.pressure
            if (
                pressure.share
                and self.url.startswith(b"/v1/")
                and pressure.sheds(already=len(self.tasks))
            ):
                self._turn_away(cycle)
            else:
                self._start(cycle)
        else:
            # Pipelined: answered in its turn, and no more is read until then.
            self._waiting.append(cycle)
            self.flow.pause_reading()

    def _scope(self, version: str) -> dict[str, Any]:
        """The ASGI scope of the request whose head is in."""
        url = self.url
        if url.startswith(b"/") and b"%" not in url:
            raw_path, _, query = url.partition(b"?")
            path = raw_path.decode("ascii")
        else:
            parsed = httptools.parse_url(url)
            raw_path, query = parsed.path, parsed.query or b""
            path = unquote(raw_path.decode("ascii"))
        return {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "method": self.parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "server": self.server,
            "client": self.client,
            "state": {},
        }

    # -------------------------------------------------------- answering

    def _start(self, cycle: Cycle) -> None:
        self._running = cycle
        cycle.scope[CYCLE] = cycle
        cycle.task = task = self.loop.create_task(cycle.run(self.app))
        self.tasks.add(task)

    def _turn_away(self, cycle: Cycle) -> None:
        """Answers at once with what is ready; the connection stays, for a new one costs more."""
        self.transport.write(BUSY if cycle.keep_alive else BUSY_AND_CLOSE)
        self.answered(cycle)

    def answered(self, cycle: Cycle) -> None:
        """The answer's last byte is written: the next pipelined request has its turn."""
        self.server_state.total_requests += 1
        self._running = None
        if cycle.held:
            self._let_go(cycle)
        if self.transport.is_closing():
            return
        if not cycle.keep_alive:
            self._close()
        elif self._waiting:
            self._start(self._waiting.popleft())
            if not self._waiting:
                self.flow.resume_reading()
        elif self._refusal is not None:
            self._part_with(self._refusal)
        elif self._reading is not None and self.expect_100_continue:
            self._ask_for_body()
            self._arm(self.limits.body_timeout)
        else:
            self._idle_since = self.loop.time()
            if self._idle_timer is None:
                self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._idle)

    def fail(self, cycle: Cycle) -> None:
        """The application left its request unanswered; a broken stream is not ended cleanly."""
        if not cycle.response_started and not self.transport.is_closing():
            self.transport.write(
                plain_response(
                    ApiError("Switchboard failed on this request.", code="internal_error")
                )
            )
        self._close()

    def _idle(self) -> None:
        """One timer a connection, moved only when it goes off: requests need not touch it."""
        self._idle_timer = None
        if self._running is not None or not self._whole:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0.001:
            self._idle_timer = self.loop.call_later(left, self._idle)
        else:
            self._close()

    # -------------------------------------------------------- refusing

    def _judge_head(self, version: str) -> ApiError | None:
        limits = self.limits
        error = judge(self.url, self.headers, version, limits)
        if error is None and len(self.tasks) >= limits.max_open:
            error = Overloaded(
                f"{limits.max_open} requests are open already; try again shortly.",
                code="too_many_open_requests",
                retry_after=1,
            )
        return error

    def _too_slow(self) -> None:
        self._timer = None
        if self._whole:
            # Connected, and nothing said: there is no request to answer.
            self._close()
            return
        if self._reading is not None:
            seconds, had = self.limits.body_timeout, self._had
            self._had = len(self._reading.body)
            if self._had - had >= seconds * MIN_BYTES_PER_S:
                self._arm(seconds)
                return
        part = "head" if self._in_head else "body"
        self._refuse(
            ApiError(
                f"The request's {part} did not arrive in time.",
                status=408,
                type="invalid_request_error",
                code="request_timeout",
            )
        )

    def _refuse(self, error: ApiError) -> None:
        if self._refused:
            return
        self._refused = True
        self._disarm()
        self._let_go(self._reading)
        if self.transport.is_closing():
            return
        if self._running is not None:
            # Pipelined behind a good request: that one's answer comes first.
            self._refusal = plain_response(error)
            return
        self._part_with(plain_response(error))

    def _part_with(self, answer: bytes) -> None:
        """Sends a last answer. A request that is still coming in is let come, unread: closing
        before would reset the connection, and the client might never see why."""
        transport = self.transport
        transport.write(answer)
        if self._whole:
            self._close()
        else:
            transport.write_eof()
            self._timer = self.loop.call_later(LINGER_S, self._close)

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def limited(limits: Server, pressure: Pressure | None = None) -> type[LimitedProtocol]:
    """The protocol class for these limits, as uvicorn's configuration wants it."""
    shared = {
        "limits": limits,
        "bodies": Bodies(),
        "pressure": pressure or Pressure(),
        "free": min(FREE_BODY, limits.max_body),
    }
    return type("Protocol", (LimitedProtocol,), shared)
