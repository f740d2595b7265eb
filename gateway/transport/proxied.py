"""aiohttp behind the same seam: for a backend that is reached through a forward proxy.

It costs about twice the lean client's CPU time, and is the reference that the lean one is held
against: both pass one test suite. Nothing is taken from the environment, no redirect is followed,
no cookie is kept and no body is decoded.
"""

import asyncio
import io
import ssl
from collections.abc import Collection, Sequence
from types import SimpleNamespace

import aiohttp
from yarl import URL

from gateway.errors import (
    ConnectFailed,
    MalformedAnswer,
    TimeoutKind,
    TlsFailed,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
    said,
    unconnected,
)
from gateway.transport.base import MAX_HEAD, Headers, Origin, Sink
from gateway.types.backends import Timeouts

BUFFER = 65_536
"""Reading from the backend stops while twice as many bytes wait unread."""

_OWN = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""Headers that aiohttp would add by itself."""


class _Clock:
    """The deadline of the phase that a request is in."""

    def __init__(self, timeouts: Timeouts, where: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._where = where
        self._kind: TimeoutKind = "connect"
        self._total_at = self._loop.time() + timeouts.total
        self.timeout = asyncio.timeout_at(self._phase("connect", timeouts.connect))

    def sent(self) -> None:
        """The request has left: from now on the answer's head is waited for."""
        self.timeout.reschedule(self._phase("first_byte", self._timeouts.first_byte))

    def between(self) -> asyncio.Timeout:
        """The time until the next piece."""
        return asyncio.timeout_at(self._phase("between", self._timeouts.between))

    def ran_out(self) -> UpstreamTimeout:
        """The error for the phase whose time is over."""
        seconds: float = getattr(self._timeouts, self._kind)
        return UpstreamTimeout(self._kind, seconds, at=self._where)

    def _phase(self, kind: TimeoutKind, seconds: float) -> float:
        at = self._loop.time() + seconds
        self._kind, at = (kind, at) if at < self._total_at else ("total", self._total_at)
        return at


class AiohttpReply:
    """An answer whose head is in; its body is read piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse, clock: _Clock, where: str) -> None:
        self.status = response.status
        self.headers: Sequence[tuple[bytes, bytes]] = [
            (name.lower(), value) for name, value in response.raw_headers
        ]
        self._response = response
        self._clock = clock
        self._where = where

    async def read(self) -> bytes:
        """The next piece as it arrived; b"" at the end. Raises UpstreamError when it breaks off."""
        try:
            async with self._clock.between():
                return await self._response.content.readany()
        except TimeoutError:
            self.abort()
            raise self._clock.ran_out() from None
        except aiohttp.ClientError as error:
            self.abort()
            raise UpstreamClosed(
                f"the connection closed before its answer was whole: {said(error)}", at=self._where
            ) from error

    async def pump(self, sink: Sink) -> None:
        """Gives `sink` each piece as it arrives, until the end. Raises UpstreamError."""
        while piece := await self.read():
            if not sink.write(piece):
                await sink.drain()

    def abort(self) -> None:
        """Closes the connection unless the whole body has arrived."""
        if not self._response.content.is_eof():
            self._response.close()


class AiohttpTransport:
    """Connections to any number of origins, through `proxy` where one is given."""

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        keep_s: float = 15.0,
    ) -> None:
        self._proxy = proxy
        self._ssl = ssl_context
        self._keep_s = keep_s
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}

    async def send(
        self,
        origin: Origin,
        method: bytes,
        path: bytes,
        headers: Headers,
        body: bytes,
        timeouts: Timeouts,
    ) -> AiohttpReply:
        """The answer's head. Raises UpstreamError; cancelled, it closes its connection at once."""
        where = origin.authority.decode()
        session = self._sessions.get(origin.uds)
        if session is None:
            session = self._sessions[origin.uds] = self._session(origin.uds)
        clock = _Clock(timeouts, where)
        try:
            async with clock.timeout:
                response = await session.request(
                    method.decode(),
                    URL(f"{origin.scheme}://{where}{path.decode()}", encoded=True),
                    headers=[(name.decode("latin-1"), _text(value)) for name, value in headers],
                    # As a file: aiohttp warns of large bodies that come as plain bytes.
                    data=io.BytesIO(body),
                    allow_redirects=False,
                    proxy=self._proxy if origin.uds is None else None,
                    trace_request_ctx=clock,
                )
        except TimeoutError:
            raise clock.ran_out() from None
        except aiohttp.ClientError as error:
            raise _meant(error, where) from error
        return AiohttpReply(response, clock, where)

    async def warm(self, origin: Origin, timeouts: Timeouts) -> None:
        """Nothing: aiohttp opens no connection without a request."""

    def keep(self, origins: Collection[Origin]) -> None:
        """Nothing: connections that are not used close by themselves after `keep_s`."""

    async def close(self) -> None:
        """Closes every connection."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _session(self, uds: str | None) -> aiohttp.ClientSession:
        connector = (
            aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=self._keep_s,
                ssl=True if self._ssl is None else self._ssl,
            )
            if uds is None
            else aiohttp.UnixConnector(uds, limit=0, keepalive_timeout=self._keep_s)
        )
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_headers_sent)
        return aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_field_size=MAX_HEAD,
            max_line_size=MAX_HEAD,
            read_bufsize=BUFFER,
            skip_auto_headers=_OWN,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trace_configs=[tracing],
            trust_env=False,
        )


async def _headers_sent(
    _: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceRequestHeadersSentParams
) -> None:
    clock: _Clock = context.trace_request_ctx
    clock.sent()


def _text(value: bytes) -> str:
    """Header values go out as they came in: aiohttp writes UTF-8."""
    return value.decode("utf-8", "surrogateescape")


def _meant(error: aiohttp.ClientError, where: str) -> UpstreamError:
    """The seam's error for one of aiohttp's that came before any head."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return TlsFailed(f"TLS failed: {_unsecured(error.certificate_error)}", at=where)
    if isinstance(error, aiohttp.ClientSSLError):
        return TlsFailed(f"TLS failed: {_unsecured(error.os_error)}", at=where)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ConnectFailed(f"the proxy answered {error.status} {error.message}", at=where)
    if isinstance(error, aiohttp.ClientConnectorError):
        return ConnectFailed(unconnected(error.os_error), at=where)
    if isinstance(error, aiohttp.ClientResponseError):
        return MalformedAnswer(f"the answer is not HTTP/1.1: {error.message}", at=where)
    return UpstreamClosed(f"the connection closed before an answer: {said(error)}", at=where)


def _unsecured(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return reason or type(error).__name__
