"""Shapes a request's body for one target by splicing: what is not touched stays as it was sent."""

from collections.abc import Mapping

import msgspec

from gateway.types.backends import Target
from gateway.types.requests import Endpoint, Request
from gateway.types.routes import Candidate

_encode = msgspec.json.Encoder().encode
_messages = msgspec.json.Decoder(list[msgspec.Raw])


class Shaped(msgspec.Struct, frozen=True):
    """The body to send, and what was changed in it, for the decision.

    `hide_usage` says that the stream's usage event was asked for by the gateway alone.
    """

    body: bytes
    changed: tuple[str, ...]
    hide_usage: bool


def shape(request: Request, target: Target, candidate: Candidate | None) -> Shaped:
    """The body for `target`: its model id, renamed, dropped and set parameters, system prompt."""
    fields: dict[str, msgspec.Raw] = dict(request.fields)
    fields["model"] = msgspec.Raw(_encode(target.served))
    changed: list[str] = []
    shaping = target.shaping
    if shaping.rename:
        fields = _renamed(fields, shaping.rename, changed)
    for name in shaping.drop:
        if fields.pop(name, None) is not None:
            changed.append(f"dropped {name}")
    for name, value in shaping.set.items():
        if name not in fields:
            fields[name] = msgspec.Raw(value)
            changed.append(f"set {name}")
    if candidate is not None and candidate.system is not None:
        _put_system(fields, request.endpoint, candidate.system, changed)
    hide = request.stream and not request.asks_usage
    if hide:
        fields["stream_options"] = _with_usage(fields.get("stream_options"))
    return Shaped(_encode(fields), tuple(changed), hide)


def _renamed(
    fields: dict[str, msgspec.Raw], rename: Mapping[str, str], changed: list[str]
) -> dict[str, msgspec.Raw]:
    """A parameter that the client already sent under its new name is left alone."""
    for old, new in rename.items():
        if old in fields:
            value = fields.pop(old)
            fields.setdefault(new, value)
            changed.append(f"renamed {old} to {new}")
    return fields


def _put_system(
    fields: dict[str, msgspec.Raw], endpoint: Endpoint, system: str, changed: list[str]
) -> None:
    """The candidate's own system prompt goes before the application's messages."""
    if endpoint is Endpoint.CHAT:
        messages = _messages.decode(fields["messages"])
        own = msgspec.Raw(_encode({"role": "system", "content": system}))
        fields["messages"] = msgspec.Raw(_encode([own, *messages]))
    elif endpoint is Endpoint.RESPONSES:
        sent = fields.get("instructions")
        theirs = msgspec.json.decode(sent, type=str | None) if sent is not None else None
        joined = f"{system}\n\n{theirs}" if theirs else system
        fields["instructions"] = msgspec.Raw(_encode(joined))
    else:
        return
    changed.append("put the candidate's system prompt first")


def _with_usage(sent: msgspec.Raw | None) -> msgspec.Raw:
    """The client's stream options with usage asked for, the others kept."""
    if sent is None:
        return msgspec.Raw(b'{"include_usage":true}')
    options = msgspec.json.decode(sent, type=dict[str, msgspec.Raw] | None) or {}
    options["include_usage"] = msgspec.Raw(b"true")
    return msgspec.Raw(_encode(options))
