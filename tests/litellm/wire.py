"""What providers write: Anthropic's messages, Gemini's contents, Groq's chunks, Cohere's data."""

import json
from collections.abc import Sequence
from typing import Any

from tests.litellm.provider import Plan

JSON = ("content-type", "application/json")


def whole(body: Any, status: int = 200, **headers: str) -> Plan:
    """A plain JSON answer."""
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Plan([json.dumps(body).encode()], status=status, headers=(JSON, *named))


# ---------------------------------------------------------------- Anthropic


def message(content: Sequence[Any], reason: str = "end_turn") -> Plan:
    """Anthropic's answer: 12 tokens in, of which 2 more from its cache; 7 out."""
    return whole(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5",
            "content": list(content),
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 12,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 2,
                "output_tokens": 7,
            },
        }
    )


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def tool_use(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": arguments}


def anthropic_error(status: int, kind: str, words: str, **headers: str) -> Plan:
    body = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_1"}
    return whole(body, status, **headers)


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def opening() -> bytes:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5"}
    usage = {"input_tokens": 12, "cache_read_input_tokens": 2, "output_tokens": 1}
    return event("message_start", message=head | {"content": [], "usage": usage})


def text_block(words: Sequence[str], index: int = 0) -> list[bytes]:
    begin = event("content_block_start", index=index, content_block=text(""))
    deltas = [
        event("content_block_delta", index=index, delta={"type": "text_delta", "text": word})
        for word in words
    ]
    return [begin, *deltas, event("content_block_stop", index=index)]


def tool_block(name: str, pieces: Sequence[str], index: int = 0) -> list[bytes]:
    block = tool_use(name, {}) | {"id": f"toolu_{index}"}
    begin = event("content_block_start", index=index, content_block=block)
    deltas = [
        event(
            "content_block_delta",
            index=index,
            delta={"type": "input_json_delta", "partial_json": piece},
        )
        for piece in pieces
    ]
    return [begin, *deltas, event("content_block_stop", index=index)]


def closing(reason: str = "end_turn") -> list[bytes]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        event("message_delta", delta=delta, usage={"output_tokens": 7}),
        event("message_stop"),
    ]


# ---------------------------------------------------------------- the others


def gemini(words: str, reason: str | None = None) -> bytes:
    return _candidate({"text": words}, reason)


def gemini_call(name: str, arguments: Any) -> bytes:
    return _candidate({"functionCall": {"name": name, "args": arguments}}, None)


def _candidate(part: Any, reason: str | None) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
    return (
        b"data: "
        + json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode()
        + (b"\r\n\r\n")
    )


def groq(words: str, reason: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "llama-3.1-8b-instant",
        "choices": [{"index": 0, "delta": {"content": words}, "finish_reason": reason}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def cohere_vectors(vectors: Sequence[Sequence[float]]) -> Plan:
    meta = {"billed_units": {"input_tokens": 4}}
    return whole({"id": "e1", "embeddings": {"float": vectors}, "texts": [], "meta": meta})


def openai_answer(words: str) -> str:
    message = {"role": "assistant", "content": words}
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served",
        "service_tier": "on_demand",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    return json.dumps(answer)
