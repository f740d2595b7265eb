"""A stream that breaks off, gone on with by the next candidate: one answer for the client."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.standin.behaviour import Behaviour, Fault, FaultKind, say
from gateway.standin.standin import StandIn
from gateway.types.backends import Timeouts
from gateway.types.policies import Breaking, Policy
from gateway.types.snapshot import Snapshot
from tests.gateway.support import events_of, route, serving, snapshot, target, text_of
from tests.gateway.test_wire import DONE, chunk, speaking

CUT = Fault(kind=FaultKind.CUT, after=3)
BEGINS, GOES_ON = Behaviour(answer=say("one two three four")), Behaviour(answer=say(" and more"))


def two(first: StandIn, second: StandIn, *, internal: bool = False, **policy: Any) -> Snapshot:
    targets = [target("p0/m", first.url), target("p1/n", second.url)]
    made = snapshot(
        targets,
        [route("general", "p0/m", "p1/n")],
        policies={"quality": Policy("quality", **{"carry_on": True, **policy})},
    )
    if internal:
        second_target = msgspec.structs.replace(targets[1], internal=True)
        made = msgspec.structs.replace(made, targets={**made.targets, "p1/n": second_target})
    return made


@pytest.mark.parametrize("internal", [False, True])
async def test_the_next_goes_on_and_the_client_sees_one_answer(
    internal: bool, tmp_path: Path
) -> None:
    async with StandIn(BEGINS) as first, StandIn(GOES_ON) as second:
        first.next(CUT)
        async with serving(two(first, second, internal=internal), tmp_path) as served:
            answer = await served.chat(
                stream=True, stream_options={"include_usage": True}, max_tokens=50
            )
            row = await served.decision(answer)
            asked = (await second.arrived()).json()
    events = events_of(answer.content)
    assert text_of(events) == "one two three and more"
    assert events[-1] == "[DONE]"
    assert not any("error" in event for event in events)
    assert len({event["id"] for event in events[:-1]}) == 1
    assert {event["model"] for event in events[:-1]} == {"m"}
    assert sum("role" in c["delta"] for e in events[:-1] for c in e["choices"]) == 1
    assert events[-2]["usage"]["completion_tokens"] >= 5
    shown = [message["content"] for message in asked["messages"] if message["role"] == "assistant"]
    assert shown == ["one two three"]
    assert asked["max_tokens"] < 50
    assert asked.get("continue_final_message", False) is internal
    assert [(each["reason"], each["outcome"]) for each in row["attempts"]] == [
        ("first", "truncated"),
        ("continue", "ok"),
    ]
    assert (row["outcome"], row["estimated"]) == ("ok", True)
    assert row["cost_usd"] == pytest.approx(sum(each["cost_usd"] for each in row["attempts"]))


async def test_who_stalled_is_hung_up_on_before_another_goes_on(tmp_path: Path) -> None:
    async with StandIn(BEGINS) as first, StandIn(Behaviour(first_token_s=30.0)) as second:
        first.next(Fault(kind=FaultKind.HANG, after=2))
        made = two(first, second)
        impatient = msgspec.structs.replace(made.backends["p0"], timeouts=Timeouts(between=0.1))
        made = msgspec.structs.replace(made, backends={**made.backends, "p0": impatient})
        async with serving(made, tmp_path) as served:
            asking = asyncio.create_task(served.chat(stream=True))
            await second.arrived()
            async with asyncio.timeout(5):
                await (await first.arrived()).aborted.wait()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_what_is_more_than_text_ends_in_an_error(
    more: dict[str, Any], tmp_path: Path
) -> None:
    async with StandIn(Behaviour(answer=say("a b c d e"), calls_tools=False)) as first:
        async with StandIn(GOES_ON) as second:
            first.next(CUT)
            async with serving(two(first, second), tmp_path) as served:
                events = await served.events(**more)
            assert events[-1]["error"]["code"] == "stream_truncated"
            assert not second.seen


async def test_it_is_off_unless_the_policy_says_so(tmp_path: Path) -> None:
    async with StandIn(BEGINS) as first, StandIn(GOES_ON) as second:
        first.next(CUT)
        async with serving(two(first, second, carry_on=False), tmp_path) as served:
            events = await served.events()
        assert events[-1]["error"]["code"] == "stream_truncated"
        assert not second.seen


async def test_when_nobody_can_go_on_it_ends_in_an_error(tmp_path: Path) -> None:
    async with StandIn(BEGINS) as first, StandIn(GOES_ON) as second:
        first.next(CUT)
        second.fault = Fault(kind=FaultKind.STATUS, status=500)
        async with serving(two(first, second), tmp_path) as served:
            answer = await served.chat(stream=True)
            events = events_of(answer.content)
            row = await served.decision(answer)
    assert json.dumps(events).count('"error"') == 1
    assert events[-1]["error"]["code"] == "stream_truncated"
    assert row["outcome"] == "truncated"


async def test_a_second_break_is_told(tmp_path: Path) -> None:
    async with StandIn(BEGINS) as first, StandIn(GOES_ON) as second:
        first.next(CUT)
        second.next(Fault(kind=FaultKind.CUT, after=1))
        async with serving(two(first, second), tmp_path) as served:
            events = await served.events()
    assert text_of(events) == "one two three and"
    assert events[-1]["error"]["code"] == "stream_truncated"


async def test_what_broke_off_before_its_first_word_is_asked_anew(tmp_path: Path) -> None:
    async with StandIn(BEGINS) as first, StandIn(Behaviour(answer=say("all of it"))) as second:
        first.next(Fault(kind=FaultKind.CUT, after=0))
        async with serving(two(first, second), tmp_path) as served:
            answer = await served.chat(stream=True)
            row = await served.decision(answer)
            asked, again = (await first.arrived()).json(), (await second.arrived()).json()
    events = events_of(answer.content)
    assert text_of(events) == "all of it"
    assert events[-1] == "[DONE]"
    assert asked["messages"] == again["messages"]
    assert row["outcome"] == "ok"


async def test_an_answer_as_long_as_it_may_be_is_not_gone_on_with(tmp_path: Path) -> None:
    async with StandIn(BEGINS) as first, StandIn(GOES_ON) as second:
        first.next(CUT)
        async with serving(two(first, second), tmp_path) as served:
            events = await served.events(max_tokens=3)
        assert text_of(events) == "one two three"
        assert not second.seen


async def test_a_stand_in_goes_on_where_another_broke_off(tmp_path: Path) -> None:
    whole = Behaviour(answer=say("one two three four five"), goes_on=True)
    async with StandIn(whole) as first, StandIn(whole) as second:
        first.next(CUT)
        async with serving(two(first, second), tmp_path) as served:
            events = await served.events()
    assert text_of(events) == "one two three four five"


@pytest.mark.parametrize(("tries", "whole"), [(3, True), (2, False)])
async def test_who_refuses_to_go_on_is_passed_over_and_counted(
    tries: int, whole: bool, tmp_path: Path
) -> None:
    refuses = Behaviour(fault=Fault(kind=FaultKind.STATUS, status=400, message="not like that"))
    async with StandIn(BEGINS) as first, StandIn(refuses) as second, StandIn(GOES_ON) as third:
        targets = [
            target("p0/m", first.url),
            target("p1/n", second.url),
            target("p2/o", third.url),
        ]
        made = snapshot(
            targets,
            [route("general", "p0/m", "p1/n", "p2/o")],
            policies={"quality": Policy("quality", carry_on=True, tries=tries)},
        )
        async with serving(made, tmp_path) as served:
            for _ in range(2):
                first.next(CUT)
                answer = await served.chat(stream=True)
            row = await served.decision(answer)
            metrics = (await served.client.get("/metrics")).text
    events = events_of(answer.content)
    assert any("error" in event for event in events) is not whole
    assert [(each["target"], each["status"]) for each in row["attempts"]] == [
        ("p0/m", 200),
        ("p1/n", 400),
        ("p2/o", 200),
    ][: 3 if whole else 2]
    running = [line for line in metrics.splitlines() if "admission_running{" in line]
    assert running
    assert all(line.endswith(" 0.0") for line in running), running


async def test_what_it_does_not_say_as_others_do_is_passed_on_as_it_is(tmp_path: Path) -> None:
    null_choices = {"id": "chatcmpl-1", "choices": None}
    last = {
        "id": "chatcmpl-1",
        "choices": [{"index": 0, "delta": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": None, "completion_tokens": 2},
    }
    opening, ending = (b"data: %b\n\n" % json.dumps(each).encode() for each in (null_choices, last))
    async with StandIn(BEGINS) as first, speaking(opening, chunk(" and more"), ending, DONE) as url:
        first.next(CUT)
        made = snapshot(
            [target("p0/m", first.url), target("p1/n", url)],
            policies={"quality": Policy("quality", carry_on=True)},
        )
        async with serving(made, tmp_path) as served:
            answer = await served.chat(stream=True, stream_options={"include_usage": True})
            row = await served.decision(answer)
    events = events_of(answer.content)
    assert len({event["id"] for event in events[:-1]}) == 1
    assert [event["choices"] for event in events if event != "[DONE]"][-3:] == [
        None,
        [{"index": 0, "delta": {"content": " and more"}, "finish_reason": None}],
        [{"index": 0, "delta": None, "finish_reason": "stop"}],
    ]
    assert events[-2]["usage"] == {"prompt_tokens": None, "completion_tokens": 2 + 3}
    assert (events[-1], row["outcome"]) == ("[DONE]", "ok")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind=FaultKind.STATUS, status=429, retry_after=60.0),
        Fault(kind=FaultKind.STATUS, status=500),
    ],
    ids=["resting", "broken"],
)
async def test_who_is_left_alone_is_not_asked_to_go_on(fault: Fault, tmp_path: Path) -> None:
    breaking = Breaking(failures=2, first_s=60.0)
    async with StandIn(BEGINS) as first, StandIn(Behaviour(fault=fault)) as second:
        made = two(first, second, retries=0, breaking=breaking)
        async with serving(made, tmp_path) as served:
            for _ in range(2):
                await served.chat(model="p1/n", stream=True)
            asked = len(second.seen)
            first.next(CUT)
            events = await served.events()
    assert events[-1]["error"]["code"] == "stream_truncated"
    assert len(second.seen) == asked
