"""Fallback: the next candidate is asked when one fails before the first byte reaches the client."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

from gateway.errors import AttemptsFailed, UpstreamError
from gateway.types import Choice

Reason = Literal["first", "fallback"]
T = TypeVar("T")

BUSY = frozenset({429, 503})

TELLING = frozenset({400, 413, 422, 504})
"""A client can do something about these; any other failure is a bad gateway to it."""


class AttemptFailed(UpstreamError):
    """One attempt's failure, such that another candidate may do better.

    `status` is the backend's own, 504 for a timeout and 502 for every other broken leg; `away` that
    the replica takes no connection, whatever it is asked for.
    """

    def __init__(
        self,
        target: str,
        status: int,
        message: str,
        retry_after: float | None = None,
        *,
        away: bool = False,
    ) -> None:
        super().__init__(message)
        self.target = target
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.away = away


async def first_to_answer(
    ranked: Sequence[Choice],
    attempt: Callable[[Choice, Reason], Awaitable[T]],
    *,
    tries: int = 2,
) -> T:
    """What the first of the best `tries` choices gives that does not fail.

    A replica that took no connection is not asked for another target. Raises AttemptsFailed with
    every failure gathered when none answers.
    """
    failures: list[AttemptFailed] = []
    away: set[str] = set()
    for choice in ranked:
        if choice.replica in away:
            continue
        try:
            return await attempt(choice, "fallback" if failures else "first")
        except AttemptFailed as failure:
            failures.append(failure)
            if failure.away:
                away.add(choice.replica)
            if len(failures) >= tries:
                break
    raise gathered(failures)


def gathered(failures: Sequence[AttemptFailed]) -> AttemptsFailed:
    """All failures as one error, in the last one's status where that tells a client what to do."""
    last = failures[-1]
    busy = all(failure.status in BUSY for failure in failures)
    status = last.status if busy or last.status in TELLING else 502
    waits = [failure.retry_after for failure in failures if failure.retry_after is not None]
    return AttemptsFailed(
        "No backend could answer: "
        + "; ".join(f"{failure.target}: {failure.message}" for failure in failures),
        status=status,
        type="rate_limit_error" if status == 429 else None,
        code="upstream_busy" if busy else "upstream_failed",
        retry_after=min(waits) if waits else None,
    )
