"""Learned qualities as the gateway has them: read from the store beside serving, and taken into the
serving plane when a route goes by another version."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from gateway.complaints import Complaint
from gateway.errors import SwitchboardError
from gateway.learn import versions
from gateway.learn.scorer import Scorer
from gateway.store.learned import LearnedBook
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

LOOK_EVERY_S = 2.0
"""How soon a new version is used."""


class LearnedWatch:
    """What one process knows of learned qualities, by route: only where a policy goes by them."""

    def __init__(
        self, book: LearnedBook, snapshot: Callable[[], Snapshot], changed: Callable[[], None]
    ) -> None:
        """`changed` is called when `known` is other than before; until the store was `looked` at,
        that is what was known last, or nothing."""
        self.known: Mapping[str, Scorer] = {}
        self.looked = False
        self._book = book
        self._snapshot = snapshot
        self._changed = changed
        self._seen: tuple[object, ...] = ()

    def know(self, known: Mapping[str, Scorer]) -> None:
        """Begins with what was known last of a store that is away."""
        self.known = known

    async def run(self) -> None:
        """Looks again and again, for ever."""
        away = Complaint(log, "learned qualities stay as they are")
        while True:
            try:
                await self.look()
                away.over()
            except SwitchboardError as error:
                away.about(error)
            except Exception:  # one look that fails must not end it for good
                log.exception("learned qualities could not be read")
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Reads versions that are new. Raises StoreError or VersionError; then those known stay."""
        snapshot = self._snapshot()
        if not any(each.learned for each in snapshot.policies.values()):
            found: Mapping[str, Scorer] = {}
            self._seen = ()
        else:
            seen = (await asyncio.to_thread(self._book.last_seq), snapshot.routes)
            if seen == self._seen:
                return
            found = await asyncio.to_thread(versions.scorers, self._book, snapshot, self.known)
            self._seen = seen
        self.looked = True
        if _named(found) != _named(self.known):
            self.known = found
            for route, (version, _) in _named(found).items():
                log.info("the route %s goes by the learned quality %s", route, version)
            self._changed()


def _named(found: Mapping[str, Scorer]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    return {route: (each.version, each.columns) for route, each in found.items()}
