"""From a client's request to the request of a step. Pure."""

import msgspec

from gateway.metering.prices import estimate_tokens
from gateway.types.compositions import Step
from gateway.types.requests import Request

_encode = msgspec.json.Encoder().encode
_messages = msgspec.json.Decoder(list[msgspec.Raw])


def asked(request: Request, step: Step, *, last: bool) -> Request:
    """What a step is asked: streamed only where it is the last and the client wants a stream.

    Usage is ours to tell, of all steps together: no client's stream asks a step for it.
    """
    request = under(request, step.system)
    fields = dict(request.fields)
    streams = last and request.stream
    if not streams:
        fields.pop("stream", None)
        fields.pop("stream_options", None)
    return msgspec.structs.replace(request, fields=fields, stream=streams, asks_usage=False)


def under(request: Request, system: str | None) -> Request:
    """The request with a system prompt before its messages."""
    if system is None:
        return request
    own = msgspec.Raw(_encode({"role": "system", "content": system}))
    fields = dict(request.fields)
    fields["messages"] = msgspec.Raw(_encode([own, *_messages.decode(fields["messages"])]))
    tokens = request.needs.input_tokens + estimate_tokens(system)
    return msgspec.structs.replace(
        request,
        fields=fields,
        size=request.size + len(own),
        needs=msgspec.structs.replace(request.needs, input_tokens=tokens),
    )
