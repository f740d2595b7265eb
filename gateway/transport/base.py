"""The seam between the gateway and its backends: send a request, get a head, read pieces, abort."""

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from gateway.types.backends import Timeouts

MAX_HEAD = 65_536
"""Bytes of an answer's head, or of one line of it; a longer one is malformed."""

Headers = tuple[tuple[bytes, bytes], ...]
"""A request's headers, names in lower case; a tuple, so that what is made of it can be kept."""


def size_of(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Bytes of a head's lines as they are sent, each with a colon, a space and the line's end."""
    return sum(map(len, chain.from_iterable(headers))) + 4 * len(headers)


class Origin(msgspec.Struct, frozen=True):
    """Where to connect. `prefix` is the URL's path, without a slash at its end."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    uds: str | None = None
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> "Origin":
        """From `http://host:port/prefix`, `https://…` or `unix:///path/to.sock`."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return cls("http", "localhost", 80, uds=parts.path)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"'{url}' is not an http://, https:// or unix:// URL")
        scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
        port = parts.port or (443 if scheme == "https" else 80)
        return cls(scheme, parts.hostname, port, prefix=parts.path.rstrip("/"))

    @property
    def authority(self) -> bytes:
        """The Host header's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.scheme == "https" else 80
        return (host if self.port == usual else f"{host}:{self.port}").encode()


class Sink(Protocol):
    """What takes a body piece by piece."""

    def write(self, piece: bytes) -> bool:
        """Takes one piece; false when no more should come before `drain` returns."""

    async def drain(self) -> None:
        """Waits for room."""


class Reply(Protocol):
    """An answer whose head is in."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Names in lower case."""

    async def read(self) -> bytes:
        """The next piece as it arrived; b"" at the end. Raises UpstreamError."""

    async def pump(self, sink: Sink) -> None:
        """Gives `sink` each piece as it arrives, until the end. Raises UpstreamError."""

    def abort(self) -> None:
        """Gives the connection up at once if the body is not finished. May be called again."""


class Transport(Protocol):
    """Carries requests to backends."""

    async def warm(self, origin: Origin, timeouts: Timeouts) -> None:
        """Opens a connection ahead, where there is none yet. Raises UpstreamError."""

    def keep(self, origins: Collection[Origin]) -> None:
        """Goes on with these; of every other, connections close once their answer is whole."""

    async def send(
        self,
        origin: Origin,
        method: bytes,
        path: bytes,
        headers: Headers,
        body: bytes,
        timeouts: Timeouts,
    ) -> Reply:
        """The answer's head. Raises UpstreamError; cancelled, it closes its connection at once."""

    async def close(self) -> None:
        """Closes every connection."""
