import base64
import struct
from typing import Any

import pytest

from gateway.standin import Asked, Behaviour, Reply, StandIn, ToolCall, echo, say, table
from tests.standin.client import HELLO, events, get, post

STREAM = {**HELLO, "stream": True}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


async def test_a_chat_is_answered_in_openais_shape() -> None:
    async with StandIn() as standin:
        first, second = (await post(standin, HELLO)).json(), (await post(standin, HELLO)).json()
    assert first["object"] == "chat.completion"
    assert first["model"] == "m"
    assert first["id"].startswith("chatcmpl-")
    assert first["id"] != second["id"]
    assert first["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "one two three four",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    usage = first["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4


async def test_a_streamed_chat_says_the_same_token_by_token() -> None:
    async with StandIn() as standin:
        answer = await post(standin, STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert [d["content"] for d in deltas[1:-1]] == ["one", " two", " three", " four"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["stop"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_with_no_choices_and_only_if_asked_for() -> None:
    body = {**STREAM, "stream_options": {"include_usage": True}}
    async with StandIn() as standin:
        *chunks, usage, _ = events((await post(standin, body)).text)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_stream_options_without_a_stream_are_refused() -> None:
    body = {**HELLO, "stream_options": {"include_usage": True}}
    async with StandIn() as standin:
        answer = await post(standin, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "stream_options"


async def test_a_tool_call_streams_its_name_once_and_an_index_always() -> None:
    async with StandIn() as standin:
        *chunks, _ = events((await post(standin, {**STREAM, "tools": [TOOL]})).text)
    calls = [
        call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls") or []
    ]
    assert len(calls) > 2
    assert {call["index"] for call in calls} == {0}
    assert [call["function"].get("name") for call in calls if "name" in call["function"]] == [
        "get_weather"
    ]
    assert all("id" not in call and "type" not in call for call in calls[1:])
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert arguments == '{"city":"one two three four","days":1}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_tool_is_not_called_again_after_its_answer() -> None:
    body = {
        "model": "m",
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "tool", "tool_call_id": "x", "content": "sunny"},
        ],
    }
    async with StandIn() as standin:
        message = (await post(standin, body)).json()["choices"][0]["message"]
    assert message["content"] == "weather?"
    assert "tool_calls" not in message


async def test_an_answerer_may_call_several_tools() -> None:
    calls = (ToolCall("a", '{"x":1}'), ToolCall("b"))
    async with StandIn(Behaviour(answer=lambda _: Reply(tool_calls=calls))) as standin:
        message = (await post(standin, HELLO)).json()["choices"][0]["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["a", "b"]
    assert len({call["id"] for call in message["tool_calls"]}) == 2


@pytest.mark.parametrize(
    ("behaviour", "content"),
    [
        (Behaviour(answer=say("always this")), "always this"),
        (Behaviour(answer=table([("TWO", "matched"), (".", "not this")])), "matched"),
        (Behaviour(answer=table([("nowhere", "x")], echo)), "one two three four"),
        (Behaviour(answer=lambda asked: f"{asked.model}/{asked.text[:3]}"), "m/one"),
        (Behaviour(output_tokens=6), "one two three four one two"),
        (Behaviour(output_tokens=2), "one two"),
    ],
)
async def test_what_a_model_says_is_declared(behaviour: Behaviour, content: str) -> None:
    async with StandIn({"m": behaviour}) as standin:
        answer = (await post(standin, HELLO)).json()
    assert answer["choices"][0]["message"]["content"] == content


@pytest.mark.parametrize(
    ("more", "content", "finish"),
    [
        ({"max_tokens": 2}, "one two", "length"),
        ({"max_completion_tokens": 3}, "one two three", "length"),
        ({"stop": " three"}, "one two", "stop"),
        ({"stop": ["x", "two"]}, "one ", "stop"),
    ],
)
async def test_an_answer_is_held_to_the_requests_limits(
    more: dict[str, Any], content: str, finish: str
) -> None:
    async with StandIn() as standin:
        choice = (await post(standin, {**HELLO, **more})).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, finish)


async def test_json_schemas_are_followed() -> None:
    schema = TOOL["function"]["parameters"]  # type: ignore[index]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with StandIn() as standin:
        answer = await post(standin, {**HELLO, "response_format": form})
    content = answer.json()["choices"][0]["message"]["content"]
    assert content == '{"city":"one two three four","days":1}'


async def test_several_choices_are_numbered() -> None:
    async with StandIn() as standin:
        whole = (await post(standin, {**HELLO, "n": 2})).json()
        *chunks, _ = events((await post(standin, {**STREAM, "n": 2})).text)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}


async def test_completions_are_answered_whole_and_streamed() -> None:
    body = {"model": "m", "prompt": "one two three", "max_tokens": 2}
    async with StandIn() as standin:
        whole = (await post(standin, body, "completions")).json()
        *chunks, done = events((await post(standin, {**body, "stream": True}, "completions")).text)
    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["text"] == "one two"
    assert whole["choices"][0]["finish_reason"] == "length"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one two"
    assert done == "[DONE]"


async def test_embeddings_are_floats_or_little_endian_float32() -> None:
    body = {"model": "m", "input": ["a cat sat", "a cat sat"], "dimensions": 5}
    async with StandIn() as standin:
        floats = (await post(standin, body, "embeddings")).json()
        packed = (await post(standin, {**body, "encoding_format": "base64"}, "embeddings")).json()
    vector = floats["data"][0]["embedding"]
    assert len(vector) == 5
    assert vector == floats["data"][1]["embedding"]
    assert sum(value * value for value in vector) == pytest.approx(1.0)
    unpacked = struct.unpack("<5f", base64.b64decode(packed["data"][0]["embedding"]))
    assert unpacked == pytest.approx(vector)


async def test_texts_that_share_words_are_near_each_other() -> None:
    texts = ["refund my order please", "please refund the order", "weather in Oslo tomorrow"]
    async with StandIn() as standin:
        answer = (await post(standin, {"model": "m", "input": texts}, "embeddings")).json()
    a, b, c = (entry["embedding"] for entry in answer["data"])
    near = sum(x * y for x, y in zip(a, b, strict=True))
    far = sum(x * y for x, y in zip(a, c, strict=True))
    assert near > far + 0.3


async def test_a_response_is_remembered() -> None:
    heard: list[Asked] = []

    def answer(asked: Asked) -> str:
        heard.append(asked)
        return f"heard {asked.text}"

    async with StandIn(Behaviour(answer=answer)) as standin:
        first = (await post(standin, {"model": "m", "input": "first"}, "responses")).json()
        body = {"model": "m", "input": "second", "previous_response_id": first["id"]}
        second = (await post(standin, body, "responses")).json()
        found = (await get(standin, f"/v1/responses/{first['id']}")).json()
        unknown = await post(standin, {**body, "previous_response_id": "resp_no"}, "responses")
        missing = await get(standin, "/v1/responses/resp_no")
    assert first["output"][0]["content"][0]["text"] == "heard first"
    assert found["output"] == first["output"]
    assert second["previous_response_id"] == first["id"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    assert unknown.status_code == 400
    assert unknown.json()["error"]["code"] == "previous_response_not_found"
    assert missing.status_code == 404


async def test_a_streamed_response_names_and_numbers_its_events() -> None:
    async with StandIn() as standin:
        answer = await post(standin, {"model": "m", "input": "a b", "stream": True}, "responses")
    found = events(answer.text)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert answer.text.startswith("event: response.created\ndata: ")
    assert found[-1]["response"]["usage"]["output_tokens"] == 2


async def test_a_response_may_call_a_tool() -> None:
    tool = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
    body = {"model": "m", "input": "Oslo", "tools": [tool], "stream": True}
    async with StandIn() as standin:
        found = events((await post(standin, body, "responses")).text)
    deltas = [e["delta"] for e in found if e["type"].endswith("arguments.delta")]
    assert "".join(deltas) == '{"city":"Oslo","days":1}'
    assert found[-1]["response"]["output"][0]["type"] == "function_call"


async def test_models_are_listed_and_found_by_ids_with_slashes() -> None:
    models = {"gpt-5-mini": Behaviour(), "org/model:v1+x": Behaviour()}
    async with StandIn(models) as standin:
        listed = (await get(standin, "/v1/models")).json()
        plain = await get(standin, "/v1/models/org/model:v1+x")
        quoted = await get(standin, "/v1/models/org%2Fmodel%3Av1%2Bx")
        unknown = await get(standin, "/v1/models/other")
        chat = await post(standin, {**HELLO, "model": "other"})
    assert [model["id"] for model in listed["data"]] == list(models)
    assert listed["data"][0].keys() == {"id", "object", "created", "owned_by"}
    assert plain.json()["id"] == quoted.json()["id"] == "org/model:v1+x"
    assert (unknown.status_code, chat.status_code) == (404, 404)
    assert chat.json()["error"]["code"] == "model_not_found"


async def test_a_key_is_needed_if_one_is_configured() -> None:
    async with StandIn(keys=["sk-right"]) as standin:
        none = await post(standin, HELLO)
        wrong = await post(standin, HELLO, authorization="Bearer sk-wrong")
        right = await post(standin, HELLO, authorization="Bearer sk-right")
    assert [a.status_code for a in (none, wrong, right)] == [401, 401, 200]
    assert wrong.json()["error"]["code"] == "invalid_api_key"
    assert "sk-wrong" not in wrong.text


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "m"}, 400, "messages", "missing_required_parameter"),
        ({"messages": HELLO["messages"]}, 400, None, None),
        ({"model": "m", "messages": []}, 400, "messages", "invalid_type"),
        ({"model": "m", "messages": ["x"]}, 400, "messages[0].role", "missing_required_parameter"),
        ({**HELLO, "max_tokens": 5}, 400, "max_tokens", "unsupported_parameter"),
        ({**HELLO, "temperature": 0.2}, 400, "temperature", "unsupported_parameter"),
        ({**HELLO, "max_completion_tokens": 0}, 400, "max_completion_tokens", None),
        ([], 400, None, None),
        (None, 400, None, None),
    ],
)
async def test_wrong_requests_are_refused_in_openais_words(
    body: Any, status: int, param: str | None, code: str | None
) -> None:
    refuses = frozenset({"max_tokens", "temperature"})
    async with StandIn(Behaviour(refuses=refuses)) as standin:
        answer = await post(standin, body)
    assert answer.status_code == status
    said = answer.json()["error"]
    assert said.keys() == {"message", "type", "param", "code"}
    assert said["param"] == param
    assert code is None or said["code"] == code


