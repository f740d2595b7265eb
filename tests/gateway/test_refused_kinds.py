"""What one candidate refuses for what it is: another may take it, and nobody is to blame."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.standin.behaviour import Behaviour, Fault, FaultKind, say
from gateway.standin.standin import StandIn
from gateway.types.backends import Capabilities
from tests.gateway.support import events_of, serving, snapshot, target, text_of

TIMES = 12
"""More failures than a breaker wants in a row, and than it wants to judge by their share."""

SHORT, LONG = Capabilities(context=8_000), Capabilities(context=32_000)


def refusal(code: str) -> Fault:
    return Fault(kind=FaultKind.STATUS, status=400, code=code)


def said(answer: httpx.Response, *, stream: bool) -> Any:
    """The text of an answer that came whole."""
    if not stream:
        return answer.json()["choices"][0]["message"]["content"]
    events = events_of(answer.content)
    assert events[-1] == "[DONE]"
    return text_of(events)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "taker"),
    [
        ("context_length_exceeded", "longer/m"),
        ("content_filter", "next/m"),
        ("unsupported_parameter", "next/m"),
    ],
)
async def test_what_one_refuses_goes_to_who_may_take_it_and_no_breaker_opens(
    code: str, taker: str, stream: bool, tmp_path: Path
) -> None:
    """The policy allows two tries: who could do no better than the first takes none of them."""
    async with (
        StandIn() as first,
        StandIn(Behaviour(answer=say("next/m"))) as second,
        StandIn(Behaviour(answer=say("longer/m"))) as third,
    ):
        first.fault = refusal(code)
        targets = [
            target("first/m", first.url, capabilities=SHORT),
            target("next/m", second.url, capabilities=SHORT),
            target("longer/m", third.url, capabilities=LONG),
        ]
        async with serving(snapshot(targets), tmp_path) as served:
            for _ in range(TIMES):
                answer = await served.chat(stream=stream)
                assert answer.status_code == 200, answer.text
                assert answer.headers["x-switchboard-target"] == taker
                assert said(answer, stream=stream) == taker
            row = await served.decision(answer)
            assert (await served.client.get("/ready")).json()["breakers"] == []
        asked = {"first/m": first, "next/m": second, "longer/m": third}
        assert {name: len(each.seen) for name, each in asked.items()} == {
            "next/m": 0,
            "longer/m": 0,
            "first/m": TIMES,
            taker: TIMES,
        }
        assert row["decision"]["ruled_out"] == []
        assert (row["status"], row["outcome"]) == (200, "ok")
        assert [
            (each["target"], each["reason"], each["status"], each["outcome"])
            for each in row["attempts"]
        ] == [("first/m", "first", 400, "error"), (taker, "fallback", 200, "ok")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "code", ["context_length_exceeded", "content_filter", "unsupported_parameter"]
)
async def test_where_nobody_else_may_take_it_the_client_is_told_in_openais_words(
    code: str, stream: bool, tmp_path: Path
) -> None:
    async with StandIn() as only:
        only.fault = refusal(code)
        async with serving(snapshot([target("only/m", only.url)]), tmp_path) as served:
            for _ in range(TIMES):
                answer = await served.chat(stream=stream)
                assert answer.status_code == 400
                assert answer.headers["content-type"] == "application/json"
                error = answer.json()["error"]
                assert error.keys() == {"message", "type", "param", "code"}
                assert (error["type"], error["code"]) == ("invalid_request_error", code)
                assert "only/m: 400" in error["message"]
            assert (await served.client.get("/ready")).json()["breakers"] == []
        # None was asked again: what was refused would be refused again.
        assert len(only.seen) == TIMES


async def test_what_is_too_long_is_not_asked_of_one_that_takes_no_more(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn() as second:
        first.fault = refusal("context_length_exceeded")
        targets = [
            target("first/m", first.url, capabilities=SHORT),
            target("next/m", second.url, capabilities=SHORT),
        ]
        async with serving(snapshot(targets), tmp_path) as served:
            answer = await served.chat()
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert not second.seen
