"""What is going to be sent: a whole body, or the events of a stream. And how errors look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

JSON = "application/json"


class Part(Enum):
    """What an event of a stream is for."""

    TOKEN = "token"
    USAGE = "usage"
    DONE = "done"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Event:
    """One whole server-sent event, blank line included."""

    data: bytes
    part: Part = Part.OTHER


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer in one piece; `body` is sent as JSON unless it is bytes already."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON
    tokens: int = 0
    """How many tokens it took to make: what its time is counted from."""

    def encoded(self) -> bytes:
        """The body's bytes."""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer as server-sent events."""

    events: Sequence[Event]


Answer = Whole | Stream


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, answer: Whole) -> None:
        super().__init__(answer.status)
        self.answer = answer


def error(
    status: int,
    message: str,
    *,
    type: str = "invalid_request_error",
    param: str | None = None,
    code: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Whole:
    """An error in OpenAI's shape."""
    body = {"error": {"message": message, "type": type, "param": param, "code": code}}
    return Whole(body, status, headers or {})


def refuse(status: int, message: str, **more: Any) -> Refused:
    """The same, to be raised."""
    return Refused(error(status, message, **more))


def data(body: Any, part: Part = Part.OTHER) -> Event:
    """An event without a name, as chat completions have them."""
    return Event(b"data: %b\n\n" % msgspec.json.encode(body), part)


def named(body: Mapping[str, Any], part: Part = Part.OTHER) -> Event:
    """An event named as its body's `type`, as responses have them."""
    name = str(body["type"]).encode()
    return Event(b"event: %b\ndata: %b\n\n" % (name, msgspec.json.encode(body)), part)


DONE = Event(b"data: [DONE]\n\n", Part.DONE)
