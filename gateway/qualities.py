"""How often targets are right, as far as it is known: read from the store beside serving, and taken
into the serving plane when it has changed."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from gateway.complaints import Complaint
from gateway.errors import SwitchboardError
from gateway.policy.quality import Change, Tally, change_of, posterior
from gateway.policy.table import Qualities
from gateway.store.evidence import Evidence
from gateway.store.feedback import Heard
from gateway.types.routes import TENANT, Metric, Route
from gateway.types.snapshot import Quality, Snapshot

log = logging.getLogger("switchboard")

LOOK_EVERY_S = 5.0
"""How soon what was said of an answer bears on decisions."""

FADE_EVERY_S = 600.0
"""How often what was said is let fade where nothing new is said."""

HALF_LIVES = 10
"""After so many what was said is not counted any more: a thousandth is left of it."""

LOOKED_AT = 5000
"""The last answers of a route that a change is looked for in."""

SURELY = 0.001
"""The probability with which a target that has not changed is ever said to have."""

TOLD_FROM = 0.0005
"""A difference of P(right) for which the plane is not made anew."""


class Said(Protocol):
    """Where feedback is read. Calls may take long: they are made in threads."""

    def version(self) -> int: ...

    def tallies(self, route: str, metric: Metric, now: float, oldest_s: float) -> list[Heard]: ...

    def outcomes(
        self, route: str, metric: Metric, limit: int
    ) -> dict[str, list[tuple[float, bool]]]: ...


class Tried(Protocol):
    """Where evidence is read."""

    def read(self) -> list[Evidence]: ...


class Shift(msgspec.Struct, frozen=True):
    """A target's share of right answers has changed, from the answer spoken of `at` on (Unix
    seconds)."""

    route: str
    target: str
    metric: str
    before: float
    after: float
    at: float


class QualityWatch:
    """What one gateway knows of qualities. `shifts` counts those seen, by route and target."""

    def __init__(
        self,
        said: Said,
        tried: Tried,
        snapshot: Callable[[], Snapshot],
        *,
        changed: Callable[[], None],
        leads: Callable[[], bool],
        tell: Callable[[Shift], None],
        now: Callable[[], float],
    ) -> None:
        """`changed` is called when `known` is other than before; where this process `leads`, it
        looks for changes of targets, and tells each once."""
        self.known: Qualities = {}
        self.shifts: dict[tuple[str, str], int] = {}
        self._said = said
        self._tried = tried
        self._snapshot = snapshot
        self._changed = changed
        self._leads = leads
        self._tell = tell
        self._now = now
        self._seen: tuple[object, ...] = ()
        self._from: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        """Looks again and again, for ever."""
        away = Complaint(log, "qualities stay as they are")
        while True:
            try:
                await self.look()
                away.over()
            except SwitchboardError as error:
                away.about(error)
            except Exception:  # a store that is away for a while must not end it for good
                log.exception("qualities could not be read; tried again in %g s", LOOK_EVERY_S)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> bool:
        """Reads what was said if anything is new; whether so. Raises StoreError."""
        routes = [each for each in self._snapshot().routes.values() if each.right is not None]
        if not routes and not self.known:
            return False
        version = await asyncio.to_thread(self._said.version)
        evidence = await asyncio.to_thread(self._tried.read)
        now = self._now()
        seen = (version, evidence, routes, now // FADE_EVERY_S)
        if seen == self._seen:
            return False
        known: dict[tuple[str, str], Quality] = {}
        for route in routes:
            known |= await asyncio.to_thread(qualities_of, route, self._said, evidence, now)
        if _differ(known, self.known):
            self.known = known
            self._changed()
        if self._leads():
            for route in routes:
                await self._look_for_changes(route)
        self._seen = seen
        return True

    async def _look_for_changes(self, route: Route) -> None:
        metric = route.metric(route.right)
        assert metric is not None
        found = await asyncio.to_thread(self._said.outcomes, route.name, metric, LOOKED_AT)
        for target, outcomes in found.items():
            since = self._from.get((route.name, target), 0.0)
            recent = [(at, right) for at, right in outcomes if at >= since]
            change = change_of([right for _, right in recent], SURELY)
            if change is not None:
                self._shifted(route, target, change, recent[change.at][0])

    def _shifted(self, route: Route, target: str, change: Change, at: float) -> None:
        # Whatever comes next is compared with what has been since.
        self._from[route.name, target] = at
        place = (route.name, target)
        self.shifts[place] = self.shifts.get(place, 0) + 1
        assert route.right is not None
        shift = Shift(route.name, target, route.right, change.before, change.after, at)
        log.warning(
            "%s on the route %s is %s: of its answers %.1f %% are %s, and %.1f %% were",
            target,
            route.name,
            "worse" if change.after < change.before else "better",
            100 * change.after,
            route.right,
            100 * change.before,
        )
        self._tell(shift)


def qualities_of(
    route: Route, said: Said, evidence: Iterable[Evidence], now: float
) -> dict[tuple[str, str], Quality]:
    """What is known of each target that something was seen of on the route. Raises StoreError."""
    metric = route.metric(route.right)
    if metric is None:
        return {}
    tallies: dict[str, list[Tally]] = {}
    for heard in said.tallies(route.name, metric, now, HALF_LIVES * route.half_life_s):
        tallies.setdefault(heard.target, []).append(Tally(heard.n, heard.right, heard.age_s))
    for shown in evidence:
        if (shown.route, shown.metric) == (route.name, route.right):
            tally = Tally(shown.n, shown.right, now - shown.at)
            tallies.setdefault(shown.target, []).append(tally)
    return {
        (route.name, target): posterior(*declared_of(route, target), seen, route.half_life_s)
        for target, seen in tallies.items()
        if target
    }


def with_qualities(snapshot: Snapshot, said: Said, tried: Tried, now: float) -> Snapshot:
    """The snapshot with all that is known of its routes' targets. Raises StoreError."""
    known: dict[tuple[str, str], Quality] = {}
    evidence = tried.read()
    for route in snapshot.routes.values():
        known |= qualities_of(route, said, evidence, now)
    return msgspec.structs.replace(snapshot, qualities=known)


def declared_of(route: Route, target: str) -> tuple[float, float]:
    """What is declared of a target, and what that is worth; nothing of one that is no candidate."""
    for candidate in route.candidates:
        before, tenant, after = candidate.target.partition(TENANT)
        means = target.startswith(before) and target.endswith(after) if tenant else False
        if means or candidate.target == target:
            return candidate.quality, candidate.quality_n
    return 0.5, 0.0


def _differ(one: Qualities, other: Qualities) -> bool:
    if one.keys() != other.keys():
        return True
    return any(abs(known.mean - other[place].mean) > TOLD_FROM for place, known in one.items())
