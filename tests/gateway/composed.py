"""What tests of compositions look at: the rows of a request, and who was asked what."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from gateway.standin.standin import StandIn
from gateway.store import schema
from tests.gateway.support import Served


def attempts_of(served: Served, request_id: str) -> Sequence[Any]:
    """The rows of a request's attempts, in their order."""
    rows = select(schema.attempts).where(schema.attempts.c.request_id == request_id)
    with served.gateway.store.engine.connect() as connection:
        return connection.execute(rows.order_by(schema.attempts.c.n)).all()


def request_of(served: Served, request_id: str) -> Any:
    """A request's own row."""
    rows = select(schema.requests).where(schema.requests.c.id == request_id)
    with served.gateway.store.engine.connect() as connection:
        return connection.execute(rows).one()


def latest(served: Served) -> Any:
    """The row of the request that was written last."""
    rows = select(schema.requests).order_by(schema.requests.c.seq.desc()).limit(1)
    with served.gateway.store.engine.connect() as connection:
        return connection.execute(rows).one()


async def written(served: Served) -> None:
    await asyncio.to_thread(served.gateway.writer.flush)


def bodies(provider: StandIn) -> list[dict[str, Any]]:
    """What a provider was asked, in order."""
    return [json.loads(seen.body) for seen in provider.seen]
