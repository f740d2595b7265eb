"""The kinds of value that configuration has, as annotations of pydantic fields.

Each says how it is read and how editors may check it. An environment variable is always text, so
numbers and switches are read from text too.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from gateway.config import units
from gateway.config.units import Dimension, UnitError
from gateway.types.limits import Rate
from gateway.types.routes import TENANT, Comparison
from gateway.types.snapshot import LEAST_REQUESTS_S, LEAST_TEXT_S

NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_TARGET = re.compile(
    r"(?P<backend>[a-z0-9][a-z0-9.-]*)/(?P<model>[a-z0-9][a-z0-9.-]*)"
    r"(?:\+(?P<adapter>(?:[a-z0-9.-]|\{key\.tenant\})+)(?:@(?P<version>[a-z0-9][a-z0-9.-]*))?)?"
)
_REFERENCE = r"\$\{"
_MEDIA_HOST = re.compile(r"\.?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|[0-9a-f]*:[0-9a-f:.]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_WHOLE = re.compile(r"[0-9]{1,15}")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15}")
_DNS = re.compile(r"dns://[A-Za-z0-9._-]+:([0-9]{1,5})")
_COMPARED = re.compile(r"(?P<how>>=|<=|>|<|=)?\s*(?P<bound>-?[0-9]+(?:\.[0-9]+)?)")
_COMPARED_PATTERN = r"^(true|false|(>=|<=|>|<|=)?\s*-?[0-9]+(\.[0-9]+)?)$"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Wrong(PydanticCustomError):
    """A value that is wrong, with its mend; becomes a Problem."""

    def __new__(cls, message: str, mend: str = "") -> "Wrong":
        context = {"said": message, "mend": mend}
        return super().__new__(cls, "switchboard", "{said}", context)


class Read:
    """A kind of value: `read` makes the value or raises Wrong; `schema` is for editors.

    `show` writes a value as people would.
    """

    def __init__(
        self,
        read: Callable[[Any], Any],
        schema: JsonSchemaValue,
        show: Callable[[Any], str] = str,
    ) -> None:
        self._read = read
        self._schema = schema
        self.show = show

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return dict(self._schema)


def _measured(value: Any, dimension: Dimension) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Wrong(f"must be {dimension.what}", f"write it as `{dimension.example}`")
    try:
        return units.parse(value, dimension)
    except UnitError as error:
        raise Wrong(error.message, error.mend) from None


def _quantity(dimension: Dimension) -> Read:
    return Read(
        lambda value: _measured(value, dimension),
        _text_or(None, dimension.pattern),
        lambda value: units.format(float(value), dimension),
    )


def _text_or(kind: str | None, pattern: str | None) -> JsonSchemaValue:
    """Text of that pattern or with a variable in it, or a plain value of the kind."""
    parts = [part for part in (pattern, _REFERENCE) if part is not None]
    text: JsonSchemaValue = {"type": "string", "pattern": "|".join(parts)}
    return text if kind is None else {"anyOf": [{"type": kind}, text]}


def _age(least: float, why: str) -> Read:
    """A time of at least that many seconds; `why` says what a shorter one would spoil."""

    def read(value: Any) -> float:
        seconds = _measured(value, units.DURATION)
        if seconds < least:
            mend = f"write `{units.format(least, units.DURATION)}` or more"
            raise Wrong(f"`{value}` is too short: {why}", mend)
        return seconds

    return Read(
        read,
        _text_or(None, units.DURATION.pattern),
        lambda value: units.format(float(value), units.DURATION),
    )


def _rate(value: Any) -> Rate:
    try:
        return Rate(*units.parse_rate(str(value)))
    except UnitError as error:
        raise Wrong(error.message, error.mend) from None


def _above_zero(value: Any) -> float:
    dollars = _measured(value, units.MONEY)
    if dollars <= 0:
        raise Wrong(f"`{value}` is nothing", "write an amount above 0, such as `10 usd`")
    return dollars


def _share(value: Any) -> float:
    share = _measured(value, units.SHARE)
    if share > 1:
        raise Wrong(f"`{value}` is more than the whole", "write a share as `0.8` or `80 %`")
    return share


def _stick_to(value: Any) -> str:
    text = str(value)
    header = text.removeprefix("header:")
    if text in ("user", "conversation", "key"):
        return text
    if header != text and _HEADER_NAME.fullmatch(header):
        return text.lower()
    raise Wrong(
        f"`{value}` is nothing that an arm can stick to",
        "write `user`, `conversation`, `key`, or a header as `header:x-team`",
    )


def _size(value: Any) -> int:
    return round(_measured(value, units.SIZE))


def _whole(value: Any) -> int:
    if not isinstance(value, bool) and _WHOLE.fullmatch(str(value)) and int(value) > 0:
        return int(value)
    said = str(value)
    if said.lower().rstrip("k") != said:
        raise Wrong(f"`{said}` could mean two numbers", "write the whole number, such as `8192`")
    raise Wrong(f"`{said}` is not a whole number above 0", "write it as `8192`")


def _index(value: Any) -> int:
    if not isinstance(value, bool) and _WHOLE.fullmatch(str(value)):
        return int(value)
    raise Wrong(f"`{value}` is not a number of one", "count from 0: `0`, `1`")


def _number(value: Any) -> float:
    if not isinstance(value, bool) and _NUMBER.fullmatch(str(value)):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15:
        return float(value)
    raise Wrong(f"`{value}` is not a number of 0 or more", "write it as `1` or `0.5`")


def _positive(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise Wrong(f"`{value}` is not above 0", "write it as `50`")
    return number


def _weight(value: Any) -> float:
    text = str(value)
    if not isinstance(value, bool) and _NUMBER.fullmatch(text.removeprefix("-")) and float(text):
        return float(text)
    raise Wrong(f"`{value}` is not a weight", "write a number other than 0, such as `0.8`")


def _sha256(value: Any) -> str:
    text = _text(value).removeprefix("sha256:").lower()
    if _SHA256.fullmatch(text):
        return text
    raise Wrong(f"`{value}` is not a SHA-256", "write its 64 hexadecimal digits")


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise Wrong(f"`{value}` is not a switch", "write `true` or `false`")


def _name(value: Any) -> str:
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    likely = re.sub(r"[^a-z0-9.-]+", "-", str(value).lower()).strip("-.")
    raise Wrong(
        f"`{value}` is not a name: lower-case letters, digits, `.` and `-`, beginning with a"
        " letter or a digit",
        f"write `{likely}`" if likely else "",
    )


def is_target(text: str) -> bool:
    """Whether `text` is a target by the grammar."""
    return _TARGET.fullmatch(text) is not None and text.count(TENANT) <= 1


def _target(value: Any) -> str:
    if isinstance(value, str) and is_target(value):
        return value
    raise Wrong(
        f"`{value}` is not a target",
        f"write `backend/model` or `backend/model+adapter` in declared names, or `+{TENANT}` for"
        " an adapter that follows the caller",
    )


def split_target(name: str) -> tuple[str, str, str | None]:
    """Backend, model and adapter of a target that is written by the grammar."""
    match = _TARGET.fullmatch(name)
    if match is None:
        raise ValueError(f"'{name}' is not a target")
    return match["backend"], match["model"], match["adapter"]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        shown = str(value).lower() if isinstance(value, bool) else value
        raise Wrong(
            "must be text", f'quote it: "{shown}"' if isinstance(value, int | float) else ""
        )
    if not value.strip():
        raise Wrong("is empty", "write something, or leave the key out")
    return value


def _header_name(value: Any) -> str:
    text = _text(value)
    if not _HEADER_NAME.fullmatch(text):
        raise Wrong(f"`{text}` is not the name of a header", "write it as `x-team`")
    return text


def _header_value(value: Any) -> str:
    """Never says the value: it may be a secret."""
    text = _text(value) if isinstance(value, str) else _not_text(value)
    if not text.isprintable() or text != text.strip():
        raise Wrong(
            "has a line break, another control character or white space at an end",
            "take it out, also where the variable is set",
        )
    return text


def _not_text(value: Any) -> str:
    raise Wrong("must be text", "quote it" if isinstance(value, int | float) else "")


def _media_host(value: Any) -> str:
    text = _text(value).lower()
    if _MEDIA_HOST.fullmatch(text):
        return text
    raise Wrong(
        f"`{text}` is not a host",
        "write a name such as `images.example.com`, or `.example.com` for all below it",
    )


def _store(value: Any) -> str:
    text = _text(value)
    if text.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
        return text
    raise Wrong("is not a store's URL", "write `sqlite:///FILE` or `postgresql://user@host/name`")


def _coordinator(value: Any) -> str:
    """Never says the value: it may have a password in it."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        if parts.scheme == "unix" and parts.path:
            return text
        if parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0:
            return text
    except ValueError:
        pass
    raise Wrong("is not the URL of a Redis", "write `redis://host:6379`")


