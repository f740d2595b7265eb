"""A provider on a real socket: it records each request and plays what it was told to answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
from aiohttp import web

Ending = Literal["end", "cut", "reset", "wait"]


class Plan(msgspec.Struct, frozen=True):
    """One answer. After its pieces it ends, breaks the connection, or waits for the client to go.

    Without pieces `wait` sends no head either. `gap` is awaited between the pieces.
    """

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/event-stream"),)
    ending: Ending = "end"
    gap: Any = None


class Seen(msgspec.Struct):
    """One request as it arrived; `gone` is set if its client left before the answer's end."""

    path: str
    headers: Mapping[str, str]
    body: Any
    gone: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class Provider:
    """Answers every path by the next plan, and the last plan from then on."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.arrived = asyncio.Event()
        self.url = ""
        self._plan = Plan()

    def plays(self, plan: Plan) -> None:
        """What the next answers are; forgets what was seen."""
        self._plan = plan
        self.seen.clear()
        self.arrived.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.path, dict(request.headers), json.loads(await request.read()))
        self.seen.append(seen)
        self.arrived.set()
        try:
            return await self._play(request, self._plan)
        except (asyncio.CancelledError, ConnectionError):
            seen.gone.set()
            raise

    async def _play(self, request: web.Request, plan: Plan) -> web.StreamResponse:
        if plan.ending == "wait" and not plan.pieces:
            await asyncio.Event().wait()
        response = web.StreamResponse(status=plan.status, headers=dict(plan.headers))
        await response.prepare(request)
        for piece in plan.pieces:
            await response.write(piece)
            if plan.gap is not None:
                await plan.gap()
        if plan.ending == "wait":
            await asyncio.Event().wait()
        if plan.ending == "end":
            await response.write_eof()
        else:
            transport = request.transport
            assert transport is not None
            transport.abort() if plan.ending == "reset" else transport.close()
        return response


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """A provider serving at `url` on a free port of 127.0.0.1."""
    one = Provider()
    app = web.Application()
    app.router.add_post("/{path:.*}", one.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield one
    finally:
        await runner.cleanup()
