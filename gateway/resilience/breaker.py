"""Breaker: a target at a replica that keeps failing is left alone for a while, then tried again.

It opens after so many failures in a row, or when their share of the last requests is too great;
each sort of request (endpoint, streamed, tools, images, JSON schema) by itself, and for all once
two sorts have failed, or no connection is made. After a pause one request of those that come is
let through to see; the pause grows, with jitter, for as long as that fails, too (Nygard, Release
It!, 2007). What a backend asks for itself with `retry-after` is kept here as well.

The state lies in `Live`, beside the estimates: `decide` reads it, and leaves out what is shut.
Nothing is kept, and nothing paid, for a target that does not fail.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from gateway.policy.estimates import Estimate
from gateway.policy.gates import sort_of
from gateway.policy.live import Live
from gateway.resilience.base import Ask, AttemptFailed, Opener, Reason, Shut, T
from gateway.types.backends import Target
from gateway.types.decisions import Choice
from gateway.types.policies import Breaking
from gateway.types.snapshot import Snapshot

PROBE_S = 60.0
"""How long a request that was let through to see may take before another is."""

DOUBLINGS = 30
"""A pause doubles no more often: any is over its most by then, and a thousand are no float."""

LONGEST_REST_S = 3600.0
"""A backend that wants to be left alone for longer is asked again all the same: what it waits for
may have come (a budget raised, a mend), and nobody would see."""

LEAST = 10
"""Requests in the window below which a share of failures says little."""

WHOLE = ""
"""Stands for every sort of request."""


class Turned(msgspec.Struct, frozen=True):
    """A breaker that has opened for `pause_s` seconds, or closed (0); `sort` "" is every sort."""

    target: str
    replica: str
    sort: str
    pause_s: float
    why: str = ""


class Circuit:
    """The breaker of one sort of request. `until` is when it may be tried again, 0.0 if closed."""

    __slots__ = (
        "answers",
        "at",
        "failures",
        "in_a_row",
        "opened",
        "probing_at",
        "until",
        "why",
    )

    def __init__(self) -> None:
        self.until = 0.0
        self.opened = 0
        self.probing_at: float | None = None
        self.why = ""
        self.at = 0.0
        self._forget()

    def _forget(self) -> None:
        self.in_a_row = 0
        self.failures = self.answers = 0.0

    def shut(self, now: float) -> str:
        """Why nothing is sent now."""
        if not self.until:
            return ""
        if now < self.until:
            return f"{self.why}; tried again in {self.until - now:.1f} s"
        if self.probing_at is not None and now - self.probing_at < PROBE_S:
            return f"{self.why}; another request is trying it"
        return ""

    def enter(self, now: float) -> None:
        """A request is sent: if the breaker was open, to see."""
        if self.until:
            self.probing_at = now

    def answered(self, now: float) -> bool:
        """Counts an answer; true if it has closed the breaker."""
        if self.until:
            # One that was under way when it opened says nothing.
            if self.probing_at is None and now < self.until:
                return False
            self.until, self.opened, self.probing_at = 0.0, 0, None
            self._forget()
            return True
        self.in_a_row = 0
        self.answers += 1.0
        return False

    def failed(self, now: float, rule: Breaking, why: str) -> bool:
        """Counts a failure; true if the breaker is to open (again)."""
        if self.until:
            if self.probing_at is None and now < self.until:
                return False
            self.why = why
            return True
        # Weights halve every half of the window, so that what is older counts for next to nothing.
        decay = 0.5 ** (max(0.0, now - self.at) / (rule.window_s / 2.0)) if self.at else 1.0
        self.at = now
        self.failures = self.failures * decay + 1.0
        self.answers *= decay
        self.in_a_row += 1
        self.why = why
        seen = self.failures + self.answers
        share = self.failures / seen
        return self.in_a_row >= rule.failures or (seen >= LEAST and share >= rule.share)

    def open(self, now: float, pause_s: float) -> None:
        """Nothing is sent for `pause_s`."""
        self.opened += 1
        self.until = max(self.until, now + pause_s)
        self.probing_at = None


class Breaker:
    """The gate of one target at one replica: what fails, and how long it asked to be left alone."""

    __slots__ = ("_circuits", "rest_until", "rest_why")

    def __init__(self) -> None:
        self._circuits: dict[str, Circuit] = {}
        self.rest_until = 0.0
        self.rest_why = ""

    def shut(self, sort: str, now: float) -> str:
        """Why a request of this sort is not sent there now, and until when; "" if it may be."""
        if now < self.rest_until:
            return f"{self.rest_why}; asked again in {self.rest_until - now:.1f} s"
        for circuit in self._of(sort):
            if why := circuit.shut(now):
                return why
        return ""

    def enter(self, sort: str, now: float) -> None:
        """A request of this sort is sent."""
        for circuit in self._of(sort):
            circuit.enter(now)

    def left(self, sort: str) -> None:
        """A request has ended and says nothing."""
        for circuit in self._of(sort):
            circuit.probing_at = None

    def circuit(self, sort: str) -> Circuit:
        """The breaker of a sort of request, begun if need be."""
        found = self._circuits.get(sort)
        if found is None:
            found = self._circuits[sort] = Circuit()
        return found

    def open_circuits(self) -> dict[str, Circuit]:
        """Those that are open or being tried."""
        return {sort: circuit for sort, circuit in self._circuits.items() if circuit.until}

    @property
    def idle(self) -> bool:
        """Whether it may be forgotten: nothing is open, and answers outweigh what failed."""
        return not self.rest_until and not any(
            each.until or each.answers < 20.0 * each.failures for each in self._circuits.values()
        )

    def _of(self, sort: str) -> Iterator[Circuit]:
        for name in (WHOLE, sort):
            circuit = self._circuits.get(name)
            if circuit is not None:
                yield circuit


class Breakers:
    """All breakers. `observer` is told of each that opens or closes by what was seen here; hints
    from elsewhere come in by `hint`."""

    def __init__(self, live: Live, draw: Callable[[], float]) -> None:
        """`draw` is uniform in [0, 1)."""
        self._live = live
        self._draw = draw
        self.observer: Callable[[Turned], None] | None = None
        self.opened: dict[tuple[str, str], int] = {}

    # ------------------------------------------------------------ what happens

    def answered(self, target: Target, replica: str, sort: str, now: float) -> None:
        """A request was answered."""
        estimate = self._live.estimate(target, replica)
        breaker = estimate.gate
        if not isinstance(breaker, Breaker):
            return
        for name in (WHOLE, sort):
            if breaker.circuit(name).answered(now):
                self._tell(Turned(target.name, replica, name, 0.0))
        if now >= breaker.rest_until:
            breaker.rest_until = 0.0
        if breaker.idle:
            estimate.gate = None

    def left(self, target: Target, replica: str, sort: str) -> None:
        """A request has ended and says nothing of the target."""
        breaker = self._live.estimate(target, replica).gate
        if isinstance(breaker, Breaker):
            breaker.left(sort)

    def failed(
        self,
        target: Target,
        replica: str,
        sort: str,
        rule: Breaking,
        now: float,
        why: str,
        *,
        connected: bool,
    ) -> None:
        """A request failed; where no connection was made that goes for every sort."""
        breaker = self._begun(self._live.estimate(target, replica))
        name = sort if connected else WHOLE
        if breaker.circuit(name).failed(now, rule, why):
            self._open(breaker, Turned(target.name, replica, name, 0.0, why), rule, now)
        if name != WHOLE and WHOLE in breaker.open_circuits():
            circuit = breaker.circuit(WHOLE)
            if circuit.failed(now, rule, why):
                self._open(breaker, Turned(target.name, replica, WHOLE, 0.0, why), rule, now)
        elif len([each for each in breaker.open_circuits() if each != WHOLE]) > 1:
            breaker.circuit(WHOLE).why = why
            self._open(breaker, Turned(target.name, replica, WHOLE, 0.0, why), rule, now)

    def rest(
        self, snapshot: Snapshot, target: Target, replica: str, seconds: float, why: str, now: float
    ) -> None:
        """The backend wants to be left alone: by every target that is the same model there with
        the same key, whatever it is declared as."""
        until = now + min(seconds, LONGEST_REST_S)
        meant = identity(snapshot, target, replica)
        for each in snapshot.targets.values():
            for url in each.replicas:
                if identity(snapshot, each, url) == meant:
                    breaker = self._begun(self._live.estimate(each, url))
                    if breaker.rest_until < until:
                        breaker.rest_until, breaker.rest_why = until, why

    def hint(self, turned: Turned, now: float) -> None:
        """Another worker's breaker has opened or closed; nobody is told again."""
        estimate = self._live.estimates.get((turned.target, turned.replica))
        if estimate is None:
            return
        circuit = self._begun(estimate).circuit(turned.sort)
        if turned.pause_s:
            circuit.why = turned.why
            circuit.open(now, turned.pause_s)
        elif circuit.until:
            circuit.probing_at = now
            circuit.answered(now)

    # ------------------------------------------------------------ what is shown

    def shown(self, now: float) -> list[dict[str, Any]]:
        """Each that keeps requests away, or lets one through to see."""
        found = []
        for (target, replica), estimate in self._live.estimates.items():
            breaker = estimate.gate
            if not isinstance(breaker, Breaker):
                continue
            if now < breaker.rest_until:
                until, why = breaker.rest_until, breaker.rest_why
                found.append(_shown(target, replica, "any", "resting", until - now, why))
            for sort, circuit in breaker.open_circuits().items():
                state: State = "open" if now < circuit.until else "half-open"
                until, why = circuit.until, circuit.why
                found.append(_shown(target, replica, sort or "any", state, until - now, why))
        return found

    def _begun(self, estimate: Estimate) -> Breaker:
        breaker = estimate.gate
        if not isinstance(breaker, Breaker):
            breaker = estimate.gate = Breaker()
        return breaker

    def _open(self, breaker: Breaker, turned: Turned, rule: Breaking, now: float) -> None:
        circuit = breaker.circuit(turned.sort)
        pause_s = min(rule.most_s, rule.first_s * 2.0 ** min(circuit.opened, DOUBLINGS))
        pause_s *= 0.75 + 0.5 * self._draw()
        circuit.open(now, pause_s)
        key = (turned.target, turned.replica)
        self.opened[key] = self.opened.get(key, 0) + 1
        self._tell(msgspec.structs.replace(turned, pause_s=pause_s))

    def _tell(self, turned: Turned) -> None:
        if self.observer is not None:
            self.observer(turned)


