"""Experiments by the admin API, under `/admin/experiments`: how they stand, and stopping one."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from gateway.http.body import Body
from gateway.http.gate import Gate, as_json
from gateway.types.requests import Caller

Stop = Callable[[str, str, str], Awaitable[dict[str, Any]]]
"""Stops an experiment, for a reason, by an author. Raises ApiError."""

Shown = Callable[[], list[dict[str, Any]]]
"""Each declared experiment, and how it stands."""


class Why(Body):
    """Why it is stopped."""

    why: str = Field(default="", max_length=500)


def experiments_api(gate: Gate, stop: Stop, shown: Shown) -> APIRouter:
    """The routes of experiments."""
    api = APIRouter(prefix="/admin/experiments")

    @api.get("")
    async def experiments(_: Annotated[Caller, Depends(gate.needs("read"))]) -> Response:
        return as_json({"object": "list", "data": shown()})

    @api.post("/stop/{name:path}")
    async def stop_one(request: Request, name: str, told: Why) -> Response:
        said = told.model_dump(exclude_defaults=True)
        async with gate.command(request, "operate", "experiment stop", name, **said) as caller:
            found = await stop(name, told.why, caller.name)
        return as_json(found)

    return api
