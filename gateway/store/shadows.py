"""What shadows answered and cost, beside what was answered in truth."""

from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import func, select

from gateway.store.schema import requests
from gateway.store.store import Store


class Pair(msgspec.Struct, frozen=True):
    """A request and its copy. Texts only where the route keeps text; seconds and dollars."""

    request: str
    messages: str | None
    text: str | None
    target: str
    answer: str | None
    cost: float
    first_token_s: float | None
    total_s: float
    shadow_target: str | None
    shadow_outcome: str
    shadow_answer: str | None
    shadow_cost: float
    shadow_first_token_s: float | None
    shadow_total_s: float


class ShadowBook:
    """The copies of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def spent(self, route: str, since: float) -> float:
        """What a route's copies have cost since an instant, in dollars. Raises StoreError."""
        c = requests.c
        query = select(func.sum(c.cost_usd)).where(
            c.shadow_of.is_not(None), c.route == route, c.started >= since
        )
        with self._store.read() as connection:
            return float(connection.scalar(query) or 0.0)

    def pairs(self, route: str, since: float) -> Iterator[Pair]:
        """Each copy with the request that it is of, the oldest first. Raises StoreError."""
        true, copy = requests.alias(), requests.alias()
        t, c = true.c, copy.c
        query = (
            select(
                t.id, t.messages, t.text,
                t.target, t.answer, t.cost_usd, t.first_token_s, t.total_s,
                c.target, c.outcome, c.answer, c.cost_usd, c.first_token_s, c.total_s,
            )
            .select_from(copy.join(true, c.shadow_of == t.id))
            .where(c.route == route, c.started >= since)
            .order_by(c.seq)
        )  # fmt: skip
        with self._store.read() as connection:
            for row in connection.execute(query):
                values: tuple[Any, ...] = tuple(row)
                yield Pair(*values)
