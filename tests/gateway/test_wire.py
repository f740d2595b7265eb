"""What an OpenAI-compatible gateway must get right on the wire, over real sockets."""

import asyncio
import base64
import gzip
import json
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.standin.behaviour import Behaviour, Fault, FaultKind
from gateway.standin.standin import StandIn
from gateway.types.snapshot import Server
from tests.gateway.conftest import KEY
from tests.gateway.support import Served, events_of, route, serving, snapshot, target, text_of


@asynccontextmanager
async def speaking(*pieces: bytes, whole: bool = True) -> AsyncIterator[str]:
    """A provider that answers every request with these bytes of an event stream."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n" if whole else b"")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"http://127.0.0.1:{port}/v1"


def chunk(content: str | None = None, finish: str | None = None) -> bytes:
    delta = {"content": content} if content is not None else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


# ------------------------------------------------------------------ streams


@pytest.mark.parametrize("kind", [FaultKind.CUT, FaultKind.CUT_IN_EVENT, FaultKind.END])
async def test_1_3_9_a_cut_stream_ends_in_one_error_event(
    served: Served, provider: StandIn, kind: FaultKind
) -> None:
    provider.next(Fault(kind=kind, after=3))
    answer = await served.chat(stream=True)
    events = events_of(answer.content)
    assert text_of(events).split() == ["one", "two", "three"]
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert events[-1]["error"]["code"] == "stream_truncated"
    assert sum("error" in event for event in events) == 1
    assert "[DONE]" not in events
    assert answer.content.endswith(b"\n\n")
    row = await served.decision(answer)
    assert (row["outcome"], row["estimated"]) == ("truncated", True)


@pytest.mark.parametrize("answered", [1, 2])
async def test_1_a_stream_is_whole_when_every_prompt_is_answered(
    answered: int, tmp_path: Path
) -> None:
    said = [
        {"index": index, "text": text, "finish_reason": finish}
        for index in range(answered)
        for text, finish in (("yes", None), ("", "stop"))
    ]
    pieces = [b"data: %b\n\n" % json.dumps({"id": "cmpl-1", "choices": [c]}).encode() for c in said]
    body = {"model": "auto", "prompt": ["a", "b"], "stream": True}
    async with speaking(*pieces, whole=False) as url:
        async with serving(snapshot([target("p/m", url)]), tmp_path) as served:
            answer = await served.client.post("/v1/completions", json=body)
            row = await served.decision(answer)
    whole = answered == 2
    assert (b"stream_truncated" in answer.content) == (not whole)
    assert row["outcome"] == ("ok" if whole else "truncated")


async def test_2_a_missing_done_is_not_truncation(served: Served, provider: StandIn) -> None:
    provider.next(Fault(kind=FaultKind.NO_DONE))
    answer = await served.chat(stream=True)
    events = events_of(answer.content)
    assert text_of(events) == "one two three four five"
    assert not any("error" in event for event in events)
    assert (await served.decision(answer))["outcome"] == "ok"


async def test_4_nothing_follows_done(tmp_path: Path) -> None:
    async with speaking(chunk("a"), chunk(finish="stop"), DONE + chunk("late"), DONE) as url:
        async with serving(snapshot([target("p/m", url)]), tmp_path) as served:
            answer = await served.chat(stream=True)
    assert answer.content.endswith(DONE)
    assert answer.content.count(DONE) == 1
    assert b"late" not in answer.content


async def test_5_usage_is_sent_only_to_those_who_asked(served: Served) -> None:
    silent = await served.events()
    assert not any(event.get("usage") for event in silent if isinstance(event, dict))
    assert all(event["choices"] for event in silent if isinstance(event, dict))
    asked = await served.events(stream_options={"include_usage": True})
    assert asked[-1] == "[DONE]"
    assert asked[-2]["choices"] == []
    assert asked[-2]["usage"]["completion_tokens"] == 5
    assert all(event["usage"] is None for event in asked[:-2])


async def test_5_usage_is_exact_though_the_client_did_not_ask(served: Served) -> None:
    answer = await served.chat(stream=True)
    row = await served.decision(answer)
    assert (row["output_tokens"], row["estimated"]) == (5, False)
    assert row["cost_usd"] == pytest.approx(row["input_tokens"] * 1e-6 + 5 * 4e-6)


async def test_6_stream_options_without_stream_are_refused(served: Served) -> None:
    answer = await served.chat(stream_options={"include_usage": True})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "stream_options"


async def test_7_tool_calls_are_relayed_as_they_come(served: Served, provider: StandIn) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    events = await served.events(tools=[tool])
    calls = [
        call
        for event in events
        if isinstance(event, dict)
        for choice in event["choices"]
        for call in choice["delta"].get("tool_calls") or []
    ]
    assert all(isinstance(call["index"], int) for call in calls)
    assert [call["function"]["name"] for call in calls if "name" in call["function"]] == [
        "get_weather"
    ]


async def test_8_10_11_comments_exotic_newlines_and_a_bom(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\x0bd"
    pieces = [b"\xef\xbb\xbf" + chunk(text), b": ping\n\n", chunk(finish="stop"), DONE]
    async with speaking(*pieces) as url:
        async with serving(snapshot([target("p/m", url)]), tmp_path) as served:
            answer = await served.chat(stream=True)
    assert answer.content == b"".join(pieces).removeprefix(b"\xef\xbb\xbf")


async def test_12_a_streams_headers(served: Served) -> None:
    answer = await served.chat(stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("kind", [FaultKind.ERROR_EVENT, FaultKind.CUT, FaultKind.END])
async def test_13_an_error_before_the_first_event_is_a_status(
    served: Served, provider: StandIn, kind: FaultKind
) -> None:
    fault = Fault(kind=kind, after=0)
    provider.next(fault, fault)
    answer = await served.chat(stream=True)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_failed"


async def test_each_piece_is_passed_on_as_it_arrives(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for piece in (chunk("one"), chunk("two"), chunk(finish="stop") + DONE):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await release.wait()
            release.clear()
        writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    seen = []
    async with server, serving(snapshot([target("p/m", url)]), tmp_path) as served:
        async with served.client.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for piece in reply.aiter_bytes():
                seen.append(piece)
                release.set()
    # The provider went on only after each piece had come through.
    assert b"".join(seen) == chunk("one") + chunk("two") + chunk(finish="stop") + DONE
    assert len(seen) == 3


# ------------------------------------------------------------------ bodies


async def test_14_18_nulls_and_unknown_fields_are_kept(served: Served, provider: StandIn) -> None:
    await served.chat(user=None, x_new={"a": None}, structured_outputs={"choice": ["a"]})
    sent = json.loads((await provider.arrived()).body)
    assert sent["user"] is None
    assert sent["x_new"] == {"a": None}
    assert sent["structured_outputs"] == {"choice": ["a"]}


async def test_14_the_answers_bytes_are_the_backends(tmp_path: Path) -> None:
    body = b'{"id":"chatcmpl-1", "x":null,\n "choices":[ ],"usage":{"prompt_tokens":1}}'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, serving(snapshot([target("p/m", url)]), tmp_path) as served:
        assert (await served.chat()).content == body


async def test_15_embeddings_are_base64_floats_if_asked(served: Served) -> None:
    body = {"model": "auto", "input": "hello", "dimensions": 4}
    floats = (await served.client.post("/v1/embeddings", json=body)).json()
    coded = await served.client.post("/v1/embeddings", json={**body, "encoding_format": "base64"})
    vector = floats["data"][0]["embedding"]
    raw = base64.b64decode(coded.json()["data"][0]["embedding"])
    assert list(struct.unpack("<4f", raw)) == pytest.approx(vector)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/embeddings", None, 405),
        ("DELETE", "/health", None, 405),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b"null", 400),
        ("POST", "/v1/chat/completions", b'"x"', 400),
        ("POST", "/v1/chat/completions", b"NaN", 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400),
        ("POST", "/v1/completions", b"[]", 400),
        ("POST", "/v1/embeddings", b"null", 400),
        ("POST", "/v1/responses", b"NaN", 400),
        ("POST", "/v1/route", b"[]", 400),
        ("POST", "/v1/chat/completions", b'{"model":"no-such","messages":[]}', 404),
        ("GET", "/v1/models/no-such", None, 404),
        ("GET", "/v1/decisions/no-such", None, 404),
    ],
)
async def test_16_17_every_error_has_openais_shape(
    served: Served, method: str, path: str, body: bytes | None, status: int
) -> None:
    answer = await served.client.request(method, path, content=body)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("status", "ours"), [(400, 400), (401, 502), (404, 502), (429, 429), (500, 502), (503, 503)]
)
async def test_16_21_a_backends_errors(
    served: Served, provider: StandIn, status: int, ours: int
) -> None:
    provider.next(Fault(kind=FaultKind.STATUS, status=status, retry_after=7))
    answer = await served.chat()
    assert answer.status_code == ours
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    if ours in (429, 503):
        assert answer.headers["retry-after"] == "7"


async def test_16_an_unknown_model_gets_a_suggestion(served: Served) -> None:
    answer = await served.chat(model="openai/mni")
    assert answer.status_code == 404
    assert "did you mean 'openai/mini'" in answer.json()["error"]["message"]


async def test_16_too_large_is_413(provider: StandIn, tmp_path: Path) -> None:
    small = snapshot(
        [target("openai/mini", provider.url)], keys={"openai": KEY}, server=Server(max_body=500)
    )
    async with serving(small, tmp_path) as served:
        answer = await served.chat("x" * 1000)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


async def test_19_models_are_listed_and_found(provider: StandIn, tmp_path: Path) -> None:
    targets = [target("openai/mini", provider.url), target("local/qwen+legal", provider.url)]
    configuration = snapshot(targets, [route("general", "openai/mini")], aliases={"gpt-4o": "auto"})
    async with serving(configuration, tmp_path) as served:
        listed = (await served.client.get("/v1/models")).json()
        names = ["auto", "gpt-4o", "general", "openai/mini", "local/qwen+legal"]
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == names
        for model in listed["data"]:
            assert set(model) == {"id", "object", "created", "owned_by"}
            found = await served.client.get(f"/v1/models/{model['id']}")
            assert found.json() == model
        assert (await served.client.get("/v1//models")).json() == listed


# ------------------------------------------------------------------ headers


@pytest.mark.parametrize("stream", [False, True])
async def test_20_a_compressed_answer_is_not_labelled_so_when_it_is_not(
    served: Served, provider: StandIn, stream: bool
) -> None:
    provider.next(Fault(kind=FaultKind.GZIP), Fault(kind=FaultKind.GZIP))
    answer = await served.chat(stream=stream)
    assert "content-encoding" not in answer.headers
    if stream:
        # A stream is not inflated: the attempt failed before anything was sent.
        assert answer.status_code == 502
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "one two three four five"
        assert answer.content == gzip.decompress(gzip.compress(answer.content))


@pytest.mark.parametrize("stream", [False, True])
async def test_22_nothing_leaks_in_either_direction(
    served: Served, provider: StandIn, stream: bool
) -> None:
    provider.next(Fault(kind=FaultKind.LEAK))
    body = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": "x"}]}
    headers = {"authorization": "Bearer sk-of-the-client", "cookie": "session=1", "x-api-key": "k"}
    answer = await served.client.post("/v1/chat/completions", json=body, headers=headers)
    seen = await provider.arrived()
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert not {"cookie", "x-api-key"} & set(seen.headers)
    assert "sk-of-the-client" not in str(seen.headers)
    assert answer.status_code == 200
    assert not {"set-cookie", "server", "x-api-key", "authorization"} & set(answer.headers)
    assert "do-not-pass-on" not in str(answer.headers)


async def test_22_every_answer_says_how_it_came_about(served: Served) -> None:
    answer = await served.chat()
    headers = answer.headers
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-switchboard-route"] == "general"
    assert headers["x-switchboard-target"] == "openai/mini"
    assert float(headers["x-switchboard-overhead-ms"]) > 0
    usage = answer.json()["usage"]
    expected = usage["prompt_tokens"] * 1e-6 + usage["completion_tokens"] * 4e-6
    assert float(headers["x-switchboard-cost-usd"]) == pytest.approx(expected, abs=1e-8)
    by_completion = await served.client.get(f"/v1/decisions/{answer.json()['id']}")
    assert by_completion.json()["decision_id"] == headers["x-switchboard-decision"]


# ------------------------------------------------------------------ connections


@pytest.mark.parametrize(
    ("stream", "kind", "after"),
    [
        (True, FaultKind.HANG, 2),
        (True, FaultKind.HANG_BEFORE_HEAD, 0),
        (False, FaultKind.HANG_BEFORE_HEAD, 0),
    ],
)
async def test_23_a_client_that_goes_away_stops_the_backend(
    served: Served, provider: StandIn, stream: bool, kind: FaultKind, after: int
) -> None:
    provider.next(Fault(kind=kind, after=after))
    body = json.dumps(
        {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    seen = await asyncio.wait_for(provider.arrived(), 5)
    if kind is FaultKind.HANG:
        await asyncio.wait_for(reader.readuntil(b"two"), 5)
    gone = time.perf_counter()
    writer.transport.abort()
    await asyncio.wait_for(seen.aborted.wait(), 5)
    # A few milliseconds on a quiet machine; 100 is what is promised.
    assert time.perf_counter() - gone < 1.0
    rows = (await served.client.get(f"/v1/decisions/{await latest(served)}")).json()
    assert rows["outcome"] == "abandoned"


async def latest(served: Served) -> str:
    """The id of the request that was kept last; its row may still be on its way."""
    async with asyncio.timeout(5):
        while True:
            served.gateway.writer.flush()
            rows = served.gateway.reader.recent(limit=1)
            if rows:
                return str(rows[0]["id"])
            await asyncio.sleep(0)


async def test_the_next_candidate_is_asked_before_the_first_byte(
    provider: StandIn, tmp_path: Path
) -> None:
    async with StandIn(Behaviour(answer=lambda _: "from the other")) as other:
        configuration = snapshot(
            [target("openai/mini", provider.url), target("other/big", other.url)],
            keys={"openai": KEY},
        )
        async with serving(configuration, tmp_path) as served:
            provider.next(Fault(kind=FaultKind.STATUS, status=500))
            answer = await served.chat()
            assert answer.headers["x-switchboard-target"] == "other/big"
            row = await served.decision(answer)
            provider.next(Fault(kind=FaultKind.CUT, after=0))
            streamed = await served.events()
    assert answer.json()["choices"][0]["message"]["content"] == "from the other"
    assert [attempt["reason"] for attempt in row["attempts"]] == ["first", "fallback"]
    assert text_of(streamed) == "from the other"


async def test_all_failures_are_told(provider: StandIn, tmp_path: Path) -> None:
    async with StandIn() as other:
        other.fault = Fault(kind=FaultKind.STATUS, status=503, message="out of breath")
        provider.fault = Fault(kind=FaultKind.CUT_BEFORE_HEAD)
        targets = [target("openai/mini", provider.url), target("other/big", other.url)]
        async with serving(snapshot(targets), tmp_path) as served:
            answer = await served.chat()
    assert answer.status_code == 502
    message = answer.json()["error"]["message"]
    assert "openai/mini" in message
    assert "out of breath" in message


async def test_internal_data_never_leaves(provider: StandIn, tmp_path: Path) -> None:
    """The only self-hosted target is down; the external one is up, and must not be asked."""
    inside = target("local/qwen", "http://127.0.0.1:9", internal=True)
    outside = target("openai/mini", provider.url)
    private = route("private", "local/qwen", "openai/mini", internal=True)
    async with serving(snapshot([inside, outside], [private]), tmp_path) as served:
        answers = [
            await served.chat(),
            await served.chat(model="openai/mini"),
            await served.chat(model="private", stream=True),
        ]
    assert [answer.status_code >= 400 for answer in answers] == [True, True, True]
    assert not provider.seen
