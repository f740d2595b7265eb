"""OpenAI's API on the socket, answered by real litellm from providers that speak their own."""

import asyncio
import base64
import json
import struct
from typing import Any

import httpx
import pytest

from gateway.backends.base import Call, HttpBackend
from gateway.backends.litellm_process import LitellmProcess
from gateway.transport.lean import LeanTransport
from gateway.types.backends import Backend
from tests.litellm import wire
from tests.litellm.conftest import KEYS
from tests.litellm.provider import Plan, Provider

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/chat/completions"
HELLO = {"model": "claude/small", "messages": [{"role": "user", "content": "hi"}]}
STREAM = HELLO | {"stream": True}
METERED = STREAM | {"stream_options": {"include_usage": True}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def events(text: str) -> list[Any]:
    """The events of a stream, decoded; `[DONE]` stays a text."""
    assert text.endswith("\n\n")
    lines = [block.removeprefix("data: ") for block in text[:-2].split("\n\n")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def said(chunks: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        if isinstance(chunk, dict)
        for choice in chunk.get("choices", ())
    )


# ---------------------------------------------------------------- plain answers


async def test_a_chat_is_translated_both_ways(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    upstream.plays(wire.message([wire.text("hello")]))
    system = {"role": "system", "content": "Be brief."}
    messages = [system, *HELLO["messages"]]
    answer = await client.post(CHAT, json=HELLO | {"messages": messages, "max_tokens": 9})
    assert answer.status_code == 200
    assert "x-switchboard-dropped" not in answer.headers
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "hello"},
        }
    ]
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (14, 7)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2
    (seen,) = upstream.seen
    assert seen.path == "/v1/messages"
    assert seen.body["model"] == "claude-haiku-4-5"
    assert seen.body["system"] == [{"type": "text", "text": "Be brief."}]
    assert seen.body["max_tokens"] == 9
    assert seen.headers["x-team"] == "legal"


async def test_a_tool_call_is_translated(client: httpx.AsyncClient, upstream: Provider) -> None:
    upstream.plays(wire.message([wire.tool_use("get_weather", {"city": "Bern"})], "tool_use"))
    answer = await client.post(CHAT, json=HELLO | {"tools": [WEATHER]})
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == (
        "toolu_1",
        "function",
        "get_weather",
    )
    assert json.loads(call["function"]["arguments"]) == {"city": "Bern"}
    (tool,) = upstream.seen[0].body["tools"]
    assert tool["name"] == "get_weather"
    assert tool["input_schema"]["properties"] == {"city": {"type": "string"}}


async def test_a_legacy_completion_is_asked_as_a_conversation(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    upstream.plays(wire.message([wire.text("hello")]))
    body = {"model": "claude/small", "prompt": "hi", "max_tokens": 5}
    answer = (await client.post("/completions", json=body)).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}
    ]
    assert upstream.seen[0].body["messages"][0]["content"] == [{"type": "text", "text": "hi"}]


async def test_embeddings_come_as_they_were_asked_for(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    upstream.plays(wire.cohere_vectors([[0.5, -1.0], [2.0, 0.25]]))
    body = {"model": "cohere/small", "input": ["a", "b"]}
    plain = (await client.post("/embeddings", json=body)).json()
    packed = (await client.post("/embeddings", json=body | {"encoding_format": "base64"})).json()
    assert [item["embedding"] for item in plain["data"]] == [[0.5, -1.0], [2.0, 0.25]]
    decoded = [struct.unpack("<2f", base64.b64decode(e["embedding"])) for e in packed["data"]]
    assert decoded == [(0.5, -1.0), (2.0, 0.25)]
    assert plain["usage"]["prompt_tokens"] == 4
    assert upstream.seen[0].body["texts"] == ["a", "b"]


# ---------------------------------------------------------------- streams


async def test_a_stream_is_openai_s(client: httpx.AsyncClient, upstream: Provider) -> None:
    upstream.plays(Plan([wire.opening(), *wire.text_block(["hel", "lo"]), *wire.closing()]))
    answer = await client.post(CHAT, json=METERED)
    assert answer.headers["content-type"] == "text/event-stream"
    *chunks, usage, done = events(answer.text)
    assert said(chunks) == "hello"
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == 14
    assert usage["usage"]["completion_tokens"] == 7
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]


