"""The pure parts between OpenAI's words and litellm's."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backends.litellm_server import (
    CHAT,
    COMPLETIONS,
    Chunks,
    Failure,
    Lines,
    Spec,
    encode_embeddings,
    messages_of,
    provider_words,
    read_body,
    read_config,
    sift,
    whole,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(["temperature", "seed", "stop", "made_up", "user", "model", "messages"])


@settings(deadline=None)
@given(st.dictionaries(NAMES, JSON), st.frozensets(NAMES))
def test_every_parameter_is_either_kept_or_told(
    body: dict[str, Any], known: frozenset[str]
) -> None:
    kept, dropped = sift(body, CHAT, known)
    given = {name for name, value in body.items() if value is not None} - {"model", "messages"}
    assert set(kept) | set(dropped) == given
    assert not set(kept) & set(dropped)
    assert set(kept) <= known
    assert all(kept[name] == body[name] for name in kept)


def test_what_says_nothing_is_left_out_in_silence() -> None:
    body = {"n": 1, "logprobs": False, "tools": [], "response_format": {"type": "text"}, "seed": 0}
    assert sift(body, CHAT, frozenset()) == ({}, ["response_format", "seed", "tools"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("tools", [{}]), ("functions", [{}]), ("response_format", {"type": "json_object"})],
)
def test_what_changes_the_kind_of_answer_is_refused(name: str, value: Any) -> None:
    with pytest.raises(Failure) as caught:
        sift({name: value}, CHAT, frozenset())
    assert caught.value.error["code"] == "unsupported_parameter"
    assert caught.value.error["param"] == name


@settings(deadline=None)
@given(JSON)
def test_a_body_is_an_object_or_refused(value: Any) -> None:
    raw = json.dumps(value).encode()
    if isinstance(value, dict):
        assert read_body(raw) == value
    else:
        with pytest.raises(Failure, match="must be a JSON object"):
            read_body(raw)


@pytest.mark.parametrize("raw", [b"{", b'{"a": NaN}', b'{"a": -Infinity}', b"\xff", b"[" * 9999])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Failure, match="not JSON"):
        read_body(raw)


@pytest.mark.parametrize("prompt", ["hi", ["hi"]])
def test_one_prompt_is_a_conversation(prompt: Any) -> None:
    assert messages_of(prompt) == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1, 2]], [], 7])
def test_several_prompts_or_tokens_are_refused(prompt: Any) -> None:
    with pytest.raises(Failure, match="one 'prompt'"):
        messages_of(prompt)


@pytest.mark.parametrize(
    ("text", "words", "kind"),
    [
        (
            'litellm.RateLimitError: AnthropicException - {"type":"error","error":'
            '{"type":"rate_limit_error","message":"slow {down}"}}',
            "slow {down}",
            "rate_limit_error",
        ),
        ("litellm.InternalServerError: AnthropicError - Overloaded", "Overloaded", None),
        ('litellm.BadRequestError: XException - {"error": "no"}', "no", None),
        ('litellm.APIError: {"message": "no"} Trailing', "no", None),
        ("litellm.Timeout: Connection timed out", "Connection timed out", None),
        ("a {broken", "a {broken", None),
        ('{"error": null}', '{"error": null}', None),
        ("boom\nTraceback (most recent call last):\n secrets", "boom", None),
    ],
)
def test_the_provider_s_words_are_found(text: str, words: str, kind: str | None) -> None:
    assert provider_words(text) == (words, kind)


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab\r\n\u2028\u0085", max_size=8)))
def test_lines_do_not_depend_on_how_they_were_cut(pieces: list[str]) -> None:
    text = "".join(pieces)
    lines = Lines()
    read = [line for piece in pieces for line in lines.decode(piece)] + lines.flush()
    whole_text = text.replace("\r\n", "\n").replace("\r", "\n")
    expected = whole_text.split("\n")
    assert read == (expected if expected[-1] else expected[:-1])


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_an_embedding_survives_either_encoding(vector: list[float]) -> None:
    packed = encode_embeddings({"data": [{"embedding": list(vector)}]}, "base64")
    text = packed["data"][0]["embedding"]
    assert base64.b64decode(text) == struct.pack(f"<{len(vector)}f", *vector)
    assert encode_embeddings(packed, "float")["data"][0]["embedding"] == vector


def chunk(**fields: Any) -> dict[str, Any]:
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", **fields}


def delta(**fields: Any) -> dict[str, Any]:
    return {"index": 0, "finish_reason": None, "delta": fields}


def test_a_finish_in_the_chunk_of_the_usage_is_not_lost() -> None:
    chunks = Chunks(CHAT, usage_asked=True)
    last = delta() | {"finish_reason": "stop"}
    event = chunks.event(chunk(choices=[last], usage={"total_tokens": 3}))
    assert event is not None
    assert event["choices"][0]["finish_reason"] == "stop"
    assert event["usage"] is None
    usage = chunks.usage_event()
    assert usage is not None
    assert (usage["choices"], usage["usage"]) == ([], {"total_tokens": 3})


def test_a_chunk_of_usage_alone_waits_for_the_end() -> None:
    chunks = Chunks(CHAT, usage_asked=False)
    assert chunks.event(chunk(choices=[delta(content="")], usage={"total_tokens": 3})) is None
    assert chunks.usage_event() is None


def test_a_tool_call_without_an_index_gets_one() -> None:
    call = {"id": "a", "type": None, "function": {"name": "f", "arguments": None}}
    event = Chunks(CHAT, usage_asked=False).event(chunk(choices=[delta(tool_calls=[call])]))
    assert event is not None
    assert event["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}
    ]


def test_a_null_content_stays_and_other_nulls_go() -> None:
    message = {"role": "assistant", "content": None, "audio": None, "tool_calls": [{"id": "a"}]}
    answer = {"object": "chat.completion", "system_fingerprint": None}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    assert whole(answer | {"choices": [choice]}, CHAT) == {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]},
            }
        ],
    }


def test_a_completion_is_a_conversation_s_text() -> None:
    choice = {"index": 0, "finish_reason": "length", "message": {"content": "hi"}}
    answer = whole({"object": "chat.completion", "choices": [choice]}, COMPLETIONS)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "hi"


def test_a_spec_keeps_its_secrets_to_itself() -> None:
    line = {
        "socket": "/s",
        "backends": [
            {
                "backend": "a",
                "provider": "bedrock",
                "models": {"m": "id"},
                "api_key": "key-of-eight",
                "arguments": {"aws_secret_access_key": "secret-of-aws", "n": 1},
                "parameters": ["top_k"],
            }
        ],
    }
    socket, (spec,) = read_config(json.dumps(line).encode())
    assert socket == "/s"
    assert isinstance(spec, Spec)
    assert spec.parameters == {"top_k"}
    assert spec.secrets() == {"key-of-eight", "secret-of-aws"}
    assert "secret-of-aws" not in repr(spec)
    assert "key-of-eight" not in repr(spec)
