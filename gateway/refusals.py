"""From what went wrong on a request's way to what is done about it, and the client is told."""

from collections.abc import Sequence

from gateway.backends.verdict import judge, message_of, read_error, wait_in, without_secrets
from gateway.errors import (
    AdapterAway,
    ApiError,
    ConnectFailed,
    Kind,
    ModelAway,
    NoTargetFits,
    Overloaded,
    QueueFull,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.journey import Journey, Opened
from gateway.metering.usage import Seen, StreamWatch, usage_of
from gateway.resilience.base import RULES, AttemptFailed, gathered
from gateway.transport.base import Reply
from gateway.types.decisions import Decision
from gateway.types.records import NONE_ANSWERED

OF_THE_REQUEST: frozenset[Kind] = frozenset({"client", "parameter", "context", "refused"})
"""Failures that say nothing about how the backend is."""

TOO_MUCH = frozenset({429, 503, 504})
"""A backend's answers, and its silence, that say that it is given too much."""


def nothing_left(decision: Decision) -> ApiError:
    """Why none of the route's candidates was left to ask."""
    reasons = "; ".join(f"{out.target}: {out.reason}" for out in decision.ruled_out)
    if any(out.by == "limit" for out in decision.ruled_out):
        return Overloaded(
            f"No candidate of route '{decision.route}' is within the limits of policy "
            f"'{decision.policy}': {reasons}",
            code="no_candidate_within_limits",
            retry_after=1,
        )
    if any(out.by == "away" for out in decision.ruled_out):
        return Overloaded(
            f"No candidate of route '{decision.route}' is there now: {reasons}",
            code="no_target_there",
            retry_after=1,
        )
    return NoTargetFits(
        f"No candidate of route '{decision.route}' can take this request: {reasons}",
        code="no_target_fits",
    )


def overloaded(journey: Journey, failures: Sequence[AttemptFailed]) -> ApiError | None:
    """Where a candidate that is well had no room: what comes back may be served.

    Not where the request's own time is over, nor where it was refused for what it is.
    """
    decision = journey.decision
    if not journey.full or decision is None or any(_is_final(each) for each in failures):
        return None
    wait_s = min(each.retry_after for each in journey.full)
    if journey.attempts:
        why = NONE_ANSWERED + "; ".join(f"{e.target}: {e.message}" for e in failures)
    else:
        why = (
            f"Every candidate of route '{decision.route}' has as much to do as it can: "
            f"{journey.full[0]}"
        )
    return Overloaded(
        f"{why}; try again in {wait_s:.1f} s.",
        status=429,
        type="rate_limit_error",
        code="overloaded",
        retry_after=wait_s,
    )


def _is_final(failure: AttemptFailed) -> bool:
    return failure.late or RULES[failure.kind].another == "none"


def backend_failure(backend: str, error: UpstreamError) -> ApiError:
    """A failed leg outside of any fallback, for the client."""
    return gathered([failure_of(backend, error)])


def failure_of(target: str, error: UpstreamError) -> AttemptFailed:
    """What a leg that failed is to the ways of dealing with failures."""
    if isinstance(error, AttemptFailed):
        return error
    why = error.message.removeprefix(f"{target}: ")  # whoever tells of it names the target
    if isinstance(error, QueueFull):
        wait_s = error.retry_after
        return AttemptFailed(target, 429, why, "busy", retry_after=wait_s, again=False, asked=False)
    if isinstance(error, ModelAway):
        # Its turn was waited for already.
        wait = error.retry_after
        return AttemptFailed(target, 503, why, "busy", retry_after=wait, again=False)
    if isinstance(error, UpstreamTimeout):
        kind: Kind = "away" if error.kind == "connect" else "timeout"
        return AttemptFailed(target, 504, why, kind)
    if isinstance(error, ConnectFailed):
        return AttemptFailed(target, 502, why, "away")
    kind = "setup" if isinstance(error, AdapterAway) else "broken"
    return AttemptFailed(target, 502, why, kind)


def gave_up(error: UpstreamError) -> bool:
    """Whether it was us who had no more time for a backend, which may have been at work."""
    return isinstance(error, UpstreamTimeout) and error.kind != "connect"


def no_time_left(target: str) -> AttemptFailed:
    """A target that was not asked, as the request's own time was over."""
    why = "no time was left for it"
    return AttemptFailed(target, 504, why, "timeout", late=True, asked=False)


def refusal_of(target: str, reply: Reply, body: bytes, now: float) -> AttemptFailed:
    """What an error status at `now` (Unix seconds) is to the ways of dealing with failures."""
    wait_s = wait_in(reply.headers, now)
    named: str | None = None
    for name, value in reply.headers:
        if name == b"x-amzn-errortype":
            named = value.decode("latin-1")
    kind, said = judge(reply.status, body, named=named, waits=wait_s is not None)
    if wait_s is None:
        wait_s = said.retry_after
    message = message_of(reply.status, body)
    return AttemptFailed(target, reply.status, message, kind, retry_after=wait_s)


def answer_in(opened: Opened, body: bytes, journey: Journey) -> Seen:
    """What a plain body says of itself; one that is no answer is a failed attempt."""
    request = journey.request
    seen = usage_of(body, request.endpoint)
    if seen is None or not seen.answers:
        if read_error(body) is not None:
            raise refusal_inside(journey, opened, body)
        kind = opened.content_type[:80].decode("latin-1") or "no content type"
        what = f"{opened.reply.status} with {kind} that is no answer"
    elif request.stream:
        what = "a whole body, though asked for a stream"
    else:
        return seen
    raise AttemptFailed(opened.target.name, 502, f"sent {what}")


def refusal_inside(journey: Journey, opened: Opened, body: bytes) -> AttemptFailed:
    """An error under a status that says that all is well."""
    target = opened.target.name
    body = without_secrets(body, journey.plane.snapshot.backends[opened.target.backend])
    error = read_error(body)
    code = error.code if error is not None else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    kind, said = judge(status, body)
    message = f"an error in its answer: {said.message[:300] or 'no more is said'}"
    # What is a client's fault was never said to be one by the status.
    kind = "broken" if kind == "client" else kind
    return AttemptFailed(target, status, message, kind, retry_after=said.retry_after)


def error_event(events: bytes) -> bytes:
    """The data of the event in a stream's opening that tells an error."""
    found = b""
    for line in events.split(b"\n"):
        if line.startswith(b"data:") and b"error" in line:
            found = line[5:].strip()
    return found


def told_as_text(watch: StreamWatch) -> ApiError:
    """An error that the backend did not give as an object, as one."""
    return ApiError(watch.error_text[:300], status=502, type="upstream_error", code="stream_error")


def broke_off(error: UpstreamError) -> ApiError:
    """What ends a stream whose upstream broke off in its middle."""
    return ApiError(
        f"The answer broke off: {error.message}",
        status=502,
        type="upstream_error",
        code="stream_truncated",
    )
