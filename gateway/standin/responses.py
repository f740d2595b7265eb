"""The Responses API in OpenAI's wire format. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.standin.answer import Event, Part, named
from gateway.standin.chat import PIECE, Cut, Made, output_tokens

Body = Mapping[str, Any]

ECHOED = (
    "background",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "user",
)
"""Parameters that an answer repeats as they were sent."""


def usage(prompt: int, cut: Cut) -> dict[str, Any]:
    """The `usage` object of a response."""
    made = output_tokens(cut)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": cut.reply.reasoning_tokens},
        "total_tokens": prompt + made,
    }


def response(made: Made, cut: Cut, prompt: int, body: Body) -> dict[str, Any]:
    """A whole `response`."""
    short = cut.finish == "length"
    return {
        "id": made.id,
        "object": "response",
        "created_at": made.created,
        "status": "incomplete" if short else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if short else None,
        "model": made.model,
        "output": items(made, cut),
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "reasoning": {"effort": (body.get("reasoning") or {}).get("effort"), "summary": None},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": usage(prompt, cut),
        **{name: body.get(name) for name in ECHOED},
        "metadata": body.get("metadata") or {},
        "background": bool(body.get("background")),
    }


def items(made: Made, cut: Cut) -> list[dict[str, Any]]:
    """The `output` of a response: one message, or the calls."""
    if not cut.reply.tool_calls:
        return [_message(made, "".join(cut.tokens), "completed")]
    return [
        {
            "id": f"fc_{id}",
            "type": "function_call",
            "status": "completed",
            "call_id": id,
            "name": call.name,
            "arguments": call.arguments,
        }
        for id, call in zip(made.call_ids, cut.reply.tool_calls, strict=True)
    ]


def _message(made: Made, text: str | None, status: str) -> dict[str, Any]:
    return {
        "id": f"msg_{made.id.removeprefix('resp_')}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [] if text is None else [_text(text)],
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def events(made: Made, cut: Cut, prompt: int, body: Body) -> list[Event]:
    """The events of a streamed response; there is no `[DONE]`."""
    whole = response(made, cut, prompt, body)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    begun["incomplete_details"] = None
    steps: list[tuple[str, Body, Part]] = [
        ("response.created", {"response": begun}, Part.OTHER),
        ("response.in_progress", {"response": begun}, Part.OTHER),
    ]
    if cut.reply.tool_calls:
        steps += _call_steps(whole["output"])
    else:
        steps += _message_steps(made, cut)
    last = "response.incomplete" if cut.finish == "length" else "response.completed"
    steps.append((last, {"response": whole}, Part.OTHER))
    return [
        named({"type": kind, "sequence_number": number, **more}, part)
        for number, (kind, more, part) in enumerate(steps)
    ]


Steps = Iterator[tuple[str, Body, Part]]


def _message_steps(made: Made, cut: Cut) -> Steps:
    text = "".join(cut.tokens)
    begun, whole = _message(made, None, "in_progress"), _message(made, text, "completed")
    place = {"item_id": whole["id"], "output_index": 0, "content_index": 0}
    yield "response.output_item.added", {"output_index": 0, "item": begun}, Part.OTHER
    yield "response.content_part.added", {**place, "part": _text("")}, Part.OTHER
    for token in cut.tokens:
        yield "response.output_text.delta", {**place, "delta": token, "logprobs": []}, Part.TOKEN
    yield "response.output_text.done", {**place, "text": text, "logprobs": []}, Part.OTHER
    yield "response.content_part.done", {**place, "part": _text(text)}, Part.OTHER
    yield "response.output_item.done", {"output_index": 0, "item": whole}, Part.OTHER


def _call_steps(calls: Sequence[Body]) -> Steps:
    for index, call in enumerate(calls):
        place = {"item_id": call["id"], "output_index": index}
        begun = {**call, "arguments": "", "status": "in_progress"}
        yield "response.output_item.added", {"output_index": index, "item": begun}, Part.OTHER
        arguments = call["arguments"]
        for start in range(0, len(arguments), PIECE):
            piece = {**place, "delta": arguments[start : start + PIECE]}
            yield "response.function_call_arguments.delta", piece, Part.TOKEN
        done = {**place, "arguments": arguments, "name": call["name"]}
        yield "response.function_call_arguments.done", done, Part.OTHER
        yield "response.output_item.done", {"output_index": index, "item": call}, Part.OTHER


def input_items(body: Body, id: str) -> dict[str, Any]:
    """The page of what a response was asked with."""
    given = body.get("input") or ""
    said = [{"role": "user", "content": given}] if isinstance(given, str) else given
    found = [_input_item(item, f"msg_{id}_{index}") for index, item in enumerate(said)]
    return {
        "object": "list",
        "data": found,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
        "has_more": False,
    }


def _input_item(item: Body, id: str) -> dict[str, Any]:
    content = item.get("content")
    if item.get("type", "message") != "message" or content is None:
        return {"id": id, **item}
    if isinstance(content, str):
        content = [{"type": "input_text", "text": content}]
    role = item.get("role", "user")
    return {"id": id, "type": "message", "role": role, "status": "completed", "content": content}
