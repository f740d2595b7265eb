"""Every error that Switchboard raises on purpose.

SwitchboardError
├── ConfigError              the files (or a revision) are wrong; carries every Problem found
├── ApiError                 the caller's answer is an error: status and OpenAI's error object
│   ├── BadRequest           400
│   ├── Unauthorized         401
│   ├── Forbidden            403
│   ├── NotFound             404
│   ├── MethodNotAllowed     405
│   ├── Conflict             409   a command that cannot be done as things are
│   ├── TooLarge             413
│   ├── NoTargetFits         422   hard facts rule every candidate out
│   ├── LimitReached         429   a rate, a budget or requests at once of who asks
│   ├── Overloaded           503   limits leave nothing, or too many open requests
│   └── AttemptsFailed       502/504 or the last backend's own status: every attempt failed
├── CoordinatorAway          Redis cannot be asked now
└── UpstreamError            the leg to a backend failed
    ├── ConnectFailed        no connection: nothing was sent
    ├── TlsFailed            the peer's certificate or handshake
    ├── UpstreamTimeout      one of connect, first_byte, between, total ran out
    ├── UpstreamClosed       the peer closed; `sent` says whether the request may have reached it
    ├── MalformedAnswer      what came back is not HTTP/1.1
    │   └── MalformedEvent   an event of a stream is not JSON
    ├── AdapterAway          the replica cannot load the adapter that the call is for
    ├── ModelAway            the replica's model sleeps, and it is not its turn
    ├── QueueFull            too many wait for the replica already
    └── AttemptFailed        one attempt, such that another may do better; its `kind` says which
"""

import os
import socket
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

TimeoutKind = Literal["connect", "first_byte", "between", "first_token", "total"]

Kind = Literal[
    "client", "parameter", "context", "refused", "setup", "busy", "broken", "timeout", "away"
]
"""What kind of failure a backend's answer, or the lack of one, is.

client     the request is wrong, wherever it is sent
parameter  this model does not take one of its parameters
context    it is too long for this model
refused    the provider's rules on content stopped it
setup      the team's key, model id or credit at this backend is wrong, or an adapter is not there
busy       too many requests for now; the backend may say for how long
broken     the backend or the way to it failed
timeout    no answer in time
away       no connection was made: nothing was sent
"""


def said(error: BaseException) -> str:
    """What an error says, and of what kind it is where it says nothing, or not enough by itself."""
    if isinstance(error, SwitchboardError):
        return str(error)
    kind, text = type(error).__name__, str(error)
    return f"{kind}: {text}" if text else kind


def unconnected(error: OSError) -> str:
    """Why no connection was made, without the address that asyncio tells with it."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or "no connection could be made"
    return os.strerror(error.errno)


def unread(error: OSError | UnicodeDecodeError) -> str:
    """Why a file could not be read as text, without its name."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 ({error.reason} at byte {error.start})"
    return str(error.strerror or error)


class SwitchboardError(Exception):
    """The root of all errors raised on purpose."""


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong in a configuration, and its mend.

    `line` counts from 1; 0 when the problem belongs to the file as a whole.
    """

    file: str
    line: int
    key: str
    message: str
    mend: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        mend = f"; {_short(self.mend)}" if self.mend else ""
        return f"{place}:{key} {_short(self.message)}{mend}"


def _short(text: str, limit: int = 1000) -> str:
    """A value that is said back may be a whole file."""
    return text if len(text) <= limit else f"{text[: limit - 100]} … {text[-90:]}"


class ConfigError(SwitchboardError):
    """A configuration that cannot run, with all of its problems at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ApiError(SwitchboardError):
    """An error answer in OpenAI's shape, `{"error": {message, type, param, code}}`."""

    status = 500
    type = "api_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        type: str | None = None,
        retry_after: float | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = self.__class__.status if status is None else status
        self.type = self.__class__.type if type is None else type
        self.retry_after = retry_after
        self.headers = tuple(headers)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class BadRequest(ApiError):
    """The request itself is wrong; sending it again cannot help."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(ApiError):
    """No key, or one that is unknown or revoked."""

    status = 401
    type = "authentication_error"


class Forbidden(ApiError):
    """The key is good, but not for this."""

    status = 403
    type = "permission_error"


class NotFound(ApiError):
    """No such model, path or record."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(ApiError):
    """The path exists, with another method."""

    status = 405
    type = "invalid_request_error"


class Conflict(ApiError):
    """A command that cannot be done as things are."""

    status = 409
    type = "invalid_request_error"


class TooLarge(ApiError):
    """The head or body is over its limit."""

    status = 413
    type = "invalid_request_error"


class NoTargetFits(ApiError):
    """Hard facts (residency, capabilities, rights) rule out every candidate."""

    status = 422
    type = "invalid_request_error"


class LimitReached(ApiError):
    """A limit or a budget of the key, its tenant or the route is reached; the message says which,
    and when it is free again."""

    status = 429
    type = "rate_limit_error"


class Overloaded(ApiError):
    """Nothing can take the request now; `retry_after` says when to come back."""

    status = 503
    type = "overloaded_error"


class AttemptsFailed(ApiError):
    """Every attempt failed before the first byte; the message names each."""

    status = 502
    type = "upstream_error"


class CoordinatorAway(SwitchboardError):
    """Redis cannot be asked now, or refuses.

    `sent` says whether what was asked may have been done nevertheless.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class UpstreamError(SwitchboardError):
    """The leg to a backend failed.

    `at` is the address that was asked, where that is known. It is in the error's text, for the
    team's own log; clients are told `message` alone: where a backend stands is not their affair.
    """

    def __init__(self, message: str, *, at: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.at = at

    def __str__(self) -> str:
        return f"{self.at}: {self.message}" if self.at else self.message


class ConnectFailed(UpstreamError):
    """No connection could be made: nothing was sent."""


class TlsFailed(ConnectFailed):
    """The handshake failed, or the certificate is not valid for this origin."""


class UpstreamTimeout(UpstreamError):
    """One of the four timeouts ran out."""

    def __init__(self, kind: TimeoutKind, seconds: float, *, at: str = "") -> None:
        super().__init__(f"{kind.replace('_', ' ')} timeout after {seconds:g} s", at=at)
        self.kind: TimeoutKind = kind
        self.seconds = seconds


class UpstreamClosed(UpstreamError):
    """The peer closed or reset the connection before its answer was whole.

    `sent` is false only when no byte of the request can have reached the peer's application: a
    kept-alive connection that had been closed before the request was written, or before any byte
    of an answer to it.
    """

    def __init__(self, message: str, *, at: str = "", sent: bool = True) -> None:
        super().__init__(message, at=at)
        self.sent = sent


class MalformedAnswer(UpstreamError):
    """What came back is not a valid HTTP/1.1 answer."""


class MalformedEvent(MalformedAnswer):
    """An event whose data is not JSON; `before` is what can be relayed of what came with it."""

    before = b""


class AdapterAway(UpstreamError):
    """A replica cannot load the adapter that a call is for: nothing was sent."""


class ModelAway(UpstreamError):
    """The model of a replica sleeps and could not be woken in time: nothing was sent.

    `retry_after` is in seconds.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, at: str = "") -> None:
        super().__init__(message, at=at)
        self.retry_after = retry_after


class QueueFull(UpstreamError):
    """Too many wait for a replica, or wait before this one: nothing was sent.

    `retry_after` is in seconds.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
