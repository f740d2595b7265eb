"""A server whose every byte a test decides: raw sockets, one handler a connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.transport.base import Origin

WAIT_S = 10.0
"""How long a test waits for what must come."""


class Connection:
    """One accepted connection. `lost` is set when the client has closed or reset it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[bytes, bytes]:
        """The next request's head and body; two empty ones when the client has gone."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b"", b""
        body = b""
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                body = await self.reader.readexactly(int(line[15:]))
        return head, body

    async def send(self, data: bytes) -> None:
        """Writes and waits for room."""
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Until the client has closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            return


Handler = Callable[[Connection], Awaitable[None]]


class Peer:
    """A listening server: where it is, and how many connections it has taken."""

    def __init__(self) -> None:
        self.connections = 0
        self.origin = Origin("http", "127.0.0.1", 0)


@asynccontextmanager
async def peer(
    handler: Handler,
    *,
    tls: ssl.SSLContext | None = None,
    uds: Path | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Peer]:
    """A server that gives each connection to `handler`, and closes it afterwards."""
    one = Peer()
    tasks: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        one.connections += 1
        try:
            await handler(Connection(reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001 - told when the server ends
            failures.append(error)
        finally:
            tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    if uds is not None:
        server: asyncio.Server = await asyncio.start_unix_server(serve, str(uds))
        one.origin = Origin.parse(f"unix://{uds}")
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        one.origin = Origin.parse(f"{'https' if tls else 'http'}://{host}:{port}")
    try:
        yield one
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        assert not failures, failures


def plain(body: bytes, status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    """A whole answer with its length."""
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), extra, body)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One piece of a chunked body; the last is empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()


def forwarding(seen: list[bytes]) -> Handler:
    """A forward proxy: one call a connection for absolute URLs, and CONNECT for the rest."""

    async def handle(connection: Connection) -> None:
        head, body = await connection.request()
        method, url, rest = head.split(b" ", 2)
        seen.append(method + b" " + url)
        tunnel = method == b"CONNECT"
        place, _, path = (url if tunnel else url.removeprefix(b"http://")).partition(b"/")
        host, _, port = place.decode().rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            if tunnel:
                await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                rest = rest.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
                writer.write(b"%b /%b %b%b" % (method, path, rest, body))
            await asyncio.gather(
                _relay(connection.reader, writer), _relay(reader, connection.writer)
            )
        finally:
            writer.close()

    return handle
