"""From a client's request to the request of a step. Pure."""

from typing import Any

import msgspec

from gateway.compose.moves import Ask
from gateway.metering.prices import estimate_tokens
from gateway.types.requests import Needs, Request

_encode = msgspec.json.Encoder().encode
_messages = msgspec.json.Decoder(list[msgspec.Raw])
_message = msgspec.json.Decoder(dict[str, Any])

OF_A_STREAM = ("stream", "stream_options")
OF_THE_ANSWER = (
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "n",
    "logprobs",
    "top_logprobs",
    "stop",
    "modalities",
    "audio",
    "prediction",
)
"""What the client says of the form of its own answer: nothing that a step between is held to."""


def asked(request: Request, ask: Ask, *, last: bool) -> Request:
    """What a step is asked: streamed only where it is the last and the client wants a stream.

    Usage is ours to tell, of all steps together: no client's stream asks a step for it.
    """
    if ask.alone:
        return _alone(request, ask)
    fields = dict(request.fields)
    needs, choices, size = request.needs, request.choices, request.size
    messages = _messages.decode(fields["messages"])
    if ask.prompt is not None:
        _put_prompt(messages, ask.prompt)
    if ask.system is not None:
        messages.insert(0, _written("system", ask.system))
    if ask.prompt is not None or ask.system is not None:
        fields["messages"] = msgspec.Raw(_encode(messages))
        more = len(bytes(fields["messages"])) - len(bytes(request.fields["messages"]))
        size = max(1, size + more)
        tokens = estimate_tokens(bytes(fields["messages"]))
        needs = msgspec.structs.replace(needs, input_tokens=tokens)
    if ask.inner:
        for name in OF_THE_ANSWER:
            fields.pop(name, None)
        choices = 1
        needs = msgspec.structs.replace(needs, tools=False, json_schema=False)
    if ask.max_tokens is not None:
        for name in ("max_tokens", "max_completion_tokens"):
            fields.pop(name, None)
        fields["max_tokens"] = msgspec.Raw(b"%d" % ask.max_tokens)
        needs = msgspec.structs.replace(needs, max_output=ask.max_tokens)
    if ask.temperature is not None:
        fields["temperature"] = msgspec.Raw(_encode(ask.temperature))
        fields.pop("seed", None)  # it would make every sample the same
    if ask.probability:
        fields["logprobs"] = msgspec.Raw(b"true")
    streams = last and request.stream
    if not streams:
        for name in OF_A_STREAM:
            fields.pop(name, None)
    return msgspec.structs.replace(
        request,
        fields=fields,
        needs=needs,
        choices=choices,
        written=choices,
        size=size,
        stream=streams,
        asks_usage=False,
    )


def _alone(request: Request, ask: Ask) -> Request:
    """A question of our own, with nothing of the client's."""
    messages = [_written("user", ask.prompt or "")]
    if ask.system is not None:
        messages.insert(0, _written("system", ask.system))
    fields = {"model": request.fields["model"], "messages": msgspec.Raw(_encode(messages))}
    for name, value in (("max_tokens", ask.max_tokens), ("temperature", ask.temperature)):
        if value is not None:
            fields[name] = msgspec.Raw(_encode(value))
    text = bytes(fields["messages"])
    return msgspec.structs.replace(
        request,
        fields=fields,
        needs=Needs(input_tokens=estimate_tokens(text), max_output=ask.max_tokens),
        choices=1,
        written=1,
        size=len(text),
        stream=False,
        asks_usage=False,
    )


def under(request: Request, system: str | None) -> Request:
    """The request with a system prompt before its messages."""
    if system is None:
        return request
    fields = dict(request.fields)
    own = _written("system", system)
    fields["messages"] = msgspec.Raw(_encode([own, *_messages.decode(fields["messages"])]))
    tokens = request.needs.input_tokens + estimate_tokens(system)
    return msgspec.structs.replace(
        request,
        fields=fields,
        size=request.size + len(bytes(own)),
        needs=msgspec.structs.replace(request.needs, input_tokens=tokens),
    )


def question_of(request: Request) -> str:
    """The whole text of the user's last message; "" where there is none."""
    messages = _messages.decode(request.fields["messages"])
    at = _last_of_the_user(messages)
    return "" if at is None else _text(_message.decode(messages[at]).get("content"))


def _put_prompt(messages: list[msgspec.Raw], prompt: str) -> None:
    """A text in the place of the user's last message, or after all where there is none. Pictures
    and the like of that message stay."""
    at = _last_of_the_user(messages)
    if at is None:
        messages.append(_written("user", prompt))
        return
    message = _message.decode(messages[at])
    content = message.get("content")
    kept = [part for part in content if not _is_text(part)] if isinstance(content, list) else []
    message["content"] = [{"type": "text", "text": prompt}, *kept] if kept else prompt
    messages[at] = msgspec.Raw(_encode(message))


def _last_of_the_user(messages: list[msgspec.Raw]) -> int | None:
    for at in range(len(messages) - 1, -1, -1):
        if _message.decode(messages[at]).get("role") == "user":
            return at
    return None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if _is_text(part))


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text"


def _written(role: str, text: str) -> msgspec.Raw:
    return msgspec.Raw(_encode({"role": role, "content": text}))
