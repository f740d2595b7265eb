"""Shares of traffic that commands gave to targets, backends and replicas, as revisions."""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, func, insert, select

from gateway.store.schema import weights
from gateway.store.store import Store
from gateway.types.snapshot import Weight


class WeightBook:
    """The weights of a store. The last revision of each subject is the truth."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def version(self) -> int:
        """Grows with every change, by whomever."""
        with self._store.read() as connection:
            return connection.execute(select(func.max(weights.c.seq))).scalar() or 0

    def current(self) -> dict[str, Weight]:
        """Each subject that gets less than all of its traffic."""
        last = select(func.max(weights.c.seq)).group_by(weights.c.subject)
        query = select(weights).where(weights.c.seq.in_(last), weights.c.share < 1.0)
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(weights.c.subject)).all()
        return {str(row.subject): _weight(row) for row in rows}

    def save(self, subject: str, share: float, why: str, author: str) -> Weight:
        """From now on that is the subject's share. Raises StoreError."""
        at = self._now()
        with self._store.change_alone() as connection:
            connection.execute(
                insert(weights).values(
                    subject=subject, share=share, why=why, author=author, saved=at
                )
            )
        return Weight(share, why, author, at)


def _weight(row: "Row[Any]") -> Weight:
    return Weight(row.share, row.why, row.author, row.saved)
