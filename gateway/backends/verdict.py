"""How backends say what went wrong: one table from their words to the kinds of failure.

A status alone says little: one provider answers 400 to a prompt that is too long, another to a key
that is wrong. So the table goes from a status and the words beside it to a `Kind`; the first sign
that fits decides. `SIGNS` is for statuses that mean several things, `BY_STATUS` for what is left.
What is done about each kind stands in `gateway.resilience.base.RULES`.
"""

import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime

import msgspec

from gateway.errors import Kind
from gateway.types.backends import Backend


class Sign(msgspec.Struct, frozen=True):
    """One way of saying one kind of failure. What is empty does not matter.

    `names` are an error's codes, types and statuses as providers write them, in lower case without
    `_`, `-`, blanks and a last `exception` or `error`; `words` are looked for in its message.
    """

    kind: Kind
    statuses: frozenset[int]
    names: frozenset[str] = frozenset()
    words: re.Pattern[str] | None = None


class Told(msgspec.Struct, frozen=True):
    """What an error's body says: its names as in `Sign`, its message, and seconds to wait."""

    names: frozenset[str] = frozenset()
    message: str = ""
    retry_after: float | None = None


def _sign(kind: Kind, statuses: str, names: str = "", words: str = "") -> Sign:
    return Sign(
        kind,
        frozenset(map(int, statuses.split())),
        frozenset(names.split()),
        re.compile(words, re.IGNORECASE) if words else None,
    )


_FAULTS = "400 413 422"
_SIGNS_OF_ALL = "400 401 402 403 404 408 409 413 422 429 498 500 502 503 504 529"

SIGNS: tuple[Sign, ...] = (
    # ---- it is too long for this model
    _sign(
        "context",
        "400 413 422 500",
        # OpenAI, Azure and litellm; llama.cpp
        "contextlengthexceeded contextwindowexceeded exceedcontextsize stringabovemaxlength",
    ),
    _sign(
        "context",
        "400 413 422 500",
        words="maximum context length"  # OpenAI, vLLM, DeepSeek, Mistral
        "|context (length|window|limit)[^.]{0,40}exceed"
        "|exceeds? (the )?(model'?s )?(maximum )?context"
        "|prompt is too long"  # Anthropic
        "|input (length )?and `?max_tokens`? exceed"  # Anthropic
        "|input token count[^.]{0,40}exceeds"  # Google
        "|input is too long"  # Bedrock
        "|too many (input )?tokens"  # Cohere, Bedrock
        "|too large for model with"  # Mistral
        "|must be <= \\d+. given"  # TGI
        "|(max_tokens|max_completion_tokens|max_model_len)\\W[^.]{0,60}too large"  # vLLM
        "|reduce the length of the (messages|prompt|input)",
    ),
    # ---- the rules on content
    _sign(
        "refused",
        "400 403 422 498",
        # OpenAI and Azure; litellm; Bedrock's guardrails
        "contentfilter contentpolicyviolation responsibleaipolicyviolation moderationblocked"
        " invalidprompt guardrailintervened prohibitedcontent",
    ),
    _sign(
        "refused",
        "400 403 422 498",
        words="content (management )?policy|content[_ ]filter(ing|ed)?\\b"  # Azure, Anthropic
        "|safety system|flagged (as|for|by)|requires moderation"  # OpenAI, OpenRouter
        "|blocked (input|output)|prohibited[_ ]content"  # Cohere, Google
        "|usage polic(y|ies)",
    ),
    # ---- what the client goes on with is not there: OpenAI, vLLM
    _sign(
        "client",
        "400 404",
        "previousresponsenotfound",
        words="^(previous )?(response|item|conversation) with id .{1,200} not found",
    ),
    # ---- the team's own doing at that backend: its key, its credit, its model's id
    _sign(
        "setup",
        _SIGNS_OF_ALL,
        # OpenAI; Google; Azure; Anthropic and DeepSeek
        "insufficientquota billinghardlimitreached billingnotactive accountdeactivated"
        " invalidapikey apikeyinvalid incorrectapikey"
        " deploymentnotfound operationnotsupported modelnotfound invalidmodel notfound"
        " authentication permission permissiondenied unauthenticated accessdenied billing"
        " unrecognizedclient expiredtoken invalidsignature failedprecondition",
    ),
    _sign(
        "setup",
        _FAULTS,
        words="credit balance is too low|insufficient (balance|credit|quota)"
        "|api key (not valid|expired|is invalid)|invalid api.?key"
        "|provided model identifier is invalid|on-demand throughput isn.t supported"  # Bedrock
        "|model .{0,80} (does not exist|not found|is not supported)",
    ),
    # ---- a parameter that this model does not take
    _sign(
        "parameter",
        _FAULTS,
        "unsupportedparameter unsupportedvalue unsupportedparams unknownparameter",
    ),
    _sign(
        "parameter",
        _FAULTS,
        words="unsupported (parameter|value)|extra inputs are not permitted"
        "|(does not|doesn't|not) support(ed)? (with|by|for|in) (this|the) model"
        "|(this|the) model does not support|is not supported (by|for) (this|the)? ?model"
        "|requires? --enable-auto-tool-choice|does not support (tools|images|image input)"
        "|is not a multimodal model|at most 0 image",
    ),
    _sign("parameter", "413 429", words="request too large[^.]{0,120}(per minute|tpm)"),  # Groq
    # ---- too many requests
    _sign(
        "busy",
        "400 403 408 409 413 424 498 500 502 503 529",
        # OpenAI; Anthropic; Google; Bedrock; Groq; Azure
        "ratelimitexceeded ratelimit toomanyrequests slowdown overloaded engineoverloaded"
        " resourceexhausted unavailable throttling throttled servicequotaexceeded"
        " modelnotready serviceunavailable capacityexceeded nocapacity servertoobusy",
    ),
    _sign(
        "busy",
        "498 500 502 503",
        words="\\boverloaded\\b|(is|at|over|no|insufficient|out of) capacity|capacity exceeded"
        "|too many requests|rate limit|try again later|temporarily unavailable"
        "|queue is full|currently loading",
    ),
    # ---- not in time
    _sign("timeout", "408 424 500", "modeltimeout deadlineexceeded timeout requesttimeout"),
)

