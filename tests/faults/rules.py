"""Whether what was seen of one trial is what its rule says: each thing that is wrong, in words."""

import math
from collections.abc import Iterator

from tests.faults.cases import HEALTHY, Fate, Rule
from tests.faults.client import Answer
from tests.faults.matrix import INPUT_PRICE, OUTPUT_PRICE, Observed

HOSTS = ("127.0.0.1", "localhost")
"""Where the backends of the trials stand."""


def wrongs(seen: Observed) -> list[str]:
    """Nothing where all is as it must be."""
    return [f"{seen.trial}: {wrong}" for wrong in _wrongs(seen)]


def _wrongs(seen: Observed) -> Iterator[str]:
    trial = seen.trial
    rule = trial.case.rule(trial.streams)
    if seen.rows != 1:
        yield f"{seen.rows} rows"
    if not seen.answer.ended:
        yield "HTTP's end of the answer did not come"
    yield from _attempts(seen, rule)
    yield from _hung_up(seen, rule)
    if rule.fate is Fate.FINAL or (rule.fate is Fate.FAILS and trial.lineup.alone):
        yield from _failed(seen, rule)
    elif rule.fate is Fate.BREAKS:
        yield from _broke(seen, rule)
    elif rule.fate is Fate.FAILS:
        yield from _whole(seen, HEALTHY, exact=True)
    else:
        yield from _whole(seen, rule.text, exact=rule.exact)
    yield from _money(seen)


def expected_calls(seen: Observed) -> list[int]:
    """How many calls each candidate gets."""
    trial = seen.trial
    if trial.case.rule(trial.streams).fate is not Fate.FAILS:
        return [1] + [0] * (len(trial.lineup.candidates) - 1)
    healthy = trial.lineup.candidates.find("h")
    asked = len(trial.lineup.candidates) if healthy < 0 else healthy + 1
    return [int(at < asked) for at in range(len(trial.lineup.candidates))]


def _attempts(seen: Observed, rule: Rule) -> Iterator[str]:
    """A row for each call; a fault that no call gets through to has rows and no calls."""
    trial = seen.trial
    calls = expected_calls(seen)
    if len(seen.row["attempts"]) != sum(calls):
        yield f"{len(seen.row['attempts'])} attempts, not {sum(calls)}"
    reached = [
        n if trial.case.reaches or sort == "h" else 0
        for n, sort in zip(calls, trial.lineup.candidates, strict=True)
    ]
    if [len(each) for each in seen.calls] != reached:
        yield f"backends counted {[len(each) for each in seen.calls]}, not {reached}"
    reasons = [attempt["reason"] for attempt in seen.row["attempts"]]
    if reasons != ["first", "fallback", "fallback"][: len(reasons)]:
        yield f"the attempts' reasons are {reasons}"


def _hung_up(seen: Observed, rule: Rule) -> Iterator[str]:
    """A backend that would go on for ever sees the gateway leave; one that answers never does."""
    for sort, calls in zip(seen.trial.lineup.candidates, seen.calls, strict=True):
        for call in calls:
            if sort == "b" and rule.hangs and not call.aborted.is_set():
                yield "the backend was left working"
            if sort == "h" and call.aborted.is_set():
                yield "a healthy backend was hung up on"


def _failed(seen: Observed, rule: Rule) -> Iterator[str]:
    """An error instead of an answer: a status of its own, never a 200."""
    answer = seen.answer
    if answer.status != rule.status:
        yield f"status {answer.status}, not {rule.status}"
    yield from _openai_error(answer, rule.code)
    told = answer.headers.get("retry-after")
    if told != (None if rule.retry_after is None else str(rule.retry_after)):
        yield f"retry-after {told}, not {rule.retry_after}"
    if (seen.row["outcome"], seen.row["status"]) != ("error", answer.status):
        yield f"the row says {seen.row['outcome']}, {seen.row['status']}"


def _broke(seen: Observed, rule: Rule) -> Iterator[str]:
    """The beginning, then an error event as the very last; nothing that looks whole."""
    answer = seen.answer
    if answer.status != 200:
        yield f"status {answer.status}"
        return
    if answer.looks_whole:
        yield "a cut answer looks whole"
    if not answer.text.startswith(rule.text):
        yield f"the text was {answer.text!r}"
    if not answer.body.endswith(b"\n\n"):
        yield "the last event is not ended"
    errors = [event for event in answer.events if "error" in event]
    if errors != answer.events[-1:]:
        yield f"{len(errors)} error events"
    yield from _openai_error(answer, None)
    if seen.row["outcome"] not in ("truncated", "error"):
        yield f"the row says {seen.row['outcome']}"


def _whole(seen: Observed, text: str, *, exact: bool) -> Iterator[str]:
    """An answer without a flaw."""
    answer = seen.answer
    if not answer.looks_whole or answer.status != 200:
        yield f"the answer is not whole: {answer.status}"
        return
    kind = "text/event-stream" if seen.trial.streams else "application/json"
    if not answer.headers["content-type"].startswith(kind):
        yield f"the content-type is {answer.headers['content-type']}"
    if answer.text != text:
        yield f"the text was {answer.text!r}"
    if answer.error is not None:
        yield f"there is an error in it: {answer.error}"
    if (seen.row["outcome"], seen.row["status"]) != ("ok", 200):
        yield f"the row says {seen.row['outcome']}, {seen.row['status']}"
    if (answer.usage is not None, seen.row["estimated"]) != (exact, not exact):
        yield f"usage {answer.usage}, estimated {seen.row['estimated']}"


def _openai_error(answer: Answer, code: str | None) -> Iterator[str]:
    error = answer.error
    if error is None or set(error) != {"message", "type", "param", "code"}:
        yield f"no error in OpenAI's shape: {error}"
    elif code is not None and error["code"] != code:
        yield f"code {error['code']}, not {code}"
    elif any(host in error["message"] for host in HOSTS):
        yield f"it tells where a backend stands: {error['message']}"


def _money(seen: Observed) -> Iterator[str]:
    """Exact where usage came, estimated where part of an answer did; of what brought nothing its
    input where it was us who gave up on a backend that may have been at work, else nothing."""
    row = seen.row
    booked = sum(attempt["cost_usd"] for attempt in row["attempts"])
    if not math.isclose(booked, row["cost_usd"], abs_tol=1e-12):
        yield f"the request cost {row['cost_usd']}, its attempts {booked}"
    rule = seen.trial.case.rule(seen.trial.streams)
    *earlier, last = row["attempts"]
    failed = [*earlier, last] if seen.answer.status != 200 else earlier
    for attempt in failed:
        if attempt["output_tokens"] or bool(attempt["input_tokens"]) is not rule.hangs:
            yield f"a failed attempt was billed {attempt['cost_usd']}"
    if earlier and rule.hangs:
        return
    if row["outcome"] == "ok" and not row["estimated"]:
        usage = seen.answer.usage or {}
        due = usage["prompt_tokens"] * INPUT_PRICE + usage["completion_tokens"] * OUTPUT_PRICE
        if not math.isclose(due, row["cost_usd"], rel_tol=1e-9):
            yield f"billed {row['cost_usd']}, not {due}"
    elif seen.answer.status == 200:
        pieces = (
            sum(
                bool(choice["delta"].get("content"))
                for event in seen.answer.events
                if isinstance(event, dict)
                for choice in event.get("choices", ())
            )
            if seen.trial.streams
            else len(seen.answer.text.split())
        )
        if not (last["estimated"] and last["input_tokens"] and last["output_tokens"] >= pieces):
            yield f"{pieces} tokens came; the row says {last['output_tokens']}"
