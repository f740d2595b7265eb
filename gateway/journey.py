"""What travels with one request: what it began with, has reserved, has opened, has come to.

The way itself is `pipeline.py`; here are the values that it passes on.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from gateway.admission.entrance import Entrance
from gateway.backends.base import Backend
from gateway.backends.shape import Shaped
from gateway.classify.recognise import Recogniser
from gateway.errors import ApiError, QueueFull
from gateway.experiments.assignment import Lanes
from gateway.learn.features import FeatureKind
from gateway.learn.kinds import WORDS
from gateway.learn.prompt import Prompt
from gateway.learn.scorer import Scorer
from gateway.metering.usage import Seen, StreamWatch
from gateway.policy.decide import Decider
from gateway.policy.live import Flight
from gateway.resilience.base import Ask, AttemptFailed, Opener, Reason
from gateway.resilience.carry import GO_ON_TOKENS
from gateway.transport.base import Reply, Sink
from gateway.types.backends import Target
from gateway.types.compositions import Composition, StepTaken
from gateway.types.decisions import Choice, Decision
from gateway.types.records import Attempt, Outcome, Record, Usage
from gateway.types.requests import Recognition, Request
from gateway.types.routes import Shadow
from gateway.types.snapshot import Snapshot

Lines = list[bytes]
"""Those of an answer's head, each `name: value`."""

NO_USAGE = Usage()


class Plane(msgspec.Struct, frozen=True):
    """One snapshot and what was built from it; `ways` open replies, by policy; `lanes` are the
    routes' experiments as they stand, `shadows` those of routes that have one, and `learned` what
    was learned of routes' qualities, where a policy goes by it; `unfit` says why a route does not
    go by its version. `kind` is that of the features of prompts, None while an encoder is away."""

    snapshot: Snapshot
    recogniser: Recogniser
    decider: Decider
    backends: Mapping[str, Backend]
    ways: Mapping[str, Opener]
    lanes: Mapping[str, Lanes] = {}
    shadows: Mapping[str, Shadow] = {}
    learned: Mapping[str, Scorer] = {}
    unfit: Mapping[str, str] = {}
    kind: Callable[[], FeatureKind | None] = lambda: WORDS


class Outlet(Protocol):
    """The client's side of one request, in the dialect that it speaks.

    `opened` is true from the first byte on: the commit point, after which nothing is tried again.
    """

    opened: bool

    def plain(self, status: int, lines: Lines, body: bytes) -> None: ...

    def open(self, status: int, lines: Lines) -> None: ...

    def write(self, body: bytes) -> bool:
        """Part of a stream; false when no more should come before `drain` returns."""

    async def drain(self) -> None: ...

    def close(self) -> None: ...

    def fail(self, error: ApiError) -> None:
        """Ends an open stream with an explicit error event."""


LONGEST_MESSAGES = 1 << 18
"""Bytes of a chat that a route which keeps text keeps whole: pictures may be in it."""


class Hold(Protocol):
    """What a request has reserved of its limits; `lines` tell the client what is left."""

    lines: Lines

    def settle(self, tokens: int, dollars: float, now: float) -> None:
        """The request has ended `now`; it took so many tokens, and cost so much in all."""
        ...


class Limiter(Protocol):
    """Lets requests in within the limits of whoever asks; passed by while it is not `on`."""

    on: bool
    is_shared: bool

    def admit(self, request: Request, decision: Decision, snapshot: Snapshot) -> Hold | None:
        """What the request has reserved, None where nothing limits it; raises LimitReached."""
        ...

    async def admit_shared(
        self, request: Request, decision: Decision, snapshot: Snapshot
    ) -> Hold | None:
        """The same where it `is_shared` with other workers, who have to be asked."""
        ...


