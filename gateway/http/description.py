"""What we serve, as OpenAPI: the inference calls by hand, everything else as FastAPI knows it.

Bodies of inference calls are described as far as they are looked at; whatever else stands in one
goes on to the backend as it is. Each error has OpenAI's shape, whatever its status.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.types.requests import Endpoint

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_OBJECT: Schema = {"type": "object"}
_EVENT: Schema = {"type": "object", "properties": {"data": _TEXT, "event": _TEXT}}
_COUNT: Schema = {"type": ["integer", "null"]}
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": {"type": ["string", "null"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_ERRORS: Schema = {
    "description": "An error, in OpenAI's shape whatever its status.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}

_PART: Schema = {
    "type": "object",
    "properties": {"type": _TEXT, "text": {"type": ["string", "null"]}},
}
_CONTENT: Schema = {
    "anyOf": [_TEXT, {"type": "array", "items": _PART}, {"type": "null"}],
}
_MESSAGES: Schema = {
    "type": "array",
    "items": {"type": "object", "properties": {"role": _TEXT, "content": _CONTENT}},
}
_COMMON: Schema = {
    "model": {
        "type": "string",
        "minLength": 1,
        "maxLength": 512,
        "description": "`auto`, a route, an alias or a target; GET /v1/models lists them.",
        "examples": ["auto"],
    },
    "stream": {"type": ["boolean", "null"]},
    "n": _COUNT,
}
_TEXTS: Schema = {"anyOf": [_TEXT, {"type": "array"}]}

_CALLS: Mapping[Endpoint, tuple[str, list[str], Schema, Schema]] = {
    Endpoint.CHAT: (
        "A chat completion.",
        ["model", "messages"],
        {"messages": _MESSAGES, "max_tokens": _COUNT, "max_completion_tokens": _COUNT},
        {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]},
    ),
    Endpoint.COMPLETIONS: (
        "A completion of a text.",
        ["model", "prompt"],
        {"prompt": _TEXTS, "max_tokens": _COUNT},
        {"model": "auto", "prompt": "Once upon a time"},
    ),
    Endpoint.EMBEDDINGS: (
        "Embeddings of texts.",
        ["model", "input"],
        {"input": _TEXTS},
        {"model": "auto", "input": "Hello"},
    ),
    Endpoint.RESPONSES: (
        "A response.",
        [],
        {
            "input": {"anyOf": [_TEXT, _MESSAGES, {"type": "null"}]},
            "instructions": {"type": ["string", "null"]},
            "max_output_tokens": _COUNT,
            "previous_response_id": {"type": ["string", "null"]},
        },
        {"model": "auto", "input": "Hello"},
    ),
}
"""By call: what it is, what it must have, what is looked at, and an example."""

_KEPT: Mapping[str, tuple[Endpoint, str]] = {
    "/v1/responses/{id}": (Endpoint.RESPONSES, "get delete"),
    "/v1/responses/{id}/cancel": (Endpoint.RESPONSES, "post"),
    "/v1/responses/{id}/input_items": (Endpoint.RESPONSES, "get"),
    "/v1/chat/completions/{id}": (Endpoint.CHAT, "get post delete"),
    "/v1/chat/completions/{id}/messages": (Endpoint.CHAT, "get"),
}
"""What a backend keeps of an answer, and how it is asked for."""

_PLAIN_TEXT = {"/metrics": "text/plain"}
_NOT_OURS = frozenset({"422"})
"""FastAPI's own shape of a wrong body, which nobody gets to see here."""


def described(app: FastAPI, *, admin: bool) -> Schema:
    """The whole description; without `admin` the admin API is left out."""
    whole = get_openapi(title=app.title, version="1", routes=app.routes)
    found = {
        path: {method: _answered(path, call) for method, call in calls.items()}
        for path, calls in whole["paths"].items()
        if admin or not path.startswith("/admin")
    }
    route = found["/v1/route"]["post"]
    route["requestBody"] = _body(Endpoint.CHAT)
    paths = {f"/v1/{call.value}": {"post": _inference(call)} for call in Endpoint}
    for path, (endpoint, methods) in _KEPT.items():
        paths[path] = {method: _kept(endpoint) for method in methods.split()}
    components = whole.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = _ERROR
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {**whole, "paths": {**paths, **found}, "security": [{"key": []}, {}]}


def _answered(path: str, call: Schema) -> Schema:
    """A call of FastAPI's, with our errors instead of its own."""
    responses = {code: said for code, said in call["responses"].items() if code not in _NOT_OURS}
    kind = _PLAIN_TEXT.get(path, "application/json")
    schema = _OBJECT if kind == "application/json" else _TEXT
    responses["200"] = {"description": "Done.", "content": {kind: {"schema": schema}}}
    if path == "/ready":
        responses["503"] = {**responses["200"], "description": "Not ready."}
    return {**call, "responses": {**responses, "default": _ERRORS}}


def _body(endpoint: Endpoint) -> Schema:
    _, required, looked_at, example = _CALLS[endpoint]
    schema: Schema = {"type": "object", "properties": {**_COMMON, **looked_at}}
    if required:
        schema["required"] = required
    content = {"application/json": {"schema": schema, "example": example}}
    return {"required": True, "content": content}


def _inference(endpoint: Endpoint) -> Schema:
    answer: Schema = {"application/json": {"schema": _OBJECT}}
    if endpoint is not Endpoint.EMBEDDINGS:
        answer["text/event-stream"] = {"schema": _EVENT}
    return {
        "summary": _CALLS[endpoint][0],
        "operationId": endpoint.name.lower(),
        "parameters": [
            {
                "name": "x-request-timeout",
                "in": "header",
                "required": False,
                "description": "What the whole answer may take: `30`, `1.5 s` or `800 ms`.",
                "schema": {"type": "string", "pattern": r"^[1-9][0-9]{0,3}( m?s)?$"},
            }
        ],
        "requestBody": _body(endpoint),
        "responses": {
            "200": {"description": "The backend's answer, as it is.", "content": answer},
            "default": _ERRORS,
        },
    }


def _kept(endpoint: Endpoint) -> Schema:
    return {
        "summary": f"What the backend keeps of an answer of /v1/{endpoint.value}.",
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": _TEXT}],
        "responses": {
            "200": {
                "description": "The backend's answer, as it is.",
                "content": {
                    "application/json": {"schema": _OBJECT},
                    "text/event-stream": {"schema": _EVENT},
                },
            },
            "default": _ERRORS,
        },
    }