async def test_a_prompt_over_the_context_is_refused() -> None:
    async with StandIn(Behaviour(context=5)) as standin:
        answer = await post(standin, HELLO)
    assert answer.json()["error"]["code"] == "context_length_exceeded"


async def test_other_paths_and_methods_have_openais_errors_too() -> None:
    async with StandIn() as standin:
        path = await get(standin, "/v1/nothing")
        method = await get(standin, "/v1/embeddings")
    assert (path.status_code, method.status_code) == (404, 405)
    assert "error" in path.json()
    assert "error" in method.json()


async def test_stored_chats_can_be_listed_changed_and_deleted() -> None:
    async with StandIn() as standin:
        id = (await post(standin, {**HELLO, "store": True})).json()["id"]
        listed = (await get(standin, "/v1/chat/completions")).json()
        changed = (await post(standin, {"metadata": {"a": "b"}}, f"chat/completions/{id}")).json()
        messages = (await get(standin, f"/v1/chat/completions/{id}/messages")).json()
        deleted = (await get(standin, f"/v1/chat/completions/{id}", "DELETE")).json()
        after = await get(standin, f"/v1/chat/completions/{id}")
    assert [chat["id"] for chat in listed["data"]] == [id]
    assert changed["metadata"] == {"a": "b"}
    assert messages["data"][0]["content"] == "one two three four"
    assert deleted["deleted"] is True
    assert after.status_code == 404
