"""What must hold when it is over; each thing that does not, in words, with its time."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway.resilience.hedge import SOONER
from gateway.standin.ledger import Call
from gateway.types.snapshot import Snapshot
from tests.chaos.servers import BUSY, CUTTING, WORDS
from tests.chaos.story import Drain, Story
from tests.chaos.traffic import Told
from tests.chaos.world import CARRIED, COMPOSED, COMPOSITIONS

SLOW_S = 0.02
"""By how much a clock of the client's and one of the gateway's may differ on a deadline."""

FRAME = 16
"""Tokens that the JSON around a text may count for in an estimate of the input."""

Row = Mapping[str, Any]


class Wrong(msgspec.Struct, frozen=True):
    """Something that must not be, and when."""

    what: str
    since: float
    until: float


class Seen(msgspec.Struct, frozen=True):
    """All that is known at the end. `rows` are whole, with their attempts; `began` is the Unix time
    at which the story's clock was 0."""

    told: Sequence[Told]
    rows: Sequence[Row]
    ledgers: Mapping[str, Sequence[Call]]
    replicas: Mapping[str, str]
    """The name of each server by its URL."""
    variants: Mapping[str, Snapshot]
    story: Story
    began: float
    commanded: Sequence[Wrong] = ()
    """What commands did otherwise than they must."""


def wrongs(seen: Seen) -> list[Wrong]:
    """Everything that does not hold; nothing where all does."""
    by_tag: dict[str, list[Row]] = {}
    for row in seen.rows:
        by_tag.setdefault(str(row["text"]).split(" ")[0], []).append(row)
    found = [*_rows(seen, by_tag)]
    for told in seen.told:
        about = [
            *_failed(seen, told),
            *_false_endings(seen, told),
            *_broken(seen, told),
            *_spoken(told, by_tag.get(told.plan.tag, [])),
        ]
        found += [Wrong(f"{_named(told)}: {what}", told.since, told.until) for what in about]
    return [*seen.commanded, *found, *_calls(seen, by_tag), *_drained(seen), *_money(seen, by_tag)]


def _named(told: Told) -> str:
    plan = told.plan
    answer = told.answer
    head = "no head" if answer is None else f"{answer.status} {_target(told)}"
    return f"{plan.tag} for {plan.model} ({'stream' if plan.streams else 'whole'}): {head}"


def _target(told: Told) -> str:
    return told.answer.headers.get("x-switchboard-target", "") if told.answer is not None else ""


# ---------------------------------------------------------------- what clients were told


def _failed(seen: Seen, told: Told) -> Iterator[str]:
    """No request fails that had a candidate which was well from its beginning to its end."""
    if told.left or told.shed or (told.answer is not None and told.answer.status == 200):
        return
    if told.lost:
        yield f"no answer: {told.lost}"
        return
    plan = told.plan
    if plan.within_s is not None and told.until - told.since >= plan.within_s - SLOW_S:
        return
    since, until = told.since, told.until
    well = [each for each in plan.candidates if _could_answer(seen, each, since, until)]
    if well:
        assert told.answer is not None
        yield f"failed though {', '.join(well)} was well: {told.answer.body[:400]!r}"


def _could_answer(seen: Seen, target: str, since: float, until: float) -> bool:
    """Whether a server of it was well, and it and the server were not drained, all the time."""
    if target in COMPOSED:
        return all(_could_answer(seen, step, since, until) for step in COMPOSED[target])
    backend, _, model = target.partition("/")
    if model in (CUTTING, BUSY) or not seen.story.offered((target, backend), since, until):
        return False
    urls = {name: url for url, name in seen.replicas.items()}
    return any(
        seen.story.healthy(name, since, until) and seen.story.offered((urls[name],), since, until)
        for name in _servers(target)
        if name in urls
    )


def _never_breaks(seen: Seen, target: str, since: float, until: float) -> bool:
    """Whether no stream of it had a reason to break: all its servers were well all the time, and it
    is none that cuts its answers by itself."""
    by_itself = not target.startswith("local/") and not target.endswith(WORDS)
    return not by_itself and all(
        seen.story.healthy(name, since, until) for name in _servers(target)
    )


def _servers(target: str) -> tuple[str, ...]:
    backend = target.partition("/")[0]
    return ("v0", "v1") if backend == "local" else (backend,)


