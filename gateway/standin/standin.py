"""A stand-in for a provider: a real server that answers, waits and fails as it is told to."""

import asyncio
import secrets
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from gateway.standin.answer import Refused, Whole, refuse
from gateway.standin.api import ANY, Answered, Api
from gateway.standin.behaviour import Behaviour, Fault, FaultKind
from gateway.standin.delivery import Delivery
from gateway.standin.engine import Engine, Vllm, in_vllms_words
from gateway.standin.ledger import Ledger
from gateway.standin.reading import json_object
from gateway.standin.wire import Connection, Exchange, Seen

INFERENCE = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}
)
"""The paths that a scripted fault strikes if it names none."""

REPEATED = 10_000
"""How many different requests are remembered by a stand-in that repeats its answers."""


def hex_id() -> str:
    """96 random bits."""
    return secrets.token_hex(12)


class StandIn:
    """A provider on 127.0.0.1, inside the running loop.

    `models` is one behaviour for every model, or one for each by name (`"*"` for the rest). With
    `keys` a request needs one of them as its bearer token. `slots` is how many answers are made at
    once; the rest wait. `remember` bounds `seen`; `ledger` is a file that every call is written
    to. `vllm` makes it a stand-in for vLLM. `lenient` answers as SDKs' own tests want it (see
    `Api`). With `repeat` the answer to a request that came before, byte for byte, is sent again,
    id and all: cheaper to make when only load matters.
    """

    def __init__(
        self,
        models: Behaviour | Mapping[str, Behaviour] | None = None,
        *,
        keys: Iterable[str] = (),
        lenient: bool = False,
        repeat: bool = False,
        vllm: Vllm | None = None,
        slots: int | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        remember: int | None = None,
        ledger: Path | None = None,
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
        self._ledger = Ledger.at(ledger)
        self._made: dict[tuple[str, bytes, int], Answered] | None = {} if repeat else None
        self._script: deque[tuple[str | None, Fault | None]] = deque()
        self._slots = asyncio.Semaphore(slots) if slots is not None else None
        self._host, self._port, self._tls = host, port, tls
        self._clock, self._sleep, self._new_id = clock, sleep, new_id
        self._server: asyncio.Server | None = None
        self._open: set[Connection] = set()
        self._changed = asyncio.Event()
        self._watchers = 0
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

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._open)

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
        self._watchers += 1
        try:
            while not holds():
                await self._changed.wait()
        finally:
            self._watchers -= 1

    def _seen_at(self, path: str | None) -> list[Seen]:
        return [seen for seen in self.seen if path in (None, seen.path)]

    # -------------------------------------------------------- serving

    def _record(self, seen: Seen) -> None:
        self.seen.append(seen)
        self._tell()

    def _tell(self) -> None:
        if self._watchers:
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
        answered = await self._answered_or_refused(seen)
        fault = self.fault or scripted or self._broken(seen) or answered.behaviour.fault
        if fault is not None and fault.kind is FaultKind.OTHER_FORM:
            answered = await self._answered_or_refused(in_other_form(seen))
        if not answered.inference:
            await self._delivery(exchange, answered, fault).run()
            return
        if self._ledger is not None:
            self._ledger.enter(answered, fault)
        await self._enter()
        try:
            if self.engine is not None:
                await self.engine.awake()
            # Its time begins with its slot: a server that is full is later, not quicker.
            await self._delivery(exchange, answered, fault).run()
            self._count(answered)
        finally:
            self._leave()

    async def _answered_or_refused(self, seen: Seen) -> Answered:
        try:
            return await self._answered(seen)
        except Refused as refused:
            return Answered(self._refusal(seen, refused.answer), Behaviour())

    def _broken(self, seen: Seen) -> Fault | None:
        """What strikes every request for one adapter."""
        if self.engine is None or not self.engine.breaks or seen.path not in INFERENCE:
            return None
        return self.engine.breaks.get(str(json_object(seen.body).get("model")))

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
        if self._made is None or seen.path not in INFERENCE:
            return self.api.answer(seen)
        return self._again(self._made, seen)

    def _again(self, made: dict[tuple[str, bytes, int], Answered], seen: Seen) -> Answered:
        key = (seen.path, seen.body, self.engine.changes if self.engine is not None else 0)
        found = made.get(key)
        if found is None:
            found = self.api.answer(seen)
            if isinstance(found.answer, Whole):
                whole = replace(found.answer, body=found.answer.encoded())
                found = replace(found, answer=whole)
            if len(made) < REPEATED:
                made[key] = found
        return found

    def _authorize(self, seen: Seen) -> None:
        if not self.keys:
            return
        scheme, _, token = seen.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip() in self.keys:
            return
        if not token:
            raise refuse(401, "You didn't provide an API key.", code=None)
        raise refuse(401, "Incorrect API key provided.", code="invalid_api_key")

    def _delivery(self, exchange: Exchange, answered: Answered, fault: Fault | None) -> Delivery:
        return Delivery(
            exchange, answered, fault, self._headers(), clock=self._clock, sleep=self._sleep
        )

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


def in_other_form(seen: Seen) -> Seen:
    """The same request, asking for a stream if it did not, and for a whole body if it did."""
    body = {**json_object(seen.body)}
    streams = bool(body.pop("stream", False))
    body.pop("stream_options", None)
    if not streams:
        body["stream"] = True
    return Seen(seen.method, seen.path, seen.raw_headers, msgspec.json.encode(body), seen.at)
