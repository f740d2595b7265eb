"""Shadows: a share of a route's answered requests is answered by another target too, for nobody.

A copy is made when the answer is on its way, so it can neither delay nor fail it. It is asked only
where there is room at once: at most so many at a time, never in line at a replica, and only while
the shadow's own budget of the day lasts. What came of it is a row of its own beside the answered
request's, to be compared later.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from gateway.complaints import Complaint
from gateway.errors import SwitchboardError
from gateway.experiments.assignment import place
from gateway.journey import Journey
from gateway.types.requests import Endpoint
from gateway.types.routes import Shadow
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

COPIED = (Endpoint.CHAT, Endpoint.COMPLETIONS)
"""What leaves nothing behind at a backend."""

DAY_S = 86_400.0
LOOK_EVERY_S = 5.0
"""How soon what other workers' copies cost counts here."""


def shadows_of(snapshot: Snapshot) -> Mapping[str, Shadow]:
    """Those of the routes that have one."""
    found = ((name, route.shadow) for name, route in snapshot.routes.items())
    return {name: shadow for name, shadow in found if shadow is not None}


class Shadows:
    """The copies that are under way in this worker, and what they have cost today."""

    def __init__(
        self,
        copy: Callable[[Journey, str], Awaitable[float]],
        spent: Callable[[str, float], Awaitable[float]],
        *,
        now: Callable[[], float],
    ) -> None:
        """`copy` has a target answer a request once more, and tells what it cost; `spent` tells
        what a route's copies have cost since an instant, by the log."""
        self.dropped = 0
        self._copy = copy
        self._spent = spent
        self._now = now
        self._under_way: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._day = 0.0
        self._here: dict[str, float] = {}
        self._logged: dict[str, tuple[float, float]] = {}
        self._away = Complaint(log, "nothing is copied to shadows")

    def saw(self, journey: Journey) -> None:
        """A request has ended; whether it is copied is a matter of chance, and of room."""
        decision, recognition = journey.decision, journey.recognition
        if decision is None or journey.outcome != "ok" or journey.shadow_of is not None:
            return
        if recognition is not None and recognition.names_target:
            return  # whoever names a target means it alone: it is to go nowhere else
        shadow = journey.plane.shadows.get(decision.route)
        if shadow is None or journey.request.endpoint not in COPIED:
            return
        if (journey.composed or journey.attempts[-1].target) == shadow.target:
            return
        if place(f"shadow {decision.route}", journey.request.id) >= shadow.share:
            return
        if self._under_way[decision.route] >= shadow.concurrent:
            self.dropped += 1
            return
        self._under_way[decision.route] += 1
        task = asyncio.create_task(self._ask(journey, decision.route, shadow))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Gives up those that are under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settled(self) -> None:
        """Back when none is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, journey: Journey, route: str, shadow: Shadow) -> None:
        try:
            if await self._affords(route, shadow):
                cost = await self._copy(journey, shadow.target)
                self._here[route] = self._here.get(route, 0.0) + cost
            self._away.over()
        except SwitchboardError as error:
            self._away.about(error)
        except Exception:
            log.exception("a copy for the shadow of route %s went wrong", route)
        finally:
            self._under_way[route] -= 1

    async def _affords(self, route: str, shadow: Shadow) -> bool:
        """Whether anything of today's budget is left. Raises StoreError."""
        now = self._now()
        day = now - now % DAY_S
        if day != self._day:
            self._day = day
            self._here.clear()
            self._logged.clear()
        at, logged = self._logged.get(route, (float("-inf"), 0.0))
        if now - at > LOOK_EVERY_S:
            logged = await self._spent(route, day)
            self._logged[route] = (now, logged)
        return max(logged, self._here.get(route, 0.0)) < shadow.day_usd
