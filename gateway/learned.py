"""Learned qualities as the gateway has them: read from files beside serving, and taken into the
serving plane when a route has another version."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.complaints import Complaint
from gateway.errors import SwitchboardError
from gateway.learn import versions
from gateway.learn.features import KIND
from gateway.learn.scorer import Scorer, scorer
from gateway.types.routes import Route
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

LOOK_EVERY_S = 2.0
"""How soon a new version is used."""


class LearnedWatch:
    """What one process knows of learned qualities, by route: only where a policy goes by them."""

    def __init__(
        self, home: Path | None, snapshot: Callable[[], Snapshot], changed: Callable[[], None]
    ) -> None:
        """`home` has the versions; `changed` is called when `known` is other than before."""
        self.known: Mapping[str, Scorer] = {}
        self._home = home
        self._snapshot = snapshot
        self._changed = changed

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
        """Reads versions that are new. Raises VersionError; then those known stay."""
        snapshot = self._snapshot()
        if self._home is None or not any(each.learned for each in snapshot.policies.values()):
            found: Mapping[str, Scorer] = {}
        else:
            found = await asyncio.to_thread(scorers, self._home, snapshot, self.known)
        if _named(found) != _named(self.known):
            self.known = found
            for route, (version, _) in _named(found).items():
                log.info("the route %s goes by the learned quality %s", route, version)
            self._changed()


def scorers(home: Path, snapshot: Snapshot, known: Mapping[str, Scorer]) -> dict[str, Scorer]:
    """The newest version of each route that has one; those in `known` are not read again.
    Raises VersionError."""
    found = {}
    for route in snapshot.routes.values():
        made = _scorer(home, route, known.get(route.name))
        if made is not None:
            found[route.name] = made
    return found


def _scorer(home: Path, route: Route, known: Scorer | None) -> Scorer | None:
    kept = [each for each in versions.history(home, route.name) if each.kind == KIND]
    if not kept:
        return None
    newest = kept[-1]
    same = known is not None and known.version == newest.version
    model = known.model if known is not None and same else versions.read(home, newest)
    candidates = [each.target for each in route.candidates]
    return scorer(newest.version, model, newest.report.targets, candidates)


def _named(found: Mapping[str, Scorer]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    return {route: (each.version, each.columns) for route, each in found.items()}
