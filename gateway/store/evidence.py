"""How targets did on known cases, as it bears on routes: written by evals, read for quality."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, insert, select, tuple_

from gateway.store.schema import evidence
from gateway.store.store import Store


class Evidence(msgspec.Struct, frozen=True):
    """Of `n` answers of a target so many were right by a route's metric. `at` in Unix seconds."""

    route: str
    target: str
    metric: str
    source: str
    n: float
    right: float
    at: float


class EvidenceBook:
    """The store's evidence. Every call raises StoreError where the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, rows: Sequence[Evidence]) -> None:
        """Puts them in, in the place of what the same source has said of the same before."""
        if not rows:
            return
        keys = [(row.route, row.target, row.metric, row.source) for row in rows]
        c = evidence.c
        with self._store.change() as connection:
            connection.execute(
                delete(evidence).where(tuple_(c.route, c.target, c.metric, c.source).in_(keys))
            )
            connection.execute(insert(evidence), [msgspec.structs.asdict(row) for row in rows])

    def read(self) -> list[Evidence]:
        """All of it, the oldest first."""
        with self._store.read() as connection:
            rows = connection.execute(select(evidence).order_by(evidence.c.at)).all()
        return [Evidence(*row) for row in rows]
