"""Drain, enable and weight by the admin API, under `/admin/weights`."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from gateway.http.body import Body
from gateway.http.gate import Gate, as_json
from gateway.types.requests import Caller
from gateway.types.snapshot import Weight

Give = Callable[[str, float, str, str, bool], Awaitable[Weight]]
"""Gives a subject a share, for a reason, by an author, forced or not. Raises ApiError."""

Shown = Callable[[], list[dict[str, Any]]]
"""Each subject that gets less than all of its traffic."""


class Told(Body):
    """What share a subject gets from now on: 0 drains it, 1 enables it again."""

    subject: str = Field(min_length=1, max_length=500)
    share: float = Field(ge=0, le=1)
    why: str = Field(default="", max_length=500)
    force: bool = False


def traffic_api(gate: Gate, give: Give, shown: Shown) -> APIRouter:
    """The routes of weights."""
    api = APIRouter(prefix="/admin/weights")

    @api.get("")
    async def weights(_: Annotated[Caller, Depends(gate.needs("read"))]) -> Response:
        return as_json({"object": "list", "data": shown()})

    @api.post("")
    async def weigh(request: Request, told: Told) -> Response:
        action = {0.0: "drain", 1.0: "enable"}.get(told.share, "weight")
        said = told.model_dump(exclude={"subject"}, exclude_defaults=True)
        async with gate.command(request, "operate", action, told.subject, **said) as caller:
            await give(told.subject, told.share, told.why, caller.name, told.force)
        found = [each for each in shown() if each["subject"] == told.subject]
        return as_json(found[0] if found else {"subject": told.subject, "share": 1.0})

    return api
