"""The gateway's side of an agent: adapters' files by their digests, to whoever has the agents' key.

GET /internal/adapters/{digest}/manifest        the canonical manifest; its SHA-256 is the digest
GET /internal/adapters/{digest}/files/{name}    one of the files that it lists
"""

import asyncio
import hmac
from collections.abc import Callable, Iterable

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import FileResponse

from gateway.adapters.manifest import Entry, NotOnShelf, ShelfError, is_digest, manifest_of
from gateway.adapters.shelf import Shelf
from gateway.errors import ApiError, BadRequest, NotFound, Unauthorized

MIN_KEY = 16
"""Characters; a shorter key can be guessed."""


def shelf_router(shelves: Callable[[], Iterable[Shelf]], key: str | None) -> APIRouter:
    """The routes, which look on each shelf in turn. Without a key there are none.

    Raises ValueError for a key that can be guessed.
    """
    router = APIRouter(prefix="/internal/adapters", include_in_schema=False)
    if key is None:
        return router
    checked = checked_key(key, "the agents' key")

    def authorised(request: Request) -> None:
        if not has_key(request.headers.get("authorization"), checked):
            raise Unauthorized(
                "The gateway's shelf needs the agents' key: is SWITCHBOARD_AGENT_KEY the same "
                "here and there?",
                code="wrong_agent_key",
            )

    @router.get("/{digest}/manifest", dependencies=[Depends(authorised)])
    async def manifest(digest: str) -> Response:
        _, entry = await asyncio.to_thread(_found, shelves(), digest)
        return Response(manifest_of(entry.files), media_type="application/json")

    @router.get("/{digest}/files/{name}", dependencies=[Depends(authorised)])
    async def file(digest: str, name: str) -> Response:
        shelf, entry = await asyncio.to_thread(_found, shelves(), digest)
        if name not in {each.name for each in entry.files}:
            raise NotFound(f"sha256:{digest} has no file {name!r}.", code="no_such_file")
        path = shelf.path(digest) / name
        return FileResponse(path, media_type="application/octet-stream")

    return router


def _found(shelves: Iterable[Shelf], digest: str) -> tuple[Shelf, Entry]:
    """The shelf that has it. Raises ApiError where none has, or the files are damaged."""
    if not is_digest(digest):
        raise BadRequest(f"{digest[:80]!r} is no digest.", param="digest", code="bad_digest")
    for shelf in shelves:
        try:
            return shelf, shelf.entry(digest)
        except NotOnShelf:
            continue
        except ShelfError as error:
            raise ApiError(str(error), code="damaged") from error
    raise NotFound(f"There is no adapter sha256:{digest}.", code="adapter_not_found")


# ---------------------------------------------------------------- the key


def checked_key(key: str, what: str) -> bytes:
    """A key as it is compared. Raises ValueError for one that can be guessed or not be sent."""
    if len(key) < MIN_KEY or not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(
            f"{what} must be {MIN_KEY} or more printable ASCII characters without spaces; make one "
            f"with: openssl rand -hex 32"
        )
    return key.encode()


def has_key(authorization: str | None, key: bytes) -> bool:
    """Whether a header holds this key as a bearer token; takes as long for every wrong one."""
    kind, _, sent = (authorization or "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(sent.strip().encode("utf-8"), key)
