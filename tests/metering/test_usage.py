import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import MalformedEvent
from gateway.metering.usage import MAX_EVENT, StreamWatch, estimated_output, usage_of
from gateway.types.records import Usage
from gateway.types.requests import Endpoint

USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
SAID = Usage(input=11, cached_input=4, output=3)


def chunk(
    content: str | None = None,
    finish: str | None = None,
    *,
    index: int = 0,
    usage: Any = None,
    id: str = "chatcmpl-1",
    **delta: Any,
) -> str:
    said = delta if content is None else {**delta, "content": content}
    choice = {"index": index, "delta": said, "finish_reason": finish}
    return json.dumps({"id": id, "choices": [choice], "usage": usage})


ROLE = chunk("", role="assistant")
USED = json.dumps({"id": "chatcmpl-1", "choices": [], "usage": USAGE})


def stream(*events: str, blank: str = "\n\n") -> bytes:
    return "".join(f"data: {event}{blank}" for event in events).encode()


WHOLE = stream(ROLE, chunk("Hel"), chunk("lo"), chunk(finish="stop"), USED, "[DONE]")


def relay(watch: StreamWatch, *pieces: bytes) -> bytes:
    """What is relayed of a stream that comes in these pieces: up to an event that is not JSON."""
    passed = b""
    try:
        for piece in pieces:
            passed += watch.feed(piece)
    except MalformedEvent as error:
        return passed + error.before
    return passed + watch.close()


def hidden(endpoint: Endpoint = Endpoint.CHAT) -> StreamWatch:
    return StreamWatch(True, endpoint)


# ---------------------------------------------------------------- plain answers


@pytest.mark.parametrize(
    ("endpoint", "body", "id", "usage"),
    [
        (Endpoint.CHAT, {"id": "chatcmpl-1", "choices": [], "usage": USAGE}, "chatcmpl-1", SAID),
        (
            Endpoint.COMPLETIONS,
            {"id": "cmpl-1", "usage": {"prompt_tokens": 2, "completion_tokens": 5}},
            "cmpl-1",
            Usage(input=2, output=5),
        ),
        (
            Endpoint.COMPLETIONS,
            {"id": "cmpl-1", "usage": {"prompt_tokens": 2, "prompt_tokens_details": None}},
            "cmpl-1",
            Usage(input=2),
        ),
        (
            Endpoint.EMBEDDINGS,
            {"data": [{"embedding": [0.1, 0.2]}], "usage": {"prompt_tokens": 7}},
            None,
            Usage(input=7),
        ),
        (
            Endpoint.EMBEDDINGS,
            {"id": "embd-1", "usage": {"prompt_tokens": 7}, "data": [{"usage": {"x": 1}}]},
            "embd-1",
            Usage(input=7),
        ),
        (
            Endpoint.RESPONSES,
            {
                "id": "resp_1",
                "usage": {
                    "input_tokens": 9,
                    "input_tokens_details": {"cached_tokens": 8},
                    "output_tokens": 6,
                },
            },
            "resp_1",
            Usage(input=9, cached_input=8, output=6),
        ),
        (Endpoint.CHAT, {"id": "chatcmpl-1"}, "chatcmpl-1", None),
        (Endpoint.CHAT, {"id": "chatcmpl-1", "usage": None}, "chatcmpl-1", None),
        (Endpoint.CHAT, {"id": 5, "usage": {"prompt_tokens": "many"}}, None, None),
        (Endpoint.CHAT, {"id": 5, "usage": {"total_tokens": 3}}, None, None),
    ],
)
def test_usage_of_a_plain_answer(
    endpoint: Endpoint, body: dict[str, Any], id: str | None, usage: Usage | None
) -> None:
    seen = usage_of(json.dumps(body).encode(), endpoint)

    assert seen is not None
    assert (seen.id, seen.usage) == (id, usage)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"id": "\xff"}', b"<html>"])
@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.EMBEDDINGS])
def test_what_is_no_json_object_says_nothing(body: bytes, endpoint: Endpoint) -> None:
    assert usage_of(body, endpoint) is None


