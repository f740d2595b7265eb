"""Writes what happened, beside serving: one thread, in batches, from a bounded queue.

The event loop only appends to the queue. A record is in the store within half a second;
`stop` writes every one, and only a kill can lose those of the last moment. While the database
cannot be written (locked, full, away) the queue is kept, the batch is tried again, and the log
says so.
"""

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import PoolProxiedConnection, Table
from sqlalchemy.exc import SQLAlchemyError

from gateway.store import schema
from gateway.store.decisions import encoded
from gateway.store.store import Store, StoreError
from gateway.types import Attempt, Record

log = logging.getLogger("switchboard.store")

BOUND = 100_000
"""Records that may wait. At 10,000 requests/s it bridges ten seconds of a database that is away,
in about 300 MB; beyond it the caller is told that a record could not be taken."""

EVERY_S = 0.5
PACE_S = 0.02
"""The pause between batches while records keep coming: many short spells of writing keep requests
waiting less than a few long ones."""

NICE = 10
"""How far the thread's priority is below the event loop's, where both want one core."""

BATCH = 5_000
"""Records in one transaction at most."""

ROWS = 32
"""Rows in one statement. The interpreter's lock is let go and fought for once a statement: fewer
rows cost more CPU, more rows let the event loop wait longer for their conversion (0.2 ms)."""

RETRY_S = (0.1, 0.3, 1.0, 3.0)
"""Waits between tries of a batch that failed; the last one repeats."""

_json = msgspec.json.Encoder().encode
_Row = tuple[Any, ...]


class Writer:
    """The queue and its thread. `put`, `flush` and `stop` may be called from any thread.

    refused     records that `put` did not take, for the queue was full
    unstorable  records that the database refused for what is in them; each is logged
    """

    def __init__(self, store: Store, *, every_s: float = EVERY_S, bound: int = BOUND) -> None:
        self._store = store
        self._every_s = every_s
        self._bound = bound
        self._queue: deque[Record] = deque()
        self._flushes: deque[threading.Event] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._giving_up = False
        self._left = 0
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._connection: PoolProxiedConnection | None = None
        self._into_requests = _Insert(store, schema.requests, "id")
        self._into_attempts = _Insert(store, schema.attempts, "request_id, n")
        self.refused = 0
        self.unstorable = 0

    @property
    def waiting(self) -> int:
        """Records not in the store yet."""
        return len(self._queue) + self._left

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def put(self, record: Record) -> bool:
        """Queues a record; false, and counted, when the queue is full."""
        if len(self._queue) >= self._bound:
            self.refused += 1
            return False
        self._queue.append(record)
        return True

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until all that was put before is written; false when that took too long."""
        written = threading.Event()
        self._flushes.append(written)
        self._wake.set()
        return written.wait(timeout_s)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Writes what waits and ends the thread.

        Raises StoreError with the number of records that could not be written within `timeout_s`.
        """
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self._giving_up = True
                self._wake.set()
                self._thread.join(timeout_s)
        if self.waiting:
            raise StoreError(
                f"{self.waiting} records could not be written to {self._store.name} "
                f"within {timeout_s:g} s and are lost"
            )

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        coming = False
        while not self._giving_up:
            self._wake.wait(min(PACE_S, self._every_s) if coming else self._every_s)
            self._wake.clear()
            coming = bool(self._queue)
            stopping = self._stopping
            flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
            while self._queue and not self._giving_up:
                self._write_surely(self._taken())
            for written in flushes:
                written.set()
            if stopping and not self._queue:
                break
        self._disconnect()

    def _taken(self) -> list[Record]:
        count = min(len(self._queue), BATCH)
        self._left = count
        return [self._queue.popleft() for _ in range(count)]

    def _write_surely(self, batch: list[Record], *, mended: bool = False) -> None:
        """Writes a batch however often that takes; `_left` counts it until then.

        A text that the database cannot hold is mended, and what cannot be stored even so is
        written record by record, so that it harms no other.
        """
        tries = 0
        while not self._giving_up:
            error = self._tried(batch, mended)
            if error is None:
                self._left = 0
                if tries:
                    log.warning("%s can be written again", self._store.name)
                return
            if not self._may_pass(error):
                self._write_apart(batch, mended, error)
                return
            wait = RETRY_S[min(tries, len(RETRY_S) - 1)]
            log.error(
                "cannot write %d records to %s: %s; they are kept, next try in %g s",
                self.waiting,
                self._store.name,
                error,
                wait,
            )
            tries += 1
            self._wake.wait(wait)
            self._wake.clear()

    def _write_apart(self, batch: list[Record], mended: bool, error: Exception) -> None:
        if not mended:
            self._write_surely(batch, mended=True)
        elif len(batch) > 1:
            for place, record in enumerate(batch):
                self._left = len(batch) - place
                self._write_surely([record], mended=True)
        else:
            self._left = 0
            self.unstorable += 1
            log.error("record %s cannot be stored", batch[0].id, exc_info=error)

    def _tried(self, batch: list[Record], mended: bool) -> Exception | None:
        """What came of one try; after a failure the next one begins with a connection anew."""
        try:
            self._write(batch, _mended if mended else _as_it_is)
        except Exception as error:  # noqa: BLE001 - a thread that dies would lose the queue
            self._disconnect()
            return error
        return None

    def _write(self, batch: Sequence[Record], fit: Callable[[_Row], _Row]) -> None:
        """One transaction. A record that is there already is left as it is."""
        if self._connection is None:
            self._connection = self._store.engine.raw_connection()
        cursor = self._connection.cursor()
        records = iter(batch)
        while some := list(islice(records, ROWS)):
            self._into_requests.run(cursor, [fit(request_row(record)) for record in some])
            tried = [
                fit(attempt_row(record.id, n, attempt))
                for record in some
                for n, attempt in enumerate(record.attempts)
            ]
            self._into_attempts.run(cursor, tried)
        cursor.close()
        self._connection.commit()

    def _may_pass(self, error: Exception) -> bool:
        """Whether the database failed, not the record: that ends by itself or by a hand."""
        if isinstance(error, SQLAlchemyError):
            return True
        driver = self._store.engine.dialect.loaded_dbapi
        of_record = (driver.DataError, driver.IntegrityError)
        return isinstance(error, driver.Error) and not isinstance(error, of_record)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            # An error's traceback can keep a cursor alive, and that a lock: not after this.
            connection.rollback()
        except Exception:
            log.debug("the connection to %s is broken", self._store.name, exc_info=True)
        connection.invalidate()