class Journey:
    """What has happened to one request so far: the only thing on its way that changes."""

    __slots__ = (
        "answer",
        "ask",
        "at",
        "attempts",
        "began",
        "completion_id",
        "composed",
        "conversation",
        "decision",
        "error",
        "first_token_s",
        "full",
        "hold",
        "outcome",
        "overhead_s",
        "plane",
        "prompt",
        "queued_s",
        "reading",
        "recognition",
        "request",
        "run",
        "shadow_of",
        "so_far",
        "status",
        "upstream_s",
        "usage",
        "watch",
    )

    def __init__(self, request: Request, plane: Plane, at: float, began: float) -> None:
        self.request = request
        self.plane = plane
        self.at = at
        self.began = began
        self.recognition: Recognition | None = None
        self.decision: Decision | None = None
        self.conversation = 0
        self.prompt: Prompt | None = None
        self.reading: asyncio.Task[object] | None = None
        self.attempts: list[Attempt] = []
        self.status = 0
        self.outcome: Outcome = "error"
        self.error = ""
        self.usage = NO_USAGE
        self.first_token_s: float | None = None
        self.upstream_s = 0.0
        self.queued_s = 0.0
        self.full: tuple[QueueFull, ...] = ()
        self.overhead_s = 0.0
        self.completion_id: str | None = None
        self.answer: str | None = None
        self.hold: Hold | None = None
        self.ask: Ask[Opened] | None = None
        self.so_far = ("", 0)
        self.shadow_of: str | None = None
        self.composed = ""
        self.run: Run | None = None
        self.watch: StreamWatch | None = None

    @property
    def cost(self) -> float:
        """What all attempts have cost so far, in dollars."""
        attempts = self.attempts
        return attempts[0].cost if len(attempts) == 1 else sum(each.cost for each in attempts)

    @property
    def teaches(self) -> str:
        """The route of which it tells how long answers are there, and what they cost. That of none
        where a target was named and the answer bounded: an eval's answers are cut short, and a
        judge's is a mark."""
        assert self.decision is not None
        recognition = self.recognition
        named = recognition is not None and recognition.names_target
        return "" if named and self.request.needs.max_output is not None else self.decision.route

    def asked_enough(self) -> None:
        """Nothing more is asked. What was asked holds this, and its failures the frames that they
        were raised in: cut here, nothing of it waits for the collector of cycles."""
        if self.ask is not None:
            for _, failure in self.ask.failures:
                failure.__traceback__ = failure.__context__ = failure.__cause__ = None
            self.ask = None


class Run(msgspec.Struct):
    """A composition under way for the request of `journey`, chosen by `choice`; `request` is what
    its steps are asked from.

    Each step is a journey of its own, with the attempts of this one; `last` is that of the step
    whose answer the client gets, or stands for one where `given` is its answer already. `usage` is
    of the steps before it, `came_to` what they came to by name. Its attempts begin with
    the one at `first`, and `failure` is the latest one of a step.
    """

    journey: "Journey"
    request: Request
    composition: Composition
    choice: Choice
    flight: Flight
    began: float
    first: int
    last: "Journey"
    given: bytes | None = None
    usage: Usage = NO_USAGE
    came_to: dict[str, StepTaken] = {}
    notes: dict[str, str] = {}
    failure: AttemptFailed | None = None

    @property
    def cost(self) -> float:
        """What its attempts have cost so far, in dollars."""
        return sum(attempt.cost for attempt in self.journey.attempts[self.first :])

    @property
    def steps(self) -> tuple[StepTaken, ...]:
        """What the steps have come to, in the order in which they were asked."""
        return tuple(
            msgspec.structs.replace(taken, came_to=self.notes.get(name, taken.came_to))
            for name, taken in self.came_to.items()
        )


class Opened(msgspec.Struct):
    """A reply whose first piece is in: the body of a plain answer and what was `seen` in it, or a
    stream's first bytes and its watch. `entrance` is the one that it has not left yet. With a `run`
    it is the last step of a composition, or stands for the answer that it gave."""

    reply: Reply
    choice: Choice
    target: Target
    flight: Flight
    entrance: Entrance | None
    reason: Reason
    shaped: Shaped
    began: float
    first_at: float
    piece: bytes
    content_type: bytes
    watch: StreamWatch | None = None
    seen: Seen | None = None
    run: Run | None = None