@pytest.mark.parametrize(
    ("endpoint", "body", "answers"),
    [
        (Endpoint.CHAT, {"choices": []}, True),
        (Endpoint.CHAT, {"error": {"message": "no"}}, False),
        (Endpoint.COMPLETIONS, {"status": "ok"}, False),
        (Endpoint.EMBEDDINGS, {"data": [1], "usage": {"prompt_tokens": 1}}, True),
        (Endpoint.EMBEDDINGS, {"detail": "no"}, False),
        (Endpoint.RESPONSES, {"output": [], "error": None}, True),
        (Endpoint.RESPONSES, {"choices": []}, False),
    ],
)
def test_an_answer_has_what_its_endpoint_is_asked_for(
    endpoint: Endpoint, body: dict[str, Any], answers: bool
) -> None:
    seen = usage_of(json.dumps(body).encode(), endpoint)

    assert seen is not None
    assert seen.answers is answers


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        (Endpoint.CHAT, {"choices": [{"message": {"content": "ten letter"}}] * 2}, 6),
        (Endpoint.CHAT, {"choices": [{"message": {"content": None, "refusal": None}}]}, 0),
        (Endpoint.COMPLETIONS, {"id": "long" * 99, "choices": [{"text": "ten letter"}]}, 3),
        (Endpoint.EMBEDDINGS, {"data": [0.5] * 99}, 0),
        (Endpoint.RESPONSES, {"output": []}, 4),
    ],
)
def test_untold_tokens_are_estimated_by_what_was_said(
    endpoint: Endpoint, body: dict[str, Any], tokens: int
) -> None:
    assert estimated_output(json.dumps(body).encode(), endpoint) == tokens


# ---------------------------------------------------------------- streams


def test_the_usage_event_alone_is_taken_out() -> None:
    watch = hidden()

    assert relay(watch, WHOLE) == WHOLE.replace(stream(USED), b"")
    assert watch.usage == SAID
    assert watch.completion_id == "chatcmpl-1"
    assert (watch.finished, watch.done, watch.errored, watch.truncated) == (
        True,
        True,
        False,
        False,
    )
    assert watch.events == 2


def test_a_client_that_asked_for_usage_gets_every_byte() -> None:
    watch = StreamWatch(False, Endpoint.CHAT)

    assert relay(watch, WHOLE) == WHOLE
    assert watch.usage == SAID


def test_usage_beside_choices_is_read_and_stays() -> None:
    body = stream(ROLE, chunk("a"), chunk("b", "stop", usage=USAGE), "[DONE]")
    watch = hidden()

    assert relay(watch, body) == body
    assert watch.usage == SAID


def test_no_choices_without_usage_stays() -> None:
    body = stream(json.dumps({"id": "", "choices": [], "prompt_filter_results": []}), ROLE)
    watch = hidden()

    assert relay(watch, body) == body
    assert watch.completion_id == "chatcmpl-1"


def test_an_event_that_is_whole_is_not_delayed() -> None:
    watch = hidden()

    for event in (ROLE, chunk("Hel"), chunk("lo"), chunk(finish="stop")):
        assert watch.feed(stream(event)) == stream(event)


def test_whole_events_pass_while_the_next_is_still_coming() -> None:
    watch = hidden()
    first, second = stream(ROLE), stream(chunk("a"))

    assert watch.feed(first + second[:20]) == first
    assert watch.feed(second[20:]) == second


def test_a_held_tail_may_be_the_usage_event() -> None:
    watch = hidden()
    used = stream(USED)

    assert watch.feed(stream(ROLE) + used[:-1]) == stream(ROLE)
    assert watch.feed(used[-1:]) == b""


def test_nothing_follows_done() -> None:
    watch = StreamWatch(False, Endpoint.CHAT)
    body = stream(ROLE, chunk(finish="stop"), "[DONE]")

    assert relay(watch, body + stream(chunk("late")) + b": ping\n\n", stream(USED), b"x") == body


def test_done_inside_a_text_is_only_text() -> None:
    body = stream(ROLE, chunk("[DONE]"), chunk("data: [DONE]"), chunk(finish="stop"), "[DONE]")

    assert relay(hidden(), body) == body
    assert relay(hidden(), *(body[i : i + 1] for i in range(len(body)))) == body


def test_keys_inside_a_text_are_only_text() -> None:
    text = '"usage": {"prompt_tokens": 1}, "finish_reason": "stop", "error": {}'
    watch = hidden()
    watch.feed(stream(ROLE))

    assert watch.feed(stream(chunk(text))) == stream(chunk(text))
    assert (watch.usage, watch.finished, watch.errored) == (None, False, False)


@pytest.mark.parametrize("last", [WHOLE[:-14], stream(ROLE, chunk(finish="length")), WHOLE])
def test_a_stream_with_its_reason_is_whole_without_done(last: bytes) -> None:
    watch = hidden()
    relay(watch, last)

    assert not watch.truncated


@pytest.mark.parametrize("cut", [b"", stream(ROLE), stream(ROLE, chunk("a")), WHOLE[:150]])
def test_a_stream_without_a_reason_is_truncated(cut: bytes) -> None:
    watch = hidden()
    relay(watch, cut)

    assert watch.truncated


def test_half_an_event_never_reaches_the_client() -> None:
    body = stream(ROLE, chunk("a"))

    assert relay(hidden(), body, stream(chunk("b"))[:-20]) == body


