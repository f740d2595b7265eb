"""Watches the experiments that run: guards, the end of their time, the answer, a bandit's shares.

One worker does it, the lead, from the store's rows alone. Another that takes over reads them anew;
and where two lead for a moment they come to the same.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from gateway.complaints import Complaint
from gateway.errors import SwitchboardError
from gateway.experiments.answers import Answer, answer_words
from gateway.experiments.answers import answer as answer_of
from gateway.experiments.assignment import declaration
from gateway.experiments.bandit import weights
from gateway.experiments.findings import breach, ended, guards, lopsided, unlike
from gateway.experiments.progress import Ended, Progress, Scored
from gateway.experiments.standings import Standings
from gateway.types.experiments import Experiment, Standing
from gateway.types.routes import Route
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

LOOK_EVERY_S = 2.0
ROWS = 5000
"""Rows that are read at once."""
SHARES_EVERY_S = 30.0
"""How often a bandit's shares may change."""
SHARES_BY = 0.02
"""How much one must have changed to be worth telling every worker."""


class Results(Protocol):
    """What the store has of experiments. Its calls may take long: they are made in threads."""

    def ended(
        self, experiment: Experiment, since: float, after: int, limit: int
    ) -> Sequence[Ended]: ...

    def scored(
        self, experiment: Experiment, route: Route, snapshot: Snapshot, since: float, after: int,
        limit: int,
    ) -> Sequence[Scored]: ...  # fmt: skip


Promote = Callable[[Route, Experiment, str, str], Awaitable[None]]
"""Makes an arm the route's choice, with the reason, by a revision. Raises SwitchboardError."""

Tell = Callable[[dict[str, Any]], None]
"""Tells whoever is declared to be told."""

Note = Callable[..., Awaitable[None]]
"""Writes into the audit log: what, of which experiment, and details by name."""


def running(snapshot: Snapshot) -> Iterator[tuple[Route, Experiment]]:
    """Every experiment that is declared, with its route."""
    for route in snapshot.routes.values():
        for experiment in route.experiments:
            yield route, experiment


def gathering(experiment: Experiment) -> Progress:
    """The progress of an experiment of which nothing is known yet."""
    return Progress(
        experiment.arms, late_s=experiment.first_token_p95, slots=experiment.slot_s is not None
    )


def gather(
    progress: Progress,
    results: Results,
    experiment: Experiment,
    route: Route,
    snapshot: Snapshot,
    since: float,
) -> None:
    """Reads what is new since the last time. Takes long."""
    while True:
        rows = results.ended(experiment, since, progress.requests_read.after, ROWS)
        progress.ended(rows)
        if len(rows) < ROWS:
            break
    while True:
        outcomes = results.scored(
            experiment, route, snapshot, since, progress.scores_read.after, ROWS
        )
        progress.scored(outcomes)
        if len(outcomes) < ROWS:
            break


