"""What workers learn of replicas' adapters, told to the others: hints, no more.

Each worker looks at the replicas itself, and what it sees there counts. But an adapter that one has
just loaded need not be loaded by the next, and only who hears of all uses can tell what a replica
has pushed out, and what is asked for often enough to have a home there. Uses are gathered and told
every half second; what is lost while Redis is away is not told again.
"""

import asyncio
import contextlib
from collections import Counter
from typing import Protocol

import msgspec

from gateway.coordination.coordinator import Coordinator
from gateway.errors import CoordinatorAway

EVERY_S = 0.5
CHANNEL = "residency"

Place = tuple[str, str, str]
"""A backend, one of its replicas, and the name that an adapter is served by there."""


class Residents(Protocol):
    """Who is told what other workers have learned."""

    def loaded_elsewhere(self, place: Place) -> None: ...

    def gone_elsewhere(self, place: Place) -> None: ...

    def used_elsewhere(self, place: Place, times: int) -> None: ...


class Told(msgspec.Struct, frozen=True):
    """What one worker has learned since it told last."""

    by: str
    loaded: list[Place] = []
    gone: list[Place] = []
    used: list[tuple[Place, int]] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Told).decode


class ResidencyHints:
    """One worker's side: what it has learned goes out, what others have comes in."""

    def __init__(self, coordinator: Coordinator, me: str) -> None:
        self._coordinator = coordinator
        self._me = me
        self._residents: Residents | None = None
        self._loaded: list[Place] = []
        self._gone: list[Place] = []
        self._used: Counter[Place] = Counter()
        self._soon = asyncio.Event()

    def listen(self, residents: Residents) -> None:
        """From now on they hear what other workers have learned."""
        self._residents = residents
        self._coordinator.subscribe(CHANNEL, self._heard)

    def loaded(self, place: Place) -> None:
        """An adapter is there now; told at once."""
        self._loaded.append(place)
        self._soon.set()

    def gone(self, place: Place) -> None:
        """It is there no longer; told at once."""
        self._gone.append(place)
        self._soon.set()

    def used(self, place: Place) -> None:
        """A request for it was sent there."""
        self._used[place] += 1

    async def run(self) -> None:
        """Tells what was learned, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._soon.wait()
            self._soon.clear()
            await self.tell()

    async def tell(self) -> None:
        """Tells what was learned since the last time, if anything."""
        if not (self._loaded or self._gone or self._used):
            return
        told = Told(self._me, self._loaded, self._gone, list(self._used.items()))
        self._loaded, self._gone, self._used = [], [], Counter()
        with contextlib.suppress(CoordinatorAway):
            await self._coordinator.publish(CHANNEL, _encode(told))

    def _heard(self, message: bytes) -> None:
        told = _decode(message)
        if told.by == self._me or self._residents is None:
            return
        for place in told.loaded:
            self._residents.loaded_elsewhere(place)
        for place in told.gone:
            self._residents.gone_elsewhere(place)
        for place, times in told.used:
            self._residents.used_elsewhere(place, times)
