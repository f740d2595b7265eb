"""Hedge: a second candidate is asked when the first is later than its own 95th percentile.

Worth it only where waiting costs more than asking twice. Of an answer that is late already, the
rest is taken to be exponential (without memory), with the mean that has its 95th percentile where
it was reached (so it is no heavier than what was seen):

    rest = p95 / ln 20;   P(the second is sooner) = exp(-s / rest)
    E[seconds saved] = E[(rest - s)+] = rest x exp(-s / rest)

where s is what the second is expected to take. It is asked if what they cost is more than what the
second costs, and what it is worth less where it answers instead:

    per_second x E[seconds saved] > price of the second + P(sooner) x (worth 1 - worth 2)

See Dean and Barroso, The Tail at Scale, 2013, for the 95th percentile.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from gateway.policy.estimates import TAIL, Estimate
from gateway.resilience.base import Ask, AttemptFailed, Opener, Reason, Shut, T
from gateway.types.decisions import Choice
from gateway.types.policies import Policy

SOONER = "another was sooner"
"""Says to an attempt why it is cancelled: not because its client has gone."""

LN_20 = math.log(20.0)


class Hedge:
    """An Opener that asks a second choice beside the first, for `share` of the requests at most."""

    def __init__(
        self,
        inner: Opener,
        policy: Policy,
        estimates: Callable[[], Mapping[tuple[str, str], Estimate]],
    ) -> None:
        self._inner = inner
        self._share = policy.hedge
        self._first = policy.waiting_first_token
        self._whole = policy.waiting_whole
        self._price = policy.price_weight
        self._estimates = estimates
        self._credit = 1.0

    def open(self, ask: Ask[T], choices: Sequence[Choice], reason: Reason) -> Awaitable[T]:
        """What the first or the second opens, whichever is sooner; the other is cancelled."""
        if reason != "first":
            return self._inner.open(ask, choices, reason)
        self._credit = min(1.0 / self._share, self._credit + self._share)
        second = self._second(ask, choices)
        if second is None or self._credit < 1.0:
            return self._inner.open(ask, choices, reason)
        after_s = self._late_s(ask, choices[0])
        if not self._pays(ask, choices[0], second, after_s):
            return self._inner.open(ask, choices, reason)
        return self._both(ask, choices, second, after_s)

    async def _both(
        self, ask: Ask[T], choices: Sequence[Choice], second: Choice, after_s: float
    ) -> T:
        running = [asyncio.create_task(_run(self._inner.open(ask, choices, "first")))]
        why: str | None = None
        won: asyncio.Task[T] | None = None
        try:
            done, _ = await asyncio.wait(running, timeout=after_s)
            if not done:
                self._credit -= 1.0
                hedge = _opened(self._inner, ask, second)
                running.append(asyncio.create_task(hedge))
            won = await _soonest(running)
            why = SOONER
            return won.result()
        finally:
            try:
                await _end(ask, [task for task in running if task is not won], why)
            except BaseException:
                # The client has left meanwhile: nobody takes what has won.
                if won is not None:
                    ask.drop(won.result(), None)
                raise

    def _second(self, ask: Ask[T], choices: Sequence[Choice]) -> Choice | None:
        """The best of those elsewhere."""
        for choice in choices[1:]:
            if choice.replica != choices[0].replica and ask.may_take(choice):
                return choice
        return None

    def _late_s(self, ask: Ask[T], choice: Choice) -> float:
        """The 95th percentile of what is waited for: a stream's first token, or a whole answer."""
        estimate = self._estimates().get((choice.target, choice.replica))
        return _expected_s(ask, choice) * (TAIL if estimate is None else estimate.tail)

    def _pays(self, ask: Ask[T], first: Choice, second: Choice, after_s: float) -> bool:
        rest_s = max(after_s, 1e-9) / LN_20
        sooner = math.exp(-_expected_s(ask, second) / rest_s)
        saved = (self._first + self._whole) * rest_s * sooner
        less = sooner * (self._worth(first) - self._worth(second))
        return saved > self._price * second.cost + less

    def _worth(self, choice: Choice) -> float:
        """What an answer of it is worth, as the objective has it: value x P(right)."""
        waits = self._first * (choice.first_token_s + choice.others_s)
        waits += self._whole * (choice.total_s + choice.others_s)
        return choice.net + self._price * choice.cost + waits


def _expected_s(ask: Ask[T], choice: Choice) -> float:
    return choice.first_token_s if ask.stream else choice.total_s


async def _run(opening: Awaitable[T]) -> T:
    return await opening


async def _opened(inner: Opener, ask: Ask[T], choice: Choice) -> T:
    return await inner.open(ask, (choice,), "hedge")


async def _soonest(running: Sequence[asyncio.Task[T]]) -> asyncio.Task[T]:
    """The first that has opened; the failure of the first of them if none does."""
    pending = set(running)
    while pending:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            if task.done() and task.exception() is None:
                return task
    failures = [task.exception() for task in running]
    told = [each for each in failures if each is not None and not isinstance(each, Shut)]
    raise (told or [each for each in failures if each is not None])[-1]


async def _end(ask: Ask[T], losers: Sequence[asyncio.Task[T]], why: str | None) -> None:
    """Cancels what still runs, upstream too, and gives up what has opened as well."""
    for task in losers:
        if task.done():
            _drop(ask, why, task)
            continue
        # Not after the wait for them: it ends sooner for a client that leaves.
        task.add_done_callback(partial(_drop, ask, why))
        task.cancel(why)
    for outcome in await asyncio.gather(*losers, return_exceptions=True):
        known = (AttemptFailed, Shut, asyncio.CancelledError)
        if isinstance(outcome, BaseException) and not isinstance(outcome, known):
            raise outcome


def _drop(ask: Ask[T], why: str | None, loser: asyncio.Task[T]) -> None:
    if not loser.cancelled() and loser.exception() is None:
        ask.drop(loser.result(), why)