def _false_endings(seen: Seen, told: Told) -> Iterator[str]:
    """Whoever says that the answer is whole has said all of it.

    A model says that by its last token's finish_reason. What it used comes in an event after that:
    a server that is killed between the two leaves a whole answer, and nobody to tell its usage.
    """
    answer, plan = told.answer, told.plan
    if answer is None or not answer.looks_whole or answer.error is not None:
        return
    target = _target(told)
    if target.startswith("local/"):
        usage = answer.usage
        since, until = told.since, told.until
        cut = not all(seen.story.healthy(name, since, until) for name in _servers(target))
        if usage is None and cut and b'"finish_reason":"length"' in answer.body:
            return
        if usage is None or usage["completion_tokens"] != plan.most:
            yield f"ended with usage {usage} of {plan.most} tokens"
    elif answer.text != plan.said:
        yield f"ended with {len(answer.text.split())} of {len(plan.said.split())} words"


def _broken(seen: Seen, told: Told) -> Iterator[str]:
    """A stream breaks only where its backend did, or its time was over, and says so."""
    answer, plan = told.answer, told.plan
    if answer is None or answer.status != 200 or told.left:
        return
    if not answer.ended:
        yield "HTTP's end of it did not come"
    elif not answer.looks_whole or answer.error is not None:
        if answer.error is None or set(answer.error) != {"message", "type", "param", "code"}:
            yield f"it broke off without an error: {answer.body[-200:]!r}"
        late = plan.within_s is not None and told.until - told.since >= plan.within_s - SLOW_S
        target = _target(told)
        steps = COMPOSED.get(target, (target,))
        well = all(_never_breaks(seen, step, told.since, told.until) for step in steps)
        if well and not late:
            yield f"it broke off though {target} was well: {answer.error}"
        others = _could_go_on(seen, told) if plan.model == CARRIED else []
        if others and not late and answer.text != plan.said:
            yield f"it broke off though {', '.join(others)} could have gone on: {answer.error}"


def _could_go_on(seen: Seen, told: Told) -> list[str]:
    since, until = told.since, told.until
    others = [each for each in told.plan.candidates if each != _target(told)]
    return [each for each in others if _could_answer(seen, each, since, until)]


def _spoken(told: Told, rows: Sequence[Row]) -> Iterator[str]:
    """The row says what the client was told."""
    answer = told.answer
    if answer is None or len(rows) != 1:
        return
    row = rows[0]
    if answer.headers.get("x-request-id") != row["id"]:
        yield f"the answer's id is {answer.headers.get('x-request-id')}, the row's {row['id']}"
    if told.left:
        return
    whole = answer.status == 200 and answer.looks_whole and answer.error is None
    if whole != (row["outcome"] == "ok") or answer.status != row["status"]:
        yield f"the row says {row['outcome']}, {row['status']}"


# ---------------------------------------------------------------- rows, calls, money


def _rows(seen: Seen, by_tag: Mapping[str, Sequence[Row]]) -> Iterator[Wrong]:
    """One row for each request that was sent; those that left at once may not have come so far."""
    for told in seen.told:
        count = len(by_tag.get(told.plan.tag, ()))
        unseen = told.left and told.answer is None
        if count != 1 and not (unseen and count == 0):
            yield Wrong(f"{_named(told)}: {count} rows", told.since, told.until)
    sent = {told.plan.tag for told in seen.told}
    for tag in by_tag.keys() - sent:
        yield Wrong(f"a row about '{tag}', which nobody asked", 0.0, 0.0)


def _calls(seen: Seen, by_tag: Mapping[str, Sequence[Row]]) -> Iterator[Wrong]:
    """A row of attempts for each call that a provider counted, and the other way round.

    Where a provider was harmed during an attempt, or took no connection, the call may not have
    come so far as to be counted.
    """
    for name, ledger in seen.ledgers.items():
        counted = Counter(call.about.split(" ")[0] for call in ledger)
        for tag, rows in by_tag.items():
            attempts = [each for row in rows for each in _attempts_at(seen, row, name)]
            sure = [each for each in attempts if _surely_came(seen, each, name)]
            if not len(sure) <= counted[tag] <= len(attempts):
                yield Wrong(
                    f"{tag}: {name} counted {counted[tag]} calls, the rows {len(sure)} to"
                    f" {len(attempts)}: {[(a['outcome'], a['error']) for a in attempts]}",
                    *_when(seen, rows[0]),
                )
        for tag in counted.keys() - by_tag.keys():
            yield Wrong(f"{name} was asked about '{tag}', of which there is no row", 0.0, 0.0)


def _attempts_at(seen: Seen, row: Row, server: str) -> list[Row]:
    return [each for each in row["attempts"] if seen.replicas[each["replica"]] == server]


