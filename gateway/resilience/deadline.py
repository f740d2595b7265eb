"""Deadline: one budget of time for the whole answer, of which each attempt has what is left."""

from collections.abc import Awaitable, Sequence

from gateway.resilience.base import Ask, Opener, Reason, T
from gateway.types.decisions import Choice


class Deadline:
    """An Opener that sets how long all of it may take: the client's time or the policy's.

    The less of both counts. It is kept where time is spent: by each attempt, which passes what is
    left on to its backend, and by whatever waits between two. So no timer runs beside a request.
    """

    def __init__(
        self, inner: Opener, total_s: float | None = None, first_token_s: float | None = None
    ) -> None:
        """`first_token_s` is how long one attempt's first token may take."""
        self._inner = inner
        self._total_s = total_s
        self._first_token_s = first_token_s

    def open(self, ask: Ask[T], choices: Sequence[Choice], reason: Reason) -> Awaitable[T]:
        """What the inner one opens within that time."""
        within_s, total_s = ask.within_s, self._total_s
        if within_s is not None and (total_s is None or within_s < total_s):
            total_s = within_s
        if total_s is not None:
            ask.within_s = total_s
            ask.until = ask.began + total_s
        ask.patience_s = self._first_token_s
        return self._inner.open(ask, choices, reason)
