"""Who may use which part of the admin API, and the audit log of what they did or tried.

    gate = Gate(authenticate, book.add)

    @api.get("/things")
    async def things(caller: Annotated[Caller, Depends(gate.needs("read"))]) -> Response: ...

    @api.post("/things/{name}")
    async def change(request: Request, name: str) -> Response:
        async with gate.command(request, "operate", "thing change", name, share=0.5) as caller:
            ...

While the store holds no key at all nobody has a role: an admin's key is made first.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import Request, Response

from gateway.errors import ApiError, Forbidden, SwitchboardError, Unauthorized
from gateway.http.openai import Authenticate, bearer
from gateway.types.requests import Caller, Role

log = logging.getLogger("switchboard")

REFUSALS_A_MINUTE = 60
"""More are not written: a stranger shall not fill the store."""


class Gate:
    """Checks the role of whoever asks, and keeps the audit log."""

    def __init__(
        self,
        authenticate: Authenticate,
        write: Callable[..., None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`write` is `AuditBook.add`: it may take long, and is called in a thread."""
        self._authenticate = authenticate
        self._write = write
        self._clock = clock
        self._refusals: deque[float] = deque(maxlen=REFUSALS_A_MINUTE)

    def needs(self, role: Role) -> Callable[[Request], Awaitable[Caller]]:
        """A dependency of routes that only look: the caller, if its key has that role."""

        async def caller(request: Request) -> Caller:
            return await self._let_in(request, role, f"{request.method} {request.url.path}", "")

        return caller

    @asynccontextmanager
    async def command(
        self, request: Request, role: Role, action: str, subject: str = "", /, **detail: Any
    ) -> AsyncIterator[Caller]:
        """Around what changes something: done, refused or failed, it is in the audit log after.

        `detail` is written down as it is: no secret may be in it.
        """
        caller = await self._let_in(request, role, action, subject, **detail)
        said: dict[str, Any] = {"key": caller.key, "name": caller.name, **detail}
        said["source"] = _source(request)
        try:
            yield caller
        except asyncio.CancelledError:
            # Not waited for: whoever asked is gone, and what cancelled us wants to go on.
            said |= {"outcome": "failed", "error": "the caller went away before the end"}
            asyncio.get_running_loop().run_in_executor(None, self._written, action, subject, said)
            raise
        except Exception as error:
            told = str(error) if isinstance(error, SwitchboardError) else repr(error)
            await self._note(action, subject, said | {"outcome": "failed", "error": told})
            raise
        await self._note(action, subject, said | {"outcome": "done"})

    async def _let_in(
        self, request: Request, role: Role, action: str, subject: str, /, **detail: Any
    ) -> Caller:
        caller: Caller | None = None
        refusal: ApiError
        try:
            caller = self._authenticate(bearer(request.scope["headers"]))
            if caller.may(role):
                return caller
            refusal = role_needed(role, caller)
        except Unauthorized as error:
            refusal = error
        if self._few_refusals():
            said = detail | {
                "key": caller.key if caller else None,
                "name": caller.name if caller else "unknown",
                "source": _source(request),
                "outcome": "refused",
                "error": refusal.message,
            }
            await self._note(action, subject, said)
        raise refusal

    def _few_refusals(self) -> bool:
        now = self._clock()
        full = len(self._refusals) == REFUSALS_A_MINUTE
        if full and now - self._refusals[0] < 60.0:
            return False
        self._refusals.append(now)
        return True

    async def _note(self, action: str, subject: str, said: dict[str, Any]) -> None:
        await asyncio.to_thread(self._written, action, subject, said)

    def _written(self, action: str, subject: str, said: dict[str, Any]) -> None:
        """What is done is done: a store that does not take the entry undoes nothing."""
        try:
            self._write(action, subject, **said)
        except Exception:
            log.exception("the audit log missed: %s %s by %s", action, subject, said["name"])


def role_needed(role: Role, caller: Caller) -> Forbidden:
    """The answer to a key without the role, with the way to get it."""
    has = f"has the role '{caller.role}'" if caller.role else "has no role"
    who = f"the key '{caller.name}' {has}" if caller.key else "no key was sent"
    return Forbidden(
        f"This needs the role '{role}', and {who}. Make a key that has it, where the store is: "
        f"`switchboard keys create --name NAME --role {role}`.",
        code="role_needed",
    )


def _source(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def as_json(value: object) -> Response:
    """What the admin API answers with."""
    return Response(msgspec.json.encode(value), media_type="application/json")