async def test_usage_is_told_only_if_asked_for(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    upstream.plays(Plan([wire.opening(), *wire.text_block(["hi"]), *wire.closing()]))
    *chunks, done = events((await client.post(CHAT, json=STREAM)).text)
    assert done == "[DONE]"
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_that_the_provider_never_told_is_not_made_up(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    upstream.plays(Plan([wire.groq("hi"), wire.groq("", "stop"), b"data: [DONE]\n\n"]))
    *chunks, done = events((await client.post(CHAT, json=METERED | {"model": "groq/small"})).text)
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_tool_calls_in_a_stream_name_themselves_once(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    blocks = [
        *wire.tool_block("get_weather", ['{"city":', '"Bern"}'], 0),
        *wire.tool_block("get_time", ["{", "}"], 1),
    ]
    upstream.plays(Plan([wire.opening(), *blocks, *wire.closing("tool_use")]))
    chunks = events((await client.post(CHAT, json=STREAM | {"tools": [WEATHER]})).text)[:-1]
    calls = [
        call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert [call["index"] for call in calls] == [0, 0, 0, 1, 1, 1]
    assert [c["function"]["name"] for c in calls if "name" in c["function"]] == [
        "get_weather",
        "get_time",
    ]
    assert [(c["id"], c["type"]) for c in calls if "id" in c or "type" in c] == [
        ("toolu_0", "function"),
        ("toolu_1", "function"),
    ]
    arguments = "".join(c["function"].get("arguments", "") for c in calls if c["index"] == 0)
    assert json.loads(arguments) == {"city": "Bern"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_each_chunk_is_passed_on_as_it_arrives(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    """The provider writes its next piece only once the client has read the word before it."""
    may_go_on = asyncio.Semaphore(3)
    pieces = [wire.opening(), *wire.text_block(["one ", "two ", "three "]), *wire.closing()]
    upstream.plays(Plan(pieces, gap=may_go_on.acquire))
    words = []
    async with asyncio.timeout(30), client.stream("POST", CHAT, json=STREAM) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and (word := said([json.loads(line[6:])])):
                words.append(word)
                may_go_on.release()
                if len(words) == 3:
                    for _ in pieces:
                        may_go_on.release()
    assert words == ["one ", "two ", "three "]


async def test_exotic_newlines_in_a_text_are_no_ends_of_lines(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    text = "a\u2028b\u0085c\u2029d"
    upstream.plays(Plan([wire.opening(), *wire.text_block([text]), *wire.closing()]))
    *chunks, done = events((await client.post(CHAT, json=STREAM)).text)
    assert (said(chunks), done) == (text, "[DONE]")


async def test_a_legacy_completion_streams(client: httpx.AsyncClient, upstream: Provider) -> None:
    upstream.plays(Plan([wire.opening(), *wire.text_block(["hel", "lo"]), *wire.closing()]))
    body = {"model": "claude/small", "prompt": "hi", "stream": True}
    *chunks, done = events((await client.post("/completions", json=body)).text)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "hello"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


# ---------------------------------------------------------------- streams that break


HALVES = {
    "claude": [wire.opening(), *wire.text_block(["half"])],
    "gemini": [wire.gemini("ha"), wire.gemini("lf")],
    "groq": [wire.groq("ha"), wire.groq("lf")],
}


@pytest.mark.parametrize("ending", ["end", "cut", "reset"])
@pytest.mark.parametrize("backend", sorted(HALVES))
async def test_a_stream_that_breaks_off_ends_with_an_error(
    client: httpx.AsyncClient, upstream: Provider, backend: str, ending: Any
) -> None:
    upstream.plays(Plan(HALVES[backend], ending=ending))
    answer = await client.post(CHAT, json=METERED | {"model": f"{backend}/small"})
    *chunks, last = events(answer.text)
    assert said(chunks) == "half"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["type"] == "upstream_error"


@pytest.mark.parametrize(
    "ends",
    [
        {"model": "gemini/small", "pieces": [wire.gemini("half"), wire.gemini("", "STOP")]},
        {"model": "groq/small", "pieces": [wire.groq("half"), wire.groq("", "stop")]},
        {"model": "claude/small", "pieces": [*HALVES["claude"], wire.closing()[0]]},
    ],
    ids=lambda ends: ends["model"],
)
async def test_a_stream_with_its_reason_is_whole_without_a_last_word(
    client: httpx.AsyncClient, upstream: Provider, ends: Any
) -> None:
    upstream.plays(Plan(ends["pieces"]))
    *chunks, done = events((await client.post(CHAT, json=STREAM | {"model": ends["model"]})).text)
    assert (said(chunks), done) == ("half", "[DONE]")
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_gemini_s_tool_call_does_not_end_a_stream_by_itself(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    upstream.plays(Plan([wire.gemini_call("get_weather", {"city": "Bern"})]))
    body = STREAM | {"model": "gemini/small", "tools": [WEATHER]}
    cut = events((await client.post(CHAT, json=body)).text)
    assert set(cut[-1]) == {"error"}
    upstream.plays(
        Plan([wire.gemini_call("get_weather", {"city": "Bern"}), wire.gemini("", "STOP")])
    )
    *chunks, done = events((await client.post(CHAT, json=body)).text)
    assert done == "[DONE]"
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_an_error_of_the_provider_in_mid_stream_is_one_event(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    error = wire.event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    upstream.plays(Plan([*HALVES["claude"], error]))
    *chunks, last = events((await client.post(CHAT, json=STREAM)).text)
    assert said(chunks) == "half"
    assert last["error"]["message"] == "Overloaded"


async def test_an_error_before_the_first_event_is_a_status(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    error = wire.event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    upstream.plays(Plan([error]))
    answer = await client.post(CHAT, json=STREAM)
    assert answer.status_code >= 500
    assert answer.json()["error"]["message"] == "Overloaded"
    upstream.plays(Plan([]))
    assert (await client.post(CHAT, json=STREAM)).status_code == 502


# ---------------------------------------------------------------- errors

REFUSALS = [
    (401, "authentication_error", "invalid x-api-key", 401, "authentication_error", None),
    (403, "permission_error", "not allowed", 403, "permission_error", None),
    (404, "not_found_error", "model: nope", 404, "not_found_error", "model_not_found"),
    (429, "rate_limit_error", "slow down", 429, "rate_limit_error", "rate_limit_exceeded"),
    (500, "api_error", "boom", 500, "upstream_error", None),
    (529, "overloaded_error", "Overloaded", 503, "overloaded_error", None),
    (
        400,
        "invalid_request_error",
        "prompt is too long: 210000 tokens > 200000 maximum",
        400,
        "invalid_request_error",
        "context_length_exceeded",
    ),
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: str(refusal[0]))
async def test_a_refusal_keeps_its_meaning(
    client: httpx.AsyncClient, upstream: Provider, refusal: Any, stream: bool
) -> None:
    theirs, kind, message, status, openai_type, code = refusal
    upstream.plays(wire.anthropic_error(theirs, kind, message, retry_after="17"))
    answer = await client.post(CHAT, json=HELLO | {"stream": stream})
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["retry-after"] == "17"
    assert answer.json() == {
        "error": {"message": message, "type": openai_type, "param": None, "code": code}
    }


@pytest.mark.parametrize("backend", ["azure", "claude", "gemini", "groq"])
async def test_retrying_is_left_to_the_gateway(
    client: httpx.AsyncClient, upstream: Provider, backend: str
) -> None:
    upstream.plays(wire.whole({"error": {"message": "boom"}}, 503))
    answer = await client.post(CHAT, json=HELLO | {"model": f"{backend}/small"})
    assert answer.status_code == 503
    assert len(upstream.seen) == 1


async def test_no_key_stands_in_an_error(client: httpx.AsyncClient, upstream: Provider) -> None:
    key = KEYS["groq"]
    upstream.plays(wire.whole({"error": {"message": f"Incorrect API key: {key}"}}, 401))
    answer = await client.post(CHAT, json=HELLO | {"model": "groq/small"})
    assert answer.status_code == 401
    assert key not in answer.text


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"NaN", b"{", b"\xff\xfe", b""])
async def test_what_is_no_object_is_refused(
    client: httpx.AsyncClient, upstream: Provider, body: bytes
) -> None:
    answer = await client.post(CHAT, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param", "status"),
    [
        ({"messages": None}, "messages", 400),
        ({"messages": "hi"}, "messages", 400),
        ({"stream": "yes"}, "stream", 400),
        ({"stream_options": {"include_usage": True}}, "stream_options", 400),
        ({"model": "claude/large"}, "model", 404),
        ({"model": "other/small"}, "model", 404),
        ({"model": 7}, "model", 404),
    ],
)
async def test_a_wrong_field_is_named(
    client: httpx.AsyncClient, upstream: Provider, change: Any, param: str, status: int
) -> None:
    upstream.plays(wire.message([wire.text("hello")]))
    answer = await client.post(CHAT, json=HELLO | change)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param
    assert upstream.seen == []


async def test_what_is_not_there_is_an_openai_error(client: httpx.AsyncClient) -> None:
    answer = await client.get("/models")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


# ---------------------------------------------------------------- parameters


async def test_what_the_provider_does_not_know_is_dropped_and_told(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    upstream.plays(wire.message([wire.text("hello")]))
    extra = {"seed": 3, "logit_bias": {"1": 2}, "made_up": 1, "temperature": 0.5, "top_p": None}
    answer = await client.post(CHAT, json=HELLO | extra | {"n": 1, "frequency_penalty": 0})
    assert answer.headers["x-switchboard-dropped"] == "logit_bias,made_up,seed"
    sent = upstream.seen[0].body
    assert sent["temperature"] == 0.5
    assert not {"seed", "logit_bias", "made_up", "n"} & set(sent)


async def test_a_stream_tells_what_was_dropped(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    upstream.plays(Plan([wire.opening(), *wire.text_block(["hi"]), *wire.closing()]))
    answer = await client.post(CHAT, json=STREAM | {"seed": 3})
    assert answer.headers["x-switchboard-dropped"] == "seed"


async def test_a_body_cannot_steer_litellm(client: httpx.AsyncClient, upstream: Provider) -> None:
    """Each of these is an argument of litellm's calls; the first two would send our key away."""
    upstream.plays(wire.message([wire.text("hello")]))
    steering = {
        "api_base": "http://127.0.0.1:9",
        "base_url": "http://127.0.0.1:9",
        "api_key": "another",
        "custom_llm_provider": "openai",
        "extra_headers": {"x-evil": "1"},
        "headers": {"x-evil": "1"},
        "mock_response": "mocked",
        "fallbacks": ["gpt-4o"],
        "num_retries": 5,
        "metadata": {"a": 1},
        "timeout": 0.001,
    }
    answer = await client.post(CHAT, json=HELLO | steering)
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert answer.headers["x-switchboard-dropped"].split(",") == sorted(steering)
    (seen,) = upstream.seen
    assert seen.headers["x-api-key"] == KEYS["claude"]
    assert "x-evil" not in {name.lower() for name in seen.headers}


async def test_tools_are_never_dropped(client: httpx.AsyncClient, upstream: Provider) -> None:
    """Perplexity takes none, and prose would surprise a client that waits for calls."""
    upstream.plays(Plan())
    answer = await client.post(CHAT, json=HELLO | {"model": "sonar/small", "tools": [WEATHER]})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_parameter"
    assert answer.json()["error"]["param"] == "tools"
    assert upstream.seen == []


async def test_a_value_that_the_model_refuses_is_dropped_and_told(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    """litellm lists `temperature` for this model, and refuses every value of it but 1."""
    upstream.plays(wire.whole(json.loads(wire.openai_answer("hello"))))
    answer = await client.post(CHAT, json=HELLO | {"model": "azure/small", "temperature": 0.3})
    assert answer.status_code == 200
    assert answer.headers["x-switchboard-dropped"] == "temperature"
    assert "temperature" not in upstream.seen[0].body


# ---------------------------------------------------------------- cancelling


async def gone(upstream: Provider) -> None:
    async with asyncio.timeout(30):
        await upstream.seen[0].gone.wait()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "before-the-first-token"])
async def test_a_client_that_leaves_before_an_answer_ends_the_provider_s_call(
    client: httpx.AsyncClient, upstream: Provider, stream: bool
) -> None:
    upstream.plays(Plan(ending="wait"))
    call = asyncio.create_task(client.post(CHAT, json=HELLO | {"stream": stream}))
    async with asyncio.timeout(30):
        await upstream.arrived.wait()
    call.cancel()
    await gone(upstream)


@pytest.mark.parametrize("backend", sorted(HALVES))
async def test_a_client_that_leaves_in_mid_stream_ends_the_provider_s_call(
    client: httpx.AsyncClient, upstream: Provider, backend: str
) -> None:
    upstream.plays(Plan(HALVES[backend], ending="wait"))
    body = STREAM | {"model": f"{backend}/small"}
    async with asyncio.timeout(30), client.stream("POST", CHAT, json=body) as answer:
        await anext(aiter(answer.aiter_bytes()))
    await gone(upstream)


async def test_a_client_that_leaves_without_reading_ends_the_provider_s_call(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    """The process waits for this client, not for the provider, who could go on for long."""
    _, piece, _ = wire.text_block(["word " * 4000])
    upstream.plays(Plan([wire.opening(), *[piece] * 5000], ending="wait"))
    async with asyncio.timeout(60), client.stream("POST", CHAT, json=STREAM) as answer:
        assert answer.status_code == 200
    await gone(upstream)


# ---------------------------------------------------------------- keys and prices


async def test_a_key_reaches_its_own_provider_alone(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    plans = {
        "claude": wire.message([wire.text("hello")]),
        "groq": wire.whole(json.loads(wire.openai_answer("hello"))),
    }
    for backend, plan in plans.items():
        upstream.plays(plan)
        answer = await client.post(CHAT, json=HELLO | {"model": f"{backend}/small"})
        assert answer.status_code == 200, answer.text
        (seen,) = upstream.seen
        written = json.dumps([seen.path, dict(seen.headers), seen.body])
        assert [name for name, key in KEYS.items() if key in written] == [backend]


async def test_it_is_healthy(client: httpx.AsyncClient) -> None:
    answer = await client.get("http://litellm/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_the_api_lies_at_the_root_as_well(
    client: httpx.AsyncClient, upstream: Provider
) -> None:
    upstream.plays(wire.message([wire.text("hello")]))
    assert (await client.post("http://litellm/chat/completions", json=HELLO)).status_code == 200


async def test_prices_come_from_litellm_s_map(process: LitellmProcess) -> None:
    prices = await process.prices()
    price, can = prices["claude/small"]
    assert 0 < price.cached_input < price.input < price.output < 1e-4
    assert can.context == 200_000
    assert can.tools
    assert can.vision
    assert prices["cohere/small"][1].endpoints == {"embeddings"}
    assert "unheard/small" not in prices


async def test_it_is_one_more_backend_of_the_gateway(
    process: LitellmProcess, upstream: Provider
) -> None:
    upstream.plays(wire.message([wire.text("hello")]))
    declared = Backend(name="claude", kind="litellm", replicas=(process.url,))
    transport = LeanTransport()
    try:
        call = Call(process.url, b"/chat/completions", json.dumps(HELLO).encode())
        reply = await HttpBackend(declared, transport).send(call)
        body = b""
        while piece := await reply.read():
            body += piece
    finally:
        await transport.close()
    assert reply.status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == "hello"
