"""What the ways of dealing with failures share: the seam, and one table of what is done.

Whatever opens a reply is an `Opener`. The innermost makes one upstream call; retry, fallback,
hedge, breaker and deadline are each an `Opener` around another, put together once a policy (see
`gateway.resilience.ways`). All of it happens before the commit point, the first byte sent to the
client. Where nothing fails each of them only passes on what the next one opens.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from gateway.errors import AttemptsFailed, Kind, UpstreamError
from gateway.types.backends import Target
from gateway.types.decisions import Choice
from gateway.types.records import ALL_REFUSED, NONE_ANSWERED
from gateway.types.requests import Needs

Reason = Literal["first", "fallback", "retry", "hedge", "continue"]
"""Why an attempt was made."""

T = TypeVar("T")
NEVER = float("inf")
EARLY_S = 0.002
"""A timer may fire so much before the instant that it was set to: uvloop counts milliseconds."""

NEEDS = Needs()


class Rule(msgspec.Struct, frozen=True):
    """What is done about one kind of failure.

    another  which other candidate is asked: any, none, another model's, or one with more context
    again    whether the same may be asked again
    counts   whether it speaks against the target: for its breaker
    """

    another: Literal["any", "none", "other model", "longer context"]
    again: bool
    counts: bool


RULES: Mapping[Kind, Rule] = {
    "client": Rule(another="none", again=False, counts=False),
    "parameter": Rule(another="other model", again=False, counts=False),
    "context": Rule(another="longer context", again=False, counts=False),
    "refused": Rule(another="other model", again=False, counts=False),
    "setup": Rule(another="any", again=False, counts=True),
    "busy": Rule(another="any", again=True, counts=False),
    "broken": Rule(another="any", again=True, counts=True),
    "timeout": Rule(another="any", again=False, counts=True),
    "away": Rule(another="any", again=True, counts=True),
}


class AttemptFailed(UpstreamError):
    """One attempt's failure, such that another may do better.

    `status` is the backend's own, 504 for a timeout and 502 for every other broken leg. `late` says
    that it is the request's own time that ran out, `asked` that a backend was asked at all, and
    `again` whether the same may be asked again, if the kind allows it.
    """

    def __init__(
        self,
        target: str,
        status: int,
        message: str,
        kind: Kind = "broken",
        *,
        retry_after: float | None = None,
        late: bool = False,
        asked: bool = True,
        again: bool = True,
    ) -> None:
        super().__init__(message)
        self.target = target
        self.status = status
        self.kind: Kind = kind
        self.retry_after = retry_after
        self.late = late
        self.asked = asked
        self.again = again and RULES[kind].again


class Shut(UpstreamError):
    """Nothing was sent: a breaker is open, or has just let another request through to see."""


class Ask(Generic[T]):
    """What is asked of backends for one request, and which attempts have failed so far.

    `attempt` makes one upstream call, notes a failure here and raises it; `targets` are all;
    `within_s` is what the client gives the whole answer. `until` is when that or the policy's time
    is over, and `patience_s` how long the first token of a stream may take, both set on the way in.
    `drop` gives up what was opened and nobody takes; it is told why, None if the client has gone.
    `forced` are the (target, replica) that are asked though their breakers are open.
    """

    __slots__ = (
        "attempt",
        "began",
        "drop",
        "failures",
        "forced",
        "needs",
        "patience_s",
        "retried",
        "stream",
        "targets",
        "until",
        "within_s",
    )

    def __init__(
        self,
        attempt: Callable[[Choice, Reason], Awaitable[T]],
        targets: Mapping[str, Target],
        began: float,
        within_s: float | None = None,
        needs: Needs = NEEDS,
        stream: bool = False,
        drop: Callable[[T, str | None], None] = lambda opened, why: None,
    ) -> None:
        self.attempt = attempt
        self.targets = targets
        self.began = began
        self.within_s = within_s
        self.until = NEVER
        self.patience_s: float | None = None
        self.retried = 0
        self.needs = needs
        self.stream = stream
        self.drop = drop
        self.forced: Collection[tuple[str, str]] = ()
        self.failures: list[tuple[Choice, AttemptFailed]] = []

    def failed(self, choice: Choice, failure: AttemptFailed) -> AttemptFailed:
        """Notes one more that failed."""
        self.failures.append((choice, failure))
        return failure

    @property
    def tried(self) -> int:
        """How many choices were asked and have failed."""
        return len({(at.target, at.replica) for at, failure in self.failures if failure.asked})

    def is_over(self, now: float) -> bool:
        """Whether its time is over: what was cut off by a timer that was set to its end, too."""
        return now >= self.until - EARLY_S

    def may_take(self, choice: Choice) -> bool:
        """Whether a choice may do better than those that have failed."""
        return all(self._may_do_better(choice, *failed) for failed in self.failures)

    def _may_do_better(self, choice: Choice, failed: Choice, failure: AttemptFailed) -> bool:
        if failure.kind == "away" and choice.replica == failed.replica:
            return False
        another = RULES[failure.kind].another
        if another == "any":
            return (choice.target, choice.replica) != (failed.target, failed.replica)
        if another == "none" or choice.target == failed.target:
            return False
        here, there = self.targets[failed.target], self.targets[choice.target]
        if another == "other model":
            return (here.backend, here.model) != (there.backend, there.model)
        fits, wider = here.capabilities.context, there.capabilities.context
        return fits is None or wider is None or wider > fits


class Opener(Protocol):
    """Opens a reply from one of `choices`, which stand best first.

    Raises AttemptFailed, with every failure noted in `ask`, or Shut.
    """

    def open(self, ask: Ask[T], choices: Sequence[Choice], reason: Reason) -> Awaitable[T]: ...


class Once:
    """The innermost: the best choice is asked, once."""

    def open(self, ask: Ask[T], choices: Sequence[Choice], reason: Reason) -> Awaitable[T]:
        """One upstream call."""
        return ask.attempt(choices[0], reason)


BUSY = frozenset({429, 503})

CODES: Mapping[Kind, str] = {
    "context": "context_length_exceeded",
    "refused": "content_filter",
    "parameter": "unsupported_parameter",
}
"""OpenAI's codes for what an application can do something about."""

TELLING = frozenset({400, 413, 422, 504})
"""A client can do something about these; any other failure is a bad gateway to it."""


def gathered(failures: Sequence[AttemptFailed]) -> AttemptsFailed:
    """All failures as one error, in the last one's status where that tells a client what to do."""
    last = failures[-1]
    code = CODES.get(last.kind)
    refused = all(failure.kind in CODES for failure in failures)
    busy = all(failure.kind == "busy" or failure.status in BUSY for failure in failures)
    if busy:
        status = last.status if last.status in BUSY else 503
    else:
        status = last.status if last.status in TELLING else 502
    waits = [failure.retry_after for failure in failures if failure.retry_after is not None]
    if code is not None and status in (400, 413, 422):
        kind: str | None = "invalid_request_error"
    else:
        kind = "rate_limit_error" if status == 429 else None
        code = "upstream_busy" if busy else "upstream_failed"
    return AttemptsFailed(
        (ALL_REFUSED if refused else NONE_ANSWERED)
        + "; ".join(f"{failure.target}: {failure.message}" for failure in failures),
        status=status,
        type=kind,
        code=code,
        retry_after=min(waits) if waits else None,
    )
