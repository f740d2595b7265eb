"""Revisions: what was set to run, in order. The last one is the truth."""

from typing import Any

import msgspec
from sqlalchemy import Row, insert, select

from gateway.store.schema import revisions
from gateway.store.store import Store


class Revision(msgspec.Struct, frozen=True):
    """One content that was set to run. `files` maps a file's name to its text."""

    hash: str
    files: dict[str, str]
    author: str
    saved: float


class Revisions:
    """The revisions of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, hash: str, files: dict[str, str], author: str, at: float) -> bool:
        """Makes this the last revision; false if it is so already.

        A content that was left and is gone back to stands in the list again.
        """
        with self._store.change() as connection:
            last = connection.execute(_LAST).first()
            if last is not None and last.hash == hash:
                return False
            content = msgspec.json.encode(files, order="deterministic").decode()
            connection.execute(
                insert(revisions).values(hash=hash, content=content, author=author, saved=at)
            )
        return True

    def latest(self) -> Revision | None:
        """The last one; None for a new store."""
        with self._store.read() as connection:
            row = connection.execute(_LAST).first()
        return None if row is None else _revision(row)

    def find(self, hash: str) -> Revision | None:
        """The content of that hash, as it was saved last."""
        query = select(revisions).where(revisions.c.hash == hash)
        with self._store.read() as connection:
            row = connection.execute(query.order_by(revisions.c.seq.desc()).limit(1)).first()
        return None if row is None else _revision(row)

    def list(self, limit: int = 20) -> tuple[Revision, ...]:
        """The last ones, the newest first."""
        query = select(revisions).order_by(revisions.c.seq.desc()).limit(limit)
        with self._store.read() as connection:
            return tuple(_revision(row) for row in connection.execute(query))


_LAST = select(revisions).order_by(revisions.c.seq.desc()).limit(1)


def _revision(row: "Row[Any]") -> Revision:
    return Revision(row.hash, msgspec.json.decode(row.content), row.author, row.saved)
