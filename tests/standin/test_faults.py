import asyncio
import gzip

import httpx
import msgspec
import pytest

from gateway.standin import LEAKY_HEADERS, Behaviour, Fault, FaultKind, StandIn
from tests.standin.client import HELLO, events, get, open_raw, post, raw

STREAM = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
K = FaultKind


def failing(kind: FaultKind, **more: object) -> Behaviour:
    return Behaviour(fault=msgspec.convert({"kind": kind, **more}, Fault))


async def test_a_status_comes_with_its_retry_after() -> None:
    async with StandIn(failing(K.STATUS, status=429, retry_after=7)) as standin:
        answer = await post(standin, STREAM)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_script_strikes_the_coming_inference_requests_in_order() -> None:
    async with StandIn() as standin:
        standin.next(Fault(kind=K.STATUS, status=500), None, Fault(kind=K.STATUS, status=503))
        models = await get(standin, "/v1/models")
        answers = [await post(standin, HELLO) for _ in range(4)]
    assert models.status_code == 200
    assert [answer.status_code for answer in answers] == [500, 200, 503, 200]


async def test_a_script_may_name_another_path_and_a_fault_may_strike_everything() -> None:
    async with StandIn() as standin:
        standin.next(Fault(kind=K.STATUS, status=500), path="/v1/models")
        chat = await post(standin, HELLO)
        first, second = await get(standin, "/v1/models"), await get(standin, "/v1/models")
        standin.fault = Fault(kind=K.STATUS, status=503)
        third = await get(standin, "/v1/models")
        standin.fault = None
        fourth = await get(standin, "/v1/models")
    statuses = [answer.status_code for answer in (chat, first, second, third, fourth)]
    assert statuses == [200, 500, 200, 503, 200]


@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_cut_before_the_head(body: object) -> None:
    async with StandIn(failing(K.CUT_BEFORE_HEAD)) as standin:
        assert await raw(standin, body) == (b"", False)
    async with StandIn(failing(K.CUT_BEFORE_HEAD, reset=True)) as standin:
        assert await raw(standin, body) == (b"", True)


async def test_a_malformed_head_is_not_http() -> None:
    async with StandIn(failing(K.MALFORMED_HEAD)) as standin:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(standin, HELLO)


async def test_cut_in_mid_stream_leaves_whole_events_and_no_end() -> None:
    async with StandIn(failing(K.CUT, after=2)) as standin:
        data = (await raw(standin, STREAM)).data
    assert data.endswith(b"\n\n\r\n")
    assert data.count(b"data: ") == 3
    assert b'finish_reason":"stop' not in data
    assert b"\r\n0\r\n" not in data


async def test_cut_in_an_event_leaves_half_of_it() -> None:
    async with StandIn(failing(K.CUT_IN_EVENT, after=2)) as standin:
        data = (await raw(standin, STREAM)).data
    assert data.count(b"data: ") == 4
    assert not data.endswith(b"\n\n\r\n")


async def test_cut_with_nothing_after_the_head() -> None:
    async with StandIn(failing(K.CUT, after=0)) as standin:
        data = (await raw(standin, STREAM)).data
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(b"\r\n\r\n")


async def test_a_whole_body_is_cut_in_half() -> None:
    async with StandIn(failing(K.CUT)) as standin:
        head, _, body = (await raw(standin, HELLO)).data.partition(b"\r\n\r\n")
    declared = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(body) == declared // 2


async def test_a_clean_end_without_a_finish_reason() -> None:
    async with StandIn(failing(K.END, after=3)) as standin:
        found = events((await post(standin, STREAM)).text)
    assert [event["choices"][0]["finish_reason"] for event in found] == [None] * 4


@pytest.mark.parametrize("kind", [K.HANG, K.HANG_BEFORE_HEAD])
@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_a_hang_lasts_until_the_client_goes(kind: FaultKind, body: object) -> None:
    async with StandIn(failing(kind)) as standin:
        reader, writer = await open_raw(standin, body)
        seen = await standin.arrived()
        if kind is K.HANG:
            await reader.readuntil(b"\r\n\r\n")
        assert not seen.aborted.is_set()
        writer.close()
        await asyncio.wait_for(seen.aborted.wait(), 5)
    assert not seen.answered.is_set()
    assert seen.aborted_at is not None
    assert seen.aborted_at >= seen.at


