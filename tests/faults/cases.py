"""The faults, and by rules what each has to come to: what is expected, not what was seen."""

from enum import Enum
from typing import Literal

import msgspec

from gateway.standin import Fault, FaultKind
from gateway.types.backends import Timeouts

K = FaultKind

SAID = "one two three four five"
"""What a faulty backend would say in the end."""

HEALTHY = "said by a healthy one"

PATIENT = Timeouts(connect=20, first_byte=20, between=20, total=60)
"""For whoever answers: no machine is so slow."""

DEAF = Timeouts(connect=20, first_byte=0.4, between=20, total=60)
STALLED = Timeouts(connect=20, first_byte=20, between=0.6, total=60)
BOUNDED = Timeouts(connect=20, first_byte=20, between=20, total=0.8)


class Fate(Enum):
    """What a fault comes to for the request that it strikes."""

    WHOLE = "whole"
    """The answer is whole and right: nothing is tried again."""
    FAILS = "fails"
    """Nothing was sent to the client yet: the next candidate is asked."""
    BREAKS = "breaks"
    """Part of the answer was sent: it ends in an error event."""
    FINAL = "final"
    """The request itself is wrong: the error is told at once."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What has to come of one fault in one form of request.

    `status`, `code` and `retry_after` are what the client is told when no candidate is left.
    `exact` says whether the backend tells its usage. `text` is what of the answer arrives at least.
    `hangs` is true where the backend would go on for ever: then it must see the client leave.
    """

    fate: Fate
    status: int = 502
    code: str = "upstream_failed"
    retry_after: int | None = None
    exact: bool = True
    text: str = SAID
    hangs: bool = False


Upstream = Literal["plain", "tls", "refused", "handshake", "unknown-issuer", "other-name"]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One fault: how it is made, and its rule for a whole answer and for a stream."""

    name: str
    fault: Fault | None = None
    upstream: Upstream = "plain"
    timeouts: Timeouts = PATIENT
    whole: Rule
    stream: Rule

    @property
    def reaches(self) -> bool:
        """Whether a request comes as far as the backend's application."""
        return self.upstream in ("plain", "tls")

    def rule(self, streams: bool) -> Rule:
        """The rule for a stream, or for a whole answer."""
        return self.stream if streams else self.whole


WHOLE = Rule(fate=Fate.WHOLE)
UNTOLD = Rule(fate=Fate.WHOLE, exact=False)
FAILS = Rule(fate=Fate.FAILS)
LATE = Rule(fate=Fate.FAILS, status=504, hangs=True)
BREAKS = Rule(fate=Fate.BREAKS, text="one two", exact=False)
STALLS = Rule(fate=Fate.BREAKS, text="one two", exact=False, hangs=True)


def fault(kind: FaultKind, **more: object) -> Fault:
    """One of the stand-in's faults."""
    return msgspec.convert({"kind": kind, **more}, Fault)


def both(
    name: str, rule: Rule, made: Fault | None, *, upstream: Upstream = "plain", **more: Timeouts
) -> Case:
    """A fault that comes to the same for a stream and for a whole answer."""
    return Case(name=name, fault=made, upstream=upstream, whole=rule, stream=rule, **more)


def mid(name: str, made: Fault, *, upstream: Upstream = "plain") -> Case:
    """A fault in the middle: of a whole answer nothing was sent on by then."""
    return Case(name=name, fault=made, upstream=upstream, whole=FAILS, stream=BREAKS)


def busy(status: int, retry_after: int | None) -> Case:
    """An error status that says to come back."""
    told = f"answers {status}" + (f" with `retry-after: {retry_after}`" if retry_after else "")
    rule = Rule(fate=Fate.FAILS, status=status, code="upstream_busy", retry_after=retry_after)
    return both(told, rule, fault(K.STATUS, status=status, retry_after=retry_after))


def broken(status: int, retry_after: int | None = None) -> Case:
    """An error status that is the backend's own fault."""
    told = f"answers {status}" + (f" with `retry-after: {retry_after}`" if retry_after else "")
    rule = Rule(fate=Fate.FAILS, retry_after=retry_after)
    return both(told, rule, fault(K.STATUS, status=status, retry_after=retry_after))


REFUSED = Rule(fate=Fate.FINAL, status=400, code="odd")

