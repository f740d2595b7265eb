"""Writes what happened, beside serving: one thread, in batches, from a bounded queue.

The event loop only appends to the queue. A record is in the store within half a second;
`stop` writes every one, and only a kill can lose those of the last moment. While the database
cannot be written (locked, full, away, slow) records wait in a bounded spool on disk, or without one
in the queue, and the log says so.
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from sqlalchemy import PoolProxiedConnection
from sqlalchemy.exc import SQLAlchemyError

from gateway.store import schema
from gateway.store.rows import ROWS, Insert, Row, as_it_is, attempt_row, mended, request_row
from gateway.store.spool import Spool
from gateway.store.store import Store, StoreError
from gateway.types.records import Record

log = logging.getLogger("switchboard.store")

BOUND = 100_000
"""Records that may wait. At 10,000 requests/s it bridges ten seconds of a database that is away,
in about 300 MB; beyond it the caller is told that a record could not be taken."""

EVERY_S = 0.5
PACE_S = 0.02
"""The pause between batches while records keep coming: many short spells of writing keep requests
waiting less than a few long ones."""

NICE = 7
"""How far the thread's priority is below the event loop's, where both want one core. Linux gives it
a sixth of that core then. Rows of requests that come as fast as they can take an eighth, in large
batches. At 10 it got a tenth and the queue grew; at 5 answers waited longer for it."""

BATCH = 5_000
"""Records in one transaction at most."""

RETRY_S = (0.1, 0.3, 1.0, 3.0)
"""Waits between tries of a batch that failed; the last one repeats."""

SLOW_S = 2.0
"""How long a write may take before what it has in hand, and what comes, is put on disk as well."""


class Writer:
    """The queue and its thread. `put`, `flush` and `stop` may be called from any thread.

    refused     records that `put` did not take, for the queue was full
    unstorable  records that the database refused for what is in them; each is logged

    With a `spool`, records that the database does not take wait on disk. While a write fails its
    thread puts them there; while one hangs, a second thread does, and copies those that the write
    has in hand: to insert them once more later does no harm.
    """

    def __init__(
        self,
        store: Store,
        *,
        every_s: float = EVERY_S,
        bound: int = BOUND,
        spool: Spool | None = None,
        slow_s: float = SLOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._every_s = every_s
        self._bound = bound
        self._spool = spool
        self._slow_s = slow_s
        self._clock = clock
        self._queue: deque[Record] = deque()
        self._flushes: deque[Callable[[], object]] = deque()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._stopping = False
        self._giving_up = False
        self._hands = threading.Lock()
        self._in_hand: list[Record] = []
        self._left = 0
        self._since: float | None = None
        self._tries = 0
        self._next_try = 0.0
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._watch = threading.Thread(target=self._look, name="store-spool", daemon=True)
        self._connection: PoolProxiedConnection | None = None
        self._into_requests = Insert(store, schema.requests, "id")
        self._into_attempts = Insert(store, schema.attempts, "request_id, n")
        self.refused = 0
        self.unstorable = 0

    @property
    def waiting(self) -> int:
        """Records neither in the store nor on disk yet."""
        return len(self._queue) + self._left

    @property
    def spooled(self) -> int:
        """Bytes of records that wait on disk, those of other processes on the same spool too."""
        return 0 if self._spool is None else self._spool.size()

    @property
    def away(self) -> bool:
        """Whether the last write failed, or the one under way hangs."""
        return self._tries > 0 or self._hangs()

    def start(self) -> None:
        """Starts the threads."""
        self._thread.start()
        if self._spool is not None:
            self._watch.start()

    def put(self, record: Record) -> bool:
        """Queues a record; false, and counted, when the queue is full."""
        if len(self._queue) >= self._bound:
            self.refused += 1
            return False
        self._queue.append(record)
        return True

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until all that was put before is written; false when that took too long.

        While the database is away, what lies on disk is as good as written.
        """
        written = threading.Event()
        self.flush_then(written.set)
        return written.wait(timeout_s)

    def flush_then(self, tell: Callable[[], object]) -> None:
        """Calls `tell`, from the writer's thread, when all that was put before is written."""
        self._flushes.append(tell)
        self._wake.set()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Writes what waits, to the database or else to the disk, and ends the threads.

        Raises StoreError with the number of records that could not be written within `timeout_s`.
        """
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._join(timeout_s)
            if self._thread.is_alive() and self.waiting:
                self._giving_up = True
                self._wake.set()
                self._thread.join(timeout_s)
        self._ended.set()
        if self._spool is not None:
            self._spool.close()
        if self.waiting:
            raise StoreError(
                f"{self.waiting} records could not be written to {self._store.name} "
                f"within {timeout_s:g} s and are lost"
            )

    def _join(self, timeout_s: float) -> None:
        """Back when the thread has ended, or hangs in a write with nothing left to lose."""
        until = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < until:
            self._thread.join(0.05)
            if self._hangs() and not self.waiting:
                return

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
            self._empty_queue()
            for tell in flushes:
                tell()
            if stopping and not self._queue:
                break
            self._empty_spool()
        self._disconnect()

    def _empty_queue(self) -> None:
        """To the database, or while that is away to the disk."""
        while self._queue and not self._giving_up:
            batch = self._taken()
            if self._spool is None or self._clock() >= self._next_try:
                self._write_surely(batch)
            elif not self._put_aside(batch):
                self._give_back(batch)
                return

    def _empty_spool(self) -> None:
        """Writes what waits on disk, a file at a time, while the database takes it."""
        if self._spool is None or self._clock() < self._next_try:
            return
        for segment in self._spool.left():
            records = segment.records()
            while batch := list(islice(records, BATCH)):
                error = self._stored(batch)
                if error is not None:
                    self._failed(error)
                    segment.release()
                    return
                self._succeeded()
            log.info("what waited in %s is in %s", segment.path.name, self._store.name)
            segment.done()
            if self._queue or self._stopping:
                return  # what has just happened goes first

    def _taken(self) -> list[Record]:
        with self._hands:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
            self._in_hand, self._left = batch, len(batch)
            return batch

    def _give_back(self, batch: list[Record]) -> None:
        with self._hands:
            self._queue.extendleft(reversed(batch))
            self._in_hand, self._left = [], 0

    def _write_surely(self, batch: list[Record]) -> None:
        """Writes a batch however often that takes, or puts it on disk."""
        while not self._giving_up:
            error = self._stored(batch)
            if error is None:
                with self._hands:
                    self._in_hand, self._left = [], 0
                self._succeeded()
                return
            wait = self._failed(error)
            if self._put_aside(batch):
                return
            self._wake.wait(wait)
            self._wake.clear()

    def _failed(self, error: Exception) -> float:
        """Notes a write that failed and may pass another time; seconds until that is tried."""
        wait = RETRY_S[min(self._tries, len(RETRY_S) - 1)]
        self._tries += 1
        self._next_try = self._clock() + wait
        log.error(
            "cannot write %d records to %s: %s; they are kept, next try in %g s",
            self.waiting,
            self._store.name,
            error,
            wait,
        )
        return wait

    def _succeeded(self) -> None:
        if self._tries:
            log.warning("%s can be written again", self._store.name)
        self._tries, self._next_try = 0, 0.0

    # ------------------------------------------------------------ the disk

    def _put_aside(self, batch: list[Record]) -> bool:
        """Puts what is in hand on disk. Where there is room for a part, the rest goes back to the
        queue's head; false where there is none."""
        if self._spool is None:
            return False
        with self._hands:
            if not self._left:
                return True  # the other thread was quicker
            taken = self._to_disk(batch)
            if taken:
                self._queue.extendleft(reversed(batch[taken:]))
                self._in_hand, self._left = [], 0
            return taken > 0

    def _look(self) -> None:
        """The second thread: puts on disk what a write that hangs keeps from the database."""
        while not self._ended.wait(min(self._slow_s, self._every_s)):
            if not self._hangs():
                continue
            with self._hands:
                if self._left and self._to_disk(self._in_hand) == len(self._in_hand):
                    self._left = 0
                while self._queue:
                    batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
                    taken = self._to_disk(batch)
                    if taken < len(batch):
                        self._queue.extendleft(reversed(batch[taken:]))
                        break

    def _hangs(self) -> bool:
        since = self._since
        return since is not None and self._clock() - since >= self._slow_s

    def _to_disk(self, batch: list[Record]) -> int:
        assert self._spool is not None
        try:
            return self._spool.append(batch)
        except OSError as error:
            log.error("cannot write to %s: %s", self._spool.directory, error)
            return 0

    # ------------------------------------------------------------ one write

    def _stored(self, batch: list[Record]) -> Exception | None:
        """Writes a batch; the error where the database failed and may not the next time.

        A text that the database cannot hold is mended, and what cannot be stored even so is left
        out, record by record, so that it harms no other.
        """
        for fit in (as_it_is, mended):
            error = self._tried(batch, fit)
            if error is None or self._may_pass(error):
                return error
        if len(batch) == 1:
            self.unstorable += 1
            log.error("record %s cannot be stored", batch[0].id, exc_info=error)
            return None
        for record in batch:
            error = self._stored([record])
            if error is not None:
                return error
        return None

    def _tried(self, batch: list[Record], fit: Callable[[Row], Row]) -> Exception | None:
        """What came of one try; after a failure the next one begins with a connection anew."""
        self._since = self._clock()
        try:
            self._write(batch, fit)
        except Exception as error:  # noqa: BLE001 - a thread that dies would lose the queue
            self._disconnect()
            return error
        finally:
            self._since = None
        return None

    def _write(self, batch: Sequence[Record], fit: Callable[[Row], Row]) -> None:
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
