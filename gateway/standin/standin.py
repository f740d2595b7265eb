"""A stand-in for a provider: a real server that answers, waits and fails as it is told to."""

import asyncio
import gzip
import secrets
import ssl
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

import msgspec

from gateway.standin.answer import Answer, Event, Part, Refused, Stream, Whole, error, refuse
from gateway.standin.api import ANY, Answered, Api
from gateway.standin.behaviour import LEAKY_HEADERS, Behaviour, Fault, FaultKind
from gateway.standin.engine import Engine, Vllm, in_vllms_words
from gateway.standin.wire import Connection, Exchange, Headers, Seen

INFERENCE = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}
)
"""The paths that a scripted fault strikes if it names none."""

STREAM_HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)


def hex_id() -> str:
    """96 random bits."""
    return secrets.token_hex(12)


class StandIn:
    """A provider on 127.0.0.1, inside the running loop.

    `models` is one behaviour for every model, or one for each by name (`"*"` for the rest). With
    `keys` a request needs one of them as its bearer token. `slots` is how many answers are made at
    once; the rest wait. `remember` bounds `seen`. `vllm` makes it a stand-in for vLLM.
    """

    def __init__(
        self,
        models: Behaviour | Mapping[str, Behaviour] | None = None,
        *,
        keys: Iterable[str] = (),
        lenient: bool = False,
        vllm: Vllm | None = None,
        slots: int | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        remember: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        new_id: Callable[[], str] = hex_id,
    ) -> None:
        behaviours = {ANY: models or Behaviour()} if not isinstance(models, Mapping) else models
        self.engine = Engine(vllm, sleep=sleep, now=now) if vllm is not None else None
        if vllm is not None and not isinstance(models, Mapping):
            behaviours = {vllm.base: models or Behaviour()}
        self.api = Api(behaviours, lenient=lenient, engine=self.engine, now=now, new_id=new_id)
        self.keys = frozenset(keys)
        self.fault: Fault | None = None
        """Strikes every request, management endpoints included, until it is taken away."""
        self.seen: deque[Seen] = deque(maxlen=remember)
        self.running = 0
        self.waiting = 0
        self._script: deque[tuple[str | None, Fault | None]] = deque()
        self._slots = asyncio.Semaphore(slots) if slots is not None else None
        self._host, self._port, self._tls = host, port, tls
        self._clock, self._sleep, self._new_id = clock, sleep, new_id
        self._server: asyncio.Server | None = None
        self._open: set[Connection] = set()
        self._changed = asyncio.Event()
        self._errors: list[Exception] = []

    # -------------------------------------------------------- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
        if self._errors and error is None:
            raise ExceptionGroup("the stand-in failed while answering", self._errors)

    async def start(self) -> None:
        """Listens; on the same port as before, if it was stopped."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._serve, self._record, self._open, self._clock),
            self._host,
            self._port,
            ssl=self._tls,
            reuse_address=True,
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening and resets every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [task for connection in list(self._open) if (task := connection.abort())]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def restart(self) -> None:
        """As a process does it: connections break, loaded adapters are forgotten, same port."""
        await self.stop()
        if self.engine is not None:
            self.engine.restart()
        await self.start()

    @property
    def port(self) -> int:
        """The port listened on; 0 before the start if any would do."""
        return self._port

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    @property
    def url(self) -> str:
        """The base URL that OpenAI's SDKs want, ending in `/v1`."""
        return f"{self.origin}/v1"

    # -------------------------------------------------------- for tests

    def next(self, *faults: Fault | None, path: str | None = None) -> None:
        """Scripts the coming requests: one fault each, None for none.

        They strike inference requests in order of arrival, or those to `path`.
        """
        self._script.extend((path, fault) for fault in faults)

    async def arrived(self, count: int = 1, *, path: str | None = None) -> Seen:
        """The `count`-th request (to `path`), as soon as it is there."""
        await self.until(lambda: len(self._seen_at(path)) >= count)
        return self._seen_at(path)[count - 1]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once `holds` does: looked at whenever a request comes, begins or ends."""
        while not holds():
            await self._changed.wait()

    def _seen_at(self, path: str | None) -> list[Seen]:
        return [seen for seen in self.seen if path in (None, seen.path)]

    # -------------------------------------------------------- serving

    def _record(self, seen: Seen) -> None:
        self.seen.append(seen)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._answer(exchange)
        except Exception as error:
            self._errors.append(error)
            raise

    async def _answer(self, exchange: Exchange) -> None:
        seen = exchange.seen
        scripted = self._scripted(seen.path)
        try:
            answered = await self._answered(seen)
        except Refused as refused:
            answered = Answered(self._refusal(seen, refused.answer), Behaviour())
        fault = self.fault or scripted or answered.behaviour.fault
        delivery = Delivery(
            exchange, answered, fault, self._headers(), clock=self._clock, sleep=self._sleep
        )
        if not answered.inference:
            await delivery.run()
            return
        await self._enter()
        try:
            await delivery.run()
            self._count(answered)
        finally:
            self._leave()

    def _scripted(self, path: str) -> Fault | None:
        for index, (wanted, fault) in enumerate(self._script):
            if wanted == path or (wanted is None and path in INFERENCE):
                del self._script[index]
                return fault
        return None

    async def _answered(self, seen: Seen) -> Answered:
        if seen.path.startswith("/v1/"):
            self._authorize(seen)
        if self.engine is not None:
            managed = await self.engine.manage(seen, self.running, self.waiting)
            if managed is not None:
                return Answered(managed, Behaviour())
        if not seen.path.startswith("/v1/"):
            raise refuse(404, f"Invalid URL ({seen.method} {seen.path})")
        return self.api.answer(seen)

    def _authorize(self, seen: Seen) -> None:
        if not self.keys:
            return
        scheme, _, token = seen.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip() in self.keys:
            return
        if not token:
            raise refuse(401, "You didn't provide an API key.", code=None)
        raise refuse(401, "Incorrect API key provided.", code="invalid_api_key")

    def _refusal(self, seen: Seen, answer: Whole) -> Whole:
        if self.engine is None:
            return answer
        if answer.status == 404 and "Invalid URL" in answer.body["error"]["message"]:
            return Whole({"detail": "Not Found"}, 404)
        return in_vllms_words(answer)

    def _headers(self) -> list[tuple[str, str]]:
        if self.engine is not None:
            return [("server", "uvicorn")]
        return [
            ("x-request-id", f"req_{self._new_id()}"),
            ("openai-version", "2020-10-01"),
            ("openai-processing-ms", "1"),
        ]

    async def _enter(self) -> None:
        if self._slots is not None:
            self.waiting += 1
            self._tell()
            try:
                await self._slots.acquire()
            finally:
                self.waiting -= 1
        self.running += 1
        self._tell()

    def _leave(self) -> None:
        self.running -= 1
        if self._slots is not None:
            self._slots.release()
        self._tell()

    def _count(self, answered: Answered) -> None:
        if self.engine is not None:
            self.engine.requests += 1
            self.engine.prompt_tokens += answered.prompt_tokens
            self.engine.generation_tokens += answered.output_tokens


class Delivery:
    """One answer on its way, at the model's pace and with the fault that strikes it."""

    def __init__(
        self,
        exchange: Exchange,
        answered: Answered,
        fault: Fault | None,
        headers: Headers,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._exchange = exchange
        self._answered = answered
        self._behaviour = answered.behaviour
        self._fault = fault
        self._headers = list(headers)
        self._clock = clock
        self._sleep = sleep
        self._began = clock()
        self._squeeze = zlib.compressobj(wbits=31) if self._is(FaultKind.GZIP) else None

    async def run(self) -> None:
        """Gives the answer, or fails as the fault says."""
        answer: Answer = self._answered.answer
        fault = self._fault
        if fault is not None:
            if await self._fails_at_once(fault):
                return
            if fault.kind is FaultKind.STATUS:
                answer = status_answer(fault)
            self._headers += list(fault.headers.items())
            if fault.kind is FaultKind.LEAK:
                named = {name for name, _ in LEAKY_HEADERS}
                self._headers = [pair for pair in self._headers if pair[0] not in named]
                self._headers += list(LEAKY_HEADERS)
        if isinstance(answer, Whole):
            await self._whole(answer)
        else:
            await self._stream(answer)

    def _is(self, *kinds: FaultKind) -> bool:
        return self._fault is not None and self._fault.kind in kinds

    async def _fails_at_once(self, fault: Fault) -> bool:
        match fault.kind:
            case FaultKind.CUT_BEFORE_HEAD:
                self._exchange.cut(fault.reset)
            case FaultKind.MALFORMED_HEAD:
                await self._exchange.raw(b"HTTP/1.1 two hundred\r\ncontent-length: x\r\n\r\n")
                self._exchange.cut()
            case FaultKind.HANG_BEFORE_HEAD:
                await forever()
            case _:
                return False
        return True

    # -------------------------------------------------------- a whole body

    async def _whole(self, answer: Whole) -> None:
        if answer.tokens:
            await self._until_token(answer.tokens - 1)
        body = self._body_of(answer)
        headers = [*self._headers, *answer.headers.items()]
        if body:
            headers.insert(0, ("content-type", answer.content_type))
        if self._is(FaultKind.GZIP):
            body = gzip.compress(body)
            headers.append(("content-encoding", "gzip"))
        self._exchange.head(answer.status, headers, len(body))
        if self._is(FaultKind.CUT, FaultKind.CUT_IN_EVENT, FaultKind.END, FaultKind.HANG):
            await self._exchange.write(body[: len(body) // 2])
            await self._hang_or_cut()
            return
        await self._send(body)
        self._exchange.finish()

    def _body_of(self, answer: Whole) -> bytes:
        if self._is(FaultKind.NO_USAGE) and isinstance(answer.body, dict):
            return msgspec.json.encode({k: v for k, v in answer.body.items() if k != "usage"})
        body = answer.encoded()
        return body[: len(body) // 2] if self._is(FaultKind.MALFORMED_JSON) else body

    async def _hang_or_cut(self) -> None:
        if self._is(FaultKind.HANG):
            await forever()
        assert self._fault is not None
        self._exchange.cut(self._fault.reset)

    # -------------------------------------------------------- a stream

    async def _stream(self, answer: Stream) -> None:
        headers = [*self._headers, *STREAM_HEADERS]
        if self._squeeze is not None:
            headers.append(("content-encoding", "gzip"))
        self._exchange.head(200, headers, None)
        if self._behaviour.head_first:
            await self._exchange.raw(b"")
        tokens = 0
        await self._until_token(0)
        for event in answer.events:
            if event.part is Part.TOKEN:
                await self._until_token(tokens)
            if self._breaks(event, tokens):
                if not await self._broken(event):
                    return
            elif not self._left_out(event):
                await self._send(event.data)
            tokens += event.part is Part.TOKEN
        if self._squeeze is not None:
            await self._exchange.write(self._squeeze.flush())
        self._exchange.finish()

    def _left_out(self, event: Event) -> bool:
        return (event.part is Part.DONE and self._is(FaultKind.NO_DONE)) or (
            event.part is Part.USAGE and self._is(FaultKind.NO_USAGE)
        )

    def _breaks(self, event: Event, tokens: int) -> bool:
        """The fault strikes at this event: the first token beyond `after`, or what ends tokens."""
        if self._fault is None or self._fault.kind not in AT_AN_EVENT:
            return False
        if self._fault.after == 0 and tokens == 0:
            return True
        ended = tokens > 0 and event.part is not Part.TOKEN
        if self._is(FaultKind.MALFORMED_JSON):
            return tokens == self._fault.after and event.part is Part.TOKEN
        return tokens >= self._fault.after or ended

    async def _broken(self, event: Event) -> bool:
        """What stands in the event's place; true if the stream goes on after it."""
        fault = self._fault
        assert fault is not None
        message = fault.message or "The server had an error while processing your request."
        match fault.kind:
            case FaultKind.MALFORMED_JSON:
                cut = event.data.rstrip()
                await self._send(cut[: len(cut) // 2] + b"\n\n")
                return True
            case FaultKind.CUT_IN_EVENT:
                await self._send(event.data[: len(event.data) // 2])
                self._exchange.cut(fault.reset)
            case FaultKind.CUT:
                await self._exchange.raw(b"")
                self._exchange.cut(fault.reset)
            case FaultKind.HANG:
                await self._exchange.raw(b"")
                await forever()
            case FaultKind.ERROR_EVENT | FaultKind.ERROR_TEXT:
                whole = error(500, message, type="server_error", code=fault.code).body
                said = whole if fault.kind is FaultKind.ERROR_EVENT else {"error": message}
                await self._send(b"data: %b\n\n" % msgspec.json.encode(said))
                self._exchange.finish()
            case _:
                self._exchange.finish()
        return False

    # -------------------------------------------------------- pace and pieces

    async def _until_token(self, index: int) -> None:
        behaviour = self._behaviour
        due = self._began + behaviour.first_token_s + index * behaviour.between_tokens_s
        if due > self._began:
            await self._sleep_for(due - self._clock())

    async def _sleep_for(self, seconds: float) -> None:
        if seconds > 0:
            await self._sleep(seconds)

    async def _send(self, data: bytes) -> None:
        if self._squeeze is not None and isinstance(self._answered.answer, Stream):
            data = self._squeeze.compress(data) + self._squeeze.flush(zlib.Z_SYNC_FLUSH)
        if not self._is(FaultKind.SLOW):
            await self._exchange.write(data)
            return
        assert self._fault is not None
        for start in range(0, len(data), self._fault.size):
            await self._exchange.write(data[start : start + self._fault.size])
            await self._sleep_for(self._fault.seconds)


AT_AN_EVENT = frozenset(
    {
        FaultKind.CUT,
        FaultKind.CUT_IN_EVENT,
        FaultKind.HANG,
        FaultKind.END,
        FaultKind.ERROR_EVENT,
        FaultKind.ERROR_TEXT,
        FaultKind.MALFORMED_JSON,
    }
)


async def forever() -> None:
    """Waits until the client goes away, which cancels the answer."""
    await asyncio.Event().wait()


STATUS_CODES = {
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", None, "You are not allowed to sample from this model."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    500: ("server_error", None, "The server had an error while processing your request."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
}


def status_answer(fault: Fault) -> Whole:
    """The error answer that a status fault describes."""
    usual = ("server_error", None, "The server had an error while processing your request.")
    kind, code, message = STATUS_CODES.get(fault.status, usual)
    headers = {}
    if fault.retry_after is not None:
        headers["retry-after"] = f"{fault.retry_after:g}"
    return error(
        fault.status,
        fault.message or message,
        type=kind,
        code=fault.code or code,
        headers=headers,
    )