class Watching:
    """Looks after the experiments of whatever configuration is served."""

    def __init__(
        self,
        standings: Standings,
        results: Results,
        *,
        snapshot: Callable[[], Snapshot],
        leads: Callable[[], bool],
        promote: Promote,
        note: Note,
        tell: Tell,
        now: Callable[[], float],
        rng: np.random.Generator,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._standings = standings
        self._results = results
        self._snapshot = snapshot
        self._leads = leads
        self._promote = promote
        self._note = note
        self._tell = tell
        self._now = now
        self._rng = rng
        self._sleep = sleep
        self._progress: dict[tuple[str, float], Progress] = {}
        self._shared_at: dict[str, float] = {}
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Looks again and again."""
        away = Complaint(log, "experiments are not looked after")
        while True:
            await self._sleep(LOOK_EVERY_S)
            if not self._leads():
                self._progress.clear()
                continue
            try:
                await self.look()
                away.over()
            except SwitchboardError as error:
                away.about(error)
            except Exception:
                log.exception("experiments could not be looked after; tried again in a moment")

    async def look(self) -> None:
        """Looks at each experiment once; one look at a time."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        snapshot = self._snapshot()
        declared = list(running(snapshot))
        if not declared:
            self._progress.clear()
            return
        await self._standings.follow()
        kept: set[tuple[str, float]] = set()
        for route, experiment in declared:
            standing = await self._begun(experiment)
            if standing is not None and standing.state == "running":
                kept.add((experiment.name, standing.since))
                await self._look_at(snapshot, route, experiment, standing)
        for key in self._progress.keys() - kept:
            del self._progress[key]

    async def _begun(self, experiment: Experiment) -> Standing | None:
        """How it stands; one that is new, or was declared otherwise before, begins now."""
        if experiment.winner is not None:
            return None
        standing = self._standings.known.get(experiment.name)
        of = declaration(experiment)
        if standing is None or standing.of != of:
            standing = Standing(of, self._now())
            await self._standings.save(experiment.name, standing, _author(experiment))
            log.info("experiment %s has begun", experiment.name)
        return standing

    async def _look_at(
        self, snapshot: Snapshot, route: Route, experiment: Experiment, standing: Standing
    ) -> None:
        progress = self._progress.setdefault(
            (experiment.name, standing.since), gathering(experiment)
        )
        await asyncio.to_thread(
            gather, progress, self._results, experiment, route, snapshot, standing.since
        )
        if why := breach(guards(experiment, progress)):
            await self._end(experiment, standing, "stopped", why, guarded=True)
            return
        if why := unlike(experiment, progress):
            await self._end(experiment, standing, "stopped", why)
            return
        answer = None
        if progress.news():
            answer = await asyncio.to_thread(answer_of, experiment, progress)
        if answer is not None:
            doubt = lopsided(experiment, progress)
            await self._answer(route, experiment, standing, answer, doubt)
        elif why := ended(experiment, progress, standing.since, self._now()):
            await self._end(experiment, standing, "stopped", why)
        elif experiment.bandit:
            await self._share(experiment, standing, progress)

    async def _answer(
        self,
        route: Route,
        experiment: Experiment,
        standing: Standing,
        answer: Answer,
        doubt: str | None,
    ) -> None:
        why = answer_words(experiment, answer)
        standing = msgspec.structs.replace(standing, answer=answer.yes)
        if experiment.promote and doubt is not None:
            why = f"{why}; nothing is promoted: {doubt}"
        if not experiment.promote or doubt is not None:
            await self._end(experiment, standing, "answered", why)
            return
        winner = answer.winner
        try:
            await self._promote(route, experiment, winner, why)
        except SwitchboardError as error:
            why = f"{why}; {winner} could not be promoted: {error}"
            await self._end(experiment, standing, "answered", why)
            return
        await self._end(experiment, standing, "promoted", f"{why}; {winner} is promoted")

    async def _end(
        self,
        experiment: Experiment,
        standing: Standing,
        state: str,
        why: str,
        *,
        guarded: bool = False,
    ) -> None:
        changed = msgspec.structs.replace(standing, state=state, why=why, guarded=guarded)
        await self._standings.save(experiment.name, changed, _author(experiment))
        log.warning("experiment %s is %s: %s", experiment.name, state, why)
        await self._note(f"experiment {state}", experiment.name, why=why)
        self._tell(
            {
                "event": f"experiment.{state}",
                "experiment": experiment.name,
                "answer": standing.answer,
                "guarded": guarded,
                "why": why,
            }
        )

    async def _share(self, experiment: Experiment, standing: Standing, seen: Progress) -> None:
        now = self._now()
        if now - self._shared_at.get(experiment.name, 0.0) < SHARES_EVERY_S:
            return
        shares = weights({arm: each.rewards for arm, each in seen.arms.items()}, self._rng)
        before = standing.shares or experiment.shares
        if max(abs(shares[arm] - before[arm]) for arm in shares) >= SHARES_BY:
            self._shared_at[experiment.name] = now
            changed = msgspec.structs.replace(standing, shares=shares)
            await self._standings.save(experiment.name, changed, _author(experiment))


def _author(experiment: Experiment) -> str:
    return f"experiment {experiment.name}"
