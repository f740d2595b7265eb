"""A bare client for the stand-in's own tests: what exactly came over the wire, and when."""

import asyncio
from typing import Any, NamedTuple

import httpx
import msgspec

from gateway.standin import StandIn

HELLO = {"model": "m", "messages": [{"role": "user", "content": "one two three four"}]}


class Raw(NamedTuple):
    """All bytes until the server closed, and whether it did so by a reset."""

    data: bytes
    reset: bool


async def post(standin: StandIn, body: Any, path: str = "chat/completions", **headers: str) -> Any:
    """The answer to a POST, whole."""
    async with httpx.AsyncClient(base_url=standin.url, trust_env=False, timeout=5) as client:
        return await client.post(path, json=body, headers=headers)


async def get(standin: StandIn, path: str, method: str = "GET") -> Any:
    """The answer to a GET below the origin."""
    async with httpx.AsyncClient(base_url=standin.origin, trust_env=False, timeout=5) as client:
        return await client.request(method, path)


async def open_raw(
    standin: StandIn, body: Any, path: str = "/v1/chat/completions"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends one request on a connection of its own that asks to be closed afterwards."""
    reader, writer = await asyncio.open_connection("127.0.0.1", standin.port)
    content = msgspec.json.encode(body)
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: standin\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        % (path.encode(), len(content))
        + content
    )
    await writer.drain()
    return reader, writer


async def raw(standin: StandIn, body: Any) -> Raw:
    """Everything that one request brings until the connection is closed."""
    reader, writer = await open_raw(standin, body)
    data = b""
    try:
        async with asyncio.timeout(5):
            while piece := await reader.read(65536):
                data += piece
    except ConnectionResetError:
        return Raw(data, True)
    finally:
        writer.close()
    return Raw(data, False)


def events(text: str) -> list[Any]:
    """The data of a stream's events, decoded; `[DONE]` stays text."""
    assert text.endswith("\n\n"), text[-40:]
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        line = block.split("\n")[-1]
        assert line.startswith("data: "), block
        payload = line.removeprefix("data: ")
        found.append(payload if payload == "[DONE]" else msgspec.json.decode(payload))
    return found
