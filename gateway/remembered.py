"""What the next start would have to know if the store were away: kept in a file as it changes."""

import asyncio
import logging

from gateway.adapters.fleet import Fleet
from gateway.complaints import Complaint
from gateway.experiments.standings import Standings
from gateway.learned import LearnedWatch
from gateway.revisions.known import Known, KnownFile, LearnedFile
from gateway.revisions.running import Running
from gateway.store.keys import Keyring
from gateway.traffic import Traffic

log = logging.getLogger("switchboard")

EVERY_S = 0.5
"""How soon what is new in the store is kept."""


class Remembered:
    """Who knows of the store, asked and told together."""

    def __init__(
        self,
        file: KnownFile | None,
        store: str,
        keyring: Keyring,
        traffic: Traffic,
        fleet: Fleet,
        standings: Standings,
        running: Running,
        learned: LearnedWatch,
        versions: LearnedFile | None,
    ) -> None:
        """`store` is its name; without a `file` nothing is kept, and without `versions` nothing of
        what was learned."""
        self._file = file
        self._store = store
        self._keyring = keyring
        self._traffic = traffic
        self._fleet = fleet
        self._standings = standings
        self._running = running
        self._learned = learned
        self._versions = versions

    def tell(self, known: Known) -> None:
        """Begins with what was known last of a store that is away."""
        self._keyring.know(known.keys)
        self._traffic.know(known.weights)
        self._fleet.know(known.adapters)
        self._standings.know(known.experiments)
        if self._versions is not None:
            self._learned.know(self._versions.read())

    async def run(self) -> None:
        """Keeps it as it changes, for ever."""
        away = Complaint(log, "what is known of the store could not be kept")
        while True:
            try:
                await self.keep()
                away.over()
            except OSError as error:
                away.about(error)
            await asyncio.sleep(EVERY_S)

    async def keep(self) -> None:
        """Keeps it now. Raises OSError."""
        revision = self._running.revision
        if self._file is None or revision is None:
            return
        known = Known(
            self._store,
            revision,
            self._keyring.told(),
            dict(self._traffic.weights),
            dict(self._fleet.states),
            dict(self._standings.known),
        )
        await asyncio.to_thread(self._file.keep, known)
        if self._versions is not None and self._learned.looked:
            await asyncio.to_thread(self._versions.keep, self._learned.known)
