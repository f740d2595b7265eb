"""One request and its answer on a connection, as ASGI sees them."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

log = logging.getLogger("switchboard")

CYCLE = "switchboard.cycle"
"""Key in the ASGI scope of the request's `Cycle`."""


class Connection(Protocol):
    """What a request needs of the connection that it came on."""

    transport: asyncio.Transport
    flow: FlowControl
    loop: asyncio.AbstractEventLoop
    server_state: ServerState
    tasks: set[asyncio.Task[None]]

    def answered(self, cycle: "Cycle") -> None:
        """The answer's last byte is written."""

    def fail(self, cycle: "Cycle") -> None:
        """The application left its request unanswered."""


class Cycle:
    """One request and its answer, as ASGI sees them; begun when the request is whole.

    The head waits for the first bytes of the body, so that a plain answer is one write. While
    `cancels` is set, the application is cancelled when the client goes away.
    """

    __slots__ = (
        "_chunked",
        "_gone",
        "_handed",
        "_head",
        "_left",
        "_protocol",
        "body",
        "cancels",
        "disconnected",
        "held",
        "keep_alive",
        "response_complete",
        "response_started",
        "scope",
        "task",
    )

    def __init__(self, protocol: Connection, scope: Any, keep_alive: bool) -> None:
        self._protocol = protocol
        self._chunked = True
        self._left = 0
        self._head = b""
        self._handed = False
        self._gone: asyncio.Future[None] | None = None
        self.body: bytes | bytearray = b""
        self.cancels = False
        self.disconnected = False
        self.held = 0
        self.keep_alive = keep_alive
        self.response_complete = False
        self.response_started = False
        self.scope = scope
        self.task: asyncio.Task[None] | None = None

    @property
    def client_gone(self) -> bool:
        """Whether there is nobody left to answer."""
        return self.disconnected or self._protocol.transport.is_closing()

    def lost(self) -> None:
        """The connection is closed."""
        if self.response_complete:
            return
        self.disconnected = True
        self._wake()
        if self.cancels and self.task is not None:
            self.task.cancel()

    async def run(self, app: Any) -> None:
        """Calls the application. One that fails is logged; its client gets a 500 or a cut."""
        try:
            await app(self.scope, self.receive, self.send)
            failed = not self.response_complete and not self.disconnected
            if failed:
                log.error("%s %s was not answered", self.scope["method"], self.scope["path"])
        except Exception:
            log.exception("%s %s failed", self.scope["method"], self.scope["path"])
            failed = not self.response_complete
        finally:
            assert self.task is not None
            self._protocol.tasks.discard(self.task)
            # The scope holds this, and this the scope: cut here, neither waits for the collector.
            self.scope.pop(CYCLE, None)
        if failed:
            self._protocol.fail(self)

    async def receive(self) -> dict[str, Any]:
        """The ASGI `receive`: the whole body once, then word that the client has gone."""
        if not self._handed:
            self._handed = True
            body, self.body = bytes(self.body), b""
            return {"type": "http.request", "body": body, "more_body": False}
        if not self.disconnected and not self.response_complete:
            self._gone = self._protocol.loop.create_future()
            await self._gone
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """The ASGI `send`; returns once the client's side has room for more."""
        await self.drain()
        if message["type"] == "http.response.start":
            headers = [*message["headers"]]
            length = dict(headers).get(b"content-length")
            lines = map(b": ".join, headers)
            self.start(message["status"], lines, None if length is None else int(length))
        else:
            self.write(message["body"], more=message.get("more_body", False))

    async def drain(self) -> None:
        """Waits until the client's side has room; not for ever, as the connection of a client that
        takes nothing is closed."""
        flow = self._protocol.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()

    def start(self, status: int, lines: Iterable[bytes], length: int | None) -> None:
        """The answer's head; `length` is the body's as the head says it, None where it does not."""
        if self.response_started:
            raise RuntimeError("the answer has begun already")
        if length is not None:
            self._chunked = False
            self._left = length
        self._head = self._render_head(status, lines)
        self.response_started = True

    def write(self, body: bytes, *, more: bool) -> bool:
        """A piece of the body, the last one without `more`; false when the client's side is full.

        What is written after the client has gone is dropped.
        """
        if self.disconnected:
            return True
        if self.response_complete or not self.response_started:
            raise RuntimeError("a body before its head, or after its end")
        self._send_body(body, more)
        return not self._protocol.flow.write_paused

    def _render_head(self, status: int, lines: Iterable[bytes]) -> bytes:
        every = [*map(b": ".join, self._protocol.server_state.default_headers), *lines]
        if self._chunked:
            every.append(b"transfer-encoding: chunked")
        if not self.keep_alive:
            every.append(b"connection: close")
        breaks = len(every) + 2
        every.append(b"\r\n")
        head = STATUS_LINE[status] + b"\r\n".join(every)
        if head.count(b"\n") != breaks:
            raise RuntimeError("a header's value holds a line break")
        return head

    def _send_body(self, body: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self._left = 0
            framed = b""
        elif self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                framed += b"0\r\n\r\n"
        else:
            framed = body
            self._left -= len(body)
        if self._head:
            framed, self._head = self._head + framed, b""
        if framed:
            self._protocol.transport.write(framed)
        if not more:
            self._complete()

    def _complete(self) -> None:
        if self._left:
            raise RuntimeError("the body is not as long as its content-length says")
        self.response_complete = True
        self._wake()
        self._protocol.answered(self)

    def _wake(self) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
