"""From a request's bytes to a frozen `Request`: parsed once, here, and nowhere else.

A body's top-level values are kept verbatim (`msgspec.Raw`), so that what is not touched is passed
on as the client wrote it, nulls and unknown fields included. Only what routing needs is decoded.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import msgspec

from gateway.classify.rules import read_of
from gateway.config import units
from gateway.errors import BadRequest
from gateway.http.media import host_of, host_of_text, hosts_of_file
from gateway.metering.prices import BYTES_PER_TOKEN
from gateway.types.requests import Caller, Endpoint, Needs, Request

MAX_TURNS = 6
"""How many of the user's turns, from the last one back, are kept for recognising the route."""

MAX_NAME = 512
"""Characters of a model's name: it is looked up, likened to others and kept in the log."""

MAX_COUNT = 2**31 - 1
"""What a larger number of tokens counts as."""

LONGEST_NAME = 200
"""Characters of an application's own name for something."""

MAX_CHOICES = 1024
"""What a larger `n` or `best_of` counts as where answers are counted; OpenAI takes up to 128."""


_NOTHING = msgspec.Raw()


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None
    image_url: msgspec.Raw = _NOTHING
    audio_url: msgspec.Raw = _NOTHING
    video_url: msgspec.Raw = _NOTHING
    file_url: msgspec.Raw = _NOTHING
    file: msgspec.Raw = _NOTHING
    file_id: msgspec.Raw = _NOTHING
    file_data: msgspec.Raw = _NOTHING


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[_Part] | None = None


class _Item(_Message):
    """Of a response's input: what a tool gave back may be a picture, too."""

    output: str | list[_Part] | _Part | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Format(msgspec.Struct):
    type: str = "text"


class _TextConfig(msgspec.Struct):
    format: _Format | None = None


class _Head(msgspec.Struct):
    """What every inference body has."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None


class _Chat(_Head):
    messages: list[_Message] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    response_format: _Format | None = None


class _Completion(_Head):
    prompt: str | list[Any] | None = None
    max_tokens: int | None = None
    best_of: int | None = None


class _Embedding(_Head):
    input: str | list[Any] | None = None


class _Response(_Head):
    input: str | list[_Item] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    tools: list[msgspec.Raw] | None = None
    text: _TextConfig | None = None
    previous_response_id: str | None = None


TOO_DEEP = "The request's body is nested too deeply."

_GONE = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
"""Parameters that vLLM ignores without a word since it took `structured_outputs` instead."""

_BETWEEN_SERVERS = "kv_transfer_params"
"""Where a vLLM shall fetch its KV cache from: a client's would make it connect anywhere."""

_REFUSED = frozenset({*_GONE, _BETWEEN_SERVERS})

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])

_NUMBER = re.compile(r"\s*[0-9]+(\.[0-9]+)?\s*")

_PATH = re.compile(r" - at `\$\.?([^`]*)`")


class _Read(msgspec.Struct):
    """What one endpoint's body says to routing."""

    needs: Needs
    turns: tuple[str, ...]
    previous: str | None = None
    streams_usage: bool = False
    best_of: int = 1


def _refused(name: str) -> BadRequest:
    if name == _BETWEEN_SERVERS:
        return BadRequest(
            f"'{name}' is what vLLM's servers tell each other, hosts and ports among it; it is not"
            " taken from clients.",
            param=name,
            code="unsupported_parameter",
        )
    return BadRequest(
        f"'{name}' would be ignored: vLLM has no such parameter any more. Write "
        f'structured_outputs: {{"{_GONE[name]}": …}}.',
        param=name,
        code="unsupported_parameter",
    )


def parse(
    endpoint: Endpoint,
    body: bytes,
    *,
    id: str,
    headers: Mapping[str, str],
    caller: Caller,
) -> Request:
    """The request that `body` holds, or BadRequest naming the place."""
    try:
        # The decoders skip over what they do not keep; what goes on must be UTF-8 all the same.
        body.decode()
        fields = _fields.decode(body)
        decoder, read = _READERS[endpoint]
        head = decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"The request's body is not valid UTF-8 (byte {error.start}).", code="invalid_utf8"
        ) from None
    except RecursionError:
        raise BadRequest(TOO_DEEP, code="nested_too_deeply") from None
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise BadRequest(
            f"The request's body is not valid JSON: {error}.", code="invalid_json"
        ) from None
    if not fields.keys().isdisjoint(_REFUSED):
        raise _refused(next(name for name in fields if name in _REFUSED))
    model, stream, asks_usage = _common(head)
    if endpoint is Endpoint.EMBEDDINGS:
        stream = False  # there is no such thing, whatever was asked for
    seen = read(head, fields, body)
    choices, prompts = _count(head.n), seen.needs.prompts
    return Request(
        id,
        endpoint,
        model,
        stream,
        fields,
        headers,
        caller,
        seen.needs,
        turns=seen.turns,
        asks_usage=asks_usage or seen.streams_usage,
        route=headers.get("x-switchboard-route"),
        policy=headers.get("x-switchboard-policy"),
        previous=seen.previous,
        choices=choices * prompts,
        written=max(choices, seen.best_of) * prompts,
        within_s=_within(headers),
        size=len(body),
        ref=_own_name(headers, "x-switchboard-ref"),
        episode=_own_name(headers, "x-switchboard-episode"),
    )


