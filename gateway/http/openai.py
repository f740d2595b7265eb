"""The data plane: OpenAI's inference calls as a pure ASGI application in front of the rest.

Everything that is not one of them goes to the control plane, a FastAPI application. Errors of
either become HTTP here, and only here.
"""

import asyncio
import ipaddress
import logging
import os
import time
from collections.abc import Callable, Iterable

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ApiError, BadRequest, Forbidden, MethodNotAllowed, Unauthorized
from gateway.http.cycle import CYCLE, Cycle
from gateway.http.parse import TOO_DEEP, parse
from gateway.journey import Lines
from gateway.pipeline import Pipeline
from gateway.types.requests import Caller, Endpoint

log = logging.getLogger("switchboard")

RawHeaders = Iterable[tuple[bytes, bytes]]

_encode = msgspec.json.Encoder().encode
_ENDPOINTS = {f"/v1/{endpoint.value}": endpoint for endpoint in Endpoint}

Authenticate = Callable[[bytes | None], Caller]
"""From the bearer token, if one was sent, to who asks; raises Unauthorized."""


class DataPlane:
    """ASGI application: inference calls to the pipeline, the rest to `control`.

    Inference calls are answered straight through the `Cycle` that our protocol puts in the scope.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        control: ASGIApp,
        authenticate: Authenticate,
        is_open: Callable[[], bool],
    ) -> None:
        """While it `is_open` whoever reaches us may ask without a key, but not through the browser
        of somebody who does."""
        self._pipeline = pipeline
        self.control = control
        self._authenticate = authenticate
        self._is_open = is_open
        self._random = RandomStock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.control(scope, receive, send)
            return
        path = scope["path"]
        if "//" in path:
            # A base URL that ends in a slash leads some clients to ask for /v1//models.
            while "//" in path:
                path = path.replace("//", "/")
            scope["path"] = path
            scope["raw_path"] = path.encode()
        if self._is_open() and path != "/health" and (refusal := foreign(scope)) is not None:
            HttpOutlet(scope[CYCLE]).refuse(refusal, new_id(self._random))
            return
        endpoint = _ENDPOINTS.get(path)
        if endpoint is None or (scope["method"] == "GET" and endpoint is Endpoint.CHAT):
            await self.control(scope, receive, send)
        else:
            await self._infer(endpoint, scope, receive)

    async def _infer(self, endpoint: Endpoint, scope: Scope, receive: Receive) -> None:
        request_id = new_id(self._random)
        cycle: Cycle = scope[CYCLE]
        outlet = HttpOutlet(cycle)
        cycle.cancels = True
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(
                    f"{scope['path']} takes POST, not {scope['method']}.",
                    headers=[(b"allow", b"POST")],
                )
            headers = scope["headers"]
            caller = self._authenticate(bearer(headers))
            body = await read_body(receive)
            request = parse(
                endpoint, body, id=request_id, headers=rule_headers(headers), caller=caller
            )
            await self._pipeline.serve(request, outlet)
        except ApiError as error:
            outlet.refuse(error, request_id)
        except asyncio.CancelledError:
            if not cycle.client_gone:
                raise
        except Exception as error:  # noqa: BLE001 - logged, and told to the client
            fault = own_fault(error, request_id)
            if outlet.opened:
                outlet.fail(fault)
            else:
                outlet.refuse(fault, request_id)
        finally:
            cycle.cancels = False


class HttpOutlet:
    """The client's side of one request over HTTP, in OpenAI's dialect."""

    __slots__ = ("_cycle", "opened")

    def __init__(self, cycle: Cycle) -> None:
        self._cycle = cycle
        self.opened = False

    def plain(self, status: int, lines: Lines, body: bytes) -> None:
        """A whole answer."""
        lines.append(b"content-length: %d" % len(body))
        self._begin(status, lines, len(body))
        self._cycle.write(body, more=False)

    def open(self, status: int, lines: Lines) -> None:
        """The head of a stream."""
        lines += _STREAM_LINES
        self._begin(status, lines, None)

    def write(self, body: bytes) -> bool:
        """Bytes of the stream, passed on at once; false when the client's side is full."""
        return self._cycle.write(body, more=True)

    async def drain(self) -> None:
        """Waits until the client's side has room."""
        await self._cycle.drain()

    def close(self) -> None:
        """The stream's proper end."""
        self._cycle.write(b"", more=False)

    def fail(self, error: ApiError) -> None:
        """One error event as the stream's last."""
        self._cycle.write(b"data: " + _encode(error.body()) + b"\n\n", more=False)

    def refuse(self, error: ApiError, request_id: str) -> None:
        """An error instead of an answer."""
        lines = [b"%b: %b" % header for header in error_headers(error, request_id)]
        self.plain(error.status, lines, _encode(error.body()))

    def _begin(self, status: int, lines: Lines, length: int | None) -> None:
        self.opened = True
        if not self._cycle.disconnected:
            self._cycle.start(status, lines, length)