def _url(value: Any) -> str:
    text = _text(value).rstrip("/")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise Wrong(f"`{text}` is not a URL: {error}") from None
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return text
    if parts.scheme == "dns":
        raise Wrong("`dns://` is for the replicas of a vLLM", "write `http://host:port`")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise Wrong(f"`{text}` is not a URL", "write `http://host:port` or `https://host/v1`")
    if parts.username is not None or parts.query or parts.fragment:
        raise Wrong("a URL here has no user, query or fragment", "put a key under `api_key`")
    return text


def _replica(value: Any) -> str:
    text = _text(value).rstrip("/")
    if not text.startswith("dns://"):
        return _url(value)
    match = _DNS.fullmatch(text)
    if match is None or not 0 < int(match[1]) < 65536:
        raise Wrong(f"`{text}` is not a name with a port", "write `dns://vllm.ml.svc:8000`")
    return text


def _listen(value: Any) -> tuple[str, int]:
    text = _text(value)
    host, colon, port = text.rpartition(":")
    if colon and host and port.isdecimal() and int(port) < 65536:
        return host.strip("[]"), int(port)
    raise Wrong(f"`{text}` is not HOST:PORT", "write `127.0.0.1:8080`")


def _port(value: Any) -> int:
    number = _whole(value)
    if not 0 < number < 65536:
        raise Wrong(f"`{value}` is not a port", "write one of 1 to 65535")
    return number