CASES: tuple[Case, ...] = (
    # ---------------------------------------------------------------- no connection
    both("refuses the connection", FAILS, None, upstream="refused"),
    both("cuts the TLS handshake", FAILS, None, upstream="handshake"),
    both("shows a certificate of an unknown issuer", FAILS, None, upstream="unknown-issuer"),
    both("shows a certificate for another name", FAILS, None, upstream="other-name"),
    # ---------------------------------------------------------------- before the head
    both("closes before the head", FAILS, fault(K.CUT_BEFORE_HEAD)),
    both("resets before the head", FAILS, fault(K.CUT_BEFORE_HEAD, reset=True)),
    both("hangs before the head", LATE, fault(K.HANG_BEFORE_HEAD), timeouts=DEAF),
    both("greets in another protocol", FAILS, fault(K.GARBAGE)),
    both("sends a head that is not HTTP", FAILS, fault(K.MALFORMED_HEAD)),
    # ---------------------------------------------------------------- error statuses
    both("answers 400", REFUSED, fault(K.STATUS, status=400, code="odd")),
    broken(401),
    broken(404),
    busy(429, None),
    busy(429, 7),
    broken(500),
    broken(500, 7),
    busy(503, None),
    busy(503, 7),
    # ---------------------------------------------------------------- after the head
    both("closes after the head", FAILS, fault(K.CUT, after=0)),
    both("resets after the head", FAILS, fault(K.CUT, after=0, reset=True)),
    both("hangs before the first token", LATE, fault(K.HANG, after=0), timeouts=STALLED),
    both("sends a web page under a 200", FAILS, fault(K.HTML)),
    both("sends JSON that is no answer", FAILS, fault(K.WRONG_JSON)),
    both("streams when not asked to, and the other way round", FAILS, fault(K.OTHER_FORM)),
    both("begins with an error under a 200", FAILS, fault(K.ERROR_EVENT, after=0)),
    both("begins with JSON cut short", FAILS, fault(K.MALFORMED_JSON, after=0)),
    both(
        "says gzip and sends something else",
        FAILS,
        fault(K.NO_DONE, headers={"content-encoding": "gzip"}),
    ),
    Case(name="compresses unasked", fault=fault(K.GZIP), whole=WHOLE, stream=FAILS),
    # ---------------------------------------------------------------- in the middle
    mid("closes in the middle", fault(K.CUT)),
    mid("resets in the middle", fault(K.CUT, reset=True)),
    mid("cuts TLS in the middle", fault(K.CUT, reset=True), upstream="tls"),
    mid("cuts TLS in the middle of an answer that ends with it", fault(K.CUT_UNFRAMED),
        upstream="tls"),
    mid("closes in the middle of an answer that ends with it", fault(K.CUT_UNFRAMED)),
    mid("ends properly in the middle", fault(K.END)),
    mid("sends half an event and closes", fault(K.CUT_IN_EVENT)),
    mid("breaks HTTP's framing in the middle", fault(K.MALFORMED_CHUNK)),
    mid("sends JSON cut short in the middle", fault(K.MALFORMED_JSON)),
    mid("sends an error event in the middle", fault(K.ERROR_EVENT)),
    mid("sends an error as plain text in the middle", fault(K.ERROR_TEXT)),
    Case(
        name="stalls in the middle", fault=fault(K.HANG), timeouts=STALLED,
        whole=LATE, stream=STALLS,
    ),
    Case(
        name="sends half an event and hangs", fault=fault(K.HANG_IN_EVENT), timeouts=STALLED,
        whole=LATE, stream=STALLS,
    ),
    Case(
        name="never ends", fault=fault(K.ENDLESS, seconds=0.01), timeouts=BOUNDED,
        whole=LATE, stream=msgspec.structs.replace(STALLS, text="one two three three"),
    ),
    # ---------------------------------------------------------------- odd, and whole
    both("trickles byte by byte", WHOLE, fault(K.SLOW, size=1, seconds=0.0)),
    both("trickles for a while and ends in time", WHOLE, fault(K.SLOW, size=40, seconds=0.01)),
    both(
        "trickles for longer than it may", LATE, fault(K.SLOW, size=40, seconds=0.3),
        timeouts=BOUNDED,
    ),
    Case(
        name="answers rightly under a wrong content-type", fault=fault(K.WRONG_TYPE),
        whole=WHOLE, stream=FAILS,
    ),
    both("ends without `[DONE]`", WHOLE, fault(K.NO_DONE)),
    Case(
        name="closes after the finish reason", fault=fault(K.CUT_BEFORE_DONE),
        whole=WHOLE, stream=UNTOLD,
    ),
    both("tells no usage", UNTOLD, fault(K.NO_USAGE)),
)  # fmt: skip


class Lineup(msgspec.Struct, frozen=True):
    """The candidates of a request, the best first: `b` has the fault, `h` is healthy."""

    candidates: str

    @property
    def alone(self) -> bool:
        """Whether there is nobody else to ask."""
        return "h" not in self.candidates


LINEUPS = tuple(Lineup(each) for each in ("b", "bh", "bhh", "bbh", "bbb"))