@pytest.mark.parametrize("newlines", ["", "\n", "\r\n"])
def test_an_event_that_lacks_its_blank_line_is_completed(newlines: str) -> None:
    body = stream(ROLE, chunk(finish="stop"))
    watch = hidden()

    assert relay(watch, body, f"data: [DONE]{newlines}".encode()) == body + stream("[DONE]")
    assert watch.done


def test_a_usage_event_that_lacks_its_blank_line_is_hidden_too() -> None:
    watch = hidden()

    assert relay(watch, stream(ROLE), stream(USED).strip()) == stream(ROLE)
    assert watch.usage == SAID


def test_several_choices_are_whole_when_each_has_its_reason() -> None:
    watch = StreamWatch(True, Endpoint.CHAT, choices=2)
    watch.feed(stream(ROLE, chunk("a", index=0), chunk(finish="stop", index=0)))
    assert watch.truncated

    watch.feed(stream(chunk(finish="stop", index=1)))
    assert not watch.truncated


@pytest.mark.parametrize(
    "event",
    [
        'data: {"error": {"message": "no", "type": "x", "param": null, "code": null}}\n\n',
        'event: error\ndata: {"message": "no"}\n\n',
    ],
)
def test_an_error_event_ends_a_stream_openly(event: str) -> None:
    watch = hidden()

    assert relay(watch, stream(ROLE) + event.encode()) == stream(ROLE) + event.encode()
    assert watch.errored
    assert not watch.truncated


def test_an_error_given_as_text_is_not_relayed_as_such() -> None:
    watch = hidden()

    assert relay(watch, stream(ROLE) + b'data: {"error": "no"}\n\n') == stream(ROLE)
    assert (watch.errored, watch.error_text) == (True, "no")


def test_an_event_that_is_not_json_ends_the_relay_after_what_came_before() -> None:
    watch = hidden()
    with pytest.raises(MalformedEvent) as caught:
        watch.feed(stream(ROLE, chunk("a")) + b'data: {"id": "1", "cho\n\n' + stream(chunk("b")))

    assert caught.value.before == stream(ROLE, chunk("a"))
    assert watch.truncated


def test_an_event_of_another_shape_passes() -> None:
    watch = hidden()
    odd = b'data: {"choices": "none"}\n\ndata: [1]\n\n'

    assert relay(watch, stream(ROLE) + odd) == stream(ROLE) + odd


def test_a_null_error_is_none() -> None:
    watch = hidden()
    watch.feed(stream(ROLE, json.dumps({"id": "1", "choices": [], "error": None})))

    assert not watch.errored


def test_keep_alives_pass_uncounted() -> None:
    body = b": ping\n\n" + stream(ROLE) + b": ping\n\n" + stream(chunk("a")) + b": ping\n\n"
    watch = hidden()

    assert relay(watch, body) == body
    assert watch.events == 1


def test_a_number_that_only_some_readers_know_passes() -> None:
    body = stream(ROLE, '{"choices": [], "logprob": -Infinity}')

    assert relay(hidden(), body) == body
    seen = usage_of(b'{"id": "e", "data": [NaN], "usage": {"prompt_tokens": 3}}', Endpoint.CHAT)
    assert seen is not None
    assert (seen.id, seen.usage, seen.answers) == ("e", Usage(input=3), False)


def test_a_byte_order_mark_is_taken_off() -> None:
    watch = hidden()

    assert relay(watch, b"\xef", b"\xbb\xbf" + WHOLE[:30], WHOLE[30:]) == WHOLE.replace(
        stream(USED), b""
    )
    assert watch.completion_id == "chatcmpl-1"


def test_text_completions_have_the_same_shape() -> None:
    pieces = [
        {"id": "cmpl-1", "choices": [{"index": 0, "text": text, "finish_reason": finish}]}
        for text, finish in (("a", None), ("b", None), ("", "stop"))
    ]
    watch = StreamWatch(True, Endpoint.COMPLETIONS, keep_text=True)
    body = stream(*(json.dumps(piece) for piece in pieces))

    assert relay(watch, body, stream(USED)) == body
    assert (watch.completion_id, watch.text, watch.events) == ("cmpl-1", "ab", 2)


def test_text_is_kept_only_when_asked() -> None:
    kept, left = StreamWatch(True, Endpoint.CHAT, keep_text=True), hidden()

    assert relay(kept, WHOLE) == relay(left, WHOLE)
    assert (kept.text, left.text) == ("Hello", "")
    assert (kept.usage, kept.events) == (left.usage, left.events)


