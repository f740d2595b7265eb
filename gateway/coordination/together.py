"""What a worker shares with all others by Redis: who leads, what replicas hold, that something
changed in the store.

All of it makes things quicker or spares work, and nothing depends on it: the store is looked at
every half second anyway, and replicas too.
"""

import asyncio
import contextlib
from collections.abc import Callable

from gateway.coordination.coordinator import Coordinator
from gateway.coordination.hints import ResidencyHints, Residents
from gateway.coordination.lead import Lead
from gateway.errors import CoordinatorAway

CHANGED = "changed"


class Together:
    """One worker's part in it."""

    def __init__(
        self, coordinator: Coordinator, me: str, *, first: bool, noticed: Callable[[], None]
    ) -> None:
        """`me` is no other worker's name, `first` whether it is its host's first one; `noticed` is
        called when another worker may have changed something in the store."""
        self.lead = Lead(coordinator, me, first=first)
        self.hints = ResidencyHints(coordinator, me)
        self._coordinator = coordinator
        self._me = me.encode()
        self._noticed = noticed
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, residents: Residents) -> None:
        """Once the coordinator has been started."""
        await self.lead.take()
        self.hints.listen(residents)
        self._coordinator.subscribe(CHANGED, self._heard, again=self._noticed)
        self._tasks = [
            asyncio.create_task(self.lead.run()),
            asyncio.create_task(self.hints.run()),
        ]

    async def stop(self) -> None:
        """Before the coordinator is stopped: another may lead at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.lead.leave()

    def share(self, channel: str, heard: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """What to tell the other workers by; `heard` is called with what they tell. Hints: while
        Redis is away nobody hears them, now or later. Call it once the coordinator was started."""

        def told(message: bytes) -> None:
            with contextlib.suppress(CoordinatorAway):
                key = self._coordinator.key(channel)
                self._coordinator.tell("PUBLISH", key, self._me + b" " + message)

        def came(message: bytes) -> None:
            who, _, rest = message.partition(b" ")
            if who != self._me:
                heard(rest)

        self._coordinator.subscribe(channel, came)
        return told

    def changed(self) -> None:
        """Something in the store is new: the others look at once."""
        with contextlib.suppress(CoordinatorAway):
            self._coordinator.tell("PUBLISH", self._coordinator.key(CHANGED), self._me)

    def _heard(self, message: bytes) -> None:
        if message != self._me:
            self._noticed()