class _Insert:
    """Inserts rows of a table in statements of ROWS rows each."""

    def __init__(self, store: Store, table: Table, unique: str) -> None:
        columns = [column.name for column in table.columns if column.name != "seq"]
        row = f"({', '.join([store.placeholder] * len(columns))})"
        head = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES "
        tail = f" ON CONFLICT ({unique}) DO NOTHING"
        self._one = head + row + tail
        self._full = head + ", ".join([row] * ROWS) + tail

    def run(self, cursor: Any, rows: Sequence[_Row]) -> None:
        """Inserts them; those whose key is there already are passed over."""
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            if len(some) == ROWS:
                cursor.execute(self._full, [value for row in some for value in row])
            else:
                cursor.executemany(self._one, some)


def _as_it_is(row: _Row) -> _Row:
    return row


def _mended(row: _Row) -> _Row:
    """With U+FFFD for what UTF-8 (half a surrogate pair) or PostgreSQL (NUL) cannot hold."""
    return tuple(
        value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if isinstance(value, str)
        else value
        for value in row
    )


def request_row(record: Record) -> _Row:
    """The values of `requests`, in the order of its columns after `seq`."""
    caller, usage = record.caller, record.usage
    recognition, decision = record.recognition, record.decision
    last = record.attempts[-1] if record.attempts else None
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
        None if last is None else last.target,
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
    )


def _route(record: Record) -> str | None:
    if record.decision is not None:
        return record.decision.route
    return None if record.recognition is None else record.recognition.route


def attempt_row(request_id: str, n: int, attempt: Attempt) -> _Row:
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
