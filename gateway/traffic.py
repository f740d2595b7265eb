"""What commands have said about traffic: drained, or a share. Kept in the store, followed in all
processes, and taken into the serving plane at once."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from gateway.complaints import Complaint
from gateway.config.words import closest
from gateway.errors import Conflict, NotFound, SwitchboardError
from gateway.policy.live import Live
from gateway.policy.table import Candidates
from gateway.policy.weights import Weights, is_subject, subjects
from gateway.types.backends import declared_as
from gateway.types.snapshot import Snapshot, Weight

log = logging.getLogger("switchboard")

FOLLOW_EVERY_S = 0.5
"""How soon what another process was told counts here."""


class Book(Protocol):
    """Where weights are kept. Its calls may take long: they are made in threads."""

    def version(self) -> int: ...

    def current(self) -> dict[str, Weight]: ...

    def save(self, subject: str, share: float, why: str, author: str) -> Weight: ...


class Traffic:
    """The weights of one gateway."""

    def __init__(self, book: Book, *, changed: Callable[[], None]) -> None:
        """`changed` is called when `weights` are others than before."""
        self.weights: Weights = {}
        self._book = book
        self._changed = changed
        self._version = -1
        self._writing = asyncio.Lock()

    def know(self, weights: Weights) -> None:
        """What was known before, until the store can be read."""
        self.weights = dict(weights)

    async def follow(self) -> bool:
        """Reads the weights again if anybody changed any; whether so."""
        async with self._writing:
            version = await asyncio.to_thread(self._book.version)
            if version == self._version:
                return False
            self._set(await asyncio.to_thread(self._book.current))
            self._version = version
        return True

    async def run(self) -> None:
        """Follows what other processes change, for ever."""
        away = Complaint(log, "weights stay as they are")
        while True:
            await asyncio.sleep(FOLLOW_EVERY_S)
            try:
                await self.follow()
                away.over()
            except SwitchboardError as error:
                away.about(error)
            except Exception:  # a store that is away for a while must not end it for good
                log.exception("weights could not be read; tried again in %g s", FOLLOW_EVERY_S)

    async def give(
        self, snapshot: Snapshot, subject: str, share: float, why: str, author: str, *, force: bool
    ) -> Weight:
        """From the next request on the subject gets that share; what is under way there goes on.

        Raises NotFound where there is no such subject (to give it all again is no error), and,
        without `force`, Conflict where a route would have no candidate left.
        """
        if not is_subject(snapshot, subject) and not (share == 1.0 and subject in self.weights):
            near = closest(subject, subjects(snapshot))
            meant = f"did you mean '{near}'?" if near else "GET /v1/models lists the targets."
            raise NotFound(
                f"There is no target, backend or replica '{subject}'; {meant}",
                param="subject",
                code="subject_not_found",
            )
        async with self._writing:
            if not force and share < 1.0:
                after = {**self.weights, subject: Weight(share)}
                emptied = without_candidates(snapshot, after) - without_candidates(
                    snapshot, self.weights
                )
                if emptied:
                    raise Conflict(
                        f"That would leave no candidate for: {', '.join(sorted(emptied))}. "
                        "Requests there would be answered 503; --force does it all the same.",
                        code="no_candidate_left",
                    )
            weight = await asyncio.to_thread(self._book.save, subject, share, why, author)
            others = {name: each for name, each in self.weights.items() if name != subject}
            self._set({**others, subject: weight} if share < 1.0 else others)
        return weight

    def shown(self, snapshot: Snapshot, live: Live) -> list[dict[str, Any]]:
        """Each subject that gets less than all, with what is under way there from here."""
        return [
            {
                "subject": subject,
                **msgspec.structs.asdict(weight),
                "declared": is_subject(snapshot, subject),
                "under_way": under_way(snapshot, live, subject),
            }
            for subject, weight in self.weights.items()
        ]

    def _set(self, weights: Mapping[str, Weight]) -> None:
        if weights != self.weights:
            self.weights = dict(weights)
            self._changed()


def without_candidates(snapshot: Snapshot, weights: Weights) -> set[str]:
    """The routes none of whose candidates could be asked, whatever the request."""
    return {
        name
        for name, route in snapshot.routes.items()
        if not Candidates(route, snapshot.targets, weights).possible
    }


def under_way(snapshot: Snapshot, live: Live, subject: str) -> int | None:
    """Requests in flight at a replica or a backend, from here; None for a target."""
    if subject in live.replicas:
        return live.replicas[subject].in_flight
    urls = {
        url
        for backend in snapshot.backends.values()
        if subject in (backend.name, declared_as(backend.name))
        for url in backend.replicas
    }
    if not urls:
        return None
    return sum(live.replicas[url].in_flight for url in urls if url in live.replicas)
