"""Records as rows, and how rows are inserted."""

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import Table

from gateway.store.decisions import encoded
from gateway.store.store import Store
from gateway.types.records import Attempt, Record

ROWS = 32
"""Rows in one statement at most. The interpreter's lock is let go and fought for once a statement:
fewer rows cost more CPU, more rows let the event loop wait longer for their conversion (0.2 ms)."""

Row = tuple[Any, ...]

_json = msgspec.json.Encoder().encode


class Insert:
    """Inserts rows of a table, many in one statement.

    A column that is NULL in all of them is left out: most of a request's columns are, and telling
    SQLite's driver of a NULL takes longer than of any other value.
    """

    def __init__(self, store: Store, table: Table, unique: str) -> None:
        self._columns = [column.name for column in table.columns if column.name != "seq"]
        self._head = f"INSERT INTO {table.name}"
        self._tail = f"ON CONFLICT ({unique}) DO NOTHING"
        self._placeholder = store.placeholder

    def run(self, cursor: Any, rows: Sequence[Row]) -> None:
        """Inserts them; those whose key is there already are passed over."""
        start = 0
        while left := len(rows) - start:
            # Halved, not of any length: the driver keeps few statements prepared.
            count = min(ROWS, 1 << left.bit_length() - 1)
            self._insert(cursor, rows[start : start + count])
            start += count

    def _insert(self, cursor: Any, rows: Sequence[Row]) -> None:
        nulls = (None,) * len(rows)
        told = [n for n, column in enumerate(zip(*rows, strict=True)) if column != nulls]
        names = ", ".join([self._columns[n] for n in told])
        places = f"({', '.join([self._placeholder] * len(told))})"
        every = ", ".join([places] * len(rows))
        values = chain.from_iterable(map(itemgetter(*told), rows))
        statement = f"{self._head} ({names}) VALUES {every} {self._tail}"
        cursor.execute(statement, tuple(values))


def as_it_is(row: Row) -> Row:
    """Nothing is mended."""
    return row


def storable(text: str) -> str:
    """With U+FFFD for what UTF-8 (half a surrogate pair) or PostgreSQL (NUL) cannot hold."""
    return whole_text(text.replace("\0", "\ufffd"))


def whole_text(text: str) -> str:
    """With U+FFFD for half a surrogate pair, which no UTF-8 can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def mended(row: Row) -> Row:
    """With all of its texts `storable`."""
    return tuple(storable(value) if isinstance(value, str) else value for value in row)


def request_row(record: Record) -> Row:
    """The values of `requests`, in the order of its columns after `seq`."""
    caller, usage = record.caller, record.usage
    recognition, decision = record.recognition, record.decision
    last = record.attempts[-1] if record.attempts else None
    trial = None if decision is None else decision.trial
    return (
        record.id,
        record.decision_id,
        record.completion_id,
        record.started,
        record.endpoint,
        record.model,
        record.stream,
        caller.key,
        caller.name,
        caller.tenant,
        _route(record),
        None if recognition is None else recognition.by,
        None if recognition is None else recognition.confidence,
        None if recognition is None else recognition.detail,
        None if decision is None else decision.policy,
        None if decision is None else decision.snapshot,
        record.target,
        None if last is None else last.replica,
        None if decision is None else encoded(decision),
        _json(record.needs).decode(),
        record.status,
        record.outcome,
        record.error,
        usage.input,
        usage.cached_input,
        usage.output,
        record.cost,
        usage.estimated,
        record.first_token_s,
        record.total_s,
        record.overhead_s,
        record.text,
        record.answer,
        record.ref,
        record.episode,
        record.messages,
        record.features,
        record.experiment,
        record.arm,
        record.shadow_of,
        None if trial is None else trial.unit,
        None if trial is None else trial.share,
    )


def _route(record: Record) -> str | None:
    if record.decision is not None:
        return record.decision.route
    return None if record.recognition is None else record.recognition.route


def attempt_row(request_id: str, n: int, attempt: Attempt) -> Row:
    """The values of `attempts`, in the order of its columns."""
    usage = attempt.usage
    return (
        request_id,
        n,
        attempt.reason,
        attempt.target,
        attempt.replica,
        attempt.started,
        attempt.status,
        attempt.outcome,
        attempt.error,
        usage.input,
        usage.cached_input,
        usage.output,
        attempt.cost,
        usage.estimated,
        attempt.first_token_s,
        attempt.total_s,
        _json(attempt.changed).decode() if attempt.changed else "[]",
    )
