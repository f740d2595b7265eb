"""A client that keeps every byte: what exactly came, and how it ended."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from tests.gateway.support import events_of


class Answer(msgspec.Struct, frozen=True):
    """One answer. `ended` is whether HTTP's own end of it arrived."""

    status: int
    headers: dict[str, str]
    body: bytes
    ended: bool

    @property
    def events(self) -> list[Any]:
        """The data of each event of a stream."""
        return events_of(self.body)

    @property
    def text(self) -> str:
        """What the model said, as far as it came."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            said = json.loads(self.body)
            return str(said["choices"][0]["message"]["content"]) if "choices" in said else ""
        deltas = [
            choice["delta"].get("content") or ""
            for event in self.events
            if isinstance(event, dict)
            for choice in event.get("choices", ())
        ]
        return "".join(deltas)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error object: of the body, or of the stream's last event."""
        streams = self.headers["content-type"].startswith("text/event-stream")
        last = self.events[-1] if streams else json.loads(self.body)
        return last.get("error") if isinstance(last, dict) else None

    @property
    def usage(self) -> dict[str, Any] | None:
        """As the answer tells it."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            found = json.loads(self.body).get("usage")
            return dict(found) if found else None
        told = [e["usage"] for e in self.events if isinstance(e, dict) and e.get("usage")]
        return dict(told[-1]) if told else None

    @property
    def looks_whole(self) -> bool:
        """Whether a client would take it for a whole answer."""
        finished = b'"finish_reason":"' in self.body or b"[DONE]" in self.body
        return self.status == 200 and self.ended and finished


def request_bytes(body: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """A chat completion on a connection that is to be closed afterwards."""
    content = json.dumps(body).encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-type: application/json\r\n{more}content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class Patience:
    """How much of an answer a client reads before it goes away.

    `pieces` None is all of it; for none it goes `seconds` after it has asked. `left` says whether
    it has gone before the end.
    """

    def __init__(self, pieces: int | None = None, seconds: float = 0.0) -> None:
        self.pieces = pieces
        self.seconds = seconds
        self.left = False


async def ask(
    port: int,
    body: Any,
    headers: Mapping[str, str] | None = None,
    patience: Patience | None = None,
) -> Answer:
    """Asks and reads until the connection closes. Raises EOFError when no whole head came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request_bytes(body, headers))
        raw = await _read(reader, patience or Patience())
    finally:
        writer.transport.abort()
    return parsed(raw)


async def _read(reader: asyncio.StreamReader, patience: Patience) -> bytes:
    data = b""
    pieces = 0
    if patience.pieces == 0:
        await asyncio.sleep(patience.seconds)
    try:
        while patience.pieces is None or pieces < patience.pieces:
            piece = await reader.read(65536)
            if not piece:
                return data
            data += piece
            pieces += 1
    except ConnectionError:
        return data
    patience.left = True
    return data


def parsed(raw: bytes) -> Answer:
    """An HTTP/1.1 answer from all of its bytes."""
    head, blank, rest = raw.partition(b"\r\n\r\n")
    if not blank:
        raise EOFError(raw)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)
    }
    status = int(first.split(" ")[1])
    if headers.get("transfer-encoding") == "chunked":
        body, ended = _joined(rest)
    else:
        body, ended = rest, len(rest) == int(headers["content-length"])
    return Answer(status, headers, body, ended)


def _joined(rest: bytes) -> tuple[bytes, bool]:
    """The chunks as one body, and whether the last one came."""
    body = b""
    while True:
        size, line, rest = rest.partition(b"\r\n")
        if not line:
            return body, False
        length = int(size, 16)
        if length == 0:
            return body, True
        body += rest[:length]
        if len(rest) < length + 2:
            return body, False
        rest = rest[length + 2 :]