_STREAM_LINES = (b"cache-control: no-cache", b"x-accel-buffering: no")


def error_headers(error: ApiError, request_id: str) -> list[tuple[bytes, bytes]]:
    """The head of an error answer; SDKs honour `retry-after`."""
    headers = [
        (b"content-type", b"application/json"),
        (b"x-request-id", request_id.encode()),
        *error.headers,
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
    return headers


def own_fault(error: Exception, request_id: str) -> ApiError:
    """What the client is told of an exception that nobody meant; the log has the whole."""
    if isinstance(error, RecursionError):
        # Just shallow enough to be read at the edge, too deep for what looks into it further.
        return BadRequest(TOO_DEEP, code="nested_too_deeply")
    log.error("%s: an error of our own", request_id, exc_info=error)
    return ApiError("Switchboard failed on this request.", code="internal_error")


def bearer(headers: RawHeaders) -> bytes | None:
    """The caller's key, if one was sent."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            return value
    return None


def rule_headers(headers: RawHeaders) -> dict[str, str]:
    """The headers that routing may look at: the `x-` ones, and never the key."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers
        if name[:2] == b"x-" and name != b"x-api-key"
    }


class RandomStock:
    """Random bytes from the operating system, asked for by the page: each asking costs a call."""

    def __init__(self) -> None:
        self._bytes, self._at = b"", 0

    def __call__(self, count: int) -> bytes:
        if self._at + count > len(self._bytes):
            self._bytes, self._at = os.urandom(4096), 0
        self._at += count
        return self._bytes[self._at - count : self._at]


def new_id(random: Callable[[int], bytes] = os.urandom) -> str:
    """A request's id: the millisecond, then 80 random bits, both in hex, as in a UUIDv7.

    Ids that grow are stored at their index's end; rows with random ones cost the store twice as
    much.
    """
    return f"req_{time.time_ns() // 1_000_000:012x}{random(10).hex()}"


async def read_body(receive: Receive) -> bytes:
    """The request's body; our protocol hands it over in one piece."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    return body


_OURS = ("localhost", "host.docker.internal")
"""Names of this machine: its own, and that of the containers on it."""


def foreign(scope: Scope) -> Forbidden | None:
    """Why a request is not answered while there is no key: a page from elsewhere has sent it,
    through a browser on this machine. None for all that no page has sent.

    The browser tells itself where a page comes from. Where that page's own name was made to lead
    here (DNS rebinding), it holds us to be the same, and the name is in `host`.
    """
    said = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
    host = said.get(b"host", "")
    origin = said.get(b"origin", f"http://{host}")
    if origin.partition("://")[2] != host or said.get(b"sec-fetch-site") == "cross-site":
        why = "a web page from elsewhere sent this"
    elif _is_loopback((scope.get("server") or ("",))[0]) and not _is_ours(host):
        why = f"'{host}' is no name of this machine"
    else:
        return None
    return Forbidden(
        f"While there is no key, only programs on this machine are answered, and {why}. Make a key "
        "with `switchboard keys create --name NAME`, and send it.",
        code="foreign_request",
    )


def _is_ours(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return not name or name in _OURS or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def require_key(token: bytes | None) -> Unauthorized:
    """The answer to a missing or wrong key."""
    if token is None:
        return Unauthorized(
            "You did not provide an API key. Send it as 'Authorization: Bearer KEY'; "
            "`switchboard keys create --name NAME` makes one.",
            code="missing_api_key",
        )
    return Unauthorized("Incorrect API key provided.", code="invalid_api_key")
