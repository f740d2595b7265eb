"""Objects that a backend keeps: responses and stored completions, asked for by their id later.

They live where they were made. A known id goes back to the backend that made it, for the key that
it was made for; an id that we have not seen goes to the one backend that keeps such objects, if
there is only one.
"""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from gateway.backends.base import Call
from gateway.errors import NotFound, UpstreamError
from gateway.pipeline import Pipeline, backend_failure, read_all
from gateway.transport.base import Reply
from gateway.types import Caller, Endpoint, Snapshot


class StoredObjects:
    """Relays calls on stored objects."""

    def __init__(self, pipeline: Pipeline, find: Any) -> None:
        self._pipeline = pipeline
        self._find = find

    async def relay(self, request: Request, caller: Caller, endpoint: Endpoint) -> Response:
        """The owner's answer, as it is."""
        plane = self._pipeline.plane
        below = request.url.path.removeprefix("/v1")
        id = below.removeprefix(f"/{endpoint.value}").strip("/").split("/")[0]
        name = await self._owner(plane.snapshot, caller, endpoint, id)
        query = f"?{request.url.query}" if request.url.query else ""
        call = Call(
            plane.snapshot.backends[name].replicas[0],
            (below + query).encode(),
            await request.body(),
            method=request.method.encode(),
        )
        try:
            reply = await plane.backends[name].send(call)
            return await _answer(reply)
        except UpstreamError as error:
            raise backend_failure(name, error) from error

    async def _owner(self, snapshot: Snapshot, caller: Caller, endpoint: Endpoint, id: str) -> str:
        row = await self._find(id) if id else None
        if row is not None:
            target = snapshot.targets.get(row["target"])
            if target is not None and (caller.key is None or row["key"] == caller.key):
                return target.backend
        elif caller.direct:
            keepers = {
                target.backend
                for target in snapshot.targets.values()
                if endpoint.value in target.capabilities.endpoints and not target.internal
            }
            if len(keepers) == 1:
                return keepers.pop()
        raise NotFound(f"There is no '{id}' at /v1/{endpoint.value}.", code="not_found")


async def _answer(reply: Reply) -> Response:
    headers = dict(reply.headers)
    kind = headers.get(b"content-type", b"application/json").decode("latin-1")
    if not kind.startswith("text/event-stream"):
        return Response(await read_all(reply), reply.status, media_type=kind)
    return StreamingResponse(_pieces(reply), reply.status, media_type=kind)


async def _pieces(reply: Reply) -> AsyncIterator[bytes]:
    try:
        while piece := await reply.read():
            yield piece
    finally:
        reply.abort()
