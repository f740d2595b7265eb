"""What happened: one row a request, one an attempt."""

from typing import Literal

import msgspec

from gateway.types.decisions import Decision
from gateway.types.requests import Caller, Needs, Recognition


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer; `estimated` when the backend did not say."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    estimated: bool = False


Outcome = Literal["ok", "error", "truncated", "abandoned", "refused"]


WRONG_REQUEST = frozenset({400, 404, 413, 422})
"""Statuses that, where a client is told a backend's, speak against what was asked and not against
what was to answer."""

NONE_ANSWERED = "No backend could answer: "
"""How the error of a request begins that failed at all that were asked, whatever its status."""

ALL_REFUSED = "It was refused: "
"""… and of one that all have refused for what it is: too long, of such content, so asked for."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One upstream call. `status` is 0 when no head came back."""

    target: str
    replica: str
    reason: Literal["first", "fallback", "retry", "hedge", "continue"]
    started: float
    status: int
    outcome: Outcome
    error: str
    usage: Usage
    cost: float
    first_token_s: float | None
    total_s: float
    changed: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True, gc=False):
    """What the store keeps of one request; `text`, `answer` and `messages` (as JSON, as they were
    sent) only where the route keeps text, `features` where it keeps features. `composed` is the
    target that answered, where that is a composition: the attempts are those of its steps."""

    id: str
    decision_id: str
    started: float
    endpoint: str
    model: str
    stream: bool
    caller: Caller
    recognition: Recognition | None
    decision: Decision | None
    needs: Needs
    attempts: tuple[Attempt, ...]
    status: int
    outcome: Outcome
    error: str
    usage: Usage
    cost: float
    first_token_s: float | None
    total_s: float
    overhead_s: float
    completion_id: str | None = None
    text: str | None = None
    answer: str | None = None
    ref: str | None = None
    episode: str | None = None
    messages: str | None = None
    features: bytes | None = None
    experiment: str | None = None
    arm: str | None = None
    shadow_of: str | None = None
    composed: str = ""

    @property
    def target(self) -> str | None:
        """What answered, or was asked last; None where nothing was."""
        return self.composed or (self.attempts[-1].target if self.attempts else None)

    @property
    def replica(self) -> str | None:
        """Where it was asked last."""
        return self.attempts[-1].replica if self.attempts else None


class Made(msgspec.Struct, frozen=True, gc=False):
    """Which target made a completion, at which replica, for which key and tenant."""

    target: str | None
    replica: str | None
    key: str | None
    tenant: str | None
