"""Where a stream's pieces pass on their way to the client."""

from collections.abc import Callable, Coroutine
from typing import Any

from gateway.errors import ApiError, MalformedEvent, UpstreamError
from gateway.journey import Lines, Outlet
from gateway.metering.usage import StreamWatch
from gateway.resilience.carry import Disguise
from gateway.transport.base import Reply

Drain = Callable[[], Coroutine[Any, Any, None]]
"""Waits for room at the client's side."""


class Watched:
    """Where a stream's pieces go: past its watch, on to the client."""

    __slots__ = ("_outlet", "_watch", "drain")

    def __init__(self, watch: StreamWatch, outlet: Outlet, drain: Drain) -> None:
        self._watch = watch
        self._outlet = outlet
        self.drain = drain

    def write(self, piece: bytes) -> bool:
        """Relays what of the piece may pass."""
        try:
            passed = self._watch.feed(piece)
        except MalformedEvent as error:
            if error.before:
                self._outlet.write(error.before)
            raise
        return self._outlet.write(passed) if passed else True


class Disguised:
    """The client's side of an answer that another goes on with."""

    opened = True

    def __init__(self, disguise: Disguise, outlet: Outlet) -> None:
        self._disguise = disguise
        self._outlet = outlet
        self.plain = outlet.plain
        self.open = outlet.open
        self.drain = outlet.drain
        self.close = outlet.close
        self.fail = outlet.fail

    def write(self, body: bytes) -> bool:
        """Relays it as part of the answer that broke off."""
        return self._outlet.write(self._disguise.apply(body))


async def pumped(reply: Reply, watch: StreamWatch, outlet: Outlet, drain: Drain) -> None:
    """Relays to the end. An answer with its finish_reason is whole, however its stream ends."""
    try:
        await reply.pump(Watched(watch, outlet, drain))
    except UpstreamError:
        if not watch.finished or watch.errored:
            raise


class Nobody:
    """The client's side of a request that no client waits for."""

    opened = False

    def plain(self, status: int, lines: Lines, body: bytes) -> None:
        """Nobody gets it."""

    def open(self, status: int, lines: Lines) -> None:
        """Nobody gets it."""
        self.opened = True

    def write(self, body: bytes) -> bool:
        return True

    async def drain(self) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """There is nothing to close."""

    def fail(self, error: ApiError) -> None:
        """The row says what went wrong."""
