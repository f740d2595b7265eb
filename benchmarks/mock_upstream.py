"""The upstream of every benchmark: answers at once, with as little work as Python allows.

A request that asks to stream gets `CHUNKS` events, `GAP_S` apart; `--gap` and `--chunks` change it.
"""

import argparse
import asyncio
import json

import uvloop

ANSWER = json.dumps(
    {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "This is a short answer. " * 4},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 42, "completion_tokens": 20, "total_tokens": 62},
    }
).encode()
PLAIN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(choices: list[object], usage: object = None) -> bytes:
    """One SSE event as one HTTP chunk."""
    body: dict[str, object] = {
        "id": "chatcmpl-mock",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "mock",
        "choices": choices,
    }
    if usage is not None:
        body["usage"] = usage
    data = b"data: " + json.dumps(body).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def delta(text: str, finish: str | None = None) -> bytes:
    """A chunk of text."""
    return event([{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


DELTA = delta("word ")
LAST = delta("", "stop")
USAGE = event([], {"prompt_tokens": 42, "completion_tokens": 100, "total_tokens": 142})
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Mock(asyncio.Protocol):
    """One connection of kept-alive requests."""

    chunks = 100
    gap_s = 0.01

    def __init__(self) -> None:
        self.buffer = b""
        self.transport: asyncio.Transport | None = None
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(body)

    def answer(self, body: bytes) -> None:
        assert self.transport is not None
        if b'"stream":true' in body or b'"stream": true' in body:
            self.transport.write(HEAD)
            self.stream(0, b"include_usage" in body)
        else:
            self.transport.write(PLAIN)

    def stream(self, sent: int, usage: bool) -> None:
        if self.transport is None:
            return
        if sent < self.chunks:
            self.transport.write(DELTA)
            self.loop.call_later(self.gap_s, self.stream, sent + 1, usage)
        else:
            self.transport.write(LAST + (USAGE if usage else b"") + DONE)


async def serve(port: int) -> None:
    """Serves until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Mock, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    """The mock as a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--gap", type=float, default=0.01)
    options = parser.parse_args()
    Mock.chunks, Mock.gap_s = options.chunks, options.gap
    uvloop.run(serve(options.port))


if __name__ == "__main__":
    main()
