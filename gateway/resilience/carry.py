"""Carrying on: a stream that breaks off is gone on with by another candidate, as one answer.

After the commit point nothing can be asked again from the beginning. But chat text can be gone on
with: the next candidate is shown what was sent so far as the assistant's own message. Only what is
text and nothing else is carried on: no tools, one choice, no log probabilities, no format.
"""

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from gateway.metering.usage import MAX_TEXT, UNREADABLE
from gateway.types.backends import Target
from gateway.types.records import Usage
from gateway.types.requests import Endpoint, Request

_encode = msgspec.json.Encoder().encode
_messages = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_choices = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_number = msgspec.json.Decoder(int)

NOT_TEXT = ("tools", "functions", "logprobs", "top_logprobs", "response_format", "audio")
"""Fields of a request whose answer is more than text, or text of a form."""

GO_ON_TOKENS = 40
"""About what being told so takes of the input."""

GO_ON = (
    "Your last message broke off. Go on exactly where it ends, even in the middle of a word:"
    " repeat nothing of it, and say nothing about it."
)


def may_be_carried_on(request: Request) -> bool:
    """Whether an answer to this is text that another model can go on with."""
    return (
        request.endpoint is Endpoint.CHAT
        and request.stream
        and request.choices == 1
        and not (request.needs.tools or request.needs.audio or request.needs.json_schema)
        and not any(name in request.fields for name in NOT_TEXT)
    )


def carried_on(request: Request, target: Target, text: str, tokens: int) -> Request:
    """The request for what is missing after `text`, which took about `tokens` tokens: itself where
    nothing was said.

    vLLM goes on in the message itself; others are told to.
    """
    if not text:
        return request
    fields = dict(request.fields)
    messages = _messages.decode(fields["messages"])
    messages.append(msgspec.Raw(_encode({"role": "assistant", "content": text})))
    if target.internal:
        fields["continue_final_message"] = msgspec.Raw(b"true")
        fields["add_generation_prompt"] = msgspec.Raw(b"false")
    else:
        messages.append(msgspec.Raw(_encode({"role": "user", "content": GO_ON})))
    fields["messages"] = msgspec.Raw(_encode(messages))
    for name, most in _bounds(request):
        fields[name] = msgspec.Raw(b"%d" % max(1, most - tokens))
    return msgspec.structs.replace(request, fields=fields)


def has_room(request: Request, tokens: int) -> bool:
    """Whether an answer that has so many tokens may have more."""
    return all(tokens < most for _, most in _bounds(request))


def _bounds(request: Request) -> Iterator[tuple[str, int]]:
    for name in ("max_tokens", "max_completion_tokens"):
        if name in request.fields:
            try:
                yield name, _number.decode(request.fields[name])
            except msgspec.DecodeError:
                continue


def is_all_text(text: str, events: int) -> bool:
    """Whether `text` is all that was sent in so many events with content, and not cut for its
    length. Nothing may have been sent yet."""
    return len(text) < MAX_TEXT and bool(text or not events)


def both(first: Usage, second: Usage) -> Usage:
    """The tokens of an answer that two have written."""
    return Usage(
        first.input + second.input,
        first.cached_input + second.cached_input,
        first.output + second.output,
        estimated=first.estimated or second.estimated,
    )


class Disguise:
    """Makes the events of what goes on look like those of the answer that broke off: the same id,
    model and time, no second role, and usage that counts both parts."""

    def __init__(self, opening: bytes, tokens: int) -> None:
        """From the first events of the answer that broke off, which had `tokens` tokens."""
        self._head: dict[str, msgspec.Raw] = {}
        self._tokens = tokens
        for line in opening.split(b"\n"):
            said = _read(line)
            if said is not None:
                self._head = {
                    name: said[name]
                    for name in ("id", "created", "model", "system_fingerprint")
                    if name in said
                }
                break

    def apply(self, events: bytes) -> bytes:
        """Whole events, as the client is to see them."""
        return b"\n".join(self._line(line) for line in events.split(b"\n"))

    def _line(self, line: bytes) -> bytes:
        said = _read(line)
        if said is None:
            return line
        said |= {name: value for name, value in self._head.items() if name in said}
        for name, disguised in (("choices", _without_roles), ("usage", self._both)):
            if name in said:
                # What is null, or of a shape of its own, stays as the backend wrote it.
                with suppress(*UNREADABLE):
                    said[name] = msgspec.Raw(_encode(disguised(said[name])))
        return b"data: " + _encode(said)

    def _both(self, raw: msgspec.Raw) -> dict[str, msgspec.Raw]:
        """What was carried on was input to the second, and output to the client."""
        usage = _object.decode(raw)
        counts = {
            "prompt_tokens": -self._tokens,
            "completion_tokens": self._tokens,
        }
        for name, more in counts.items():
            if name in usage:
                with suppress(*UNREADABLE):
                    usage[name] = msgspec.Raw(b"%d" % max(0, _number.decode(usage[name]) + more))
        return usage


def _read(line: bytes) -> dict[str, msgspec.Raw] | None:
    """The object of a data line."""
    if not line.startswith(b"data:"):
        return None
    try:
        return _object.decode(line[5:])
    except UNREADABLE:
        return None


def _without_roles(raw: msgspec.Raw) -> list[dict[str, msgspec.Raw]]:
    choices = _choices.decode(raw)
    for choice in choices:
        if "delta" in choice:
            delta = _object.decode(choice["delta"])
            delta.pop("role", None)
            choice["delta"] = msgspec.Raw(_encode(delta))
    return choices
