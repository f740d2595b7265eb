"""Chat completions and completions in OpenAI's wire format. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.standin.answer import DONE, Event, Part, data
from gateway.standin.behaviour import Reply, ToolCall, tokens_of

Body = Mapping[str, Any]

PIECE = 6
"""Characters of a tool call's arguments in one event."""


@dataclass(frozen=True, slots=True)
class Made:
    """What stands in every body of one answer. `created` is in Unix seconds."""

    id: str
    created: int
    model: str
    fingerprint: str
    call_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """A reply held to the request's limits."""

    reply: Reply
    tokens: tuple[str, ...]
    finish: str


def cut(reply: Reply, limit: int | None, stop: Sequence[str]) -> Cut:
    """The reply up to the first stop sequence and at most `limit` tokens long."""
    if reply.tool_calls:
        return Cut(reply, (), "tool_calls")
    text = reply.text
    for mark in stop:
        if mark:
            text = text.split(mark, 1)[0]
    tokens = tokens_of(text)
    if limit is not None and len(tokens) > limit:
        return Cut(reply, tuple(tokens[:limit]), "length")
    return Cut(reply, tuple(tokens), "stop")


def output_tokens(cut: Cut) -> int:
    """How many tokens the model made; a call's arguments count one for every four characters."""
    calls = sum(1 + len(call.arguments) // 4 for call in cut.reply.tool_calls)
    return len(cut.tokens) + calls + cut.reply.reasoning_tokens


def usage(prompt: int, cuts: Sequence[Cut]) -> dict[str, Any]:
    """The `usage` object."""
    made = sum(output_tokens(cut) for cut in cuts)
    reasoning = sum(cut.reply.reasoning_tokens for cut in cuts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion(made: Made, cuts: Sequence[Cut], prompt: int, body: Body) -> dict[str, Any]:
    """A whole `chat.completion`."""
    choices = [
        {
            "index": index,
            "message": _message(cut, made),
            "logprobs": _logprobs(cut.tokens, cut.reply.logprob, body),
            "finish_reason": cut.finish,
        }
        for index, cut in enumerate(cuts)
    ]
    whole = {
        "id": made.id,
        "object": "chat.completion",
        "created": made.created,
        "model": made.model,
        "choices": choices,
        "usage": usage(prompt, cuts),
        "service_tier": "default",
        "system_fingerprint": made.fingerprint,
    }
    if body.get("metadata") is not None:
        whole["metadata"] = body["metadata"]
    return whole


def _message(cut: Cut, made: Made) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if cut.reply.tool_calls else "".join(cut.tokens),
        "refusal": None,
        "annotations": [],
    }
    if cut.reply.tool_calls:
        message["tool_calls"] = [
            {
                "id": id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for id, call in zip(made.call_ids, cut.reply.tool_calls, strict=True)
        ]
    return message


def _logprobs(tokens: Sequence[str], each: float, body: Body) -> dict[str, Any] | None:
    if not body.get("logprobs"):
        return None
    return {
        "content": [
            {
                "token": token,
                "logprob": each,
                "bytes": list(token.encode()),
                "top_logprobs": [],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def chunks(made: Made, cuts: Sequence[Cut], prompt: int, body: Body) -> list[Event]:
    """The events of a streamed chat completion."""
    asked = bool((body.get("stream_options") or {}).get("include_usage"))
    frame: dict[str, Any] = {
        "id": made.id,
        "object": "chat.completion.chunk",
        "created": made.created,
        "model": made.model,
        "service_tier": "default",
        "system_fingerprint": made.fingerprint,
        "choices": [],
    }
    if asked:
        frame["usage"] = None

    def event(index: int, delta: Body, part: Part, tokens: Sequence[str] = ()) -> Event:
        each = cuts[index].reply.logprob
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(tokens, each, body) if tokens else None,
            "finish_reason": None,
        }
        return data({**frame, "choices": [choice]}, part)

    events = []
    for index, cut in enumerate(cuts):
        if cut.reply.tool_calls:
            deltas = _tool_deltas(cut.reply.tool_calls, made.call_ids)
            events += [event(index, delta, Part.TOKEN) for delta in deltas]
        else:
            opening = {"role": "assistant", "content": "", "refusal": None}
            events.append(event(index, opening, Part.OTHER))
            events += [event(index, {"content": t}, Part.TOKEN, [t]) for t in cut.tokens]
        last = {"index": index, "delta": {}, "logprobs": None, "finish_reason": cut.finish}
        events.append(data({**frame, "choices": [last]}))
    if asked:
        events.append(data({**frame, "usage": usage(prompt, cuts)}, Part.USAGE))
    events.append(DONE)
    return events


def _tool_deltas(calls: Sequence[ToolCall], ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """`index` stands in each; `id`, `type` and `name` come once, in the call's first."""
    for index, (call, id) in enumerate(zip(calls, ids, strict=True)):
        function = {"name": call.name, "arguments": ""}
        first: dict[str, Any] = {
            "tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]
        }
        if index == 0:
            first = {"role": "assistant", "content": None, **first, "refusal": None}
        yield first
        for start in range(0, len(call.arguments), PIECE):
            piece = call.arguments[start : start + PIECE]
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def text_completion(made: Made, cuts: Sequence[Cut], prompt: int, body: Body) -> dict[str, Any]:
    """A whole `text_completion`."""
    return {
        "id": made.id,
        "object": "text_completion",
        "created": made.created,
        "model": made.model,
        "choices": [
            {
                "index": index,
                "text": "".join(cut.tokens),
                "logprobs": _text_logprobs(cut.tokens, body),
                "finish_reason": cut.finish,
            }
            for index, cut in enumerate(cuts)
        ],
        "usage": usage(prompt, cuts),
        "system_fingerprint": made.fingerprint,
    }


def text_chunks(made: Made, cuts: Sequence[Cut], prompt: int, body: Body) -> list[Event]:
    """The events of a streamed completion."""
    asked = bool((body.get("stream_options") or {}).get("include_usage"))
    frame: dict[str, Any] = {
        "id": made.id,
        "object": "text_completion",
        "created": made.created,
        "model": made.model,
        "choices": [],
        "system_fingerprint": made.fingerprint,
    }
    if asked:
        frame["usage"] = None

    def event(index: int, text: str, finish: str | None, part: Part) -> Event:
        logprobs = _text_logprobs([text], body) if text else None
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return data({**frame, "choices": [choice]}, part)

    events = []
    for index, cut in enumerate(cuts):
        events += [event(index, token, None, Part.TOKEN) for token in cut.tokens]
        events.append(event(index, "", cut.finish, Part.OTHER))
    if asked:
        events.append(data({**frame, "usage": usage(prompt, cuts)}, Part.USAGE))
    events.append(DONE)
    return events


def _text_logprobs(tokens: Sequence[str], body: Body) -> dict[str, Any] | None:
    if body.get("logprobs") is None:
        return None
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    return {
        "tokens": list(tokens),
        "token_logprobs": [-0.125] * len(tokens),
        "top_logprobs": [{token: -0.125} for token in tokens],
        "text_offset": offsets,
    }
