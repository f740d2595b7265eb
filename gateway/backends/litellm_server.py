"""litellm in a process of its own: OpenAI's API on a Unix socket, for every other provider.

Runs as `python -I litellm_server.py` in an environment that holds litellm and what it depends on,
and nothing of the gateway: it imports nothing but litellm and aiohttp, which litellm brings along.

One line of JSON on standard input configures it:

    {"socket": PATH, "backends": [{"backend", "provider", "api_key", "api_base", "models":
    {declared: id}, "headers": {...}, "arguments": {...}, "parameters": [...]}]}

A request's model is `<backend>/<declared>`. `headers` go to the provider with each call;
`arguments` go to each of litellm's calls as they are (`api_version`, `aws_region_name`);
`parameters` are names of the body that this provider takes though litellm does not list them.
When the socket listens, one line `ready` goes to standard output. The end of standard input means
that the gateway is gone, and ends this process: it can outlive no gateway, however that one died.

Only a body's listed parameters reach litellm. Its calls also take `api_base`, `api_key`, `headers`
and the like as arguments, and a client that could set those would be sent the provider's key.
"""

import asyncio
import base64
import contextlib
import importlib
import json
import os
import re
import signal
import struct
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from aiohttp import web

MAX_BODY = 64 * 1024 * 1024
"""Bytes; above the gateway's own limit, which is the one that clients meet."""

CALL_SECONDS = 600.0
"""The last resort: the gateway's own four timeouts end a call long before."""

CHAT_PARAMETERS = frozenset(
    "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens "
    "max_tokens modalities n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "reasoning_effort response_format safety_identifier seed service_tier stop temperature "
    "thinking tool_choice tools top_logprobs top_p user verbosity web_search_options".split()
)
COMPLETIONS_PARAMETERS = frozenset(
    "frequency_penalty logit_bias max_tokens n presence_penalty seed stop temperature top_p "
    "user".split()
)
EMBEDDINGS_PARAMETERS = frozenset({"dimensions", "user"})

WITHOUT_EFFECT: Mapping[str, Any] = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "logprobs": False,
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "store": False,
}
"""Values that say what holds anyway: to leave them out changes nothing, so nobody is warned."""

NOT_TO_BE_DROPPED = frozenset({"functions", "response_format", "tools"})
"""Without these an answer is of another kind than the client can read: an error is kinder."""


@dataclass(frozen=True)
class Endpoint:
    """One of OpenAI's calls: the field it cannot do without, and the parameters that it knows."""

    path: str
    needs: str
    parameters: frozenset[str]


CHAT = Endpoint("chat/completions", "messages", CHAT_PARAMETERS)
COMPLETIONS = Endpoint("completions", "prompt", COMPLETIONS_PARAMETERS)
EMBEDDINGS = Endpoint("embeddings", "input", EMBEDDINGS_PARAMETERS)


@dataclass(frozen=True)
class Spec:
    """One backend as the gateway declared it."""

    backend: str
    provider: str
    models: Mapping[str, str]
    api_key: str | None = field(default=None, repr=False)
    api_base: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    parameters: frozenset[str] = frozenset()

    def secrets(self) -> set[str]:
        """What must never be written anywhere: the key, and other texts of some length."""
        values = (self.api_key, *self.headers.values(), *self.arguments.values())
        return {text for text in values if isinstance(text, str) and len(text) >= 8}


class Failure(Exception):
    """A call that ends in OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {
            "message": message,
            "type": error_type(status),
            "param": param,
            "code": code,
        }
        self.headers = {} if retry_after is None else {"retry-after": retry_after}

    def body(self) -> str:
        return json.dumps({"error": self.error})


def error_type(status: int) -> str:
    """OpenAI's `type` for an HTTP status."""
    names = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
    names |= {429: "rate_limit_error", 503: "overloaded_error"}
    return names.get(status, "invalid_request_error" if status < 500 else "upstream_error")


# ---------------------------------------------------------------- requests