BY_STATUS: Mapping[int, Kind] = {
    400: "client",
    401: "setup",
    402: "setup",
    403: "setup",
    404: "setup",
    405: "setup",
    408: "timeout",
    413: "client",
    422: "client",
    425: "busy",
    429: "busy",
    498: "busy",
    504: "timeout",
    524: "timeout",
    529: "busy",
}
"""What is left is `broken`; a 503 with `retry-after` is `busy`."""

# ---------------------------------------------------------------- reading errors


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class _Body(msgspec.Struct):
    error: _Error | None = None


_body = msgspec.json.Decoder(_Body)
_any = msgspec.json.Decoder()

_NAMED = ("code", "type", "status", "reason", "error_type", "__type", "Code")
_INSIDE = ("error", "innererror", "details", "metadata", "detail")
_SAID = ("message", "Message", "msg", "detail", "error")
_DEPTH = 7
_WAIT = re.compile(r"(?:retry|try again) (?:after|in) (\d+(?:\.\d+)?) ?(ms|s\b|sec)", re.IGNORECASE)


LONGEST_WAIT_S = 1e7
"""Who says more is not believed."""


def wait_in(headers: Iterable[tuple[bytes, bytes]], now: float) -> float | None:
    """The seconds to wait that an answer's headers tell, by their names in lower case.

    A date (RFC 9110, 10.2.3) is one by the backend's clock: what lies between it and the answer's
    own date, else `now` in Unix seconds.
    """
    told = dict(headers)
    wait_s = _seconds(told.get(b"retry-after-ms", b""), 1e-3)
    if wait_s is not None:
        return wait_s
    after = told.get(b"retry-after", b"")
    at = _instant(after)
    if at is None:
        return _seconds(after)
    sent = _instant(told.get(b"date", b""))
    return _seconds(max(0.0, at - (now if sent is None else sent)))


def _seconds(said: str | bytes | float, unit_s: float = 1.0) -> float | None:
    try:
        seconds = float(said) * unit_s
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < LONGEST_WAIT_S else None


def _instant(date: bytes) -> float | None:
    if b":" not in date:
        return None
    try:
        return parsedate_to_datetime(date.decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return None


def read_error(body: bytes) -> _Error | None:
    """The OpenAI-shaped error that `body` holds, or None if it holds none."""
    try:
        return _body.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def told(body: bytes) -> Told:
    """What an error's body says, in whichever provider's shape."""
    try:
        said = _any.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Told(message=body[:2000].decode(errors="replace"))
    names: set[str] = set()
    messages: list[str] = []
    waits: list[float | None] = []
    _gather(said, names, messages, waits, _DEPTH)
    message = messages[0] if messages else ""
    found = _WAIT.search(message)
    if found is not None and not waits:
        waits.append(_seconds(found[1], 1e-3 if found[2] == "ms" else 1.0))
    return Told(frozenset(names), message, waits[0] if waits else None)


def _gather(
    said: object, names: set[str], messages: list[str], waits: list[float | None], depth: int
) -> None:
    """Takes names and messages out of nested objects; providers wrap theirs differently."""
    if isinstance(said, list):
        for item in said[:8]:
            _gather(item, names, messages, waits, depth - 1)
        return
    if not isinstance(said, dict) or depth <= 0:
        return
    for key in _NAMED:
        value = said.get(key)
        if isinstance(value, str) and len(value) < 100:
            names.add(_plain(value))
    messages += [value for key in _SAID if isinstance(value := said.get(key), str)]
    delay = said.get("retryDelay")  # Google's RetryInfo: "34s"
    if isinstance(delay, str) and re.fullmatch(r"\d+(\.\d+)?s", delay):
        waits.append(_seconds(delay[:-1]))
    for key in _INSIDE:
        _gather(said.get(key), names, messages, waits, depth - 1)


def _plain(name: str) -> str:
    """`ThrottlingException`, `throttling_error` and `com.amazon#Throttling` are all the same."""
    name = re.sub(r"[\s_-]", "", name.rpartition("#")[2]).lower()
    return re.sub(r"(exception|error)$", "", name)


# ---------------------------------------------------------------- judging


def judge(
    status: int, body: bytes, *, named: str | None = None, waits: bool = False
) -> tuple[Kind, Told]:
    """What kind of failure an error status with this body is.

    `named` is the error's name where a header tells it (`x-amzn-errortype`), `waits` whether the
    answer has a `retry-after`.
    """
    said = told(body)
    names = said.names if named is None else said.names | {_plain(named.partition(":")[0])}
    for sign in SIGNS:
        if status not in sign.statuses:
            continue
        if names & sign.names or (sign.words is not None and sign.words.search(said.message)):
            return sign.kind, said
    if status == 503 and (waits or said.retry_after is not None):
        return "busy", said
    return BY_STATUS.get(status, "broken"), said


def message_of(status: int, body: bytes) -> str:
    """A backend's error in one short line."""
    message = told(body).message if body[:1] in b"{[" else ""
    return f"{status}, {message[:300]}" if message else f"status {status}"


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
