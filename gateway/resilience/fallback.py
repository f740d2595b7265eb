"""Fallback: the next candidate is asked when one fails before the first byte reaches the client."""

from collections.abc import Sequence

from gateway.resilience.base import Ask, AttemptFailed, Opener, Reason, T
from gateway.types import Choice


class Fallback:
    """An Opener that asks one choice after the other, at most `tries` of them.

    Those are left out that cannot do better than what has failed: another target at a replica that
    took no connection; the same model, where it was the model that refused; a shorter context.
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

    async def _others(self, ask: Ask[T], choices: Sequence[Choice], failure: AttemptFailed) -> T:
        for at in range(1, len(choices)):
            if ask.tried >= self._tries or failure.late:
                break
            if not ask.may_take(choices[at]):
                continue
            try:
                return await self._inner.open(ask, choices[at:], "fallback")
            except AttemptFailed as next_failure:
                failure = next_failure
        raise failure
