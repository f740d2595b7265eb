"""From bytes to a Request: what routing reads, what stays verbatim, what is refused and how."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.classify.rules import READ_CHARS
from gateway.errors import BadRequest
from gateway.http.parse import MAX_CHOICES, MAX_TURNS, parse
from gateway.types.requests import Caller, Endpoint, Request


def read(body: Any, endpoint: Endpoint = Endpoint.CHAT, **headers: str) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse(endpoint, raw, id="req_1", headers=named, caller=Caller())


def chat(*contents: Any, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content} for content in contents]
    return {"model": "auto", "messages": messages, **more}


def test_reads_what_routing_needs() -> None:
    request = read(chat("Hello there", max_tokens=5, stream=True, tools=[{"type": "function"}]))
    assert (request.model, request.stream, request.asks_usage) == ("auto", True, False)
    assert request.turns == ("Hello there",)
    assert (request.needs.max_output, request.needs.tools) == (5, True)


def test_the_latest_turn_comes_first_and_old_ones_are_left_out() -> None:
    request = read(chat(*(f"turn {n}" for n in range(20))))
    assert request.turns == tuple(f"turn {n}" for n in range(19, 19 - MAX_TURNS, -1))


def test_only_what_the_user_said_is_a_turn() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42", "tool_call_id": "x"},
    ]
    assert read({"model": "auto", "messages": messages}).turns == ("first",)


LONG = "word " * 20_000
CUT: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": [{"role": "user", "content": f"begin {LONG}end"}]},
    Endpoint.COMPLETIONS: {"prompt": f"begin {LONG}end"},
    Endpoint.EMBEDDINGS: {"input": [f"begin {LONG}end"]},
    Endpoint.RESPONSES: {"input": f"begin {LONG}end"},
}


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_of_a_long_turn_the_beginning_and_the_end_are_kept(endpoint: Endpoint) -> None:
    (turn,) = read({"model": "auto", **CUT[endpoint]}, endpoint).turns
    assert READ_CHARS - 20 < len(turn) <= READ_CHARS
    assert turn.startswith("begin word ")
    assert turn.endswith(" word end")
    assert set(turn.split()) == {"begin", "word", "end"}


def test_the_parts_of_a_long_turn_are_cut_as_one() -> None:
    parts = [{"type": "text", "text": text} for text in ("begin", LONG, LONG, "end")]
    (turn,) = read(chat(parts)).turns
    assert len(turn) <= READ_CHARS
    assert (turn[:5], turn[-3:]) == ("begin", "end")


def test_a_turn_that_rules_read_whole_is_kept_whole() -> None:
    text = "x" * READ_CHARS
    assert read(chat(text)).turns == (text,)


def test_parts_tell_text_from_pictures_and_sounds() -> None:
    parts = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "input_audio", "input_audio": {}},
    ]
    request = read(chat(parts))
    assert request.turns == ("what is this",)
    assert request.needs.vision
    assert request.needs.audio


def test_unknown_fields_and_nulls_are_kept_verbatim() -> None:
    raw = b'{"model":"auto","messages":[],"seed": 1.50,"x-new":{"a":null},"user":null}'
    fields = read(raw).fields
    assert bytes(fields["seed"]) == b"1.50"
    assert bytes(fields["x-new"]) == b'{"a":null}'
    assert bytes(fields["user"]) == b"null"


def test_headers_override_route_and_policy() -> None:
    request = read(chat("x"), x_switchboard_route="legal", x_switchboard_policy="best")
    assert (request.route, request.policy) == ("legal", "best")


@pytest.mark.parametrize(
    ("sent", "most"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 5}, 7),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": -1, "max_completion_tokens": 5}, 5),
        ({"max_tokens": -1}, None),
        ({}, None),
    ],
)
def test_of_two_bounds_on_the_output_the_larger_counts(
    sent: dict[str, int | None], most: int | None
) -> None:
    assert read(chat("x", **sent)).needs.max_output == most


@pytest.mark.parametrize(
    ("sent", "choices", "written"),
    [
        ({"prompt": "a"}, 1, 1),
        ({"prompt": "a", "n": 2, "best_of": 5}, 2, 5),
        ({"prompt": "a", "n": 5, "best_of": 2}, 5, 5),
        ({"prompt": ["a", "b", "c"]}, 3, 3),
        ({"prompt": ["a", "b", "c"], "n": 2, "best_of": 4}, 6, 12),
        ({"prompt": [[1, 2], [3]], "n": None}, 2, 2),
        ({"prompt": [1, 2, 3]}, 1, 1),
        ({"prompt": []}, 1, 1),
        ({"prompt": ["a", "b"], "n": 10**9, "best_of": -1}, 2 * MAX_CHOICES, 2 * MAX_CHOICES),
    ],
)
def test_every_prompt_of_a_completion_has_its_answers(
    sent: dict[str, Any], choices: int, written: int
) -> None:
    request = read({"model": "m", **sent}, Endpoint.COMPLETIONS)
    assert (request.choices, request.written) == (choices, written)


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ("x" * 400, (1, 0)),
        (["x" * 400], (1, 0)),
        ([7] * 100, (1, 0)),
        (["x" * 400, "y" * 40], (2, 100)),
        (["\u00e9" * 200, ""], (2, 100)),
        ([[7] * 100, [7]], (2, 100)),
        (["cat"] * 2000, (2000, 1)),
        (["x", None, {"a": 1}], (3, 1)),
    ],
)
def test_each_of_several_prompts_is_read_by_itself(prompts: Any, told: tuple[int, int]) -> None:
    for endpoint, name in ((Endpoint.COMPLETIONS, "prompt"), (Endpoint.EMBEDDINGS, "input")):
        needs = read({"model": "m", name: prompts}, endpoint).needs
        assert (needs.prompts, needs.longest) == told


@pytest.mark.parametrize("form", ["json_schema", "json_object", "text"])
def test_only_a_schema_needs_schema_support(form: str) -> None:
    needs = read(chat("x", response_format={"type": form})).needs
    assert needs.json_schema == (form == "json_schema")


def test_other_endpoints() -> None:
    completion = read({"model": "m", "prompt": "Once upon", "max_tokens": 3}, Endpoint.COMPLETIONS)
    assert completion.turns == ("Once upon",)
    tokens = read({"model": "m", "prompt": [1, 2, 3]}, Endpoint.COMPLETIONS)
    assert tokens.turns == ()
    embedding = read({"model": "m", "input": ["a", "b"]}, Endpoint.EMBEDDINGS)
    assert (embedding.turns, embedding.needs.max_output) == (("a",), 0)
    response = read(
        {"model": "m", "input": "hi", "previous_response_id": "resp_1"}, Endpoint.RESPONSES
    )
    assert (response.turns, response.previous) == (("hi",), "resp_1")


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"NaN", "invalid_json", None),
        (b'{"model":"auto","messages":[],"x":NaN}', "invalid_json", None),
        (b'{"model":"auto","messages":[],"x":"\xff"}', "invalid_utf8", None),
        (b"[]", None, None),
        (b"null", None, None),
        (b'"x"', None, None),
        (b'{"messages":[]}', "missing_required_parameter", "model"),
        (b'{"model":"","messages":[]}', "missing_required_parameter", "model"),
        (b'{"model":"auto"}', "missing_required_parameter", "messages"),
        (b'{"model":7,"messages":[]}', "invalid_type", "model"),
        (b'{"model":"auto","messages":{}}', "invalid_type", "messages"),
        (b'{"model":"auto","messages":[{"role":"user","content":5}]}', "invalid_type", "messages"),
        (b'{"model":"auto","messages":[],"stream_options":{}}', None, "stream_options"),
        (b'{"model":"auto","messages":[],"stream":"yes"}', "invalid_type", "stream"),
    ],
)
def test_refuses_naming_the_place(raw: bytes, code: str | None, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        read(raw)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for endpoint in Endpoint:
        try:
            read(raw, endpoint)
        except BadRequest as error:
            assert error.message  # noqa: PT017