def _own_name(headers: Mapping[str, str], header: str) -> str | None:
    """What the application calls something, by which feedback finds it later."""
    name = headers.get(header)
    if name is None:
        return None
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME:
        raise BadRequest(
            f"{header}: write 1 to {LONGEST_NAME} characters, not {len(name)}.",
            param=header,
            code="invalid_header",
        )
    return name


def _within(headers: Mapping[str, str]) -> float | None:
    """The seconds that the client gives the whole answer: `30`, `1.5 s` or `800 ms`."""
    written = headers.get("x-request-timeout")
    if written is None:
        return None
    plain = _NUMBER.fullmatch(written) is not None
    try:
        seconds = units.parse(f"{written} s" if plain else written, units.DURATION)
    except units.UnitError as error:
        raise BadRequest(
            f"x-request-timeout: {error.message}; {error.mend}.",
            param="x-request-timeout",
            code="invalid_header",
        ) from None
    if seconds <= 0.0:
        raise BadRequest(
            f"x-request-timeout: '{written}' leaves no time; write more than 0 seconds.",
            param="x-request-timeout",
            code="invalid_header",
        )
    return seconds


def _invalid(message: str) -> BadRequest:
    """msgspec's `Expected X, got Y - at $.place`, said in the API's words."""
    place = _PATH.search(message)
    text = _PATH.sub("", message).replace("`", "'")
    where = place.group(1) if place else ""
    top = re.split(r"[.\[]", where, maxsplit=1)[0] or None
    if not where:
        return BadRequest(f"The request's body is not as the API wants it: {text}.")
    return BadRequest(f"Invalid value for '{where}': {text}.", param=top, code="invalid_type")


