"""What an answer used: read from a plain JSON body, or watched in a stream as it is relayed.

Only `id` and `usage` are looked at, and whether it is an answer at all; what is relayed stays as
the backend wrote it.
"""

import json
import re
from typing import Annotated, Any

import msgspec

from gateway.errors import MalformedEvent
from gateway.metering.prices import BYTES_PER_TOKEN, estimate_tokens
from gateway.types.records import Usage
from gateway.types.requests import Endpoint

MAX_EVENT = 32 * 1024 * 1024
"""Bytes of one event that are held at most; a larger one is passed on unseen."""

MAX_TEXT = 1024 * 1024
"""Characters of a stream's text that are kept at most, about; the rest is not in the log."""

_ID_BY = 8
"""Events after which a stream that never says its id is taken to have none."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for what is not JSON, not UTF-8, or nested deeper than we follow."""

_BOM = b"\xef\xbb\xbf"
_BLANK_LINE = re.compile(rb"\n\r?\n")
_HAS_USAGE = re.compile(rb'"usage"\s*:\s*\{').search
_HAS_FINISH = re.compile(rb'"finish_reason"\s*:\s*"').search
_TEXT_DELTA = b"event: response.output_text.delta\ndata:"


class Seen(msgspec.Struct, frozen=True):
    """What a plain answer says of itself; each part is None where the backend did not say.

    `answers` is false for JSON without what its endpoint is asked for: an error under a 200.
    """

    id: str | None
    usage: Usage | None
    answers: bool = True


_Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
"""A number of tokens that can be true. Any other is as good as none: it would be billed."""


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Tokens(msgspec.Struct):
    """OpenAI's two spellings: chat, completions and embeddings, then responses."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: _Details | None = None


class _Plain(msgspec.Struct):
    id: Any = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    choices: msgspec.Raw = msgspec.Raw(b"null")
    output: msgspec.Raw = msgspec.Raw(b"null")
    data: msgspec.Raw = msgspec.Raw(b"null")

    def answers(self, endpoint: Endpoint) -> bool:
        """Whether what the endpoint is asked for is in it: each of them has its list."""
        if endpoint is Endpoint.RESPONSES:
            asked = self.output
        else:
            asked = self.data if endpoint is Endpoint.EMBEDDINGS else self.choices
        return bytes(memoryview(asked)[:1]) == b"["


class _Message(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"")
    reasoning_content: msgspec.Raw = msgspec.Raw(b"")
    tool_calls: msgspec.Raw = msgspec.Raw(b"")


class _Said(msgspec.Struct):
    message: _Message | None = None
    text: msgspec.Raw = msgspec.Raw(b"")

    def size(self) -> int:
        """Bytes of what the model wrote, as JSON has them."""
        parts = [self.text]
        if self.message is not None:
            message = self.message
            parts += [message.content, message.reasoning_content, message.tool_calls]
        return sum(len(bytes(part)) for part in parts if bytes(part) != b"null")


class _AllSaid(msgspec.Struct):
    choices: list[_Said] = []


class _Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: Any = None

    def content(self) -> str | None:
        """The text that this piece of a choice carries."""
        said = self.text if self.delta is None else self.delta.get("content")
        return said if isinstance(said, str) else None

    def carries(self) -> bool:
        """Whether anything but the role is in it: text, reasoning, a call."""
        delta = self.delta or {}
        return bool(self.text) or any(said for key, said in delta.items() if key != "role")


class _Event(msgspec.Struct):
    """One event's data, of any endpoint; what is not named here is skipped unread."""

    id: Any = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None
    type: Any = None
    delta: Any = None
    response: _Plain | None = None


_plain = msgspec.json.Decoder(_Plain).decode
_event = msgspec.json.Decoder(_Event).decode
_all_said = msgspec.json.Decoder(_AllSaid).decode
_tokens = msgspec.json.Decoder(_Tokens, strict=False).decode


def usage_of(body: bytes, endpoint: Endpoint) -> Seen | None:
    """The id and usage of a plain answer to `endpoint`; None if it is not a JSON object.

    One that is nested deeper than we follow gets the benefit of the doubt, and is not read.
    """
    plain = _last_fields(body) if endpoint is Endpoint.EMBEDDINGS else None
    answers = plain is not None
    if plain is None:
        try:
            plain = _plain(body)
        except RecursionError:
            return Seen(None, None)
        except (msgspec.DecodeError, UnicodeDecodeError):
            plain = _read_tolerantly(body)
        if plain is None:
            return None
        answers = plain.answers(endpoint)
    return Seen(plain.id if isinstance(plain.id, str) else None, _usage(plain.usage), answers)


