"""Limits by the admin API, under `/admin/limits`: who has used how much of what."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from gateway.http.gate import Gate, as_json
from gateway.types.requests import Caller

Shown = Callable[[], Awaitable[list[dict[str, Any]]]]
"""Each account with its limits, and how much of each is used."""


def limits_api(shown: Shown, gate: Gate) -> APIRouter:
    """The route of limits."""
    api = APIRouter(prefix="/admin/limits")

    @api.get("")
    async def limits(_: Annotated[Caller, Depends(gate.needs("read"))]) -> Response:
        return as_json({"object": "list", "data": await shown()})

    return api
