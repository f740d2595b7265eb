"""What has become of each experiment, as the store has it: followed by every worker, so that all
stop together and all use the same shares of a bandit."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from gateway.complaints import Complaint
from gateway.errors import Conflict, NotFound, SwitchboardError
from gateway.experiments.assignment import declaration
from gateway.types.experiments import Experiment, Standing
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

FOLLOW_EVERY_S = 0.5
"""How soon what another process said counts here."""


class Book(Protocol):
    """Where they are kept. Its calls may take long: they are made in threads."""

    def version(self) -> int: ...

    def current(self) -> dict[str, Standing]: ...

    def save(self, experiment: str, standing: Standing, author: str) -> None: ...


class Standings:
    """Those of one gateway."""

    def __init__(
        self, book: Book, *, changed: Callable[[], None], needed: Callable[[], bool]
    ) -> None:
        """`changed` is called when they are others than before; while they are not `needed`, for
        there is no experiment, nobody asks the store."""
        self.known: Mapping[str, Standing] = {}
        self._book = book
        self._changed = changed
        self._needed = needed
        self._version = -1
        self._reading = asyncio.Lock()

    def know(self, known: Mapping[str, Standing]) -> None:
        """What was known before, until the store can be read."""
        self.known = known

    async def follow(self) -> bool:
        """Reads them again if anybody changed any; whether so."""
        async with self._reading:
            version = await asyncio.to_thread(self._book.version)
            if version == self._version:
                return False
            known = await asyncio.to_thread(self._book.current)
            self._version = version
            if known != self.known:
                self.known = known
                self._changed()
        return True

    async def run(self) -> None:
        """Follows what other processes change, for ever."""
        away = Complaint(log, "experiments stay as they are")
        while True:
            await asyncio.sleep(FOLLOW_EVERY_S)
            if not self._needed():
                continue
            try:
                await self.follow()
                away.over()
            except SwitchboardError as error:
                away.about(error)
            except Exception:
                log.exception("experiments could not be read; tried again in a moment")

    async def save(self, experiment: str, standing: Standing, author: str) -> None:
        """From now on that is how it stands, here at once and elsewhere in a moment."""
        await asyncio.to_thread(self._book.save, experiment, standing, author)
        await self.follow()

    async def stop(self, snapshot: Snapshot, name: str, why: str, author: str) -> dict[str, Any]:
        """Ends an experiment: its traffic is decided on as any other. Raises NotFound, Conflict."""
        experiment = next((each for each in declared(snapshot) if each.name == name), None)
        if experiment is None:
            raise NotFound(f"There is no experiment '{name}'.", code="experiment_not_found")
        await self.follow()
        standing = self.standing(experiment)
        if experiment.winner is not None or standing.state != "running":
            said = "it has a winner" if experiment.winner is not None else standing.why
            raise Conflict(f"The experiment '{name}' has ended: {said}.", code="experiment_ended")
        told = f"stopped by {author}{': ' if why else ''}{why}"
        await self.save(name, msgspec.structs.replace(standing, state="stopped", why=told), author)
        return self._shown(experiment)

    def standing(self, experiment: Experiment) -> Standing:
        """How it stands; one that nobody has looked at yet is about to begin."""
        of, known = declaration(experiment), self.known.get(experiment.name)
        return known if known is not None and known.of == of else Standing(of, 0.0)

    def shown(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        """Each declared experiment, and how it stands."""
        return [self._shown(each) for each in declared(snapshot)]

    def _shown(self, experiment: Experiment) -> dict[str, Any]:
        standing = self.standing(experiment)
        state = "promoted" if experiment.winner is not None else standing.state
        return {
            "experiment": experiment.name,
            **msgspec.to_builtins(standing),
            "state": state,
            "shares": dict(standing.shares or experiment.shares),
            "winner": experiment.winner,
        }


def declared(snapshot: Snapshot) -> list[Experiment]:
    """Every experiment of a configuration."""
    return [each for route in snapshot.routes.values() for each in route.experiments]