State = Literal["open", "half-open", "resting"]


def _shown(
    target: str, replica: str, sort: str, state: State, seconds: float, why: str
) -> dict[str, Any]:
    return {
        "target": target,
        "replica": replica,
        "requests": sort,
        "state": state,
        "again_in_s": round(max(0.0, seconds), 1),
        "why": why,
    }


def identity(snapshot: Snapshot, target: Target, replica: str) -> tuple[str, str | None, str]:
    """Where a model really is, with which key, and its name there: providers count by these."""
    backend = snapshot.backends[target.backend]
    if backend.kind == "litellm":
        model = backend.models.get(target.model, target.model)
        return backend.api_base or backend.provider or "", backend.api_key, model
    return replica.rstrip("/"), backend.api_key, target.served


class Broken:
    """An Opener around one call: what is shut is not asked.

    Raises Shut where the breaker is open, unless the request has nobody else left to ask; and
    AttemptFailed where the backend has asked to be left alone.
    """

    def __init__(
        self,
        inner: Opener,
        estimates: Callable[[], Mapping[tuple[str, str], Estimate]],
        clock: Callable[[], float],
    ) -> None:
        self._inner = inner
        self._estimates = estimates
        self._clock = clock

    def open(self, ask: Ask[T], choices: Sequence[Choice], reason: Reason) -> Awaitable[T]:
        """What the inner one opens, if the best choice may be asked."""
        choice = choices[0]
        estimate = self._estimates().get((choice.target, choice.replica))
        if estimate is None or not isinstance(estimate.gate, Breaker):
            return self._inner.open(ask, choices, reason)
        return self._through(estimate.gate, ask, choices, reason)

    async def _through(
        self, breaker: Breaker, ask: Ask[T], choices: Sequence[Choice], reason: Reason
    ) -> T:
        self._enter(breaker, ask, choices[0])
        try:
            return await self._inner.open(ask, choices, reason)
        except BaseException:
            # What it said was told already; if nothing was sent, another may be let through.
            breaker.left(sort_of(ask.needs, ask.stream))
            raise

    def _enter(self, breaker: Breaker, ask: Ask[T], choice: Choice) -> None:
        now = self._clock()
        sort = sort_of(ask.needs, ask.stream)
        why = breaker.shut(sort, now)
        rest_s = breaker.rest_until - now
        if rest_s > 0.0:
            failure = AttemptFailed(
                choice.target, 429, why, "busy", retry_after=rest_s, asked=False
            )
            raise ask.failed(choice, failure)
        if why and (choice.target, choice.replica) not in ask.forced:
            raise Shut(f"{choice.target}: {why}")
        breaker.enter(sort, now)
