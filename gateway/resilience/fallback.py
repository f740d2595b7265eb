"""Fallback: the next candidate is asked when one fails before the first byte reaches the client."""

from collections.abc import Sequence

from gateway.resilience.base import Ask, AttemptFailed, Opener, Reason, Shut, T
from gateway.types.decisions import Choice


class Fallback:
    """An Opener that asks one choice after the other, at most `tries` of them.

    Those are left out that cannot do better than what has failed: another target at a replica that
    took no connection; the same model, where it was the model that refused; a shorter context.
    Those whose breaker is open come last.
    """

    def __init__(self, inner: Opener, tries: int = 2) -> None:
        self._inner = inner
        self._tries = tries

    async def open(self, ask: Ask[T], choices: Sequence[Choice], reason: Reason) -> T:
        """What the first gives that does not fail; raises the last one's AttemptFailed."""
        try:
            return await self._inner.open(ask, choices, reason)
        except AttemptFailed as failure:
            return await self._others(ask, choices, failure)
        except Shut:
            return await self._others(ask, choices, None)

    async def _others(
        self, ask: Ask[T], choices: Sequence[Choice], failure: AttemptFailed | None
    ) -> T:
        shut = [] if failure is not None else [choices[0]]
        for at in range(1, len(choices)):
            if failure is not None and (failure.late or ask.tried >= self._tries):
                break
            if not ask.may_take(choices[at]):
                continue
            try:
                return await self._inner.open(ask, choices[at:], "fallback")
            except AttemptFailed as next_failure:
                failure = next_failure
            except Shut:
                shut.append(choices[at])
        return await self._all_the_same(ask, shut, failure)

    async def _all_the_same(
        self, ask: Ask[T], shut: Sequence[Choice], failure: AttemptFailed | None
    ) -> T:
        """Nobody else has answered: those are asked that are left alone for failing."""
        ask.forced = [(choice.target, choice.replica) for choice in shut]
        for choice in shut:
            if failure is not None and (failure.late or ask.tried >= self._tries):
                break
            if not ask.may_take(choice):
                continue
            try:
                return await self._inner.open(
                    ask, (choice,), "fallback" if failure is not None else "first"
                )
            except AttemptFailed as next_failure:
                failure = next_failure
        # One that failed already is not forced to fail again.
        raise failure or ask.failures[-1][1]
