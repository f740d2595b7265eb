"""Choices and scripted attempts for the tests of what deals with failures."""

import asyncio
from typing import Any

import msgspec

from gateway.resilience.base import Ask, AttemptFailed, Opener, Reason
from gateway.types.backends import Capabilities, Target
from gateway.types.decisions import Choice
from tests.gateway.support import target


def choice(name: str, replica: str = "", net: float = 0.01) -> Choice:
    """A choice of a target at a replica of its own."""
    return Choice(name, replica or f"http://{name}", 0, 0.9, 0.0, 0.1, 0.2, net)


def fails(target: str, status: int = 500, kind: Any = "broken", **more: Any) -> AttemptFailed:
    """An attempt's failure."""
    return AttemptFailed(target, status, f"{status} here", kind, **more)


class Never:
    """An outcome that does not come."""


def never() -> Never:
    """Waits for ever."""
    return Never()


Outcome = AttemptFailed | str | Never


class Scripted:
    """Attempts that answer or fail as told, in order; the last outcome stays. `dropped` are the
    answers given up, `leaving` is set when one that would wait for ever is cancelled."""

    def __init__(self, **outcomes: Any) -> None:
        self.outcomes: dict[str, list[Outcome]] = {
            name: each if isinstance(each, list) else [each] for name, each in outcomes.items()
        }
        self.asked: list[tuple[str, Reason]] = []
        self.contexts: dict[str, int] = {}
        self.ask: Ask[str]
        self.dropped: list[str] = []
        self.leaving = asyncio.Event()

    async def __call__(self, asked: Choice, reason: Reason) -> str:
        self.asked.append((asked.target, reason))
        outcomes = self.outcomes[asked.target]
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if isinstance(outcome, Never):
            try:
                await asyncio.Event().wait()
            finally:
                self.leaving.set()
                await asyncio.sleep(0)  # ending takes its time, in which things happen
            raise AssertionError("unreachable")
        if isinstance(outcome, AttemptFailed):
            raise self.ask.failed(asked, outcome)
        return outcome

    async def given(
        self, opener: Opener, *choices: Choice, within_s: float | None = None, began: float = 0.0
    ) -> str:
        """What an opener makes of these choices."""
        names = {each.target for each in choices}
        targets = {name: self.target(name) for name in names}
        self.ask = Ask(self, targets, began, within_s, drop=self._drop)
        return await opener.open(self.ask, choices, "first")

    def _drop(self, answer: str, why: str | None) -> None:
        self.dropped.append(answer)

    def target(self, name: str) -> Target:
        """The target of that name."""
        plain = target(f"{name}/{name}", f"http://{name}")
        can = Capabilities(context=self.contexts.get(name))
        return msgspec.structs.replace(plain, name=name, capabilities=can)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Time passes at once."""
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