def read_body(raw: bytes) -> dict[str, Any]:
    """The body as an object. Raises Failure (400) for anything else, `NaN` included."""
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Failure(400, f"The body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Failure(400, f"The body must be a JSON object, not {type(body).__name__}")
    return body


def check(body: Mapping[str, Any], endpoint: Endpoint) -> None:
    """Raises Failure (400) for what would only confuse litellm: its errors would not name it."""
    if body.get(endpoint.needs) is None:
        raise Failure(400, f"'{endpoint.needs}' is missing", param=endpoint.needs)
    messages = body[endpoint.needs] if endpoint is CHAT else [{}]
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise Failure(400, "'messages' must be a list of objects", param="messages")
    if not isinstance(body.get("stream"), bool | None):
        raise Failure(400, "'stream' must be true or false", param="stream")
    options = body.get("stream_options")
    if options is not None and not body.get("stream"):
        raise Failure(400, "'stream_options' needs 'stream'", param="stream_options")
    if not isinstance(options, dict | None):
        raise Failure(400, "'stream_options' must be an object", param="stream_options")


def messages_of(prompt: Any) -> list[dict[str, str]]:
    """A completion's prompt as a conversation: that is all that other providers take.

    Raises Failure (400) for several prompts or tokens.
    """
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise Failure(400, "This provider takes one 'prompt', as text", param="prompt")
    return [{"role": "user", "content": prompt}]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def sift(
    body: Mapping[str, Any], endpoint: Endpoint, known: frozenset[str]
) -> tuple[dict[str, Any], list[str]]:
    """The parameters that the provider knows, and the names of those that are left out.

    Raises Failure (400, `unsupported_parameter`) where the answer without one would be of another
    kind. A null is OpenAI's way to say "not given".
    """
    own = {"model", "stream", "stream_options", "encoding_format", endpoint.needs}
    kept, dropped = {}, []
    for name, value in body.items():
        if name in own or value is None:
            continue
        if name in known:
            kept[name] = value
        elif name in NOT_TO_BE_DROPPED and value not in ([], {"type": "text"}):
            message = f"This provider takes no '{name}'; send the request to another target"
            raise Failure(400, message, param=name, code="unsupported_parameter")
        elif name not in WITHOUT_EFFECT or WITHOUT_EFFECT[name] != value:
            dropped.append(name)
    return kept, sorted(dropped)


# ---------------------------------------------------------------- answers


def whole(answer: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """litellm's plain answer as OpenAI's: a completion's made from a conversation's."""
    choices = answer["choices"]
    for choice in choices:
        choice["message"] = _told(choice["message"]) | {"content": choice["message"]["content"]}
    if endpoint is COMPLETIONS:
        choices = [
            {
                "index": choice["index"],
                "text": choice["message"]["content"] or "",
                "logprobs": None,
                "finish_reason": choice["finish_reason"],
            }
            for choice in choices
        ]
        answer["object"] = "text_completion"
    return _told(answer) | {"choices": choices}


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What says something: litellm fills in every name that it knows, mostly with nothing."""
    return {name: value for name, value in fields.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    return value is None or value == []


class Chunks:
    """litellm's chunks of one stream as OpenAI's.

    One id for all, whatever the provider's parser made up for each; a tool call's id, type and
    name only once; the usage kept back for the end.
    """

    def __init__(self, endpoint: Endpoint, *, usage_asked: bool) -> None:
        self._as_text = endpoint is COMPLETIONS
        self._usage_asked = usage_asked
        self._calls_begun: set[tuple[int, int]] = set()
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self.finished = False

    def event(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """The chunk to send, or None if it only told the usage."""
        usage = chunk.pop("usage", None)
        self._usage = usage or self._usage
        choices = [self._choice(choice) for choice in chunk.pop("choices", None) or ()]
        self.finished |= any(choice["finish_reason"] for choice in choices)
        self._head = _told(chunk) | {"id": self._head.get("id", chunk.get("id"))}
        if self._as_text:
            self._head["object"] = "text_completion"
        if usage and not any(map(_says_something, choices)):
            return None
        return {**self._head, "choices": choices} | ({"usage": None} if self._usage_asked else {})

    def usage_event(self) -> dict[str, Any] | None:
        """The last event of a stream whose client asked for usage."""
        if not self._usage_asked or self._usage is None:
            return None
        return {**self._head, "choices": [], "usage": self._usage}

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        index = choice.get("index") or 0
        shaped = {"index": index, "finish_reason": choice.get("finish_reason")}
        if choice.get("logprobs") is not None:
            shaped["logprobs"] = choice["logprobs"]
        if self._as_text:
            return shaped | {"text": choice["delta"].get("content") or ""}
        delta = _told(choice["delta"])
        if "tool_calls" in delta:
            calls = enumerate(delta["tool_calls"])
            delta["tool_calls"] = [self._tool_call(index, at, call) for at, call in calls]
        return shaped | {"delta": delta}

    def _tool_call(self, choice: int, at: int, call: dict[str, Any]) -> dict[str, Any]:
        index = call.get("index")
        index = at if index is None else index
        function = _told(call.get("function") or {})
        if (choice, index) in self._calls_begun:
            function.pop("name", None)
            return {"index": index, "function": function}
        self._calls_begun.add((choice, index))
        named = _told({"id": call.get("id"), "type": "function"})
        return {"index": index} | named | {"function": function}


def _says_something(choice: Mapping[str, Any]) -> bool:
    said = choice.get("text") or any((choice.get("delta") or {}).values())
    return bool(said or choice["finish_reason"])


def encode_embeddings(answer: dict[str, Any], encoding: str) -> dict[str, Any]:
    """Each embedding as the client asked: a list of floats, or base64 of little-endian float32."""
    for item in answer.get("data") or ():
        vector = item["embedding"]
        if isinstance(vector, str) and encoding == "float":
            packed = base64.b64decode(vector)
            item["embedding"] = list(struct.unpack(f"<{len(packed) // 4}f", packed))
        elif not isinstance(vector, str) and encoding == "base64":
            packed = struct.pack(f"<{len(vector)}f", *vector)
            item["embedding"] = base64.b64encode(packed).decode()
    return answer


def provider_finished(stream: Any) -> bool:
    """Whether the provider itself has said why its answer ended.

    litellm ends a stream that breaks off without a word with a `stop` of its own making; what the
    provider said is kept beside it. Raises AttributeError if this litellm no longer keeps it.
    """
    return bool(stream.received_finish_reason or stream.intermittent_finish_reason)


def usage_was_told(stream: Any) -> bool:
    """Whether the provider told any usage: without it litellm guesses the tokens."""
    return any(getattr(chunk, "usage", None) is not None for chunk in stream.chunks)


# ---------------------------------------------------------------- errors

CODES = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_filter",
    "NotFoundError": "model_not_found",
    "RateLimitError": "rate_limit_exceeded",
    "UnsupportedParamsError": "unsupported_parameter",
}


def failure_of(error: Exception) -> Failure:
    """litellm's exception as an answer; one that is not litellm's is ours, and a 500."""
    error = getattr(error, "original_exception", None) or error
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return Failure(500, f"The provider's answer could not be used: {type(error).__name__}")
    name = type(error).__name__
    message, kind = provider_words(str(error))
    if kind == "overloaded_error" or 529 in _statuses(error):
        status = 503
    elif name == "Timeout":
        status = 504
    elif name == "APIConnectionError" or not 400 <= status < 600:
        status = 502
    return Failure(status, message, code=CODES.get(name), retry_after=_retry_after(error))


def provider_words(text: str) -> tuple[str, str | None]:
    """The provider's message and error type out of `litellm.X: YException - {"error": …}`."""
    text = text.partition("\nTraceback (most recent call last)")[0]
    text = re.sub(r"^(litellm\.\w+: ?|\w+(Exception|Error)(:| -)? )+", "", text).lstrip("- ")
    start = text.find("{")
    if start >= 0:
        with contextlib.suppress(ValueError, AttributeError):
            said, _ = json.JSONDecoder().raw_decode(text[start:])
            inner = said.get("error", said)
            message = inner if isinstance(inner, str) else inner.get("message")
            if isinstance(message, str) and message:
                return message, None if isinstance(inner, str) else inner.get("type")
    return text, None


def _statuses(error: BaseException | None) -> Iterator[Any]:
    """The statuses of an exception and of those that it came from: litellm turns 529 into 500."""
    while error is not None:
        yield getattr(error, "status_code", None)
        error = error.__cause__ or error.__context__


def _retry_after(error: Exception) -> str | None:
    """The provider's `retry-after`, from wherever this exception carries its headers."""
    response = getattr(error, "response", None)
    for headers in (
        getattr(error, "litellm_response_headers", None),
        getattr(response, "headers", None),
    ):
        for name in ("retry-after", "llm_provider-retry-after"):
            value = headers.get(name) if headers is not None else None
            if value is not None:
                return str(value)
    return None


# ---------------------------------------------------------------- prices


def price_of(litellm: Any, spec: Spec, model: str) -> dict[str, Any] | None:
    """What litellm's price map says of a model: dollars per token, context in tokens.

    None if the map does not know the model. Where it knows no price for cached input, cached
    tokens cost what others do.
    """
    try:
        info = litellm.get_model_info(model=model, custom_llm_provider=spec.provider)
    except Exception as error:  # noqa: BLE001  litellm raises bare Exception for unknown models
        print(f"no price for {spec.provider}/{model}: {type(error).__name__}", file=sys.stderr)
        return None
    each = info.get("input_cost_per_token") or 0.0
    cached = info.get("cache_read_input_token_cost")
    return {
        "input": each,
        "cached_input": each if cached is None else cached,
        "output": info.get("output_cost_per_token") or 0.0,
        "context": info.get("max_input_tokens"),
        "max_output": info.get("max_output_tokens"),
        "tools": bool(info.get("supports_function_calling")),
        "vision": bool(info.get("supports_vision")),
        "audio": bool(info.get("supports_audio_input")),
        "json_schema": bool(info.get("supports_response_schema")),
        "endpoints": ["embeddings"]
        if info.get("mode") == "embedding"
        else ["chat/completions", "completions"],
    }


# ---------------------------------------------------------------- the server


class Server:
    """OpenAI's calls, each answered by one of litellm's."""

    def __init__(self, litellm: Any, specs: Iterable[Spec]) -> None:
        self._litellm = litellm
        self._specs = {spec.backend: spec for spec in specs}
        self._secrets = set[str]().union(*(spec.secrets() for spec in self._specs.values()))

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY)
        for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS):
            # A Unix socket's URL has no room for a prefix, so both are right.
            for prefix in ("", "/v1"):
                app.router.add_post(
                    f"{prefix}/{endpoint.path}", self._guarded(self._call(endpoint))
                )
        app.router.add_get("/health", self._guarded(self._health))
        app.router.add_get("/prices", self._guarded(self._prices))
        app.router.add_route("*", "/{rest:.*}", self._guarded(self._unknown))
        return app

    async def _health(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        raise Failure(404, f"There is no {request.method} {request.path} here")

    async def _prices(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                f"{spec.backend}/{declared}": price_of(self._litellm, spec, model)
                for spec in self._specs.values()
                for declared, model in spec.models.items()
            }
        )

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except web.HTTPRequestEntityTooLarge:
                failure = Failure(413, f"The body is larger than {MAX_BODY} bytes")
            except Failure as error:
                failure = error
            except Exception as error:  # noqa: BLE001  litellm's errors have no common root
                failure = self._failure(error)
            return web.Response(
                status=failure.status,
                text=failure.body(),
                content_type="application/json",
                headers=failure.headers,
            )

        return answer

    def _failure(self, error: Exception) -> Failure:
        failure = failure_of(error)
        if not hasattr(error, "status_code"):
            traceback.print_exception(error)
        for secret in self._secrets:
            failure.error["message"] = str(failure.error["message"]).replace(secret, "[key]")
        return failure

    def _call(self, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            body = read_body(await request.read())
            spec, model = self._find(body.get("model"))
            check(body, endpoint)
            answer, dropped = await self._ask(spec, model, endpoint, body)
            headers = {"x-switchboard-dropped": ",".join(dropped)} if dropped else {}
            if endpoint is EMBEDDINGS:
                encoding = body.get("encoding_format") or "float"
                shaped = encode_embeddings(answer.model_dump(mode="json"), encoding)
            elif body.get("stream"):
                usage_asked = (body.get("stream_options") or {}).get("include_usage") is True
                chunks = Chunks(endpoint, usage_asked=usage_asked)
                return await self._relay(request, answer, chunks, headers)
            else:
                shaped = whole(answer.model_dump(mode="json"), endpoint)
            return web.json_response(shaped, headers=headers)

        return handler

    def _find(self, name: Any) -> tuple[Spec, str]:
        backend, _, declared = name.partition("/") if isinstance(name, str) else ("", "", "")
        spec = self._specs.get(backend)
        if spec is None or declared not in spec.models:
            message = f"No model '{name}' is declared for litellm"
            raise Failure(404, message, param="model", code="model_not_found")
        return spec, spec.models[declared]

    async def _ask(
        self, spec: Spec, model: str, endpoint: Endpoint, body: Mapping[str, Any]
    ) -> tuple[Any, list[str]]:
        """litellm's answer, and the parameters that it was asked without.

        litellm refuses some values only once it sees them, before anything is sent, and names the
        parameter in its error: those are left out as well, and told.
        """
        kept, dropped = sift(body, endpoint, self._known(spec, model, endpoint))
        while True:
            try:
                return await self._once(spec, model, endpoint, body, kept), dropped
            except self._litellm.UnsupportedParamsError as error:
                refused = {name for name in kept if re.search(rf"\b{name}\b", str(error))}
                if not refused or refused & NOT_TO_BE_DROPPED:
                    raise
                kept = {name: value for name, value in kept.items() if name not in refused}
                dropped = sorted({*dropped, *refused})

    async def _once(
        self,
        spec: Spec,
        model: str,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        kept: Mapping[str, Any],
    ) -> Any:
        arguments: dict[str, Any] = {
            **kept,
            **spec.arguments,
            "model": f"{spec.provider}/{model}",
            "api_key": spec.api_key,
            "api_base": spec.api_base,
            "timeout": CALL_SECONDS,
            "max_retries": 0,
        }
        if spec.headers:
            arguments["extra_headers"] = dict(spec.headers)
        if endpoint is EMBEDDINGS:
            return await self._litellm.aembedding(input=body["input"], **arguments)
        if body.get("stream"):
            arguments |= {"stream": True, "stream_options": {"include_usage": True}}
        return await self._litellm.acompletion(
            messages=messages_of(body["prompt"]) if endpoint is COMPLETIONS else body["messages"],
            # litellm would look among the tools for MCP servers, and call them from here.
            _skip_mcp_handler=True,
            **arguments,
        )

    def _known(self, spec: Spec, model: str, endpoint: Endpoint) -> frozenset[str]:
        kind = "embeddings" if endpoint is EMBEDDINGS else "chat_completion"
        listed = self._litellm.get_supported_openai_params(
            model=model, custom_llm_provider=spec.provider, request_type=kind
        )
        return (endpoint.parameters & frozenset(listed or ())) | spec.parameters

    async def _relay(
        self, request: web.Request, stream: Any, chunks: Chunks, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """A stream's events. Nothing is sent before the first: until then a failure is a status."""
        async with contextlib.aclosing(_events(stream, chunks)) as events:
            first = await anext(events)
            response = web.StreamResponse(
                headers={
                    "content-type": "text/event-stream",
                    "cache-control": "no-cache",
                    "x-accel-buffering": "no",
                    **headers,
                }
            )
            await response.prepare(request)
            try:
                await response.write(first)
                async for event in events:
                    await response.write(event)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001  as above: no common root
                failure = error if isinstance(error, Failure) else self._failure(error)
                await response.write(b"data: " + failure.body().encode() + b"\n\n")
            await response.write_eof()
            return response


async def _events(stream: Any, chunks: Chunks) -> AsyncGenerator[bytes]:
    """The events of a stream. Raises Failure (502) instead of an end that litellm made up."""
    try:
        async for chunk in stream:
            event = chunks.event(chunk.model_dump(mode="json"))
            if chunks.finished and not provider_finished(stream):
                break
            if event is not None:
                yield _sse(event)
        if not chunks.finished or not provider_finished(stream):
            raise Failure(502, "The provider's stream broke off before its end")
        usage = chunks.usage_event() if usage_was_told(stream) else None
        if usage is not None:
            yield _sse(usage)
        yield b"data: [DONE]\n\n"
    finally:
        # The provider's call would otherwise run, and be billed, to its end.
        await stream.aclose()


def _sse(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


# ---------------------------------------------------------------- the process


def read_config(line: bytes) -> tuple[str, list[Spec]]:
    """The socket's path and the backends from the line on standard input."""
    config = json.loads(line)
    specs = [
        Spec(**{**backend, "parameters": frozenset(backend.get("parameters", ()))})
        for backend in config["backends"]
    ]
    return config["socket"], specs


def import_litellm() -> Any:
    """litellm, kept from the network, from `.env` files and from telling of itself.

    Takes seconds. `LITELLM_MODE` keeps it from reading `.env`, which may hold others' secrets.
    """
    os.environ |= {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
        "LITELLM_LOCAL_BLOG_POSTS": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
        "HF_HUB_OFFLINE": "1",
    }
    try:
        litellm: Any = importlib.import_module("litellm")
    except ModuleNotFoundError as error:
        sys.exit(f"{sys.executable}: {error}; make its environment with scripts/litellm_env.py")
    _read_lines_by_line_feeds()
    _leave_gemini_unfinished(litellm)
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    return litellm


class Lines:
    """Lines of a stream of events, in the place of httpx's `LineDecoder`.

    httpx cuts lines wherever `str.splitlines` does; U+2028 and its like stand unescaped inside
    the JSON of an event, and litellm then loses the stream.
    """

    def __init__(self) -> None:
        self._rest = ""

    def decode(self, text: str) -> list[str]:
        text = self._rest + text
        # The \n of a \r\n may be yet to come.
        held = "\r" if text.endswith("\r") else ""
        *lines, rest = re.split("\r\n|\n|\r", text.removesuffix(held))
        self._rest = rest + held
        return lines

    def flush(self) -> list[str]:
        rest, self._rest = self._rest, ""
        return [rest.removesuffix("\r")] if rest else []


def _read_lines_by_line_feeds() -> None:
    models: Any = importlib.import_module("httpx._models")
    if not hasattr(models, "LineDecoder"):
        sys.exit("this httpx has no LineDecoder to mend; lock the version that has")
    models.LineDecoder = Lines


def _leave_gemini_unfinished(litellm: Any) -> None:
    """Lets a Gemini stream end only where Gemini says so.

    litellm's parser takes each chunk without a `finishReason` for one that ends with `stop`.
    """
    config = litellm.VertexGeminiConfig
    told = config._check_finish_reason

    def finish_reason(message: Any, reason: str | None) -> Any:
        return told(message, reason) if reason else None

    config._check_finish_reason = staticmethod(finish_reason)


async def serve(
    litellm: Any, socket: str, specs: Iterable[Spec], ready: Callable[[], None]
) -> None:
    """Serves until SIGTERM, SIGINT or the end of standard input."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    loop.add_reader(sys.stdin.fileno(), lambda: _read_on(over))
    runner = web.AppRunner(
        Server(litellm, specs).app(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    ready()
    await over.wait()
    loop.remove_reader(sys.stdin.fileno())
    await runner.cleanup()


def main() -> None:
    # litellm prints to standard output; that pipe is for `ready` alone.
    told = os.dup(1)
    os.dup2(2, 1)
    socket, specs = read_config(sys.stdin.buffer.readline())
    litellm = import_litellm()
    asyncio.run(serve(litellm, socket, specs, lambda: _write_line(told, b"ready\n")))


def _read_on(over: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        over.set()


def _write_line(descriptor: int, line: bytes) -> None:
    os.write(descriptor, line)
    os.close(descriptor)


if __name__ == "__main__":
    main()
