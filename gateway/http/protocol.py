"""The server's HTTP/1.1 protocol: uvicorn's, with limits on what a client may make us hold.

uvicorn enforces nothing at its defaults, and an ASGI application is called too late to do it: a
slow head never reaches one, and a declared 100 GB body is waited for. So the limits live here.
Requests are handed over whole: the application starts when the last byte of the body is in.
"""

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

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
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        super().on_headers_complete()

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
        app = getattr(self.cycle, "waiting_app", None)
        if app is not None:
            super()._start_asgi_task(self.cycle, app)

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
