"""Everything that is not an inference call: what there is, what would be decided, how we are."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gateway.errors import ApiError, BadRequest, MethodNotAllowed, NotFound, Unauthorized
from gateway.http.description import described
from gateway.http.gate import Gate, role_needed
from gateway.http.openai import Authenticate, bearer, error_headers, new_id, rule_headers
from gateway.http.parse import parse
from gateway.http.stored import StoredObjects
from gateway.journey import Plane, decision_id
from gateway.learn.versions import Current, gone_by
from gateway.pipeline import Pipeline
from gateway.policy.words import explained, known_qualities
from gateway.types.decisions import Decision
from gateway.types.requests import Caller, Endpoint
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

KEPT = ["GET", "POST", "DELETE"]
"""What may be done with an object that a backend keeps."""

Find = Callable[[str], Awaitable[dict[str, Any] | None]]
"""The stored row of a request, decision or completion id."""

Ready = Callable[[], dict[str, Any]]
"""The detail of `/ready`; its `ready` says whether to send traffic."""


def control_plane(
    pipeline: Pipeline,
    authenticate: Authenticate,
    gate: Gate,
    *,
    find: Find,
    ready: Ready,
    metrics: Callable[[], Awaitable[bytes]],
    started: int,
    routers: Iterable[APIRouter],
) -> FastAPI:
    """The FastAPI application behind the data plane; `started` is a Unix time."""
    app = FastAPI(title="Switchboard", docs_url=None, redoc_url=None, openapi_url=None)
    for each in routers:
        app.include_router(each)

    looks = gate.needs("read")

    def caller_of(request: Request) -> Caller:
        return authenticate(bearer(request.scope["headers"]))

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        caller = caller_of(request)
        snapshot = pipeline.plane.snapshot
        return _json({"object": "list", "data": _models(snapshot, caller, started)})

    @app.get("/v1/models/{model:path}")
    async def model(request: Request, model: str) -> Response:
        caller = caller_of(request)
        for entry in _models(pipeline.plane.snapshot, caller, started):
            if entry["id"] == model:
                return _json(entry)
        raise NotFound(
            f"The model '{model}' does not exist.", param="model", code="model_not_found"
        )

    @app.post("/v1/route")
    async def route(request: Request) -> Response:
        asked = parse(
            Endpoint.CHAT,
            await request.body(),
            id=new_id(),
            headers=rule_headers(request.scope["headers"]),
            caller=caller_of(request),
        )
        snapshot = pipeline.plane.snapshot
        recognition, decision = await pipeline.consider(asked)
        return _json(
            {
                "object": "decision",
                "id": decision_id(asked.id),
                "recognition": msgspec.to_builtins(recognition),
                "decision": msgspec.to_builtins(explained(decision, snapshot)),
                "qualities": known_qualities(decision.route, snapshot),
                "learned": _learned(pipeline.plane, decision),
            }
        )

    @app.get("/v1/decisions/{id}")
    async def decision(request: Request, id: str) -> Response:
        caller = caller_of(request)
        row = await find(id)
        if row is None or (caller.key is not None and row.get("key") != caller.key):
            # Another key's decisions are as good as not there.
            raise NotFound(f"There is no decision '{id}'.", code="decision_not_found")
        return _json({"object": "decision", **row})

    objects = StoredObjects(pipeline)

    @app.api_route("/v1/responses/{rest:path}", methods=KEPT, include_in_schema=False)
    async def responses(request: Request) -> Response:
        return await objects.relay(request, caller_of(request), Endpoint.RESPONSES)

    @app.get("/v1/chat/completions", include_in_schema=False)
    @app.api_route("/v1/chat/completions/{rest:path}", methods=KEPT, include_in_schema=False)
    async def completions(request: Request) -> Response:
        return await objects.relay(request, caller_of(request), Endpoint.CHAT)

    @app.get("/openapi.json", include_in_schema=False)
    async def description(request: Request) -> Response:
        caller = caller_of(request)
        return _json(described(app, admin=caller.key is None or caller.may("read")))

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/ready")
    async def readiness(request: Request) -> Response:
        detail = ready()
        hidden = _refusal(authenticate, request) is not None
        shown = {"ready": detail["ready"]} if hidden else detail
        return _json(shown, 200 if detail["ready"] else 503)

    @app.get("/metrics")
    async def metrics_page(request: Request) -> Response:
        opened = pipeline.plane.snapshot.server.open_metrics
        if not opened and (refusal := _refusal(authenticate, request)):
            raise refusal
        return Response(await metrics(), media_type="text/plain; version=0.0.4")

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _error(error)

    @app.exception_handler(Exception)
    async def own_fault(_: Request, error: Exception) -> Response:
        log.error("an error of our own", exc_info=error)
        return _error(ApiError("Switchboard failed on this request.", code="internal_error"))

    @app.exception_handler(RequestValidationError)
    async def wrong_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        # A body is read before a route asks who sent it; what is wrong with one is no stranger's.
        if request.url.path.startswith("/admin/"):
            try:
                await looks(request)
            except ApiError as refusal:
                return _error(refusal)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        said = f"{place}: {first['msg']}" if place else first["msg"]
        if not place or first["type"] == "json_invalid":
            said = "The body is no JSON object; send one, with `content-type: application/json`."
            place = ""
        elif first["type"] == "missing":
            said = f"`{place}` is missing."
        return _error(BadRequest(said, param=place or None, code="invalid_body"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _error(_of_framework(request, error))

    return app


def _refusal(authenticate: Authenticate, request: Request) -> ApiError | None:
    """Why the inside is not shown to whoever asks; None for a key that may look, and while there is
    no key for this machine."""
    try:
        caller = authenticate(bearer(request.scope["headers"]))
    except Unauthorized as error:
        return error
    return None if caller.key is None or caller.may("read") else role_needed("read", caller)


def _of_framework(request: Request, error: HTTPException) -> ApiError:
    path = request.url.path
    headers = [(k.encode(), v.encode()) for k, v in (error.headers or {}).items()]
    if error.status_code == 405:
        return MethodNotAllowed(f"{path} does not take {request.method}.", headers=headers)
    if error.status_code == 404:
        return NotFound(f"There is nothing at {path}.", code="unknown_url")
    return ApiError(str(error.detail), status=error.status_code, headers=headers)


def _learned(plane: Plane, decision: Decision) -> dict[str, str] | None:
    """The version of learned quality that was gone by, or why not; None where none is asked for."""
    if not plane.snapshot.policies[decision.policy].learned:
        return None
    return gone_by(decision.route, Current(plane.learned, plane.unfit), plane.kind())


def _models(snapshot: Snapshot, caller: Caller, created: int) -> list[dict[str, Any]]:
    """`auto`, aliases, routes and targets, as far as the key may use them."""
    routes = [name for name in snapshot.routes if caller.routes is None or name in caller.routes]
    names = ["auto", *snapshot.aliases, *routes]
    if caller.direct:
        names += snapshot.targets
    return [
        {"id": name, "object": "model", "created": created, "owned_by": _owner(snapshot, name)}
        for name in names
    ]


def _owner(snapshot: Snapshot, name: str) -> str:
    target = snapshot.targets.get(name)
    return target.backend if target is not None else "switchboard"


def _json(value: Any, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(value),
        status,
        media_type="application/json",
        headers={"x-request-id": new_id()},
    )


def _error(error: ApiError) -> Response:
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in error_headers(error, new_id())
    }
    return Response(msgspec.json.encode(error.body()), error.status, headers=headers)
