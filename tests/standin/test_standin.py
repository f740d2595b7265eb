import asyncio
import ssl
import sys
import time
from pathlib import Path

import httpx
import msgspec
import pytest
import trustme

from gateway.standin import Asked, Behaviour, StandIn
from gateway.standin.__main__ import Config, read
from tests.standin.client import HELLO, events, get, open_raw, post

STREAM = {**HELLO, "stream": True}


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.at = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.at += seconds
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("body", "slept"), [(STREAM, [0.5, 0.1, 0.1, 0.1]), (HELLO, [0.8])], ids=["stream", "whole"]
)
async def test_tokens_come_at_the_declared_pace(body: object, slept: list[float]) -> None:
    time = Time()
    behaviour = Behaviour(first_token_s=0.5, between_tokens_s=0.1)
    async with StandIn(behaviour, clock=time.clock, sleep=time.sleep) as standin:
        await post(standin, body)
    assert time.slept == slept


@pytest.mark.parametrize("head_first", [True, False])
async def test_the_head_comes_first_or_with_the_first_event(head_first: bool) -> None:
    may_go_on = asyncio.Event()
    sleeping = asyncio.Event()

    async def sleep(_: float) -> None:
        sleeping.set()
        await may_go_on.wait()

    behaviour = Behaviour(first_token_s=1, head_first=head_first)
    async with StandIn(behaviour, sleep=sleep) as standin:
        reader, writer = await open_raw(standin, STREAM)
        await asyncio.wait_for(sleeping.wait(), 5)
        head = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        if not head_first:
            may_go_on.set()
        assert (await asyncio.wait_for(head, 5)).startswith(b"HTTP/1.1 200 OK")
        assert may_go_on.is_set() is not head_first
        may_go_on.set()
        assert b"[DONE]" in await asyncio.wait_for(reader.read(-1), 5)
        writer.close()


async def test_every_request_is_recorded_as_it_came() -> None:
    async with StandIn() as standin:
        await post(standin, HELLO, authorization="Bearer k", x_thing="1")
        await get(standin, "/v1/models?limit=2")
        first, second = await standin.arrived(1), await standin.arrived(2)
        only = await standin.arrived(1, path="/v1/models")
    assert (first.method, first.path) == ("POST", "/v1/chat/completions")
    assert first.json() == HELLO
    assert first.headers["authorization"] == "Bearer k"
    assert first.answered.is_set()
    assert not first.aborted.is_set()
    assert (second.path, second.query) == ("/v1/models", "limit=2")
    assert only is second


async def test_a_request_is_waited_for() -> None:
    async with StandIn() as standin:
        waiting = asyncio.create_task(standin.arrived(2))
        await post(standin, HELLO)
        assert not waiting.done()
        await post(standin, HELLO)
        assert (await asyncio.wait_for(waiting, 5)) is standin.seen[1]


async def test_a_client_that_goes_in_mid_stream_is_noticed() -> None:
    async with StandIn(Behaviour(between_tokens_s=30)) as standin:
        reader, writer = await open_raw(standin, STREAM)
        await reader.readuntil(b"one")
        seen = await standin.arrived()
        writer.close()
        await asyncio.wait_for(seen.aborted.wait(), 5)
        await asyncio.wait_for(standin.until(lambda: standin.running == 0), 5)


async def test_connections_are_kept_and_requests_may_be_pipelined() -> None:
    content = msgspec.json.encode(HELLO)
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        % len(content)
        + content
    )
    async with StandIn() as standin:
        reader, writer = await asyncio.open_connection("127.0.0.1", standin.port)
        writer.write(request * 3)
        for _ in range(3):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            assert b"chat.completion" in await reader.readexactly(length)
        writer.close()
    assert len({seen.connection for seen in standin.seen}) == 1


