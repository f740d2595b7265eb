"""Chat completions as they are read between steps, and given to a client afterwards. Pure."""

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.compose.moves import Ask, Said
from gateway.types.records import Usage

_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Message(msgspec.Struct):
    content: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Token(msgspec.Struct):
    logprob: float


class _Tokens(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    logprobs: _Tokens | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []


_answer = msgspec.json.Decoder(_Answer).decode


def read(ask: Ask, body: bytes) -> Said | None:
    """What a body says, by its first choice; None for what is no chat completion."""
    try:
        choices = _answer(body).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not choices:
        return None
    message = choices[0].message
    text = message.content if isinstance(message.content, str) else ""
    return Said(ask, body, text, _calls(message), _probability(choices[0].logprobs))


def text_of(body: bytes) -> str:
    """The first choice's text; none of what is no chat completion."""
    said = read(Ask("", ""), body)
    return "" if said is None else said.text


def _calls(message: _Message) -> str:
    """The calls of tools as one text: names and arguments, without their ids."""
    called = message.tool_calls or ([message.function_call] if message.function_call else [])
    if not called:
        return ""
    bare = [
        {name: value for name, value in call.items() if name not in ("id", "index")}
        for call in called
        if isinstance(call, dict)
    ]
    return msgspec.json.encode(bare, order="deterministic").decode()


def _probability(tokens: _Tokens | None) -> float | None:
    """exp(mean log-probability) of the tokens; None where they are not told."""
    if tokens is None or not tokens.content:
        return None
    logs = [token.logprob for token in tokens.content]
    return math.exp(sum(logs) / len(logs))


def without_log_probabilities(body: bytes) -> bytes:
    """A whole answer without those of its tokens, for a client that did not ask for them."""
    try:
        fields = _object.decode(body)
        choices = msgspec.json.decode(fields["choices"], type=list[dict[str, msgspec.Raw]])
    except (msgspec.DecodeError, RecursionError, KeyError):
        return body
    for choice in choices:
        choice.pop("logprobs", None)
    fields["choices"] = msgspec.Raw(_encode(choices))
    return _encode(fields)


def with_usage(body: bytes, usage: Usage) -> bytes:
    """A whole answer that tells the usage of all steps; itself where it cannot be read."""
    try:
        fields = _object.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body
    fields["usage"] = msgspec.Raw(_encode(usage_object(usage)))
    return _encode(fields)


def usage_object(usage: Usage) -> dict[str, Any]:
    """As OpenAI writes it."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input},
    }


def events(body: bytes, usage: Usage | None) -> bytes:
    """A whole answer, one that can be `read`, as the events of a stream; `usage` in one of its own
    if given."""
    fields = _object.decode(body)
    choices = msgspec.json.decode(fields["choices"], type=list[dict[str, msgspec.Raw]])
    names = ("id", "created", "model", "system_fingerprint", "service_tier")
    head: dict[str, Any] = {name: fields[name] for name in names if name in fields}
    head["object"] = "chat.completion.chunk"
    told = [chunk for choice in choices for chunk in _chunks(choice)]
    whole = [_event({**head, "choices": [chunk]}) for chunk in told]
    if usage is not None:
        whole.append(usage_event(body, usage))
    whole.append(b"data: [DONE]\n\n")
    return b"".join(whole)


def usage_event(like: bytes, usage: Usage) -> bytes:
    """The event before a stream's end that tells usage; id, model and time as in `like`, an object
    of the same answer."""
    try:
        fields = _object.decode(like)
    except (msgspec.DecodeError, RecursionError):
        fields = {}
    head: dict[str, Any] = {
        name: fields[name] for name in ("id", "created", "model") if name in fields
    }
    head["object"] = "chat.completion.chunk"
    return _event({**head, "choices": [], "usage": usage_object(usage)})


def _chunks(choice: dict[str, msgspec.Raw]) -> Iterator[dict[str, Any]]:
    """What a choice says in one delta, and its end in another."""
    index = choice.get("index", msgspec.Raw(b"0"))
    delta = dict(msgspec.json.decode(choice["message"], type=dict[str, Any]))
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": n, **call} for n, call in enumerate(calls) if isinstance(call, dict)
        ]
    said: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": None}
    if "logprobs" in choice:
        said["logprobs"] = choice["logprobs"]
    yield said
    yield {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason", "stop")}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _encode(data) + b"\n\n"
