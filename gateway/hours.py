"""What replicas did, hour by hour: gathered as their engines tell it, and written to the store
beside serving."""

import asyncio
import logging
from collections.abc import Callable

from gateway.adapters.engine import Engine
from gateway.metering.hosting import Counters, HostingMeter
from gateway.store.hosting import HostingBook
from gateway.store.store import StoreError

log = logging.getLogger("switchboard")

EVERY_S = 30.0
"""How often it is written."""


class Hours:
    """The hours of one gateway's replicas."""

    def __init__(self, book: HostingBook, now: Callable[[], float]) -> None:
        """`now` is in Unix time."""
        self._meter = HostingMeter()
        self._book = book
        self._now = now

    def told(self, backend: str, replica: str, engine: Engine) -> None:
        """What a replica's engine has just said of itself; one that sleeps costs nothing."""
        if engine.asleep:
            self._meter.away(replica)
            return
        counters = Counters(
            engine.started,
            engine.running,
            engine.prompt_tokens,
            engine.cached_tokens,
            engine.generation_tokens,
        )
        self._meter.saw(backend, replica, counters, self._now())

    async def run(self) -> None:
        """Keeps what replicas did, every while; what was kept before is gone on from."""
        known = False
        while True:
            try:
                if not known:
                    self._meter.known(await asyncio.to_thread(self._book.hours, self._now()))
                    known = True
            except StoreError as error:
                log.warning("replicas' hours are not known: %s", error)
            await asyncio.sleep(EVERY_S)
            await self.keep()

    async def keep(self) -> None:
        """Writes what replicas have done so far; where that fails, the next time."""
        hours = self._meter.unsaved(self._now())
        if hours:
            try:
                await asyncio.to_thread(self._book.save, hours)
            except StoreError as error:
                self._meter.put_back(hours)
                log.warning("replicas' hours are kept for later: %s", error)