def _common(head: _Head) -> tuple[str, bool, bool]:
    """The model, whether to stream, and whether the client itself asked for usage.

    OpenAI lets a response name no model, for a stored prompt can; every other call must.
    """
    model = head.model or ("auto" if isinstance(head, _Response) else None)
    if model is None:
        raise BadRequest(
            "You must provide a model: 'auto', a route, an alias or a target "
            "(GET /v1/models lists them).",
            param="model",
            code="missing_required_parameter",
        )
    if len(model) > MAX_NAME:
        raise BadRequest(
            f"The model's name is longer than {MAX_NAME} characters.",
            param="model",
            code="invalid_value",
        )
    stream = bool(head.stream)
    if head.stream_options is not None and head.stream is None:
        # With an explicit `stream: false` the backend may judge: they differ.
        raise BadRequest(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    asks = head.stream_options is not None and bool(head.stream_options.include_usage)
    return model, stream, asks


Fields = dict[str, msgspec.Raw]


def _read_chat(chat: Any, fields: Fields, body: bytes) -> _Read:
    if chat.messages is None:
        raise _missing("messages")
    turns, vision, audio, hosts = _read_messages(chat.messages)
    needs = Needs(
        endpoint="chat/completions",
        input_tokens=_tokens(fields["messages"]),
        # Where both are sent, one backend goes by the one and another by the other.
        max_output=_most(max(chat.max_completion_tokens or 0, chat.max_tokens or 0) or None),
        tools=bool(chat.tools or chat.functions),
        vision=vision,
        audio=audio,
        json_schema=chat.response_format is not None and chat.response_format.type == "json_schema",
        media_hosts=hosts,
    )
    return _Read(needs, turns)


def _read_completion(completion: Any, fields: Fields, body: bytes) -> _Read:
    if completion.prompt is None:
        raise _missing("prompt")
    prompts, longest = _prompts(completion.prompt)
    # Absurd numbers stay numbers that can be counted with, of all prompts together, too.
    most = _most(completion.max_tokens, MAX_COUNT // prompts)
    tokens = _tokens(fields["prompt"])
    needs = Needs("completions", tokens, most, prompts=prompts, longest=longest)
    return _Read(needs, _texts(completion.prompt), best_of=_count(completion.best_of))


def _read_embedding(embedding: Any, fields: Fields, body: bytes) -> _Read:
    if embedding.input is None:
        raise _missing("input")
    prompts, longest = _prompts(embedding.input)
    needs = Needs("embeddings", _tokens(fields["input"]), 0, prompts=prompts, longest=longest)
    return _Read(needs, _texts(embedding.input))


def _read_response(response: Any, fields: Fields, body: bytes) -> _Read:
    turns: tuple[str, ...] = ()
    vision = audio = False
    hosts: tuple[str, ...] = ()
    if isinstance(response.input, str):
        turns = (read_of(response.input),)
    elif response.input is not None:
        outputs = (item.output for item in response.input if item.output is not None)
        given = [_Message("", [each] if isinstance(each, _Part) else each) for each in outputs]
        turns, vision, audio, hosts = _read_messages([*response.input, *given])
    text_format = response.text.format if response.text is not None else None
    needs = Needs(
        endpoint="responses",
        input_tokens=len(body) // BYTES_PER_TOKEN,
        max_output=_most(response.max_output_tokens),
        tools=bool(response.tools),
        vision=vision,
        audio=audio,
        json_schema=text_format is not None and text_format.type == "json_schema",
        media_hosts=hosts,
    )
    if response.previous_response_id is not None and "\0" in response.previous_response_id:
        raise BadRequest(
            "No response's id has a NUL character in it.",
            param="previous_response_id",
            code="invalid_value",
        )
    # Usage is part of the last event of every such stream.
    return _Read(needs, turns, response.previous_response_id, streams_usage=True)


_READERS: dict[
    Endpoint, tuple[msgspec.json.Decoder[Any], Callable[[Any, Fields, bytes], _Read]]
] = {
    Endpoint.CHAT: (msgspec.json.Decoder(_Chat), _read_chat),
    Endpoint.COMPLETIONS: (msgspec.json.Decoder(_Completion), _read_completion),
    Endpoint.EMBEDDINGS: (msgspec.json.Decoder(_Embedding), _read_embedding),
    Endpoint.RESPONSES: (msgspec.json.Decoder(_Response), _read_response),
}


def _tokens(value: msgspec.Raw) -> int:
    return len(memoryview(value)) // BYTES_PER_TOKEN


def _count(answers: int | None) -> int:
    """How many answers to one prompt; what makes no sense is the backend's to refuse."""
    return min(max(answers, 1), MAX_CHOICES) if answers else 1


def _prompts(prompt: str | list[Any]) -> tuple[int, int]:
    """How many prompts there are, each answered by itself, and the tokens of the longest, 0 where
    there is only one. A list of token ids is one."""
    if isinstance(prompt, str) or len(prompt) < 2 or isinstance(prompt[0], int):
        return 1, 0
    return len(prompt), max(1, *map(_length, prompt))


def _length(prompt: Any) -> int:
    """Tokens, as estimated, of one of several prompts; what makes no sense is the backend's to
    refuse."""
    if isinstance(prompt, str):
        return len(prompt.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN
    return len(prompt) if isinstance(prompt, list) else 0


def _most(tokens: int | None, limit: int = MAX_COUNT) -> int | None:
    """The most that may be generated; below nought, as some servers have it, there is no limit.

    What is sent on stays as it was: the backend judges it.
    """
    return None if tokens is None or tokens < 0 else min(tokens, limit)


def _missing(param: str) -> BadRequest:
    return BadRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def _read_messages(
    messages: Iterable[_Message],
) -> tuple[tuple[str, ...], bool, bool, tuple[str, ...]]:
    """The user's turns, latest first; whether any part is a picture or a sound; and the hosts that
    such parts are to be fetched from."""
    turns: list[str] = []
    vision = audio = False
    hosts: set[str] = set()
    for message in messages:
        content = message.content
        if isinstance(content, str):
            if message.role == "user":
                turns.append(content)
        elif content is not None:
            texts = []
            for part in content:
                if part.text is not None:
                    texts.append(part.text)
                # A text beside a picture hides nothing: some go by the type, some by what is there.
                vision |= "image" in part.type or bool(part.image_url)
                audio |= "audio" in part.type or bool(part.audio_url)
                hosts |= _hosts(part)
            if texts and message.role == "user":
                turns.append("\n".join(texts))
    read = tuple(map(read_of, turns[: -MAX_TURNS - 1 : -1]))
    return read, vision, audio, tuple(sorted(hosts))


_NO_HOSTS: frozenset[str] = frozenset()


def _hosts(part: _Part) -> Set[str]:
    named = (part.image_url, part.audio_url, part.video_url, part.file_url)
    files = part.file or part.file_id or part.file_data
    if not files and not any(named):
        return _NO_HOSTS
    found = {host_of(value) for value in named if value}
    if files:
        found |= {host_of_text(value) for value in (part.file_id, part.file_data) if value}
        found |= hosts_of_file(part.file) if part.file else set()
    return {host for host in found if host is not None}


def _texts(value: str | list[Any]) -> tuple[str, ...]:
    """The first text of a prompt or an embedding's input; token ids hold none."""
    if isinstance(value, str):
        return (read_of(value),)
    return tuple(read_of(text) for text in value[:1] if isinstance(text, str))
