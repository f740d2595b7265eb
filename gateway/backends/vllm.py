"""A vLLM backend: what a call needs is loaded at the replica before it is sent."""

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from gateway.adapters.keeper import LoadFailed
from gateway.backends.base import Backend, Call
from gateway.errors import AdapterAway
from gateway.transport.base import Reply, Sink


class Loader(Protocol):
    """What sees to the adapters of a backend's replicas."""

    @property
    def ready(self) -> Collection[tuple[str, str]]:
        """(replica, served name) of what is loaded there."""

    async def ensure(self, replica: str, served: str) -> None: ...

    def used(self, replica: str, served: str) -> None: ...

    def gone(self, replica: str, served: str) -> None: ...

    def failed(self, replica: str, served: str, reason: str) -> None: ...


class VllmBackend:
    """A Backend around one that speaks to vLLM's replicas.

    A replica that was restarted a moment ago answers 404 for an adapter that it had: nothing was
    done yet, so the adapter is loaded and the call sent once more.
    """

    def __init__(self, inner: Backend, loader: Loader) -> None:
        self._inner = inner
        self._loader = loader

    async def send(self, call: Call) -> Reply:
        served = call.adapter
        if served is None:
            return await self._inner.send(call)
        if (call.replica, served) not in self._loader.ready:
            await self._load(call.replica, served)
        self._loader.used(call.replica, served)
        reply = await self._inner.send(call)
        if reply.status != 404:
            return reply
        answer = await _whole(reply)
        if not answer.unknown_model:
            return answer
        self._loader.gone(call.replica, served)
        await self._load(call.replica, served)
        reply = await self._inner.send(call)
        if reply.status != 404:
            return reply
        answer = await _whole(reply)
        if answer.unknown_model:
            self._loader.failed(call.replica, served, "lists it, and does not know it when asked")
        return answer

    async def _load(self, replica: str, served: str) -> None:
        try:
            await self._loader.ensure(replica, served)
        except LoadFailed as error:
            raise AdapterAway(f"cannot load {served}: {error}", at=replica) from error


class _Refusal(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Refused(msgspec.Struct):
    error: _Refusal


_refused = msgspec.json.Decoder(_Refused)


class _Whole:
    """An answer that was read to its end to be looked at."""

    def __init__(self, reply: Reply, body: bytes) -> None:
        self.status = reply.status
        self.headers: Sequence[tuple[bytes, bytes]] = reply.headers
        self._body = body

    @property
    def unknown_model(self) -> bool:
        """Whether vLLM says that it serves nothing by that name."""
        try:
            error = _refused.decode(self._body).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        return error.type == "NotFoundError" and "does not exist" in error.message

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def pump(self, sink: Sink) -> None:
        if body := await self.read():
            sink.write(body)

    def abort(self) -> None:
        """It is read to its end already."""


async def _whole(reply: Reply) -> _Whole:
    pieces = []
    while piece := await reply.read():
        pieces.append(piece)
    return _Whole(reply, b"".join(pieces))
