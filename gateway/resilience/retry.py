"""Retry: the same is asked again, after a while, where what failed may pass.

How long to wait is what the backend says, else tenacity's exponential wait, of which a random half
is left out ("equal jitter" in Brooker, Exponential Backoff and Jitter, 2015): of many gateways that
were turned away at once, few come back at once.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import tenacity

from gateway.resilience.base import Ask, AttemptFailed, Opener, Reason, T
from gateway.types.decisions import Choice

Sleep = Callable[[float], Awaitable[None]]

PASSES = 0.5
"""P(asking the same again is answered), where its failure may pass: an assumption."""


class Retry:
    """An Opener that asks the inner one again, `retries` times a request at most.

    Around a fallback, when all have failed, the one is asked that may pass soonest. Around one
    choice the same is asked again before the next is; with `per_second` only where that is worth
    more than the next: the wait costs `per_second` dollars a second, 1 / P(passes) times as asking
    again may fail, too; another candidate costs what it is worth less:

        per_second x wait / PASSES < net of this one - net of the next
    """

    def __init__(
        self,
        inner: Opener,
        *,
        retries: int,
        first_s: float,
        most_s: float,
        clock: Callable[[], float],
        sleep: Sleep,
        draw: Callable[[], float],
        per_second: float | None = None,
    ) -> None:
        """Waits grow from `first_s`; none is longer than `most_s`, a backend's own neither. `draw`
        is uniform in [0, 1)."""
        self._inner = inner
        self._retries = retries
        self._most_s = most_s
        self._clock = clock
        self._sleep = sleep
        self._draw = draw
        self._per_second = per_second
        self._backoff = tenacity.wait_exponential(multiplier=first_s, max=most_s)

    async def open(self, ask: Ask[T], choices: Sequence[Choice], reason: Reason) -> T:
        """What the inner one opens, if need be after a while."""
        already = len(ask.failures)
        try:
            return await self._inner.open(ask, choices, reason)
        except AttemptFailed as failure:
            return await self._again(ask, choices, failure, already)

    async def _again(
        self, ask: Ask[T], choices: Sequence[Choice], failure: AttemptFailed, already: int
    ) -> T:
        while ask.retried < self._retries:
            found = self._soonest(ask, already)
            if found is None:
                break
            wait_s, choice = found
            if not self._fits(ask, wait_s) or self._leaves_it(ask, choices, wait_s):
                break
            ask.retried += 1
            await self._sleep(wait_s)
            again = [choice, *(each for each in choices if each is not choice)]
            try:
                return await self._inner.open(ask, again, "retry")
            except AttemptFailed as next_failure:
                failure = next_failure
        raise failure

    def _soonest(self, ask: Ask[T], already: int) -> tuple[float, Choice] | None:
        """The choice that may be asked again soonest, of several the one that failed least often,
        and after how many seconds. None where nothing that failed may pass."""
        if ask.failures[-1][1].late:
            return None
        own_s = self._wait_s(ask.retried + 1)
        last: dict[tuple[str, str], tuple[Choice, AttemptFailed]] = {}
        times: Counter[tuple[str, str]] = Counter()
        for choice, failure in ask.failures[already:]:
            key = (choice.target, choice.replica)
            last[key] = choice, failure
            times[key] += 1
        found = [
            (own_s if failure.retry_after is None else failure.retry_after, times[key], n, choice)
            for n, (key, (choice, failure)) in enumerate(last.items())
            if failure.again
        ]
        if not found:
            return None
        wait_s, _, _, choice = min(found)
        return wait_s, choice

    def _wait_s(self, attempt: int) -> float:
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = attempt
        return self._backoff(state) * (0.5 + 0.5 * self._draw())

    def _fits(self, ask: Ask[T], wait_s: float) -> bool:
        return wait_s <= self._most_s and self._clock() + wait_s < ask.until

    def _leaves_it(self, ask: Ask[T], choices: Sequence[Choice], wait_s: float) -> bool:
        """Whether the next is to be asked first; where none is left, what is around this decides
        which of all is asked again."""
        if self._per_second is None:
            return False
        for choice in choices[1:]:
            if ask.may_take(choice):
                return choices[0].net - choice.net <= self._per_second * wait_s / PASSES
        return True
