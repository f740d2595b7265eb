"""Learned qualities as the gateway has them: read from the store beside serving, and taken into the
serving plane when a route goes by another version."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from gateway.complaints import Complaint
from gateway.errors import SwitchboardError
from gateway.learn import versions
from gateway.learn.features import FeatureKind
from gateway.learn.scorer import Scorer
from gateway.store.learned import LearnedBook
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

LOOK_EVERY_S = 2.0
"""How soon a new version is used."""


class LearnedWatch:
    """What one process knows of learned qualities, by route: only where a policy goes by them."""

    def __init__(
        self,
        book: LearnedBook,
        snapshot: Callable[[], Snapshot],
        kind: Callable[[], FeatureKind | None],
        changed: Callable[[], None],
    ) -> None:
        """`kind` is that of the features that are read now, None while the encoder is away;
        `changed` is called when `current` is other than before. Until the store was `looked` at,
        that is what was known last, or nothing."""
        self.current = versions.Current()
        self.looked = False
        self._kind = kind
        self._book = book
        self._snapshot = snapshot
        self._changed = changed
        self._seen: tuple[object, ...] = ()

    @property
    def known(self) -> Mapping[str, Scorer]:
        """What each route goes by."""
        return self.current.scorers

    def know(self, known: Mapping[str, Scorer]) -> None:
        """Begins with what was known last of a store that is away."""
        self.current = versions.Current(known)

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
        """Reads versions that are new. Raises StoreError or VersionError; then those known stay, as
        they do while the encoder is away."""
        snapshot, kind = self._snapshot(), self._kind()
        if not any(each.learned for each in snapshot.policies.values()):
            found = versions.Current()
            self._seen = ()
        elif kind is None:
            return
        else:
            last = await asyncio.to_thread(self._book.last_seq)
            seen = (last, snapshot.routes, kind.name)
            if seen == self._seen:
                return
            found = await asyncio.to_thread(
                versions.current, self._book, snapshot, self.known, kind
            )
            self._seen = seen
        self.looked = True
        before = _named(self.known)
        if _named(found.scorers) != before or found.unfit != self.current.unfit:
            for route, named in _named(found.scorers).items():
                if before.get(route) != named:
                    log.info("the route %s goes by the learned quality %s", route, named[0])
            for route, why in found.unfit.items():
                if self.current.unfit.get(route) != why:
                    log.warning("the route %s goes by its own figures: %s", route, why)
            self.current = found
            self._changed()


def _named(found: Mapping[str, Scorer]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    return {route: (each.version, each.columns) for route, each in found.items()}
