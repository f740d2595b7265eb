"""Objects that a backend keeps: responses and stored completions, asked for by their id later.

They live where they were made. A known id goes back to the replica that made it, for the key that
it was made for and those of its tenant; an id that we have not seen goes to the one backend that
keeps such objects, if there is only one, to one replica after the other until one has it.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from gateway.backends.base import Call
from gateway.backends.verdict import without_secrets
from gateway.errors import NotFound, UpstreamError
from gateway.pipeline import Pipeline
from gateway.refusals import backend_failure
from gateway.transport.base import Reply
from gateway.transport.bodies import read_all
from gateway.types.backends import Backend
from gateway.types.requests import Caller, Endpoint
from gateway.types.snapshot import Snapshot

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
"""What ids are made of; nothing in them leads anywhere else at the backend."""

_PARTS = {
    Endpoint.RESPONSES: {"": ("GET", "DELETE"), "cancel": ("POST",), "input_items": ("GET",)},
    Endpoint.CHAT: {"": ("GET", "POST", "DELETE"), "messages": ("GET",)},
}
"""What OpenAI's API has below an object, and how it is asked: nothing else is asked of a backend.
Least of all a new answer, which has limits, a price and a row."""


class StoredObjects:
    """Relays calls on stored objects."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def relay(self, request: Request, caller: Caller, endpoint: Endpoint) -> Response:
        """The owner's answer, as it is."""
        plane = self._pipeline.plane
        id, part = _named(request.scope["path"], request.method, endpoint)
        if not id and caller.key is not None:
            # The backend's list is of everybody's, and whose each is stands nowhere in it.
            raise NotFound("A list of everybody's is for no key: ask by id.", code="not_found")
        name, replicas = await self._owner(plane.snapshot, caller, endpoint, id)
        below = "/".join(["", endpoint.value, *filter(None, (id, part))])
        query = f"?{request.url.query}" if request.url.query else ""
        body, method = await request.body(), request.method.encode()
        calls = [Call(each, (below + query).encode(), body, method=method) for each in replicas]
        try:
            reply = await _first_found(plane.backends[name].send, calls)
            return await _answer(reply, plane.snapshot.backends[name])
        except UpstreamError as error:
            raise backend_failure(name, error) from error

    async def _owner(
        self, snapshot: Snapshot, caller: Caller, endpoint: Endpoint, id: str
    ) -> tuple[str, Sequence[str]]:
        """The backend, and those of its replicas that may have it."""
        made = await self._pipeline.maker(id) if id else None
        if made is not None:
            target = snapshot.targets.get(made.target or "")
            if target is not None and caller.owns(made.key, made.tenant):
                replicas = snapshot.backends[target.backend].replicas
                return target.backend, [
                    each for each in replicas if each == made.replica
                ] or replicas
        elif caller.direct:
            keepers = {
                target.backend
                for target in snapshot.targets.values()
                if endpoint.value in target.capabilities.endpoints and not target.internal
            }
            if len(keepers) == 1:
                (only,) = keepers
                return only, snapshot.backends[only].replicas
        raise NotFound(f"There is no '{id}' at /v1/{endpoint.value}.", code="not_found")


def _named(path: str, method: str, endpoint: Endpoint) -> tuple[str, str]:
    """The object's id, empty for a list of completions, and which part of it is asked for."""
    id, _, part = path.removeprefix(f"/v1/{endpoint.value}").strip("/").partition("/")
    listed = not id and not part and endpoint is Endpoint.CHAT and method == "GET"
    if not listed and (method not in _PARTS[endpoint].get(part, ()) or not _ID.fullmatch(id)):
        raise NotFound(f"There is nothing at {path!r}.", code="unknown_url")
    return id, part


async def _first_found(send: Callable[[Call], Awaitable[Reply]], calls: Sequence[Call]) -> Reply:
    """The answer of the first that has the object, or of the last. Raises UpstreamError where none
    has it and one did not answer: it may be the one that has."""
    failure: UpstreamError | None = None
    reply: Reply | None = None
    for call in calls:
        if reply is not None:
            reply.abort()
        try:
            reply = await send(call)
        except UpstreamError as error:
            failure, reply = error, None
            continue
        if reply.status != 404:
            return reply
    if failure is not None:
        if reply is not None:
            reply.abort()
        raise failure
    assert reply is not None
    return reply


async def _answer(reply: Reply, declared: Backend) -> Response:
    headers = dict(reply.headers)
    kind = headers.get(b"content-type", b"application/json").decode("latin-1")
    if not kind.startswith("text/event-stream"):
        body = await read_all(reply)
        if reply.status >= 400:
            body = without_secrets(body, declared)
        return Response(body, reply.status, media_type=kind)
    return StreamingResponse(_pieces(reply), reply.status, media_type=kind)


async def _pieces(reply: Reply) -> AsyncIterator[bytes]:
    try:
        while piece := await reply.read():
            yield piece
    finally:
        reply.abort()
