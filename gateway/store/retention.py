"""Letting go of what was kept for long enough: texts first, whole requests later.

It is done in small transactions, so that nobody who writes rows waits for long.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Column, Select, Table, delete, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from gateway.store.schema import attempts, eval_prompts, eval_runs, feedback, requests
from gateway.store.store import Store

BATCH = 500
"""Requests in one transaction, or remarks on them."""


class Gone(msgspec.Struct, frozen=True):
    """How much is let go: requests and eval runs as a whole; and texts of requests, remarks
    (comments and corrections) and texts of eval runs' prompts, where the rest is kept."""

    requests: int = 0
    runs: int = 0
    texts: int = 0
    remarks: int = 0
    prompts: int = 0

    def __add__(self, other: "Gone") -> "Gone":
        both = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Gone(*(mine + others for mine, others in both))

    def __bool__(self) -> bool:
        return any(msgspec.structs.astuple(self))


class Horizon(msgspec.Struct, frozen=True):
    """Texts and whole requests of before these instants go, in Unix seconds; 0 lets none go.

    Texts of before `looked` have gone already.
    """

    texts: float = 0.0
    requests: float = 0.0
    looked: float = 0.0


class RetentionBook:
    """What is old in a store. Every call raises StoreError where the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def due(self, horizon: Horizon) -> Gone:
        """How much is to go; the texts of what goes as a whole are counted too."""
        with self._store.read() as connection:
            return Gone(
                *(
                    connection.scalar(select(func.count()).select_from(table).where(which)) or 0
                    for table, which in (
                        (requests, requests.c.started < horizon.requests),
                        (eval_runs, eval_runs.c.at < horizon.requests),
                        (requests, _told(horizon, requests.c.started, _TEXTS)),
                        (feedback, _told(horizon, feedback.c.at, _REMARKS)),
                        (eval_prompts, _prompts(horizon)),
                    )
                )
            )

    def batches(self, horizon: Horizon) -> Iterator[Gone]:
        """Lets everything go that is to, a batch with each step."""
        yield from self._requests(horizon)
        yield from self._runs(horizon)
        for texts in self._erased(requests, horizon, requests.c.started, _TEXTS):
            yield Gone(texts=texts)
        for remarks in self._erased(feedback, horizon, feedback.c.at, _REMARKS):
            yield Gone(remarks=remarks)
        yield from self._run_prompts(horizon)

    def _requests(self, horizon: Horizon) -> Iterator[Gone]:
        c = requests.c
        old = select(c.id).where(c.started < horizon.requests).order_by(c.started).limit(BATCH)
        while ids := self._found(old):
            with self._store.change() as connection:
                connection.execute(delete(attempts).where(attempts.c.request_id.in_(ids)))
                connection.execute(delete(feedback).where(feedback.c.request_id.in_(ids)))
                connection.execute(delete(requests).where(c.id.in_(ids)))
            yield Gone(requests=len(ids))

    def _runs(self, horizon: Horizon) -> Iterator[Gone]:
        """One run at a time: it may have many prompts."""
        c = eval_runs.c
        for run in self._found(select(c.run).where(c.at < horizon.requests)):
            with self._store.change() as connection:
                connection.execute(delete(eval_prompts).where(eval_prompts.c.run == run))
                connection.execute(delete(eval_runs).where(c.run == run))
            yield Gone(runs=1)

    def _erased(
        self,
        table: Table,
        horizon: Horizon,
        at: Column[float],
        columns: tuple[Column[str | None], ...],
    ) -> Iterator[int]:
        """Each batch goes on from where the one before ended: rows without text are read once."""
        seq, nothing = table.c.seq, dict.fromkeys((column.name for column in columns), None)
        old = select(seq, at).where(_told(horizon, at, columns)).order_by(at).limit(BATCH)
        since = horizon.looked
        while True:
            with self._store.read() as connection:
                found = connection.execute(old.where(at >= since)).all()
            if not found:
                return
            since = found[-1][1]
            with self._store.change() as connection:
                these = seq.in_([row[0] for row in found])
                connection.execute(update(table).values(nothing).where(these))
            yield len(found)

    def _run_prompts(self, horizon: Horizon) -> Iterator[Gone]:
        """The texts of one eval run's prompts at a time."""
        c = eval_prompts.c
        for run in self._found(select(c.run).where(_prompts(horizon)).distinct()):
            told = (c.run == run) & c.text.is_not(None)
            with self._store.change() as connection:
                erased = connection.execute(update(eval_prompts).values(text=None).where(told))
            yield Gone(prompts=erased.rowcount)

    def _found(self, query: Select[Any]) -> Sequence[str]:
        with self._store.read() as connection:
            return connection.scalars(query).all()


_TEXTS = (requests.c.text, requests.c.messages, requests.c.answer)
_REMARKS = (feedback.c.comment, feedback.c.correction)


def _told(
    horizon: Horizon, at: Column[float], columns: tuple[Column[str | None], ...]
) -> ColumnElement[bool]:
    """Where one of the columns has text that is to go."""
    told = or_(*(column.is_not(None) for column in columns))
    return (at < horizon.texts) & told


def _prompts(horizon: Horizon) -> ColumnElement[bool]:
    old = select(eval_runs.c.run).where(eval_runs.c.at < horizon.texts)
    return eval_prompts.c.run.in_(old) & eval_prompts.c.text.is_not(None)
