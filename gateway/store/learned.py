"""Versions of what was learned of routes' qualities: kept, used, and gone back to.

The last row of a route that is `used` says which version decisions go by. Going back to one adds a
row without a model of its own: so the rows are the history, and nothing in them changes but that
models are let go that are neither used nor among the last `MODELS`.
"""

from typing import Any

import msgspec
from sqlalchemy import Row, func, insert, select, update

from gateway.store.schema import learned_versions as rows_of
from gateway.store.store import Store

MODELS = 20
"""Models of a route that are kept, of some 300 kB each."""

_PLAIN = [column for column in rows_of.columns if column.name != "model"]


class Kept(msgspec.Struct, frozen=True):
    """A version that was made, or gone back to, `at` (Unix seconds) by `author`. `told` is its
    report, as JSON; `kind` of what features it was learned."""

    route: str
    version: str
    kind: str
    at: float
    author: str
    used: bool
    told: str
    seq: int = 0


class LearnedBook:
    """The versions of a store. Any thread may call; every call raises StoreError where the store
    is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def last_seq(self) -> int:
        """Grows with every change, by whomever."""
        with self._store.read() as connection:
            return int(connection.scalar(select(func.max(rows_of.c.seq))) or 0)

    def current(self) -> dict[str, Kept]:
        """The version that each route is to go by, of whatever kind."""
        c = rows_of.c
        last = select(func.max(c.seq)).where(c.used).group_by(c.route)
        with self._store.read() as connection:
            found = connection.execute(select(*_PLAIN).where(c.seq.in_(last))).all()
        return {row.route: _kept(row) for row in found}

    def history(self, route: str) -> list[Kept]:
        """All of a route, the newest last."""
        query = select(*_PLAIN).where(rows_of.c.route == route).order_by(rows_of.c.seq)
        with self._store.read() as connection:
            return [_kept(row) for row in connection.execute(query)]

    def model(self, route: str, version: str) -> bytes | None:
        """Its model; None where there is none, or none any more."""
        c = rows_of.c
        query = (
            select(c.model)
            .where(c.route == route, c.version == version, c.model.is_not(None))
            .limit(1)
        )
        with self._store.read() as connection:
            found = connection.scalar(query)
        return None if found is None else bytes(found)

    def save(self, new: Kept, model: bytes | None) -> Kept:
        """Adds it, the last; without a `model` it is one that is there, gone back to."""
        values = msgspec.structs.asdict(new)
        del values["seq"]
        c = rows_of.c
        with self._store.change_alone() as connection:
            key = connection.execute(
                insert(rows_of).values(**values, model=model)
            ).inserted_primary_key
            assert key is not None
            of_route = (c.route == new.route, c.model.is_not(None))
            kept = select(c.seq).where(*of_route).order_by(c.seq.desc()).limit(MODELS)
            used = select(func.max(c.seq)).where(c.route == new.route, c.used).scalar_subquery()
            serving = select(c.version).where(c.seq == used)
            connection.execute(
                update(rows_of)
                .where(
                    *of_route,
                    c.seq.not_in([each.seq for each in connection.execute(kept)]),
                    c.version.not_in([each.version for each in connection.execute(serving)]),
                )
                .values(model=None)
            )
        return msgspec.structs.replace(new, seq=int(key[0]))


def _kept(row: "Row[Any]") -> Kept:
    return Kept(row.route, row.version, row.kind, row.at, row.author, row.used, row.told, row.seq)
