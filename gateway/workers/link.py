"""A worker's side of what it shares with its supervisor: the socket to listen at, and a line."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping

import msgspec

from gateway.workers.messages import (
    Numbers,
    Page,
    Serves,
    Sibling,
    Siblings,
    WantNumbers,
    WantPage,
    received,
    send,
    to_worker,
)

VARIABLE = "SWITCHBOARD_WORKER"
"""Where the supervisor says, in JSON, which worker a process is."""

PAGE_S = 2.0
"""How long the metrics of all workers may take; then a worker shows its own."""


class Place(msgspec.Struct, frozen=True):
    """Which of how many workers this is; `listen` and `line` are file descriptors."""

    number: int
    count: int
    listen: int
    line: int


def place(env: Mapping[str, str]) -> Place | None:
    """What the supervisor said; None for a process that has none."""
    told = env.get(VARIABLE)
    return None if told is None else msgspec.json.decode(told, type=Place)


class Link:
    """The line to the supervisor. When that ends, however it does, so does this worker."""

    def __init__(self, place: Place, *, end: Callable[[], None] | None = None) -> None:
        """`end` is called when the line ends: SIGTERM to itself, where nothing else is given."""
        self.number = place.number
        self.count = place.count
        self.listen = socket.socket(fileno=place.listen)
        self.siblings: tuple[Sibling, ...] = ()
        self._line = socket.socket(fileno=place.line)
        self._end = end or _terminate
        self._numbers: Callable[[], bytes] = lambda: b""
        self._pages: dict[int, asyncio.Future[str]] = {}
        self._asked = 0
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def start(self, numbers: Callable[[], bytes]) -> None:
        """Listens to the supervisor; `numbers` gives this worker's own metrics."""
        self._numbers = numbers
        reader, self._writer = await asyncio.open_unix_connection(sock=self._line)
        self._reading = asyncio.create_task(self._read(reader))

    async def stop(self) -> None:
        """Hangs up."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def serves(self, snapshot: str) -> None:
        """Tells that this worker takes requests, under that snapshot."""
        if self._writer is not None:
            send(self._writer, Serves(snapshot))

    async def page(self) -> bytes:
        """The metrics of all workers; this one's own where the supervisor does not answer."""
        if self._writer is None or self._writer.is_closing():
            return self._numbers()
        self._asked += 1
        asked, future = self._asked, asyncio.get_running_loop().create_future()
        self._pages[asked] = future
        send(self._writer, WantPage(asked))
        try:
            async with asyncio.timeout(PAGE_S):
                return str(await future).encode()
        except TimeoutError:
            return self._numbers()
        finally:
            del self._pages[asked]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (data := await received(reader)) is not None:
            message = to_worker(data)
            if isinstance(message, WantNumbers):
                assert self._writer is not None
                send(self._writer, Numbers(message.asked, self._numbers().decode()))
            elif isinstance(message, Page):
                future = self._pages.get(message.asked)
                if future is not None and not future.done():
                    future.set_result(message.page)
            elif isinstance(message, Siblings):
                self.siblings = message.workers
        self._end()


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
