"""What a backend's error status means for the request: whose fault, and who may do better."""

from typing import Literal

import msgspec

from gateway.types import Backend

Verdict = Literal["final", "next"]

PARAMETER_CODES = frozenset(
    {"unsupported_parameter", "unsupported_value", "context_length_exceeded"}
)
"""Faults of the request towards this model alone; another candidate may take it as it is."""


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class _Body(msgspec.Struct):
    error: _Error | None = None


_body = msgspec.json.Decoder(_Body)


def read_error(body: bytes) -> _Error | None:
    """The OpenAI-shaped error that `body` holds, or None if it holds none."""
    try:
        return _body.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def judge(status: int, body: bytes) -> Verdict:
    """`final` when the client must mend its request, `next` when another candidate may answer.

    A backend's 401, 403 and 404 are the team's fault, not the client's: its key or model id there
    is wrong, or an adapter is not loaded.
    """
    if status in (400, 413, 422):
        error = read_error(body)
        return "next" if error is not None and error.code in PARAMETER_CODES else "final"
    return "next"


def message_of(status: int, body: bytes) -> str:
    """A backend's error in one short line."""
    error = read_error(body)
    if error is not None and error.message:
        return f"{status}, {error.message[:300]}"
    return f"status {status}"


SECRET_BYTES = 8
"""A header's value or an argument that is shorter is no secret worth the name."""


def without_secrets(body: bytes, declared: Backend) -> bytes:
    """A backend's error without what we authenticate with there: some say it back."""
    secrets = [declared.api_key, *declared.headers.values(), *declared.arguments.values()]
    for secret in secrets:
        if isinstance(secret, str) and len(secret) >= SECRET_BYTES:
            body = body.replace(secret.encode(), b"***")
    return body


def openai_shaped(status: int, body: bytes) -> bytes:
    """`body` as it is when it has OpenAI's error object, else an error object saying what it is."""
    if read_error(body) is not None:
        return body
    text = body[:300].decode(errors="replace")
    error = {
        "message": f"The backend answered {status}: {text}",
        "type": "invalid_request_error" if status < 500 else "upstream_error",
        "param": None,
        "code": None,
    }
    return msgspec.json.encode({"error": error})
