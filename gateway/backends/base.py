"""The one central type: a backend takes a call and gives a reply whose body is a stream."""

from typing import Protocol

import msgspec

from gateway.transport.base import Headers, Origin, Reply, Transport
from gateway.types.backends import Backend as Declared
from gateway.types.backends import Timeouts


class Call(msgspec.Struct, frozen=True):
    """One upstream call. `path` is below the API's base, such as `b"/chat/completions"`.

    `adapter` is the served name of the adapter that the replica must have. `within_s` are the
    seconds that are left for the whole answer, if fewer than the backend may take.
    """

    replica: str
    path: bytes
    body: bytes
    headers: Headers = ()
    method: bytes = b"POST"
    adapter: str | None = None
    within_s: float | None = None


class Backend(Protocol):
    """Sends calls to the replicas of one declared backend.

    Raises UpstreamError when no head comes back; an error status is a reply like any other.
    """

    async def send(self, call: Call) -> Reply: ...


class HttpBackend:
    """A backend that speaks OpenAI's API over HTTP: vLLM, a provider, or our litellm process."""

    def __init__(self, declared: Declared, transport: Transport) -> None:
        self._transport = transport
        self._timeouts = declared.timeouts
        self._origins = {url: _api_base(declared, url) for url in declared.replicas}
        self._headers = _own_headers(declared)

    async def send(self, call: Call) -> Reply:
        origin, base = self._origins[call.replica]
        return await self._transport.send(
            origin,
            call.method,
            base + call.path,
            self._headers + call.headers if call.headers else self._headers,
            call.body,
            self._timeouts if call.within_s is None else _at_most(self._timeouts, call.within_s),
        )


def _at_most(timeouts: Timeouts, seconds: float) -> Timeouts:
    return Timeouts(
        connect=min(timeouts.connect, seconds),
        first_byte=min(timeouts.first_byte, seconds),
        between=min(timeouts.between, seconds),
        total=min(timeouts.total, seconds),
    )


def _api_base(declared: Declared, url: str) -> tuple[Origin, bytes]:
    """Where to connect, and what stands before each call's path."""
    origin = Origin.parse(url)
    prefix = origin.prefix.rstrip("/")
    if declared.kind != "openai" and not prefix.endswith("/v1"):
        prefix += "/v1"
    return origin, prefix.encode()


def _own_headers(declared: Declared) -> Headers:
    """Headers that are ours and the same for each call; nothing of the client's is among them."""
    headers = [
        (b"content-type", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"user-agent", b"switchboard"),
    ]
    if declared.api_key is not None:
        headers.append((b"authorization", b"Bearer " + declared.api_key.encode()))
    headers += [(name.lower().encode(), value.encode()) for name, value in declared.headers.items()]
    return tuple(headers)
