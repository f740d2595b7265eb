"""The log as replay reads it: many requests at a time, with what was said of their answers."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, func, null, select

from gateway.store.schema import feedback, requests
from gateway.store.store import Store

BATCH = 20_000

COLUMNS = (
    "id", "route", "policy", "recognised_by", "recognised_detail", "model", "tenant", "snapshot",
    "decision", "needs", "outcome", "cost_usd", "first_token_s", "total_s", "started",
)  # fmt: skip
"""What replay reads of each request, in this order."""


class ReplayLog:
    """The requests of a store that clients made. Any thread may call."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def count(self, since: float, until: float, routes: Collection[str] | None = None) -> int:
        """How many began from `since` on and before `until`, in Unix seconds."""
        query = select(func.count()).select_from(requests).where(*_asked(since, until, routes))
        with self._store.read() as connection:
            return int(connection.scalar(query) or 0)

    def batches(
        self,
        since: float,
        until: float,
        routes: Collection[str] | None = None,
        *,
        every: int = 1,
        texts: bool = False,
        read: int = 0,
    ) -> Iterator[Sequence[Row[Any]]]:
        """The same, with `COLUMNS`, in the order in which they were stored; of `every` so many
        one. With `texts` the messages of each too, as JSON, null where they are not kept; and with
        `read` its features, and the first so many characters of its text."""
        conditions = _asked(since, until, routes)
        if every > 1:
            conditions.append(requests.c.seq % every == 0)
        columns: list[ColumnElement[Any]] = [requests.c[name] for name in COLUMNS]
        columns.append(requests.c.messages if texts else null())
        columns.append(requests.c.features if read else null())
        columns.append(func.substr(requests.c.text, 1, read) if read else null())
        query = (
            select(*columns)
            .where(*conditions)
            .order_by(requests.c.seq)
            .execution_options(yield_per=BATCH)
        )
        with self._store.read() as connection:
            yield from connection.execute(query).partitions()

    def said(
        self, since: float, metrics: Collection[str]
    ) -> dict[str, list[tuple[str, float, float]]]:
        """What was said of `metrics` from `since` on, by request: metric, value and when, the last
        said last."""
        found: dict[str, list[tuple[str, float, float]]] = {}
        if not metrics:
            return found
        c = feedback.c
        query = (
            select(c.request_id, c.metric, c.value, c.at)
            .where(c.at >= since, c.metric.in_(sorted(metrics)))
            .order_by(c.seq)
            .execution_options(yield_per=BATCH)
        )
        with self._store.read() as connection:
            for id, metric, value, at in connection.execute(query):
                found.setdefault(id, []).append((metric, value, at))
        return found


def _asked(since: float, until: float, routes: Collection[str] | None) -> list[ColumnElement[bool]]:
    c = requests.c
    asked = [c.started >= since, c.started < until, c.shadow_of.is_(None)]
    if routes is not None:
        asked.append(c.route.in_(sorted(routes)))
    return asked