def _pattern(value: Any) -> str:
    text = _text(value)
    try:
        re.compile(text)
    except re.error as error:
        raise Wrong(
            f"not a regular expression: {error}", "see Python's re for the grammar"
        ) from None
    return text


def _right_when(value: Any) -> bool | tuple[Comparison, float]:
    if isinstance(value, bool):
        return value
    text = _text(value)
    if text in ("true", "false"):
        return text == "true"
    match = _COMPARED.fullmatch(text)
    if match is None:
        raise Wrong(
            f"`{text}` does not say when an answer is right",
            "write `true` or `false`, or a comparison such as `>= 4`",
        )
    comparison: Any = match["how"] or "="
    return comparison, float(match["bound"])


def _show_right_when(value: bool | tuple[Comparison, float]) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value[0]} {value[1]:g}"


_plain = {"type": "string", "minLength": 1}
_names = {"type": "string", "pattern": f"^({NAME.pattern})$|{_REFERENCE}"}

Rated = Annotated[
    Rate,
    Read(
        _rate,
        _text_or(None, units.RATE_PATTERN),
        lambda value: units.format_rate(value.amount, value.per_s),
    ),
]
Money = Annotated[
    float,
    Read(
        _above_zero,
        _text_or(None, units.MONEY.pattern),
        lambda value: units.format(value, units.MONEY),
    ),
]
Usd = Annotated[float, _quantity(units.MONEY)]
TokenPrice = Annotated[float, _quantity(units.TOKEN_PRICE)]
Waiting = Annotated[float, _quantity(units.WAITING)]
Seconds = Annotated[float, _quantity(units.DURATION)]
TextAge = Annotated[float, _age(LEAST_TEXT_S, "answers are spoken of after they were given")]
RequestAge = Annotated[float, _age(LEAST_REQUESTS_S, "a month's budgets are known by its requests")]
Share = Annotated[
    float,
    Read(
        _share,
        _text_or("number", units.SHARE.pattern),
        lambda value: units.format(value, units.SHARE),
    ),
]
Points = Annotated[float, _quantity(units.POINTS)]
StickTo = Annotated[str, Read(_stick_to, _plain)]
Size = Annotated[
    int,
    Read(_size, _text_or(None, units.SIZE.pattern), lambda value: units.format(value, units.SIZE)),
]
Index = Annotated[int, Read(_index, _text_or("integer", r"^[0-9]+$"))]
Whole = Annotated[int, Read(_whole, _text_or("integer", r"^[0-9]+$"))]
Number = Annotated[
    float, Read(_number, _text_or("number", f"^({_NUMBER.pattern})$"), lambda value: f"{value:g}")
]
Positive = Annotated[
    float, Read(_positive, _text_or("number", f"^({_NUMBER.pattern})$"), lambda value: f"{value:g}")
]
Weight = Annotated[
    float,
    Read(_weight, _text_or("number", f"^-?({_NUMBER.pattern})$"), lambda value: f"{value:g}"),
]
Port = Annotated[int, Read(_port, _text_or("integer", r"^[0-9]+$"))]
Sha256 = Annotated[str, Read(_sha256, _plain)]
Switch = Annotated[
    bool, Read(_switch, _text_or("boolean", r"^(true|false)$"), lambda value: str(value).lower())
]
Text = Annotated[str, Read(_text, _plain)]
MediaHost = Annotated[str, Read(_media_host, _plain)]
HeaderName = Annotated[str, Read(_header_name, _plain)]
HeaderValue = Annotated[str, Read(_header_value, _plain)]
CoordinatorUrl = Annotated[str, Read(_coordinator, _plain)]
StoreUrl = Annotated[str, Read(_store, _plain)]
Name = Annotated[str, Read(_name, _names)]
TargetName = Annotated[str, Read(_target, _plain)]
Url = Annotated[str, Read(_url, _plain)]
ReplicaUrl = Annotated[str, Read(_replica, _plain)]
Listen = Annotated[tuple[str, int], Read(_listen, _plain, lambda value: f"{value[0]}:{value[1]}")]
RightWhen = Annotated[
    bool | tuple[Comparison, float],
    Read(
        _right_when,
        {"anyOf": [{"type": "boolean"}, _text_or(None, _COMPARED_PATTERN)]},
        _show_right_when,
    ),
]
Pattern = Annotated[str, Read(_pattern, _plain)]
