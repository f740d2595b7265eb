"""The server's HTTP/1.1 protocol: uvicorn's, with limits on what a client may make us hold.

uvicorn enforces nothing at its defaults, and an ASGI application is called too late to do it: a
slow head never reaches one, and a declared 100 GB body is waited for. So the limits live here.
Requests are handed over whole: the application starts when the last byte of the body is in.
"""

import asyncio
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from gateway.errors import ApiError, BadRequest, Overloaded, TooLarge
from gateway.types import Server

CONNECTION = "switchboard.connection"
"""Key in the ASGI scope of the connection's `LimitedProtocol`."""


def plain_response(error: ApiError) -> bytes:
    """An error as a whole HTTP answer that closes the connection."""
    body = msgspec.json.encode(error.body())
    retry = b"retry-after: %d\r\n" % round(error.retry_after) if error.retry_after else b""
    return (
        STATUS_LINE[error.status]
        + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        + retry
        + b"connection: close\r\n\r\n"
        + body
    )


class Cycle(RequestResponseCycle):
    """One request and its answer. The head waits for the first bytes of the body: one write."""

    head: bytes = b""
    waiting_app: Any = None

    async def send(self, message: Any) -> None:
        """The ASGI `send`; returns once the client's side has room for more."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_complete:
            raise RuntimeError(f"{message['type']} after the answer was complete")
        if self.response_started:
            self._send_body(message["body"], message.get("more_body", False))
        else:
            self.head = self._render_head(message["status"], message["headers"])
            self.response_started = True

    def _render_head(self, status: int, headers: Any) -> bytes:
        lines = [STATUS_LINE[status]]
        headers = [*self.default_headers, *headers]
        for name, value in headers:
            if name == b"content-length":
                self.chunked_encoding = False
                self.expected_content_length = int(value)
            lines += (name, b": ", value, b"\r\n")
        extra = 2
        if self.chunked_encoding is None:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
            extra += 1
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
            extra += 1
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(headers) + extra:
            raise RuntimeError("a header's value holds a line break")
        return head

    def _send_body(self, body: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
            framed = b""
        elif self.chunked_encoding:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                framed += b"0\r\n\r\n"
        else:
            framed = body
            self.expected_content_length -= len(body)
        if self.head:
            framed, self.head = self.head + framed, b""
        if framed:
            self.transport.write(framed)
        if not more:
            self._complete()

    def _complete(self) -> None:
        if self.expected_content_length:
            raise RuntimeError("the body is not as long as its content-length says")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `limits` is set on a subclass made by `limited`."""

    limits: Server

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False
        self._head_bytes = 0
        self._in_head = True
        self._whole = True
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._to_cancel: asyncio.Task[Any] | None = None

    def cancel_on_disconnect(self, task: "asyncio.Task[Any] | None") -> None:
        """Cancels `task` when the client goes away; None takes that back."""
        self._to_cancel = task

    # -------------------------------------------------------- connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(self.limits.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        if self._to_cancel is not None:
            self._to_cancel.cancel()
            self._to_cancel = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if self._whole or self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.max_head:
                self._refuse(self._head_too_large())
                return
        if self._timer is None:
            # Only a request that did not come in one piece pays for a timer.
            limits = self.limits
            self._arm(limits.head_timeout if self._in_head else limits.body_timeout)

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest("The request is not valid HTTP/1.1.", code="invalid_http"))

    # -------------------------------------------------------- parser callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._whole = False

    def on_headers_complete(self) -> None:
        """Judges the head; the application is not started before the body is whole."""
        if self._refused:
            return
        self._disarm()
        self._in_head = False
        self._head_bytes = 0
        error = self._judge_head()
        if error is not None:
            self._refuse(error)
            return
        if self.expect_100_continue:
            self.expect_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._begin_cycle()

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self.cycle.body += body
        if len(self.cycle.body) > self.limits.max_body:
            self._refuse(self._body_too_large())

    def on_message_complete(self) -> None:
        if self._refused:
            return
        self._disarm()
        self._whole = True
        super().on_message_complete()
        cycle: Any = self.cycle
        if cycle.waiting_app is not None:
            super()._start_asgi_task(cycle, cycle.waiting_app)

    def _begin_cycle(self) -> None:
        """What uvicorn does when a head is in, without upgrades, and with our own cycle."""
        scope: Any = self.scope
        scope[CONNECTION] = self
        scope["method"] = self.parser.get_method().decode("ascii")
        version = self.parser.get_http_version()
        if version != "1.1":
            scope["http_version"] = version
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Called by uvicorn when the head is in; deferred until the body is too."""
        cycle.waiting_app = app
        if not cycle.more_body:
            super()._start_asgi_task(cycle, app)

    # -------------------------------------------------------- refusing

    def _judge_head(self) -> ApiError | None:
        length, host, size = 0, False, len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"content-length":
                length = int(value)
            elif name == b"host":
                host = True
        if size > self.limits.max_head:
            return self._head_too_large()
        if length > self.limits.max_body:
            return self._body_too_large()
        if not host and self.parser.get_http_version() == "1.1":
            return BadRequest("The Host header is missing.", code="missing_host")
        if len(self.tasks) >= self.limits.max_open:
            return Overloaded(
                f"{self.limits.max_open} requests are open already; try again shortly.",
                code="too_many_open_requests",
                retry_after=1,
            )
        return None

    def _head_too_large(self) -> ApiError:
        return ApiError(
            f"The request's head is larger than {self.limits.max_head} bytes.",
            status=431,
            type="invalid_request_error",
            code="head_too_large",
        )

    def _body_too_large(self) -> ApiError:
        return TooLarge(
            f"The request's body is larger than {self.limits.max_body} bytes.",
            code="body_too_large",
        )

    def _too_slow(self) -> None:
        self._timer = None
        if self._whole:
            # Connected, and nothing said: there is no request to answer.
            self.transport.close()
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
        self._refused = True
        self._disarm()
        if self.transport.is_closing():
            return
        if not self._answering():
            self.transport.write(plain_response(error))
        self.transport.close()

    def _answering(self) -> bool:
        """An answer is under way on this connection, so that no other may be written into it."""
        cycle = self.cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def limited(limits: Server) -> type[LimitedProtocol]:
    """The protocol class for these limits, as uvicorn's configuration wants it."""
    return type("Protocol", (LimitedProtocol,), {"limits": limits})
