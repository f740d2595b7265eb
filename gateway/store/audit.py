"""The audit log: who changed what, when and from where, and what came of it."""

import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from sqlalchemy import insert, select

from gateway.store.rows import storable
from gateway.store.schema import audit
from gateway.store.store import Store, fields

Outcome = Literal["done", "refused", "failed"]
"""`refused` for want of a role or a key; `failed` where the command could not be done."""

ITSELF = "the gateway itself"
"""Who did what nobody had commanded: a step of a canary, the end of a guard."""


class Entry(msgspec.Struct, frozen=True):
    """One command, tried or done, or what the gateway did by itself. `at` is in Unix seconds.

    `key` is the id of the key that it came with, None for a person at the store itself; `name` is
    the key's name, or that person's, or `ITSELF`; `source` the address that it came from, or the
    machine. `detail` holds what was asked, and the error: never a secret.
    """

    at: float
    key: str | None
    name: str
    source: str
    action: str
    subject: str
    outcome: Outcome
    detail: dict[str, Any] = {}


class AuditBook:
    """The audit log of a store. Entries are only ever added."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def add(
        self,
        action: str,
        subject: str,
        /,
        *,
        name: str,
        source: str,
        outcome: Outcome = "done",
        key: str | None = None,
        **detail: Any,
    ) -> None:
        """Writes an entry; of `detail` what is None is left out. Raises StoreError.

        A name that the store cannot hold as it is is mended: whatever was tried is told.
        """
        said = {name: value for name, value in detail.items() if value is not None}
        with self._store.change() as connection:
            connection.execute(
                insert(audit).values(
                    at=self._now(),
                    key=key,
                    name=storable(name),
                    source=source,
                    action=action,
                    subject=storable(subject),
                    outcome=outcome,
                    detail=msgspec.json.encode(said, order="deterministic").decode(),
                )
            )

    def list(self, since: float = 0.0, limit: int = 100) -> list[Entry]:
        """The last entries since an instant, the newest last."""
        query = select(audit).where(audit.c.at >= since).order_by(audit.c.seq.desc()).limit(limit)
        with self._store.read() as connection:
            rows = [fields(row) for row in connection.execute(query)]
        return [_entry(row) for row in reversed(rows)]


def _entry(row: dict[str, Any]) -> Entry:
    del row["seq"]
    return msgspec.convert(row | {"detail": msgspec.json.decode(row["detail"])}, Entry)
