"""The admin API, under `/admin/`: what commands do to adapters. Each route needs a key's role."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import httpx
import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from gateway.adapters.fleet import Fleet, UnknownAdapter
from gateway.adapters.keeper import LoadFailed
from gateway.adapters.state import AdapterState, StateError
from gateway.errors import ApiError, Conflict, NotFound
from gateway.http.body import Body
from gateway.http.gate import Gate, as_json
from gateway.types.requests import Caller

T = TypeVar("T")

Use = Callable[[], Awaitable[dict[str, dict[str, Any]]]]
"""What each target used in the last hour, by target."""

History = Callable[[str], Awaitable[list[dict[str, Any]]]]
"""An adapter's last revisions, the newest first."""


class Asked(Body):
    """The body of a command; each takes what it needs of it."""

    version: str | None = None
    share: float | None = Field(default=None, gt=0, le=1)
    replica: str | None = None


def admin_api(fleet: Fleet, gate: Gate, use: Use, history: History) -> APIRouter:
    """The routes of the admin API."""
    api = APIRouter(prefix="/admin")

    looks = Annotated[Caller, Depends(gate.needs("read"))]

    @api.get("/adapters")
    async def adapters(_: looks) -> Response:
        used = await use()
        return as_json({"object": "list", "data": [_with_use(a, used) for a in fleet.known()]})

    @api.get("/adapters/{name:path}")
    async def adapter(_: looks, name: str) -> Response:
        target = _found(fleet, name).partition("@")[0]
        shown = _with_use(fleet.shown(target), await use())
        return as_json(shown | {"history": await history(target)})

    @api.post("/adapters/{command}/{name:path}")
    async def command(request: Request, command: str, name: str, asked: Asked) -> Response:
        said = asked.model_dump(exclude_none=True)
        action = f"adapters {command}"
        async with gate.command(request, "operate", action, name, **said) as caller:
            return as_json(await _tried(fleet, command, name, asked, caller.name))

    return api


async def _tried(fleet: Fleet, command: str, name: str, asked: Asked, author: str) -> Any:
    """Does what was asked, or says as an error answer why not."""
    target = _found(fleet, name)
    try:
        return await _done(fleet, command, target, asked, author)
    except UnknownAdapter as error:
        raise NotFound(str(error), code="adapter_not_found") from error
    except (StateError, LoadFailed) as error:
        raise Conflict(str(error), code=f"{command}_refused") from error
    except httpx.HTTPError as error:
        raise Conflict(f"{type(error).__name__}: {error}", code=f"{command}_refused") from error


async def _done(fleet: Fleet, command: str, target: str, asked: Asked, author: str) -> Any:
    """Does what was asked; answers what came of it."""
    match command:
        case "promote":
            return _state(await fleet.promote(target, _needed(asked.version, "version"), author))
        case "rollback":
            return _state(await fleet.roll_back(target, author))
        case "canary":
            version, share = _needed(asked.version, "version"), _needed(asked.share, "share")
            return _state(await fleet.try_out(target, version, share, author))
        case "pin" | "unpin":
            return _state(await fleet.pin(target, command == "pin", author))
        case "load":
            return {"target": target, "seconds": await fleet.load(target, asked.replica)}
        case "unload":
            return {"target": target, "replicas": await fleet.unload(target, asked.replica)}
    raise NotFound(f"There is no command '{command}' for adapters.", code="unknown_command")


def _needed(value: T | None, name: str) -> T:
    if value is None:
        raise ApiError(
            f"The command needs '{name}'.",
            status=400,
            type="invalid_request_error",
            param=name,
            code="missing_parameter",
        )
    return value


def _found(fleet: Fleet, name: str) -> str:
    try:
        return fleet.find(name)
    except UnknownAdapter as error:
        raise NotFound(str(error), code="adapter_not_found") from error


def _state(state: AdapterState) -> dict[str, Any]:
    return {"object": "adapter_state", **msgspec.to_builtins(msgspec.structs.asdict(state))}


def _with_use(shown: dict[str, Any], used: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The target's own use, and that of its versions where they were asked for by name."""
    names = [shown["target"], *(f"{shown['target']}@{v['version']}" for v in shown["versions"])]
    return shown | {"last_hour": {name: used[name] for name in names if name in used}}
