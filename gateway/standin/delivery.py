"""One answer on its way to the client: its pace, and the fault that strikes it."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable

import msgspec

from gateway.standin.answer import Answer, Event, Part, Stream, Whole, error
from gateway.standin.api import Answered
from gateway.standin.behaviour import LEAKY_HEADERS, Fault, FaultKind
from gateway.standin.wire import UNTIL_CLOSE, Exchange, Headers

STREAM_HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)


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
            answer = instead(fault, answer)
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
            case FaultKind.GARBAGE:
                await self._exchange.raw(b"220 mail.example ESMTP \x00\xff\xfe\r\n")
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
            kind = "text/plain" if self._is(FaultKind.WRONG_TYPE) else answer.content_type
            headers.insert(0, ("content-type", kind))
        if self._is(FaultKind.GZIP):
            body = gzip.compress(body)
            headers.append(("content-encoding", "gzip"))
        if self._is(*IN_A_BODY):
            await self._broken_whole(answer.status, headers, body)
            return
        self._exchange.head(answer.status, headers, len(body))
        await self._send(body)
        self._exchange.finish()

    async def _broken_whole(self, status: int, headers: Headers, body: bytes) -> None:
        fault = self._fault
        assert fault is not None
        if fault.kind is FaultKind.CUT_UNFRAMED:
            self._exchange.head(status, headers, UNTIL_CLOSE)
        else:
            endless = fault.kind in (FaultKind.ENDLESS, FaultKind.MALFORMED_CHUNK)
            self._exchange.head(status, headers, None if endless else len(body))
        await self._exchange.write(body[: len(body) // 2 if fault.after else 0])
        match fault.kind:
            case FaultKind.HANG | FaultKind.HANG_IN_EVENT:
                await forever()
            case FaultKind.ENDLESS:
                await self._again_and_again(SPACES, fault)
            case FaultKind.MALFORMED_CHUNK:
                await self._exchange.raw(NO_CHUNK)
                await forever()
            case _:
                self._exchange.cut(fault.reset)

    async def _again_and_again(self, data: bytes, fault: Fault) -> None:
        while True:
            await self._exchange.write(data)
            await self._sleep(fault.seconds)

    def _body_of(self, answer: Whole) -> bytes:
        body = answer.encoded()
        if self._is(FaultKind.NO_USAGE) and self._answered.inference:
            told = msgspec.json.decode(body)
            return msgspec.json.encode({k: v for k, v in told.items() if k != "usage"})
        return body[: len(body) // 2] if self._is(FaultKind.MALFORMED_JSON) else body

    # -------------------------------------------------------- a stream

    async def _stream(self, answer: Stream) -> None:
        headers = [*self._headers, *STREAM_HEADERS]
        if self._is(FaultKind.WRONG_TYPE):
            headers = [*self._headers, ("content-type", "application/json")]
        if self._squeeze is not None:
            headers.append(("content-encoding", "gzip"))
        unframed = self._is(FaultKind.CUT_UNFRAMED)
        self._exchange.head(200, headers, UNTIL_CLOSE if unframed else None)
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
        if self._is(FaultKind.CUT_BEFORE_DONE):
            return event.part in (Part.USAGE, Part.DONE)
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
            case FaultKind.CUT | FaultKind.CUT_UNFRAMED | FaultKind.CUT_BEFORE_DONE:
                await self._exchange.raw(b"")
                self._exchange.cut(fault.reset)
            case FaultKind.HANG:
                await self._exchange.raw(b"")
                await forever()
            case FaultKind.HANG_IN_EVENT:
                await self._send(event.data[: len(event.data) // 2])
                await forever()
            case FaultKind.MALFORMED_CHUNK:
                await self._exchange.raw(NO_CHUNK)
                await forever()
            case FaultKind.ENDLESS:
                await self._again_and_again(event.data, fault)
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
        FaultKind.CUT_UNFRAMED,
        FaultKind.CUT_BEFORE_DONE,
        FaultKind.HANG,
        FaultKind.HANG_IN_EVENT,
        FaultKind.MALFORMED_CHUNK,
        FaultKind.ENDLESS,
        FaultKind.END,
        FaultKind.ERROR_EVENT,
        FaultKind.ERROR_TEXT,
        FaultKind.MALFORMED_JSON,
    }
)


IN_A_BODY = AT_AN_EVENT - {
    FaultKind.CUT_BEFORE_DONE,
    FaultKind.ERROR_EVENT,
    FaultKind.ERROR_TEXT,
    FaultKind.MALFORMED_JSON,
}
"""What also strikes a whole body on its way."""

NO_CHUNK = b"this is no chunk's size\r\n"
SPACES = b" " * 4096


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


WEB_PAGE = Whole(b"<!doctype html><title>Sign in</title>", content_type="text/html; charset=utf-8")


def instead(fault: Fault, answer: Answer) -> Answer:
    """What is sent in the answer's place, by a fault that is not in its sending."""
    message = fault.message or "The server had an error while processing your request."
    match fault.kind:
        case FaultKind.STATUS:
            return status_answer(fault)
        case FaultKind.HTML:
            return WEB_PAGE
        case FaultKind.WRONG_JSON:
            return Whole({"status": "ok", "data": []})
        case FaultKind.ERROR_EVENT if isinstance(answer, Whole):
            return Whole(error(500, message, type="server_error", code=fault.code).body)
        case FaultKind.ERROR_TEXT if isinstance(answer, Whole):
            return Whole({"error": message})
    return answer


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
