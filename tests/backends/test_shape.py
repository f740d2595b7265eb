"""Bodies shaped per target: what changes is named, what does not is passed on as it was."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends.shape import shape
from gateway.backends.verdict import openai_shaped
from gateway.http.parse import parse
from gateway.types.backends import Capabilities, Price, Shaping, Target
from gateway.types.requests import Caller, Endpoint, Request
from gateway.types.routes import Candidate


def target(**shaping: Any) -> Target:
    return Target(
        name="openai/mini",
        backend="openai",
        model="mini",
        adapter=None,
        served="gpt-5-mini",
        internal=False,
        price=Price(),
        capabilities=Capabilities(),
        shaping=Shaping(**shaping),
        replicas=("http://x",),
    )


def request(body: Any, endpoint: Endpoint = Endpoint.CHAT) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(endpoint, raw, id="r", headers={}, caller=Caller())


CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


def test_the_model_becomes_the_served_id() -> None:
    shaped = shape(request(CHAT), target(), None)
    assert json.loads(shaped.body) == {**CHAT, "model": "gpt-5-mini"}
    assert shaped.changed == ()


def test_renames_drops_and_sets_are_done_and_named() -> None:
    mini = target(
        rename={"max_tokens": "max_completion_tokens"},
        drop=frozenset({"temperature"}),
        set={"reasoning_effort": b'"low"', "user": b'"us"'},
    )
    sent = {**CHAT, "max_tokens": 5, "temperature": 0.2, "user": "me"}
    shaped = shape(request(sent), mini, None)
    assert json.loads(shaped.body) == {
        **CHAT,
        "model": "gpt-5-mini",
        "max_completion_tokens": 5,
        "reasoning_effort": "low",
        "user": "me",
    }
    assert shaped.changed == (
        "renamed max_tokens to max_completion_tokens",
        "dropped temperature",
        "set reasoning_effort",
    )


def test_a_rename_does_not_overwrite_what_the_client_sent() -> None:
    sent = {**CHAT, "max_tokens": 5, "max_completion_tokens": 7}
    shaped = shape(request(sent), target(rename={"max_tokens": "max_completion_tokens"}), None)
    assert json.loads(shaped.body)["max_completion_tokens"] == 7


def test_a_candidates_system_prompt_comes_first() -> None:
    shaped = shape(request(CHAT), target(), Candidate("openai/mini", 0.9, system="Be brief."))
    assert json.loads(shaped.body)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


def test_a_responses_call_gets_the_system_prompt_as_instructions() -> None:
    sent = {"model": "auto", "input": "hi", "instructions": "In French."}
    shaped = shape(
        request(sent, Endpoint.RESPONSES), target(), Candidate("t", 0.9, system="Be brief.")
    )
    assert json.loads(shaped.body)["instructions"] == "Be brief.\n\nIn French."


@pytest.mark.parametrize(
    ("options", "hidden", "sent"),
    [
        (None, True, {"include_usage": True}),
        ({"include_usage": True}, False, {"include_usage": True}),
        ({"include_usage": False, "x": 1}, True, {"include_usage": True, "x": 1}),
    ],
)
def test_a_streams_usage_is_asked_for(options: Any, hidden: bool, sent: Any) -> None:
    body = {**CHAT, "stream": True}
    if options is not None:
        body["stream_options"] = options
    shaped = shape(request(body), target(), None)
    assert shaped.hide_usage is hidden
    assert json.loads(shaped.body)["stream_options"] == sent


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(min_size=1).map(lambda name: "x" + name), json_values))
def test_what_is_not_touched_arrives_as_it_was_sent(extra: dict[str, Any]) -> None:
    shaped = shape(request({**CHAT, **extra}), target(), None)
    assert json.loads(shaped.body) == {**CHAT, **extra, "model": "gpt-5-mini"}


def error(code: str | None) -> bytes:
    body = {"error": {"message": "no", "type": "t", "param": None, "code": code}}
    return json.dumps(body).encode()


def test_a_frameworks_error_is_put_into_openais_shape() -> None:
    shaped = json.loads(openai_shaped(404, b'{"detail":"Not Found"}'))
    assert set(shaped["error"]) == {"message", "type", "param", "code"}
    assert "Not Found" in shaped["error"]["message"]
    assert openai_shaped(400, error("x")) == error("x")
