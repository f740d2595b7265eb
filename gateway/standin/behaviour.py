"""What a stand-in's model does: how it answers, how fast, what it refuses and how it fails."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec


class FaultKind(StrEnum):
    """The ways in which a provider's answer goes wrong."""

    STATUS = "status"
    """An error status instead of an answer; `status`, `retry_after`, `code`, `message`."""
    CUT_BEFORE_HEAD = "cut-before-head"
    """The connection closes with nothing answered."""
    HANG_BEFORE_HEAD = "hang-before-head"
    """Nothing comes, for ever."""
    MALFORMED_HEAD = "malformed-head"
    """What comes looks like HTTP and is not."""
    GARBAGE = "garbage"
    """What comes is another protocol's greeting."""
    CUT = "cut"
    """The connection closes after `after` tokens, or in the middle of a whole body."""
    CUT_IN_EVENT = "cut-in-event"
    """The connection closes in the middle of the event after `after` tokens."""
    CUT_UNFRAMED = "cut-unframed"
    """The same as a cut, of a body that was to end with its connection: it looks whole."""
    CUT_BEFORE_DONE = "cut-before-done"
    """The connection closes after the finish_reason: only usage and `[DONE]` are missing."""
    HANG = "hang"
    """Nothing more comes after `after` tokens, or after half of a whole body."""
    HANG_IN_EVENT = "hang-in-event"
    """Nothing more comes after half of the event after `after` tokens."""
    MALFORMED_CHUNK = "malformed-chunk"
    """After `after` tokens, or half of a whole body, bytes that are none of HTTP's framing."""
    ENDLESS = "endless"
    """After `after` tokens the same again and again, `seconds` apart; a whole body never ends."""
    END = "end"
    """The stream ends as HTTP wants it, but after `after` tokens and with no finish_reason."""
    ERROR_EVENT = "error-event"
    """After `after` tokens an error event, then the end; a whole body is an error under a 200."""
    ERROR_TEXT = "error-text"
    """The same with the error given as a string, as some servers do."""
    MALFORMED_JSON = "malformed-json"
    """A body (or the event after `after` tokens) that is not JSON."""
    WRONG_JSON = "wrong-json"
    """A body that is JSON, but no answer to what was asked."""
    HTML = "html"
    """A web page under a 200, as a captive proxy or a login page has it."""
    OTHER_FORM = "other-form"
    """A whole body where a stream was asked for, and a stream where a whole body was."""
    WRONG_TYPE = "wrong-type"
    """A right answer under a wrong content-type: a whole body as text, a stream as JSON."""
    NO_DONE = "no-done"
    """A whole stream without its `[DONE]`."""
    NO_USAGE = "no-usage"
    """Usage is not told, though it was asked for."""
    GZIP = "gzip"
    """The body is compressed, whether or not the client accepts it."""
    SLOW = "slow"
    """The body comes in pieces of `size` bytes, `seconds` apart."""
    LEAK = "leak"
    """`LEAKY_HEADERS` stand in the answer's head."""


LEAKY_HEADERS: tuple[tuple[str, str], ...] = (
    ("server", "standin-edge"),
    ("set-cookie", "__standin_session=do-not-pass-on; Path=/; HttpOnly"),
    ("x-api-key", "sk-provider-do-not-pass-on"),
    ("authorization", "Bearer sk-provider-do-not-pass-on"),
    ("openai-organization", "org-do-not-pass-on"),
)
"""What a provider's answer may carry and no client of a gateway may see."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One failure. `after` counts tokens; `seconds` and `retry_after` are seconds.

    With `after=0` a whole body that is cut, or hangs, does so right after its head.
    """

    kind: FaultKind
    after: int = 2
    status: int = 500
    retry_after: float | None = None
    code: str | None = None
    message: str | None = None
    headers: dict[str, str] = {}
    size: int = 7
    seconds: float = 0.001
    reset: bool = False
    """Cuts send a TCP reset instead of an orderly close."""


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the model makes; `arguments` is JSON text."""

    name: str
    arguments: str = "{}"


LOGPROB = -0.125
"""The log-probability of each token of an answer, where nothing else is said."""


class Reply(msgspec.Struct, frozen=True):
    """What a model says. A reply with tool calls has no text; `logprob` is that of each token."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning_tokens: int = 0
    logprob: float = LOGPROB


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answerer may look at: the last user's text, and the request's body."""

    endpoint: str
    model: str
    text: str
    body: Mapping[str, Any] = field(default_factory=dict)


Answerer = Callable[[Asked], Reply | str]


def echo(asked: Asked) -> Reply:
    """The last user's text, said back."""
    return Reply(asked.text or "ok")


def say(text: str) -> Answerer:
    """Always the same text."""
    reply = Reply(text)
    return lambda _: reply


def table(rows: Sequence[tuple[str, Reply | str]], otherwise: Answerer = echo) -> Answerer:
    """The text of the first row whose pattern (a regular expression) is found in the question."""
    compiled = [
        (re.compile(pattern, re.IGNORECASE), Reply(said) if isinstance(said, str) else said)
        for pattern, said in rows
    ]

    def answer(asked: Asked) -> Reply | str:
        for pattern, reply in compiled:
            if pattern.search(asked.text):
                return reply
        return otherwise(asked)

    return answer


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One model.

    A streamed answer's first token comes `first_token_s` seconds after the request, each further
    one `between_tokens_s` later; a whole body when the last would have come. `output_tokens` makes
    every answer that long, by repeating or cutting it. Requests that set a parameter named in
    `refuses` are answered 400, as newer models of commercial providers do. `context` is the most
    tokens that prompt and answer may have together.
    """

    answer: Answerer = echo
    first_token_s: float = 0.0
    between_tokens_s: float = 0.0
    output_tokens: int | None = None
    refuses: frozenset[str] = frozenset()
    context: int | None = None
    calls_tools: bool = True
    """Offered tools, the model calls one whenever the user spoke last."""
    dimensions: int = 64
    """Of its embeddings, if a request names none."""
    head_first: bool = False
    """The head of a stream is sent at once, as vLLM does, not with the first event."""
    fault: Fault | None = None
    goes_on: bool = False
    """Shown its own answer that broke off, it says what is missing of it."""


def tokens_of(text: str) -> list[str]:
    """A text's tokens: words, each with the space before it. Joined they are the text again."""
    return re.findall(r"\s*\S+|\s+\Z", text)


def to_length(text: str, tokens: int) -> str:
    """The text, repeated or cut to exactly `tokens` tokens."""
    words = tokens_of(text.strip()) or ["ok"]
    words = [words[i % len(words)].lstrip() for i in range(tokens)]
    return " ".join(words)


def example_of(schema: Any, text: str) -> Any:
    """A value that a JSON schema allows, with `text` where a string is free."""
    if not isinstance(schema, dict):
        return text
    for chosen in ("const", "default"):
        if chosen in schema:
            return schema[chosen]
    if schema.get("enum"):
        return schema["enum"][0]
    for several in ("anyOf", "oneOf"):
        if schema.get(several):
            return example_of(schema[several][0], text)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties") or {}
        wanted = schema.get("required", list(properties))
        return {name: example_of(properties.get(name), text) for name in wanted}
    if kind == "array":
        return [example_of(schema.get("items"), text)]
    scalars: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": True, "null": None}
    return scalars.get(kind, text)