def estimated_output(body: bytes, endpoint: Endpoint) -> int:
    """Tokens of a plain answer whose backend does not tell them, by the length of what was said."""
    if endpoint is Endpoint.EMBEDDINGS:
        return 0
    if endpoint is Endpoint.RESPONSES:
        return estimate_tokens(body)
    try:
        said = _all_said(body).choices
    except UNREADABLE:
        return estimate_tokens(body)
    return sum(-(-choice.size() // BYTES_PER_TOKEN) for choice in said)


def _last_fields(body: bytes) -> _Plain | None:
    """The fields of a body from its last `usage` on; None unless that stands at its top level.

    Embeddings are a megabyte of numbers before their usage, 0.7 ms to walk through. Were `usage`
    nested, the rest of the body would have a bracket too many.
    """
    at = body.rfind(b'"usage"')
    if at < 0:
        return None
    try:
        return _plain(b"{" + body[at:])
    except UNREADABLE:
        return None


def _read_tolerantly(body: bytes) -> _Plain | None:
    """The same of a body with `NaN` or `Infinity` in it, which many a server and SDK think JSON."""
    try:
        return _plain(msgspec.json.encode(json.loads(body)))
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None


def _usage(raw: msgspec.Raw) -> Usage | None:
    """None where there is no usage, or one that cannot be read: then it has to be estimated."""
    if not bytes(raw).startswith(b"{"):
        return None
    try:
        said = _tokens(raw)
    except UNREADABLE:
        return None
    input = said.input_tokens if said.prompt_tokens is None else said.prompt_tokens
    output = said.output_tokens if said.completion_tokens is None else said.completion_tokens
    if input is None and output is None:
        return None
    details = said.prompt_tokens_details or said.input_tokens_details
    cached = details.cached_tokens if details is not None else None
    input = input or 0
    return Usage(input=input, cached_input=min(cached or 0, input), output=output or 0)


class StreamWatch:
    """Follows one server-sent stream while it is relayed.

    Whole events are passed on as they are. An event's incomplete tail is held until its blank
    line: no client can use it before, and so a stream that breaks off never leaves half an event
    in front of the error event that has to follow. With `hide_usage` the event that carries
    nothing but usage is taken out.

    completion_id  the answer's `id`
    usage          as the backend said it; None until then
    events         events that carried content: an estimate of the output's tokens
    finished       every one of `choices` has its finish_reason, or the response is complete
    done           `[DONE]` was seen; nothing is relayed after it
    errored        an error event was seen
    error_text     of an error that was no object: it is not relayed, SDKs want one
    text           the first choice's text, "" unless `keep_text`; its first `MAX_TEXT` or so
    """

    __slots__ = (
        "_choices",
        "_ended",
        "_hide",
        "_keep_text",
        "_responses",
        "_seen",
        "_steady",
        "_tail",
        "_text_left",
        "_texts",
        "completion_id",
        "done",
        "error_text",
        "errored",
        "events",
        "finished",
        "usage",
    )

    def __init__(
        self, hide_usage: bool, endpoint: Endpoint, *, choices: int = 1, keep_text: bool = False
    ) -> None:
        self._responses = endpoint is Endpoint.RESPONSES
        self._hide = hide_usage and not self._responses
        self._choices = choices
        self._keep_text = keep_text
        self._ended: set[int] = set()
        self._seen = 0
        self._steady = False
        self._tail: bytes | bytearray = b""
        self._texts: list[str] = []
        self._text_left = MAX_TEXT
        self.completion_id: str | None = None
        self.usage: Usage | None = None
        self.events = 0
        self.finished = False
        self.done = False
        self.errored = False
        self.error_text = ""

    @property
    def truncated(self) -> bool:
        """Whether a stream that has ended by now was cut before its answer was whole."""
        return not (self.finished or self.done or self.errored)

    @property
    def text(self) -> str:
        """The text kept so far."""
        return "".join(self._texts)

    def feed(self, piece: bytes) -> bytes:
        """What of the stream must be relayed now that `piece` has arrived.

        Raises MalformedEvent for one whose data is not JSON, with what stood before it.
        """
        if self._steady and piece.endswith(b"}\n\n"):
            lines = piece.count(b"\n")
            if self._responses:
                if lines == 3 and piece.startswith(_TEXT_DELTA):
                    self.events += 1
                    return piece
            elif (
                piece.startswith(b"data:")
                and (lines == 2 or _only_data(piece, lines))
                and b'"error"' not in piece
                and _HAS_FINISH(piece) is None
                and _HAS_USAGE(piece) is None
            ):
                self.events += lines >> 1
                return piece
        return b"" if self.done else self._sift(piece)

    def close(self) -> bytes:
        """The stream has ended: what is left to relay of an event that lacked its blank line."""
        tail, self._tail = bytes(self._tail).rstrip(b"\r\n"), b""
        if self.done or not tail:
            return b""
        _, data = _fields(tail)
        if data != b"[DONE]" and _decoded(data) is None:
            return b""
        event = tail + b"\n\n"
        return event if self._passes(event) else b""

    def _sift(self, piece: bytes) -> bytes:
        """Takes the stream apart into events, and relays the whole ones that may pass."""
        data: bytes | bytearray = piece
        searched = 0
        if self._tail:
            data = self._tail
            searched = max(0, len(data) - 2)
            data += piece
        passed: list[bytes] = []
        start = 0
        while (blank := _BLANK_LINE.search(data, searched)) is not None:
            searched = blank.end()
            event = bytes(data[start:searched])
            start = searched
            if not self._seen:
                event = event.removeprefix(_BOM)
            try:
                if self._passes(event):
                    passed.append(event)
            except MalformedEvent as error:
                self._tail, self._steady = b"", False
                error.before = b"".join(passed)
                raise
            if self.done:
                start = len(data)
                break
        if len(data) - start > MAX_EVENT:
            passed.append(bytes(memoryview(data)[start:]))
            start = len(data)
        self._tail = _rest(data, start)
        known = self.completion_id is not None or self._seen >= _ID_BY
        self._steady = known and start == len(data) and not (self.done or self._keep_text)
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def _passes(self, event: bytes) -> bool:
        """Learns from one whole event; false for the one that must not be relayed."""
        name, data = _fields(event)
        if not data:
            return True
        self._seen += 1
        if data == b"[DONE]":
            self.done = True
            return True
        seen = _decoded(data)
        if seen is None:
            _refuse_malformed(data)
            self.events += 1
            return True
        self.errored |= seen.error is not None or name == b"error" or seen.type == "error"
        if isinstance(seen.error, str) and not self._responses:
            self.error_text = seen.error
            return False
        if self._responses:
            self._learn_response(seen)
            return True
        return self._learn_chunk(seen)

    def _learn_chunk(self, chunk: _Event) -> bool:
        named = self.completion_id is not None
        if not named and isinstance(chunk.id, str) and chunk.id:
            self.completion_id = chunk.id
        usage = _usage(chunk.usage)
        choices = chunk.choices or ()
        ended = [choice.index for choice in choices if choice.finish_reason is not None]
        if len(self._ended) < self._choices:
            self._ended.update(ended)
        self.finished = len(self._ended) >= self._choices
        plain = named and usage is None and not ended and chunk.error is None
        if plain or any(choice.carries() for choice in choices):
            self.events += 1
        if self._keep_text:
            for choice in choices:
                if choice.index == 0:
                    self._keep(choice.content())
        if usage is None:
            return True
        self.usage = usage
        return bool(choices) or not self._hide

    def _learn_response(self, event: _Event) -> None:
        if event.type == "response.output_text.delta":
            self.events += 1
            if self._keep_text and isinstance(event.delta, str):
                self._keep(event.delta)
        if event.response is None:
            return
        if isinstance(event.response.id, str):
            self.completion_id = event.response.id
        self.usage = _usage(event.response.usage) or self.usage
        self.errored |= event.type == "response.failed"
        self.finished |= event.type in ("response.completed", "response.incomplete")

    def _keep(self, text: str | None) -> None:
        if text and self._text_left > 0:
            self._text_left -= len(text)
            self._texts.append(text)


def _refuse_malformed(data: bytes) -> None:
    """Every SDK gives up on data that is not JSON; JSON of another shape is their own affair."""
    try:
        json.loads(data)
    except RecursionError:
        return
    except ValueError:
        raise MalformedEvent("an event's data is not JSON") from None


def _only_data(piece: bytes, lines: int) -> bool:
    """Whether a piece of several events has one data line in each, and does not end the stream."""
    return piece.count(b"}\n\ndata:") * 2 + 2 == lines and b"[DONE]" not in piece


def _rest(data: bytes | bytearray, start: int) -> bytes | bytearray:
    """What is not yet a whole event; a growing one stays in its buffer, so as not to be copied."""
    if start == len(data):
        return b""
    if start == 0 and isinstance(data, bytearray):
        return data
    return bytearray(data[start:])


def _fields(event: bytes) -> tuple[bytes, bytes]:
    """The name and the joined data lines of one event; empty where it has none."""
    if event.startswith(b"data:") and event.find(b"\n", 0, -2) < 0:
        return b"", event[5:].strip()
    name = b""
    data: list[bytes] = []
    for line in event.split(b"\n"):
        field, _, value = line.strip(b"\r").partition(b":")
        if field == b"data":
            data.append(value.strip())
        elif field == b"event":
            name = value.strip()
    return name, b"\n".join(data)


def _decoded(data: bytes) -> _Event | None:
    try:
        return _event(data)
    except UNREADABLE:
        return None