def test_an_event_over_the_bound_passes_unseen() -> None:
    watch = hidden()
    watch.feed(stream(ROLE))
    block = b"x" * 4_000_000
    pieces = [b'data: {"choices": ["', *[block] * (MAX_EVENT // len(block) + 1), b'"]}\n\n']

    assert b"".join(watch.feed(piece) for piece in pieces) == b"".join(pieces)
    assert watch.feed(stream(chunk("a"))) == stream(chunk("a"))


# ---------------------------------------------------------------- responses


def response_event(type: str, **fields: Any) -> bytes:
    return f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n".encode()


CREATED = response_event("response.created", response={"id": "resp_1", "usage": None})
USED_RESPONSE = {"id": "resp_1", "usage": {"input_tokens": 5, "output_tokens": 2}}


def test_a_response_is_followed_to_its_completion() -> None:
    deltas = [response_event("response.output_text.delta", delta=text) for text in ("He", "y")]
    body = CREATED + b"".join(deltas) + response_event("response.completed", response=USED_RESPONSE)
    for pieces in ([body], [CREATED, *deltas, body[len(CREATED) + sum(map(len, deltas)) :]]):
        watch = StreamWatch(True, Endpoint.RESPONSES)

        assert relay(watch, *pieces) == body
        assert watch.completion_id == "resp_1"
        assert watch.usage == Usage(input=5, output=2)
        assert (watch.finished, watch.truncated, watch.events) == (True, False, 2)


def test_a_response_keeps_its_text() -> None:
    watch = StreamWatch(False, Endpoint.RESPONSES, keep_text=True)
    watch.feed(CREATED)
    watch.feed(response_event("response.output_text.delta", delta="Hey"))

    assert watch.text == "Hey"
    assert watch.truncated


@pytest.mark.parametrize(
    ("last", "errored"),
    [
        (response_event("response.incomplete", response=USED_RESPONSE), False),
        (response_event("response.failed", response={"id": "resp_1", "error": {}}), True),
        (response_event("error", code="x", message="no"), True),
    ],
)
def test_a_response_may_end_otherwise(last: bytes, errored: bool) -> None:
    watch = StreamWatch(False, Endpoint.RESPONSES)

    assert relay(watch, CREATED, last) == CREATED + last
    assert watch.errored is errored
    assert not watch.truncated


# ---------------------------------------------------------------- any splitting

contents = st.sampled_from(
    ["", "a", "\n\n", "[DONE]", 'say "usage": {}', "é", '"finish_reason": "stop"', "}\n\ndata:"]
)
events = st.one_of(
    st.builds(lambda text: f"data: {chunk(text)}", contents),
    st.builds(lambda text: f"data: {chunk(text, 'stop')}", contents),
    st.just(f"data: {USED}"),
    st.just(f"data:{USED}"),
    st.just(": ping"),
    st.just('data: {"error": {"message": "no"}}'),
    st.just("event: message\ndata: {}"),
    st.just("data: [DONE]"),
    st.just("data: nonsense"),
    st.just(f"data: {chunk('a', usage=USAGE)}"),
)
blanks = st.sampled_from(["\n\n", "\r\n\r\n", "\n\r\n", "\n\n\n"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    blank = draw(st.one_of(st.just("\n\n"), blanks))
    body = "".join(event + blank for event in draw(st.lists(events, max_size=8)))
    opening = draw(st.sampled_from(["", f"data: {ROLE}\n\n", "\ufeff"]))
    return (opening + body).encode()[: draw(st.integers(0, 4000)) or None]


def told(watch: StreamWatch) -> tuple[Any, ...]:
    return (
        watch.completion_id,
        watch.usage,
        watch.events,
        watch.finished,
        watch.done,
        watch.errored,
        watch.text,
    )


@settings(deadline=None)
@given(streams(), st.data(), st.booleans(), st.booleans())
@example(WHOLE, None, True, False)
def test_any_splitting_relays_and_tells_the_same(
    body: bytes, data: st.DataObject | None, hide: bool, keep: bool
) -> None:
    at_once = StreamWatch(hide, Endpoint.CHAT, keep_text=keep)
    split = StreamWatch(hide, Endpoint.CHAT, keep_text=keep)
    every_byte = range(len(body) + 1)
    inner = st.lists(st.integers(0, len(body)), max_size=12)
    cuts = sorted({0, len(body), *(data.draw(inner) if data is not None else every_byte)})
    pieces = [body[a:b] for a, b in itertools.pairwise(cuts)]

    assert relay(split, *pieces) == relay(at_once, body)
    assert told(split) == told(at_once)


@settings(deadline=None)
@given(streams(), st.booleans())
def test_event_by_event_relays_and_tells_the_same(body: bytes, hide: bool) -> None:
    at_once = StreamWatch(hide, Endpoint.CHAT)
    split = StreamWatch(hide, Endpoint.CHAT)
    pieces = [piece + b"\n\n" for piece in body.split(b"\n\n")[:-1]] + [body.split(b"\n\n")[-1]]

    assert relay(split, *pieces) == relay(at_once, body)
    assert told(split) == told(at_once)
