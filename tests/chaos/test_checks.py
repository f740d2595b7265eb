"""That the checks see what must not be: one good request, and each way of spoiling it."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from gateway.standin.ledger import Call
from tests.chaos.checks import Seen, Wrong, wrongs
from tests.chaos.story import Story
from tests.chaos.traffic import Plan, Told
from tests.faults.client import Answer
from tests.gateway.support import snapshot, target

URL = "http://127.0.0.1:1/v1"
PLAN = Plan(
    tag="t1", model="p0/words", words=3, most=100, streams=True, asks_usage=True, key="k"
)  # fmt: skip
SAID = "t1 w1 w2"


def stream(*words: str, finish: bool = True, error: bool = False) -> bytes:
    """A stream that says these words."""
    pieces: list[Any] = [{"choices": [{"index": 0, "delta": {"content": w}}]} for w in words]
    if finish:
        pieces.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if error:
        pieces.append({"error": {"message": "", "type": "", "param": None, "code": None}})
    written = [json.dumps(piece, separators=(",", ":")) for piece in pieces]
    return "".join(f"data: {each}\n\n" for each in written).encode()


def answer(body: bytes, status: int = 200) -> Answer:
    kind = "text/event-stream" if status == 200 else "application/json"
    headers = {"content-type": kind, "x-request-id": "r1", "x-switchboard-target": "p0/words"}
    return Answer(status, headers, body, True)


def attempt(**changes: Any) -> dict[str, Any]:
    plain = {
        "target": "p0/words", "replica": URL, "started": 100.0, "total_s": 1.0, "outcome": "ok",
        "error": "", "estimated": False, "input_tokens": 5, "output_tokens": 3,
        "cost_usd": 5e-6 + 12e-6, "first_token_s": 0.1,
    }  # fmt: skip
    return plain | changes


def row(*attempts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    tried = list(attempts) or [attempt()]
    plain = {
        "id": "r1", "text": SAID, "outcome": "ok", "status": 200, "snapshot": "s",
        "started": 100.0, "total_s": 1.0, "cost_usd": sum(each["cost_usd"] for each in tried),
        "attempts": tried,
    }  # fmt: skip
    return plain | changes


def seen(
    told: Told | None = None,
    rows: tuple[Mapping[str, Any], ...] | None = None,
    calls: tuple[Call, ...] = (Call("words", SAID, 5, 3),),
) -> Seen:
    """A run with one request, good unless it is given otherwise."""
    good = Told(plan=PLAN, since=0.0, until=1.0, answer=answer(stream("t1", " w1", " w2")))
    made = snapshot([target("p0/words", URL)], hash="s")
    return Seen(
        [told or good],
        rows if rows is not None else (row(),),
        {"p0": calls},
        {URL: "p0"},
        {"s": made},
        Story(),
        100.0,
    )


def told(**changes: Any) -> Told:
    plain = Told(plan=PLAN, since=0.0, until=1.0, answer=None)
    return msgspec.structs.replace(plain, **changes)


FAILED = told(answer=answer(b'{"error": {}}', 502))
FAILED_ROW = row(attempt(outcome="error"), outcome="error", status=502)

BROKEN = told(
    plan=msgspec.structs.replace(PLAN, model="carried"),
    answer=msgspec.structs.replace(
        answer(stream("t1", finish=False, error=True)),
        headers=answer(b"").headers | {"x-switchboard-target": "p0/cutting"},
    ),
)


def test_a_good_run_is_good() -> None:
    assert wrongs(seen()) == []


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda: seen(FAILED, (FAILED_ROW,)), "failed though p0/words was well"),
        (lambda: seen(told(lost="EOFError")), "no answer: EOFError"),
        (lambda: seen(told(answer=answer(stream("t1", " w1")))), "ended with 2 of 3 words"),
        (
            lambda: seen(told(answer=answer(stream("t1", finish=False)))),
            "broke off without an error",
        ),
        (
            lambda: seen(told(answer=answer(stream("t1", finish=False, error=True)))),
            "broke off though p0/words was well",
        ),
        (lambda: msgspec.structs.replace(seen(BROKEN), replicas={URL: "p1"}), "could have gone on"),
        (lambda: seen(rows=()), "0 rows"),
        (lambda: seen(rows=(row(), row())), "2 rows"),
        (lambda: seen(rows=(row(), row(text="t9 x", id="r9"))), "which nobody asked"),
        (lambda: seen(rows=(row(id="r2"),)), "the answer's id is r1"),
        (lambda: seen(rows=(row(outcome="truncated"),)), "the row says truncated"),
        (lambda: seen(calls=()), "p0 counted 0 calls, the rows 1 to 1"),
        (lambda: seen(calls=(Call("words", SAID, 5, 3),) * 2), "p0 counted 2 calls"),
        (lambda: seen(calls=(Call("words", SAID, 5, 4),)), "meter says (5, 4)"),
        (lambda: seen(rows=(row(cost_usd=1.0),)), "the request 1.0"),
        (lambda: seen(rows=(row(attempt(cost_usd=1.0)),)), "cost 1.0, not"),
        (
            lambda: seen(rows=(row(attempt(estimated=True, output_tokens=9, cost_usd=41e-6)),)),
            "was to make 3",
        ),
        (
            lambda: seen(rows=(row(attempt(estimated=True, output_tokens=1, cost_usd=9e-6)),)),
            "3 came",
        ),
    ],
)
def test_what_must_not_be_is_seen(spoilt: Callable[[], Seen], said: str) -> None:
    found = [wrong.what for wrong in wrongs(spoilt())]
    assert any(said in what for what in found), found


def test_a_failure_counts_only_while_somebody_was_well() -> None:
    run = seen(FAILED, (FAILED_ROW,))
    run.story.ill("p0")
    late = msgspec.structs.replace(run, told=[told(since=0.0, until=1e9, answer=FAILED.answer)])
    assert not [wrong for wrong in wrongs(late) if "failed though" in wrong.what]


def test_a_server_killed_after_its_last_token_has_no_time_to_tell_its_usage() -> None:
    said = stream("t1", " w1", " w2").replace(
        b'"finish_reason":"stop"', b'"finish_reason":"length"'
    )
    whole = msgspec.structs.replace(
        answer(said), headers=answer(b"").headers | {"x-switchboard-target": "local/tiny"}
    )
    run = seen(told(answer=whole))
    missing = "ended with usage None of 100 tokens"
    assert any(missing in wrong.what for wrong in wrongs(run))
    run.story.ill("v1")
    assert not any(missing in wrong.what for wrong in wrongs(run))


def test_who_was_drained_need_not_answer_and_must_not_be_asked() -> None:
    failed = seen(FAILED, (FAILED_ROW,))
    failed.story.drain("p0")
    assert not [wrong for wrong in wrongs(failed) if "failed though" in wrong.what]

    asked = seen()
    drain = asked.story.drain("p0/words")
    drain.kept_since, drain.kept_until, drain.until = -1.0, 0.01, 0.5
    assert wrongs(asked) == []  # it may have been enabled again by then
    drain.kept_until = 0.5
    assert ["p0/words was asked, drained" in wrong.what for wrong in wrongs(asked)] == [True]


def test_what_a_command_did_wrong_counts() -> None:
    bad = Wrong("applied 3, and another is served", 0.0, 1.0)
    assert wrongs(msgspec.structs.replace(seen(), commanded=[bad])) == [bad]