def _surely_came(seen: Seen, attempt: Row, server: str) -> bool:
    since = attempt["started"] - seen.began
    answered = attempt["first_token_s"] is not None or attempt["outcome"] == "ok"
    return answered or (
        attempt["outcome"] != "abandoned"
        and seen.story.healthy(server, since - SLOW_S, since + attempt["total_s"] + SLOW_S)
    )


def _drained(seen: Seen) -> Iterator[Wrong]:
    """Nobody is asked who was drained when the request was decided, whatever is served since."""
    for row in seen.rows:
        since = row["started"] - seen.began - SLOW_S
        for attempt in row["attempts"]:
            until = attempt["started"] - seen.began + SLOW_S
            target = attempt["target"]
            subjects = (target, target.partition("/")[0], attempt["replica"])
            for drain in seen.story.drains:
                if drain.subject in subjects and _covers(drain, since, until):
                    yield Wrong(f"{row['text']}: {target} was asked, drained", since, until)


def _covers(drain: Drain, since: float, until: float) -> bool:
    begun = drain.kept_since is not None and drain.kept_since <= since
    return begun and (drain.kept_until is None or until <= drain.kept_until)


def _when(seen: Seen, row: Row) -> tuple[float, float]:
    since = row["started"] - seen.began
    return since, since + row["total_s"]


def _money(seen: Seen, by_tag: Mapping[str, Sequence[Row]]) -> Iterator[Wrong]:
    """Exact tokens are those of the provider's own meter. Estimated ones are at most what it was to
    make and at least what the client got; their input is what the text is by its length."""
    plans = {told.plan.tag: told for told in seen.told}
    meters: dict[tuple[str, str], list[Call]] = {}
    for name, ledger in seen.ledgers.items():
        for call in ledger:
            meters.setdefault((name, call.about.split(" ")[0]), []).append(call)
    for tag, rows in by_tag.items():
        for row in rows:
            for what in _money_of(seen, row, plans.get(tag), meters, tag):
                yield Wrong(f"{tag}: {what}", *_when(seen, row))


def _money_of(
    seen: Seen,
    row: Row,
    told: Told | None,
    meters: Mapping[tuple[str, str], Sequence[Call]],
    tag: str,
) -> Iterator[str]:
    booked = sum(each["cost_usd"] for each in row["attempts"])
    if not math.isclose(booked, row["cost_usd"], rel_tol=1e-9, abs_tol=1e-15):
        yield f"its attempts cost {booked}, the request {row['cost_usd']}"
    # The client got what several attempts made together.
    together = any(each.get("reason") == "continue" for each in row["attempts"]) or (
        told is not None and told.plan.model in COMPOSITIONS
    )
    for attempt in row["attempts"]:
        price = seen.variants[row["snapshot"]].targets[attempt["target"]].price
        due = attempt["input_tokens"] * price.input + attempt["output_tokens"] * price.output
        if not math.isclose(due, attempt["cost_usd"], rel_tol=1e-9, abs_tol=1e-15):
            yield f"{attempt['target']} cost {attempt['cost_usd']}, not {due}"
        name = seen.replicas[attempt["replica"]]
        calls = [
            call
            for call in meters.get((name, tag), ())
            if attempt["target"] == f"{name}/{call.model}"
        ]
        if name in seen.ledgers and calls:
            yield from _tokens(attempt, calls[0], None if together else told)


def _tokens(attempt: Row, call: Call, told: Told | None) -> Iterator[str]:
    got = (attempt["input_tokens"], attempt["output_tokens"])
    if attempt["outcome"] == "error" and not attempt["estimated"]:
        if got != (0, 0):
            yield f"a failed attempt was billed {got}"
    elif not attempt["estimated"]:
        if got != (call.prompt, call.output):
            yield f"billed {got}, the provider's meter says {(call.prompt, call.output)}"
    elif call.prompt == 0:
        return  # it was to refuse the call, had it come to that
    elif not call.prompt / 2 <= got[0] <= 2 * call.prompt + FRAME:
        yield f"estimated {got[0]} of input, it was {call.prompt}"
    elif attempt["output_tokens"] > call.output:
        yield f"estimated {got}, the provider was to make {call.output}"
    elif attempt["error"] == SOONER:
        return  # what came of it went to nobody
    elif told is not None and told.answer is not None and attempt["first_token_s"] is not None:
        came = _words_of(told)
        if attempt["output_tokens"] < came:
            yield f"estimated {got}, {came} came"


def _words_of(told: Told) -> int:
    """Words that the client got, of events that came whole."""
    answer = told.answer
    assert answer is not None
    if not told.plan.streams or answer.status != 200:
        return 0
    whole = answer.body[: answer.body.rfind(b"\n\n") + 2]
    return len(msgspec.structs.replace(answer, body=whole).text.split())