async def test_a_large_body_may_ask_before_it_comes() -> None:
    async with StandIn() as standin:
        reader, writer = await asyncio.open_connection("127.0.0.1", standin.port)
        writer.write(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == (
            b"HTTP/1.1 100 Continue\r\n\r\n"
        )
        content = msgspec.json.encode({"model": "m", "input": "x"})
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
        writer.close()


async def test_slots_make_requests_wait_their_turn() -> None:
    async with StandIn(Behaviour(between_tokens_s=30), slots=1) as standin:
        reader, first = await open_raw(standin, STREAM)
        await reader.readuntil(b"one")
        _, second = await open_raw(standin, STREAM)
        seen = await standin.arrived(2)
        await asyncio.wait_for(standin.until(lambda: standin.waiting == 1), 5)
        assert standin.running == 1
        second.close()
        await asyncio.wait_for(seen.aborted.wait(), 5)
        await asyncio.wait_for(standin.until(lambda: standin.waiting == 0), 5)
        assert standin.running == 1
        first.close()


async def test_a_stopped_stand_in_refuses_and_comes_back_on_its_port() -> None:
    async with StandIn() as standin:
        await standin.stop()
        with pytest.raises(httpx.ConnectError):
            await post(standin, HELLO)
        await standin.start()
        assert (await post(standin, HELLO)).status_code == 200


async def test_tls() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with (
        StandIn(tls=server) as standin,
        httpx.AsyncClient(verify=client, trust_env=False) as http,
    ):
        answer = await http.get(f"{standin.url}/models")
    assert answer.status_code == 200


async def test_a_failing_answerer_fails_the_test_that_uses_it() -> None:
    def answer(_: Asked) -> str:
        raise LookupError("no such row")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    standin = StandIn(Behaviour(answer=answer))
    await standin.start()
    with pytest.raises(httpx.RemoteProtocolError):
        await post(standin, HELLO)
    with pytest.raises(ExceptionGroup) as caught:
        await standin.__aexit__(None, None, None)
    assert isinstance(caught.value.exceptions[0], LookupError)


async def test_lenient_takes_any_model_any_id_and_odd_parameters() -> None:
    async with StandIn(lenient=True) as standin:
        body = {**HELLO, "max_tokens": 0, "stream_options": {}, "stream": False}
        chat = await post(standin, body)
        response = await get(standin, "/v1/responses/resp_unknown")
        nameless = await post(standin, {}, "responses")
    assert [answer.status_code for answer in (chat, response, nameless)] == [200, 200, 200]


@pytest.mark.parametrize("repeat", [True, False])
async def test_an_equal_request_may_get_the_same_answer(repeat: bool) -> None:
    async with StandIn(repeat=repeat) as standin:
        first, second = [(await post(standin, HELLO)).json() for _ in range(2)]
        other = (await post(standin, {**HELLO, "max_tokens": 1})).json()
    assert (first["id"] == second["id"]) is repeat
    assert first["choices"] == second["choices"]
    assert other["choices"][0]["message"]["content"] == "one"


async def test_the_command_serves_what_its_file_says(tmp_path: Path) -> None:
    file = tmp_path / "standin.yaml"
    file.write_text(
        "keys: [sk-1]\n"
        "models:\n"
        "  mini:\n"
        "    say: fixed\n"
        "    table: [{match: hello, say: hi}]\n"
        "    refuses: [max_tokens]\n"
        "    fault: {kind: no-done}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.standin", "--config", str(file), "--models", "other"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        url = line.decode().strip()
        async with httpx.AsyncClient(
            base_url=url, headers={"authorization": "Bearer sk-1"}, trust_env=False
        ) as client:
            models = (await client.get("models")).json()
            body = {"model": "mini", "messages": [{"role": "user", "content": "Hello"}]}
            chat = await client.post("chat/completions", json={**body, "stream": True})
            refused = await client.post("chat/completions", json={**body, "max_tokens": 1})
    finally:
        process.terminate()
        await process.wait()
    assert [model["id"] for model in models["data"]] == ["mini", "other"]
    assert events(chat.text)[1]["choices"][0]["delta"]["content"] == "hi"
    assert "[DONE]" not in chat.text
    assert refused.status_code == 400
    assert process.returncode == 0


def test_a_files_mistake_is_named(tmp_path: Path) -> None:
    file = tmp_path / "standin.yaml"
    file.write_text("models: {mini: {sya: x}}")
    with pytest.raises(msgspec.ValidationError, match=r"sya.*\$\.models"):
        read(file)
    file.write_text("")
    assert read(file) == Config()


async def test_the_real_clock_is_the_default() -> None:
    before = time.monotonic()
    async with StandIn() as standin:
        await post(standin, HELLO)
    assert before <= standin.seen[0].at <= time.monotonic()
