"""What stands in a request's path cannot reach what the team did not declare."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.standin.behaviour import Behaviour
from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn
from tests.gateway.support import Served, serving, snapshot, target

MANAGEMENT = (
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/load_lora_adapter",
    "/tokenize",
    "/detokenize",
    "/load",
    "/version",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/server_info",
    "/v1/score",
    "/invocations",
)
"""What vLLM serves besides inference, some of it in its development mode only."""

TRICKS = (
    "/v1/responses/%2e%2e/load_lora_adapter",
    "/v1/responses/resp_1/%2e%2e/%2e%2e/load_lora_adapter",
    "/v1/responses/..%2fmodels",
    "/v1/responses/resp_1%20HTTP/1.1",
    "/v1/responses/resp_1%0d%0ax-evil:%201",
    "/v1/responses/resp_1%00",
    "/v1/responses/resp_1/unknown",
    "/v1/responses/resp_1%3fx=1",
    "/v1/responses/resp_1%23",
    "/v1/responses/%c3%a9",
    "/v1/chat/completions/%2e%2e/%2e%2e/load",
    "/v1/chat/completions/chatcmpl-1/%2e%2e",
)


@pytest.fixture
async def engine() -> AsyncIterator[StandIn]:
    async with StandIn(Behaviour(), vllm=Vllm()) as standin:
        yield standin


@pytest.fixture
async def served(engine: StandIn, tmp_path: Path) -> AsyncIterator[Served]:
    qwen = target("local/qwen", engine.url.removesuffix("/v1"), internal=True, served="base")
    # The same server as a provider, so that ids that nobody knows are asked of it.
    mini = target("openai/mini", engine.url)
    async with serving(snapshot([qwen, mini]), tmp_path) as gateway:
        yield gateway


async def ask(served: Served, method: str, path: str) -> tuple[int, bytes]:
    """As it is written: a client library would put it in order first."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    length = b"content-length: 2\r\n" if method == "POST" else b""
    body = b"{}" if method == "POST" else b""
    writer.write(
        b"%b %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n%b\r\n%b"
        % (method.encode(), path.encode(), length, body)
    )
    answer = await reader.read()
    writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), rest


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_vllms_management_is_out_of_reach(
    served: Served, engine: StandIn, method: str
) -> None:
    before = len(engine.seen)
    for path in MANAGEMENT:
        status, body = await ask(served, method, path)
        assert status in (404, 405), path
        assert body.startswith(b'{"error":'), path
    # The gateway's own looks at a replica go on meanwhile.
    reached = {seen.path for seen in list(engine.seen)[before:]} - {"/v1/models", "/metrics"}
    assert reached == set()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_in_a_path_leads_elsewhere_at_a_backend(
    served: Served, engine: StandIn, method: str
) -> None:
    before = len(engine.seen)
    for path in TRICKS:
        status, body = await ask(served, method, path)
        assert status in (400, 404), path
        assert body.startswith(b'{"error":'), path
    ours = [seen.path for seen in list(engine.seen)[before:]]
    assert [path for path in ours if "responses" in path or "completions" in path] == []


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/responses/"])
async def test_a_slash_at_the_end_is_no_way_past_limits_and_log(
    served: Served, engine: StandIn, path: str
) -> None:
    status, _ = await ask(served, "POST", path)
    assert status == 404
    assert path.rstrip("/") not in {seen.path.rstrip("/") for seen in engine.seen}
