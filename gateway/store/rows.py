"""Records as rows, and how rows are inserted."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Table

from gateway.store.decisions import encoded
from gateway.store.store import Store
from gateway.types.records import Attempt, Record

ROWS = 32
"""Rows in one statement. The interpreter's lock is let go and fought for once a statement: fewer
rows cost more CPU, more rows let the event loop wait longer for their conversion (0.2 ms)."""

Row = tuple[Any, ...]

_json = msgspec.json.Encoder().encode


class Insert:
    """Inserts rows of a table in statements of ROWS rows each."""

    def __init__(self, store: Store, table: Table, unique: str) -> None:
        columns = [column.name for column in table.columns if column.name != "seq"]
        row = f"({', '.join([store.placeholder] * len(columns))})"
        head = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES "
        tail = f" ON CONFLICT ({unique}) DO NOTHING"
        self._one = head + row + tail
        self._full = head + ", ".join([row] * ROWS) + tail

    def run(self, cursor: Any, rows: Sequence[Row]) -> None:
        """Inserts them; those whose key is there already are passed over."""
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            if len(some) == ROWS:
                cursor.execute(self._full, [value for row in some for value in row])
            else:
                cursor.executemany(self._one, some)


def as_it_is(row: Row) -> Row:
    """Nothing is mended."""
    return row


def whole_text(text: str) -> str:
    """With U+FFFD for half a surrogate pair, which no UTF-8 can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def mended(row: Row) -> Row:
    """With U+FFFD for what UTF-8 (half a surrogate pair) or PostgreSQL (NUL) cannot hold."""
    return tuple(
        whole_text(value.replace("\0", "\ufffd")) if isinstance(value, str) else value
        for value in row
    )


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
        record.composed or (None if last is None else last.target),
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
