"""Learned quality trained anew by a schedule: in a process of its own, by one worker of all.

The process is `switchboard train` for one route, with the lowest priority and one thread for
arithmetic, so that requests do not wait for it. What it makes is in the store, where every worker
finds it.
"""

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from gateway.complaints import Complaint
from gateway.errors import SwitchboardError
from gateway.learn.versions import Version
from gateway.store.learned import LearnedBook
from gateway.types.routes import Route
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

LOOK_EVERY_S = 30.0
"""How soon a route that is due is trained."""
LONGEST_S = 3600.0
"""After so long a training is given up."""
NICE = 19
"""The lowest priority."""
TOO_LITTLE = 3
"""The command's exit code where too little is known to learn anything."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Outcome = Literal["used", "not_used", "too_little", "failed"]


class Told(msgspec.Struct, frozen=True):
    """What came of a training: the version, or in words why there is none."""

    version: Version | None
    why: str = ""
    failed: bool = False


class Retraining:
    """Trains routes that are due, one at a time. `counts` has what came of it, by route."""

    def __init__(
        self,
        book: LearnedBook,
        snapshot: Callable[[], Snapshot],
        train: Callable[[Route], Awaitable[Told]],
        *,
        leads: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        """`train` trains one route; nothing is done while this process does not `leads`."""
        self.counts: dict[tuple[str, str], int] = {}
        self._book = book
        self._snapshot = snapshot
        self._train = train
        self._leads = leads
        self._now = now
        self._tried: dict[str, float] = {}

    async def run(self) -> None:
        """Looks again and again, for ever."""
        away = Complaint(log, "no route is trained anew")
        while True:
            try:
                await self.look()
                away.over()
            except (SwitchboardError, OSError) as error:
                away.about(error)
            except Exception:  # one look that fails must not end it for good
                log.exception("routes could not be trained; tried again in %g s", LOOK_EVERY_S)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Trains every route that is due. Raises StoreError or OSError."""
        for name, route in self._snapshot().routes.items():
            every = route.train_every_s
            if every is None or not self._leads():
                continue
            lines = await asyncio.to_thread(self._book.history, name)
            made = max((line.at for line in lines), default=-every)
            if self._now() < max(made, self._tried.get(name, -every)) + every:
                continue
            self._tried[name] = self._now()
            self._came(name, await self._train(route))

    def _came(self, route: str, told: Told) -> None:
        made = told.version
        outcome: Outcome
        if made is None:
            outcome = "failed" if told.failed else "too_little"
            level = logging.ERROR if told.failed else logging.INFO
            log.log(level, "the route %s was not trained: %s", route, told.why)
        else:
            outcome = "used" if made.used else "not_used"
            report = made.report
            log.info(
                "the route %s was trained on %d prompts: %s, worth $%.3g more a request than"
                " going by shares (95 %%: %.3g to %.3g)%s",
                route, report.prompts, made.version, report.gain, report.gain_low,
                report.gain_high, "" if made.used else f"; not used: {made.why}",
            )  # fmt: skip
        self.counts[route, outcome] = self.counts.get((route, outcome), 0) + 1


async def trained_beside(
    route: str,
    directory: Path,
    store: str,
    env: Mapping[str, str],
    environment: str | None,
    *,
    over_all: bool = False,
) -> Told:
    """`switchboard train` of a route, as a process: `store` is its URL, `env` what the files'
    variables stand for. Raises OSError where no process can be begun."""
    named = {"SWITCHBOARD_STORE": store}
    if environment is not None:
        named["SWITCHBOARD_ENV"] = environment
    words = ["train", "--route", route, "--config", str(directory), "--json"]
    if over_all:
        words.append("--over-all")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *words),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **env, **ONE_THREAD, **named},
    )
    try:
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        async with asyncio.timeout(LONGEST_S):
            out, said = await process.communicate()
    except TimeoutError:
        return Told(None, f"it took longer than {LONGEST_S:g} s", failed=True)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    words_said = " ".join(said.decode(errors="replace").split())
    if process.returncode == TOO_LITTLE:
        return Told(None, words_said)
    try:
        (version,) = msgspec.json.decode(out, type=list[Version])
    except (msgspec.DecodeError, ValueError):
        return Told(None, words_said or f"it ended with {process.returncode}", failed=True)
    return Told(version)