@pytest.mark.parametrize("repeat", [True, False])
async def test_a_missing_done_and_missing_usage(repeat: bool) -> None:
    async with StandIn(repeat=repeat) as standin:
        standin.next(Fault(kind=K.NO_DONE), Fault(kind=K.NO_USAGE), Fault(kind=K.NO_USAGE))
        no_done = events((await post(standin, STREAM)).text)
        no_usage = events((await post(standin, STREAM)).text)
        whole = (await post(standin, HELLO)).json()
    assert no_done[-1]["usage"]["completion_tokens"] == 4
    assert no_usage[-1] == "[DONE]"
    assert no_usage[-2]["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in whole


@pytest.mark.parametrize("kind", [K.ERROR_EVENT, K.ERROR_TEXT])
async def test_an_error_in_mid_stream_is_the_last_event(kind: FaultKind) -> None:
    async with StandIn(failing(kind, after=1, message="broke", code="x")) as standin:
        found = events((await post(standin, STREAM)).text)
    assert len(found) == 3
    structured = {"message": "broke", "type": "server_error", "param": None, "code": "x"}
    assert found[-1]["error"] == (structured if kind is K.ERROR_EVENT else "broke")


async def test_malformed_json_whole_and_in_one_event() -> None:
    async with StandIn(failing(K.MALFORMED_JSON)) as standin:
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode((await post(standin, HELLO)).content)
        text = (await post(standin, STREAM)).text
    with pytest.raises(msgspec.DecodeError):
        events(text)
    assert text.endswith("data: [DONE]\n\n")


async def test_gzip_is_labelled_and_right_whole_and_streamed() -> None:
    async with StandIn(failing(K.GZIP)) as standin:
        whole, stream = await post(standin, HELLO), await post(standin, STREAM)
        bytes_sent = (await raw(standin, HELLO)).data.partition(b"\r\n\r\n")[2]
    assert whole.headers["content-encoding"] == stream.headers["content-encoding"] == "gzip"
    assert whole.json()["object"] == "chat.completion"
    assert events(stream.text)[-1] == "[DONE]"
    assert gzip.decompress(bytes_sent).startswith(b'{"id":"chatcmpl-')


async def test_slow_bodies_come_in_pieces() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    async with StandIn(failing(K.SLOW, size=10, seconds=0.5), sleep=sleep) as standin:
        answer = await post(standin, HELLO)
    assert answer.json()["object"] == "chat.completion"
    assert slept == [0.5] * -(-len(answer.content) // 10)


async def test_headers_that_must_not_leak_are_there() -> None:
    async with StandIn(failing(K.LEAK)) as standin:
        answer = await post(standin, HELLO)
    assert {name: answer.headers[name] for name, _ in LEAKY_HEADERS} == dict(LEAKY_HEADERS)


async def test_a_whole_body_may_be_cut_right_after_its_head() -> None:
    async with StandIn(failing(K.CUT, after=0)) as standin:
        data = (await raw(standin, HELLO)).data
    assert b"content-length: " in data
    assert data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_garbage_is_another_protocols_greeting(body: object) -> None:
    async with StandIn(failing(K.GARBAGE)) as standin:
        assert (await raw(standin, body)).data.startswith(b"220 ")


@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_an_unframed_body_ends_with_its_connection(body: object) -> None:
    async with StandIn(failing(K.CUT_UNFRAMED)) as standin:
        found = await raw(standin, body)
    head = found.data.partition(b"\r\n\r\n")[0]
    assert b"content-length" not in head
    assert b"transfer-encoding" not in head
    assert not found.reset
    assert b"[DONE]" not in found.data
    assert not found.data.endswith(b"}")


async def test_a_cut_before_done_leaves_the_finish_reason() -> None:
    async with StandIn(failing(K.CUT_BEFORE_DONE)) as standin:
        data = (await raw(standin, STREAM)).data
    assert b'finish_reason":"stop' in data
    assert b'usage":{' not in data
    assert b"[DONE]" not in data
    assert b"\r\n0\r\n" not in data


async def test_half_an_event_may_be_all_that_ever_comes() -> None:
    async with StandIn(failing(K.HANG_IN_EVENT, after=1)) as standin:
        reader, writer = await open_raw(standin, STREAM)
        seen = await standin.arrived()
        await reader.readuntil(b'"content":"one"')
        half = await reader.readuntil(b"data: {")
        assert half.count(b"\n\n") == 1
        assert not seen.answered.is_set()
        writer.close()
        await asyncio.wait_for(seen.aborted.wait(), 5)


@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_what_is_endless_goes_on_until_the_client_goes(body: object) -> None:
    async with StandIn(failing(K.ENDLESS, seconds=0.0)) as standin:
        reader, writer = await open_raw(standin, body)
        seen = await standin.arrived()
        await reader.readexactly(1_000_000)
        writer.close()
        await asyncio.wait_for(seen.aborted.wait(), 5)


@pytest.mark.parametrize("body", [HELLO, STREAM])
async def test_a_malformed_chunk_is_not_http(body: object) -> None:
    async with StandIn(failing(K.MALFORMED_CHUNK)) as standin:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(standin, body)


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        (K.HTML, HELLO, "text/html"),
        (K.HTML, STREAM, "text/html"),
        (K.WRONG_JSON, STREAM, "application/json"),
        (K.OTHER_FORM, HELLO, "text/event-stream"),
        (K.OTHER_FORM, STREAM, "application/json"),
        (K.ERROR_EVENT, HELLO, "application/json"),
    ],
)
async def test_a_200_may_hold_no_answer(kind: FaultKind, body: object, told: str) -> None:
    async with StandIn(failing(kind)) as standin:
        answer = await post(standin, body)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(told)
    if kind is K.ERROR_EVENT:
        assert answer.json()["error"]["type"] == "server_error"
