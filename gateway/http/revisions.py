"""The admin API of revisions, under `/admin/`: what is served, was served, and shall be served."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from gateway.errors import ApiError, ConfigError, Conflict, NotFound, SwitchboardError
from gateway.http.body import Body
from gateway.http.gate import Gate, as_json
from gateway.policy.live import Live
from gateway.revisions.history import history
from gateway.revisions.report import reported
from gateway.revisions.running import NothingBefore, Running, Served, brief
from gateway.store.adapters import AdapterBook
from gateway.store.reader import Reader
from gateway.store.revisions import Guard
from gateway.types.requests import Caller


class WrongConfiguration(ApiError):
    """What was to be served cannot be; the answer has every problem."""

    status = 422
    type = "invalid_request_error"

    def __init__(self, error: ConfigError) -> None:
        super().__init__(str(error), code="invalid_configuration")
        self._problems = [msgspec.to_builtins(problem) for problem in error.problems]

    def body(self) -> dict[str, Any]:
        """OpenAI's error object, with the problems beside it."""
        return {**super().body(), "problems": self._problems}


class GuardAsked(Body):
    """How the new revision is watched: seconds and shares."""

    window: float = Field(gt=0, le=86_400)
    errors: float = Field(default=Guard(1).errors, ge=0, le=1)
    latency: float = Field(default=Guard(1).latency, ge=0)

    def guard(self) -> Guard:
        """The same as the store keeps it."""
        return Guard(self.window, self.errors, self.latency)


class Files(Body):
    """The body of an application: texts by their path from the directory."""

    files: dict[str, str]
    environment: str | None = None
    note: str = Field(default="", max_length=1000)
    after: int | None = None
    guard: GuardAsked | None = None


class Compared(Body):
    """The body of a comparison."""

    files: dict[str, str]
    environment: str | None = None


class Back(Body):
    """The body of a rollback: so many contents ago, or to a revision's number or hash."""

    steps: int = Field(default=1, ge=1)
    to: str | int | None = None
    note: str = Field(default="", max_length=1000)


def revisions_api(
    running: Running, gate: Gate, adapters: AdapterBook, reader: Reader, live: Live
) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/admin")
    looks = Annotated[Caller, Depends(gate.needs("read"))]
    reads_files = Annotated[Caller, Depends(gate.needs("apply"))]

    @api.get("/revisions")
    async def listed(_: looks, limit: Annotated[int, Query(ge=1, le=10_000)] = 20) -> Response:
        entries = await asyncio.to_thread(history, running.book, adapters, limit)
        return as_json({"object": "list", "data": entries})

    @api.get("/revisions/{which}")
    async def one(_: reads_files, which: str) -> Response:
        number = int(which) if which.isdigit() and len(which) < 10 else which
        found = await asyncio.to_thread(running.book.find, number)
        if found is None:
            raise NotFound(f"There is no revision {which}.", code="revision_not_found")
        return as_json({"object": "revision", **brief(found), "files": found.files})

    @api.post("/revisions")
    async def apply(request: Request, asked: Files) -> Response:
        guard = asked.guard.guard() if asked.guard is not None else None
        async with gate.command(request, "apply", "apply", note=asked.note) as caller:
            with _refusals():
                served = await running.apply(
                    asked.files,
                    caller.name,
                    note=asked.note,
                    environment=asked.environment,
                    guard=guard,
                    after=asked.after,
                )
        return _served(served)

    @api.post("/diff")
    async def compare(_: reads_files, asked: Compared) -> Response:
        with _refusals():
            loaded = await running.check(asked.files, asked.environment)
        report = await asyncio.to_thread(
            reported,
            running.revision,
            loaded,
            asked.environment,
            running.env,
            reader,
            time.time(),
            live,
        )
        return as_json({"object": "diff", **msgspec.to_builtins(report)})

    @api.post("/rollback")
    async def roll_back(request: Request, asked: Back) -> Response:
        to = str(asked.to) if asked.to is not None else f"{asked.steps} back"
        async with gate.command(request, "operate", "rollback", to, note=asked.note) as caller:
            with _refusals():
                served = await running.roll_back(
                    asked.to, caller.name, steps=asked.steps, note=asked.note
                )
        return _served(served)

    return api


@contextmanager
def _refusals() -> Iterator[None]:
    """Why a revision is not served, as the client is told."""
    try:
        yield
    except ConfigError as error:
        raise WrongConfiguration(error) from error
    except NothingBefore as error:
        raise NotFound(str(error), code="revision_not_found") from error
    except ApiError:
        raise
    except SwitchboardError as error:
        raise Conflict(f"{error}; what ran before serves on.", code="revision_refused") from error


def _served(served: Served) -> Response:
    told = {"object": "revision", **brief(served.revision), "warnings": served.warnings}
    return as_json({**told, "unchanged": served.unchanged})
