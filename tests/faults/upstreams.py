"""Backends that fail before there is any HTTP: no listener, or TLS that goes wrong."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import trustme

from gateway.standin import Behaviour, StandIn


@contextmanager
def refusing() -> Iterator[str]:
    """An origin whose port is taken and not listened on: each connection is refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


@asynccontextmanager
async def cutting_handshakes() -> AsyncIterator[str]:
    """An origin that hangs up on a client's first bytes of TLS."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(16)
        writer.transport.abort()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"


CERTIFIED = 64
"""Addresses that the good certificate is for."""


class Origins:
    """The base URLs of every kind of upstream, and the stand-ins behind those that answer."""

    def __init__(self, stack: AsyncExitStack, models: dict[str, Behaviour], folder: Path) -> None:
        self._stack = stack
        self._models = models
        self._folder = folder
        self.plain: StandIn
        self.tls: StandIn
        self._urls: dict[str, str] = {}
        self._given = 0
        self._certified = iter(address(100_000 + n) for n in range(CERTIFIED))

    async def start(self) -> None:
        """Serves all of them; the authority of the good certificate is trusted from now on."""
        ours, unknown = trustme.CA(), trustme.CA()
        ours.cert_pem.write_to_path(str(self._folder / "authority.pem"))
        self._stack.enter_context(trusting(self._folder / "authority.pem"))
        self.plain = await self._serve(None)
        self.tls = await self._serve(
            _certified(ours, *(address(100_000 + n) for n in range(CERTIFIED)))
        )
        strange = await self._serve(_certified(unknown, "localhost"))
        other = await self._serve(_certified(ours, "elsewhere.example"))
        cut = await self._stack.enter_async_context(cutting_handshakes())
        self._urls = {
            "unknown-issuer": f"https://localhost:{strange.port}/v1",
            "other-name": f"https://localhost:{other.port}/v1",
            "handshake": cut,
        }

    def url(self, upstream: str) -> str:
        """Where that kind of upstream is: never the same twice, for what the gateway learns of one
        replica must not tell on another trial."""
        if upstream == "refused":
            return self._stack.enter_context(refusing())
        self._given += 1
        if upstream == "plain":
            return f"http://{address(self._given)}:{self.plain.port}/v1"
        if upstream == "tls":
            return f"https://{next(self._certified)}:{self.tls.port}/v1"
        return self._urls[upstream].replace("/v1", f"/{self._given}/v1")

    async def _serve(self, tls: ssl.SSLContext | None) -> StandIn:
        return await self._stack.enter_async_context(StandIn(self._models, tls=tls, host="0.0.0.0"))


def address(n: int) -> str:
    """The n-th address of this machine's own: all of 127.0.0.0/8 are."""
    return f"127.{1 + n // 62_500}.{n // 250 % 250}.{1 + n % 250}"


def _certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@contextmanager
def trusting(authority: Path) -> Iterator[None]:
    """The certificate that OpenSSL trusts by default: how an operator names one of their own."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(authority)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before