class _NoReply:
    """Stands where no head has come back yet."""

    status = 0
    headers: Sequence[tuple[bytes, bytes]] = ()

    async def read(self) -> bytes:
        return b""

    async def pump(self, sink: Sink) -> None:
        """There is nothing to give."""

    def abort(self) -> None:
        """Nothing to abort: a cancelled `send` closes its own connection."""


NO_REPLY: Reply = _NoReply()


def decision_id(request_id: str) -> str:
    """Each request has one decision; the two ids differ in their prefix only."""
    return "dec_" + request_id.removeprefix("req_")


def taken(journey: Journey) -> int:
    """The tokens of the answer; where none came, of the attempt that took most, or of all steps of
    a composition."""
    usage = journey.usage
    if usage is not NO_USAGE:
        return usage.input + usage.output
    used = [each.usage.input + each.usage.output for each in journey.attempts]
    return sum(used) if journey.composed else max(used, default=0)


def estimated(journey: Journey, output: int) -> Usage:
    """What was used where the backend did not say; `output` in tokens."""
    return Usage(input=_asked_tokens(journey), output=output, estimated=True)


def unseen(journey: Journey) -> Usage:
    """What an attempt cost that was given up before its first piece: its input at least."""
    return Usage(input=_asked_tokens(journey), estimated=True)


def _asked_tokens(journey: Journey) -> int:
    """What was asked with it, about; what has been said of an answer that is gone on with too."""
    said, asked = journey.so_far[1], journey.request.needs.input_tokens
    return asked + said + GO_ON_TOKENS if said else asked


def keeps_text(journey: Journey) -> bool:
    """Whether its route keeps the texts of requests and answers."""
    decision = journey.decision
    return decision is not None and journey.plane.snapshot.routes[decision.route].keep == "text"


def keeps_features(journey: Journey) -> bool:
    """Whether its route keeps those of the prompt."""
    decision = journey.decision
    if decision is None or journey.prompt is None or journey.shadow_of is not None:
        return False
    return journey.plane.snapshot.routes[decision.route].keep == "features"


def _features(journey: Journey) -> bytes | None:
    """Those of the prompt, where its route keeps them; read now if deciding did not need them."""
    prompt = journey.prompt
    return prompt.packed() if prompt is not None and keeps_features(journey) else None


def record(journey: Journey, total_s: float) -> Record:
    """The journey as its row, after `total_s` seconds."""
    request = journey.request
    turns, keeps = request.turns, keeps_text(journey)
    trial = journey.decision.trial if journey.decision is not None else None
    return Record(
        id=request.id,
        decision_id=decision_id(request.id),
        started=journey.at,
        endpoint=request.endpoint.value,
        model=request.model,
        stream=request.stream,
        caller=request.caller,
        recognition=journey.recognition,
        decision=journey.decision,
        needs=request.needs,
        attempts=tuple(journey.attempts),
        status=journey.status,
        outcome=journey.outcome,
        error=journey.error,
        usage=journey.usage,
        cost=journey.cost,
        first_token_s=journey.first_token_s,
        total_s=total_s,
        overhead_s=journey.overhead_s,
        completion_id=journey.completion_id,
        text=turns[0] if turns and keeps else None,
        answer=journey.answer,
        ref=request.ref,
        episode=request.episode,
        messages=_messages(request) if keeps else None,
        features=_features(journey),
        experiment=trial.experiment if trial is not None else None,
        arm=trial.arm if trial is not None else None,
        shadow_of=journey.shadow_of,
        composed=journey.composed,
    )


def _messages(request: Request) -> str | None:
    """A chat's messages as they were sent, unless they are very long."""
    messages = request.fields.get("messages")
    if messages is None or len(messages) > LONGEST_MESSAGES:
        return None
    return bytes(messages).decode(errors="replace")
