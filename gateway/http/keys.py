"""Keys by the admin API, under `/admin/keys`: made, listed, revoked. For the role admin alone."""

import asyncio
import time
from collections.abc import Callable, Container
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gateway.errors import Conflict
from gateway.http.body import Body
from gateway.http.gate import Gate, as_json
from gateway.store.keys import Keys, fault_of_name
from gateway.store.store import StoreError
from gateway.types.requests import Caller, Role

LONGEST_S = 100 * 366 * 86_400
"""A key may expire in a hundred years, or never."""


def _well_named(name: str) -> str:
    wrong = fault_of_name(name)
    if wrong is not None:
        raise PydanticCustomError("name", "a key's name {wrong}", {"wrong": wrong})
    return name


class Wanted(Body):
    """A key to be made. `expires_in` is in seconds."""

    name: Annotated[str, AfterValidator(_well_named)]
    routes: list[str] | None = Field(default=None, min_length=1)
    tenant: str | None = None
    role: Role | None = None
    expires_in: float | None = Field(default=None, gt=0, le=LONGEST_S)


def keys_api(keys: Keys, gate: Gate, routes: Callable[[], Container[str]]) -> APIRouter:
    """The routes of keys. A key may name one that is still to come; those that are none
    of `routes`, which run now, are told.
    """
    api = APIRouter(prefix="/admin/keys")

    @api.get("")
    async def known(_: Annotated[Caller, Depends(gate.needs("admin"))]) -> Response:
        found = await asyncio.to_thread(keys.list)
        return as_json({"object": "list", "data": found})

    @api.post("")
    async def create(request: Request, wanted: Wanted) -> Response:
        said = wanted.model_dump(exclude={"name"})
        async with gate.command(request, "admin", "keys create", wanted.name, **said):
            try:
                made = await asyncio.to_thread(
                    keys.create,
                    wanted.name,
                    routes=wanted.routes,
                    tenant=wanted.tenant,
                    role=wanted.role,
                    expires=None if wanted.expires_in is None else time.time() + wanted.expires_in,
                )
            except StoreError as error:
                raise Conflict(str(error), code="key_refused") from error
        key, known = msgspec.structs.asdict(made.key), routes()
        unknown = [each for each in made.key.routes or () if each not in known]
        return as_json({"object": "key", "secret": made.secret, **key, "unknown_routes": unknown})

    @api.delete("/{which}")
    async def revoke(request: Request, which: str) -> Response:
        async with gate.command(request, "admin", "keys revoke", which):
            try:
                key = await asyncio.to_thread(keys.revoke, which)
            except StoreError as error:
                raise Conflict(str(error), code="key_refused") from error
        return as_json({"object": "key", **msgspec.structs.asdict(key)})

    return api
