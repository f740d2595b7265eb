"""The relay under anything a backend may send: cut anywhere, garbage, endless, absurd."""

import json
import tracemalloc
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.metering.usage import MAX_EVENT, MAX_TEXT, StreamWatch, usage_of
from gateway.standin.behaviour import Behaviour, say
from gateway.standin.standin import StandIn
from gateway.types.requests import Endpoint
from tests.metering.test_usage import chunk, relay, stream, told

TEXT = 'Zwölf 🦊 foxes:\n\n"data: [DONE]", {"usage": {"prompt_tokens": 1}}, \u2028 end.'
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
MESSAGES = [{"role": "user", "content": "hello"}]
ASKED: dict[Endpoint, list[dict[str, Any]]] = {
    Endpoint.CHAT: [{"messages": MESSAGES}, {"messages": MESSAGES, "tools": [TOOL]}],
    Endpoint.COMPLETIONS: [{"prompt": "hello"}],
    Endpoint.RESPONSES: [{"input": "hello"}],
}


async def streamed(endpoint: Endpoint) -> list[bytes]:
    """What a provider streams at the endpoint, byte for byte."""
    async with StandIn(Behaviour(answer=say(TEXT))) as provider, httpx.AsyncClient() as client:
        bodies = []
        for asked in ASKED[endpoint]:
            more = {} if endpoint is Endpoint.RESPONSES else {"stream_options": USAGE_TOO}
            body = {"model": "m", "stream": True, **asked, **more}
            answer = await client.post(f"{provider.url}/{endpoint.value}", json=body)
            assert answer.status_code == 200, answer.text
            bodies.append(answer.content)
    return bodies


USAGE_TOO = {"include_usage": True}


@pytest.mark.parametrize("endpoint", list(ASKED))
@pytest.mark.parametrize("newlines", [b"\n", b"\r\n"])
async def test_a_real_stream_cut_at_any_byte_is_relayed_and_billed_the_same(
    endpoint: Endpoint, newlines: bytes
) -> None:
    for sent in await streamed(endpoint):
        body = sent.replace(b"\n", newlines)
        at_once = StreamWatch(True, endpoint, keep_text=True)
        whole = relay(at_once, body)
        assert at_once.usage is not None
        assert not at_once.truncated
        ways = [[body[:cut], body[cut:]] for cut in range(len(body) + 1)]
        ways.append([body[at : at + 1] for at in range(len(body))])
        for pieces in ways:
            watch = StreamWatch(True, endpoint, keep_text=True)
            assert relay(watch, *pieces) == whole
            assert told(watch) == told(at_once)


@pytest.mark.parametrize("endpoint", list(ASKED))
async def test_a_real_stream_that_breaks_off_anywhere_ends_with_a_whole_event(
    endpoint: Endpoint,
) -> None:
    for body in await streamed(endpoint):
        for end in range(len(body)):
            watch = StreamWatch(False, endpoint)
            out = watch.feed(body[:end])
            assert body.startswith(out)
            assert not out or out.endswith(b"\n\n")
            rest = watch.close()
            assert not rest or rest.endswith(b"\n\n")


near = st.sampled_from(
    [
        b"data:",
        b"data: ",
        b"event: error\n",
        b"\n\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"[DONE]",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"usage":',
        b'"usage":{"prompt_tokens":',
        b'"choices":[',
        b'"id":',
        b'"finish_reason":"stop"',
        b'"error"',
        b"null",
        b"-1",
        b"1e999",
        b"\xff",
        b"\x00",
        b"\xef\xbb\xbf",
        b'"\\ud800"',
        b'{"choices":[{"index":-7,"delta":null,"finish_reason":{}}]}',
        b'{"choices":[{"delta":{"content":[]}}],"usage":{"prompt_tokens":99999999999999999999}}',
        b'{"choices":{}}',
        b'{"response":[]}',
    ]
)
garbage = st.lists(st.one_of(near, st.binary(max_size=20)), max_size=40)


@settings(deadline=None, max_examples=200)
@given(garbage, st.sampled_from(Endpoint), st.booleans(), st.booleans())
@example([b"data: " + b"[" * 5000 + b"]" * 5000 + b"\n\n"], Endpoint.CHAT, True, True)
@example([b'data: {"choices":' + b'{"a":' * 5000 + b"\n\n"], Endpoint.RESPONSES, True, False)
def test_garbage_neither_crashes_nor_grows(
    pieces: list[bytes], endpoint: Endpoint, hide: bool, keep: bool
) -> None:
    watch = StreamWatch(hide, endpoint, keep_text=keep)
    out = relay(watch, *pieces)

    assert len(out) <= sum(map(len, pieces)) + 2
    if watch.usage is not None:
        assert 0 <= watch.usage.cached_input <= watch.usage.input <= 10**9
        assert 0 <= watch.usage.output <= 10**9
    assert usage_of(b"".join(pieces), endpoint) is None or pieces


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"usage":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"usage":{"prompt_tokens":' + b'{"a":' * 100_000,
        b'{"id":"\\ud800","usage":null}',
        b'{"id":"\xff","usage":null}',
    ],
)
def test_a_plain_answer_that_nobody_can_read_says_nothing(endpoint: Endpoint, body: bytes) -> None:
    seen = usage_of(body, endpoint)
    assert seen is None or seen.usage is None


@pytest.mark.parametrize(
    "tokens", ["-5", "99999999999999999999", "1e999", "true", '"' + "9" * 5000]
)
def test_absurd_usage_is_none_rather_than_billed(tokens: str) -> None:
    seen = usage_of(
        f'{{"id": "1", "usage": {{"prompt_tokens": {tokens}}}}}'.encode(), Endpoint.CHAT
    )
    assert seen is None or seen.usage is None


def test_more_cached_than_read_is_all_cached() -> None:
    said = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 500}}
    seen = usage_of(json.dumps({"usage": said}).encode(), Endpoint.CHAT)
    assert seen is not None
    assert seen.usage is not None
    assert seen.usage.cached_input == 5


@pytest.mark.parametrize(
    "piece",
    [
        stream(chunk("x" * 1000)),
        b"".join(stream(chunk(finish="stop", index=n)) for n in range(20)),
        b": " + b"p" * 1000 + b"\n\n",
        b"data: [" + b"1," * 500 + b"1]\n\n",
        b"\n\n" * 30,
    ],
)
def test_an_endless_stream_takes_no_more_memory_the_longer_it_is(piece: bytes) -> None:
    watch = StreamWatch(True, Endpoint.CHAT, keep_text=True)
    watch.feed(piece)
    for _ in range(1500):  # past what is kept of the text
        watch.feed(piece)
    tracemalloc.start()
    try:
        for _ in range(1500):
            watch.feed(piece)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 50_000
    assert len(watch.text) <= MAX_TEXT + 1000


def test_an_endless_event_is_held_no_further_than_its_bound() -> None:
    watch = StreamWatch(True, Endpoint.CHAT)
    piece = b"x" * 1_000_000
    tracemalloc.start()
    try:
        watch.feed(b"data: ")
        for _ in range(4 * MAX_EVENT // len(piece)):
            watch.feed(piece)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3.5 * MAX_EVENT
