"""Every fault in every form of request before every line-up of candidates, on one gateway."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from gateway.standin import Behaviour, Seen, say
from gateway.types.backends import Timeouts
from gateway.types.policies import Policy
from gateway.types.snapshot import Snapshot
from tests.faults.cases import CASES, HEALTHY, LINEUPS, PATIENT, SAID, Case, Lineup
from tests.faults.client import Answer, ask
from tests.faults.upstreams import Origins
from tests.gateway.support import Served, route, serving, snapshot, target

AT_ONCE = 16
"""Requests under way at a time: few enough that nobody's patience ends by our own load."""

PROMPT = "count for me please"
INPUT_PRICE, OUTPUT_PRICE = 1e-6, 4e-6
"""Of every target that `tests.gateway.support` makes."""


class Trial(msgspec.Struct, frozen=True):
    """One request: a fault, a line-up, a form; `number` keeps its models apart from others'."""

    number: int
    case: Case
    lineup: Lineup
    streams: bool

    @property
    def route(self) -> str:
        """The name that the request asks for."""
        return f"r{self.number}"

    def model(self, position: int) -> str:
        """What the candidate at that position is called."""
        return f"m{self.number}-{position}"

    def __str__(self) -> str:
        form = "stream" if self.streams else "whole"
        return f"{self.case.name} ({form}, {self.lineup.candidates})"


class Observed(msgspec.Struct, frozen=True):
    """What came of one trial: for the client, in the rows, and at each candidate's backend."""

    trial: Trial
    answer: Answer
    rows: int
    row: dict[str, Any]
    calls: tuple[tuple[Seen, ...], ...]

    @property
    def counted(self) -> int:
        """The calls that backends saw."""
        return sum(len(each) for each in self.calls)


def trials(cases: Sequence[Case] = CASES) -> list[Trial]:
    """All of them, always in the same order."""
    every = itertools.product(cases, LINEUPS, (False, True))
    return [Trial(n, case, lineup, streams) for n, (case, lineup, streams) in enumerate(every)]


class Matrix(msgspec.Struct):
    """What was seen of all trials, and what was left behind when they were over."""

    observed: list[Observed]
    running: int
    tasks: list[str]
    connections: int


async def run(cases: Sequence[Case], folder: Path) -> Matrix:
    """Tries all of them on one gateway."""
    asked = trials(cases)
    models = {
        trial.model(at): Behaviour(
            answer=say(SAID if sort == "b" else HEALTHY),
            fault=trial.case.fault if sort == "b" else None,
        )
        for trial in asked
        for at, sort in enumerate(trial.lineup.candidates)
    }
    async with AsyncExitStack() as stack:
        origins = Origins(stack, models, folder)
        await origins.start()
        async with serving(configuration(asked, origins), folder) as served:
            before = _tasks()
            answers = await _asked(served, asked)
            await asyncio.wait_for(origins.plain.until(lambda: not origins.plain.running), 10)
            await asyncio.wait_for(origins.tls.until(lambda: not origins.tls.running), 10)
            observed = await _observed(served, asked, answers, origins)
            await served.client.aclose()
            left = await _left(before)
        open_now = await _closed(origins)
    return Matrix(observed, origins.plain.running + origins.tls.running, left, open_now)


def configuration(asked: Sequence[Trial], origins: Origins) -> Snapshot:
    """Each trial's route with candidates of its own, each at an address of its own; those alike in
    patience are of one backend."""
    names: dict[Timeouts, str] = {}
    replicas: dict[str, list[str]] = {}
    targets, routes = [], []
    for trial in asked:
        candidates = []
        for at, sort in enumerate(trial.lineup.candidates):
            url = origins.url(trial.case.upstream if sort == "b" else "plain")
            patience = trial.case.timeouts if sort == "b" else PATIENT
            backend = names.setdefault(patience, f"b{len(names)}")
            replicas.setdefault(backend, []).append(url)
            targets.append(target(f"{backend}/{trial.model(at)}", url))
            candidates.append(targets[-1].name)
        routes.append(route(trial.route, *candidates))
    plain = snapshot(targets, routes, policies={"quality": policy()})
    backends = dict(plain.backends)
    for patience, name in names.items():
        backends[name] = msgspec.structs.replace(
            backends[name], timeouts=patience, replicas=tuple(replicas[name])
        )
    return msgspec.structs.replace(plain, backends=backends)


def policy() -> Policy:
    """As many candidates as there are may be asked, each once: the table shows single failures."""
    return Policy("quality", tries=3, retries=0)


def body_of(trial: Trial) -> dict[str, Any]:
    """The request of one trial."""
    body: dict[str, Any] = {
        "model": trial.route,
        "messages": [{"role": "user", "content": PROMPT}],
    }
    if trial.streams:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


async def _asked(served: Served, asked: Sequence[Trial]) -> list[Answer]:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(trial: Trial) -> Answer:
        async with room, asyncio.timeout(60):
            return await ask(served.port, body_of(trial))

    return await asyncio.gather(*(one(trial) for trial in asked))


async def _observed(
    served: Served, asked: Sequence[Trial], answers: Sequence[Answer], origins: Origins
) -> list[Observed]:
    calls = _by_model([*origins.plain.seen, *origins.tls.seen])
    await asyncio.to_thread(served.gateway.writer.flush)
    rows = await asyncio.to_thread(served.gateway.reader.recent, limit=None)
    count = {answer.headers["x-request-id"]: 0 for answer in answers}
    for row in rows:
        count[row["id"]] += 1
    found = []
    for trial, answer in zip(asked, answers, strict=True):
        id = answer.headers["x-request-id"]
        kept = await asyncio.to_thread(served.gateway.reader.find, id)
        assert kept is not None, trial
        per_candidate = tuple(
            calls.get(trial.model(at), ()) for at in range(len(trial.lineup.candidates))
        )
        found.append(Observed(trial, answer, count[id], kept, per_candidate))
    return found


def _by_model(seen: Sequence[Seen]) -> Mapping[str, tuple[Seen, ...]]:
    found: dict[str, tuple[Seen, ...]] = {}
    for each in seen:
        name = each.json()["model"]
        found[name] = (*found.get(name, ()), each)
    return found


def _tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if not task.done()}


async def _left(before: set[asyncio.Task[Any]]) -> list[str]:
    """Tasks that have not ended though every answer has, once they had the time to."""
    for _ in range(200):
        left = [task for task in _tasks() - before if not _of_standins(task)]
        if not left:
            return []
        await asyncio.sleep(0.01)
    return [repr(task) for task in left]


def _of_standins(task: asyncio.Task[Any]) -> bool:
    return "standin" in repr(task.get_coro())


async def _closed(origins: Origins) -> int:
    """Connections that are open still, once there was time for them to be closed."""
    for _ in range(200):
        left = origins.plain.connections + origins.tls.connections
        if not left:
            return 0
        await asyncio.sleep(0.01)
    return left
