import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.store import schema
from gateway.store.rows import ROWS, attempt_row, request_row
from gateway.store.store import Store, StoreError
from gateway.store.writer import BATCH, Writer
from gateway.types.records import Record
from gateway.types.requests import Caller, Recognition
from tests.store.world import AT, attempt, keep, record, until, url


def count(store: Store, table: str = "requests") -> int:
    with store.read() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def row(store: Store, id: str) -> dict[str, Any]:
    with store.read() as connection:
        query = schema.requests.select().where(schema.requests.c.id == id)
        return dict(connection.execute(query).one()._mapping)


def blocked(tmp_path: Path) -> sqlite3.Connection:
    """Another process' transaction: nothing can be written while it is open."""
    other = sqlite3.connect(tmp_path / "switchboard.db", check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_every_column_has_its_value(store: Store) -> None:
    more = {"ref": "ticket-4711", "episode": "case-9", "messages": "[]", "features": b"\x01\x02"}
    more |= {"experiment": "lora", "arm": "v2", "shadow_of": "req_000001"}
    keep(store, record(7, text="a clause", answer="plainly", **more))
    found = row(store, "req_000007")

    assert {name: found[name] for name in found if name not in ("seq", "decision", "needs")} == {
        "id": "req_000007",
        "decision_id": "dec_000007",
        "completion_id": "chatcmpl-7",
        "started": AT + 7,
        "endpoint": "chat/completions",
        "model": "auto",
        "stream": True,
        "key": "key_1",
        "key_name": "app",
        "tenant": "acme",
        "route": "contracts",
        "recognised_by": "keyword",
        "confidence": 1.0,
        "recognised_detail": "clause",
        "policy": "balanced",
        "snapshot": "abc123",
        "target": "local/qwen+contracts",
        "replica": "http://gpu-1:8000",
        "status": 200,
        "outcome": "ok",
        "error": "",
        "input_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 20,
        "cost_usd": 0.002,
        "estimated": False,
        "first_token_s": 0.2,
        "total_s": 1.1,
        "overhead_s": 0.0003,
        "text": "a clause",
        "answer": "plainly",
        "unit": None,
        "arm_share": None,
        **more,
    }


def test_rows_have_one_value_for_each_column() -> None:
    assert len(request_row(record())) == len(schema.requests.columns) - 1
    assert len(attempt_row("req", 0, attempt())) == len(schema.attempts.columns)


def test_a_refused_request_has_a_row_without_attempts(store: Store) -> None:
    keep(
        store,
        record(1, decision=None, attempts=(), status=422, outcome="refused", caller=Caller()),
        record(2, decision=None, recognition=None, attempts=(), completion_id=None),
    )

    assert count(store, "attempts") == 0
    assert (row(store, "req_000001")["route"], row(store, "req_000002")["route"]) == (
        "contracts",
        None,
    )


def test_a_fallback_is_an_attempt_of_its_own(store: Store) -> None:
    failed = attempt("local/qwen", outcome="error", status=503, error="busy")
    keep(store, record(1, attempts=(failed, attempt("openai/mini", reason="fallback"))))

    with store.read() as connection:
        rows = connection.execute(schema.attempts.select()).all()
    assert [(r.request_id, r.n, r.target, r.reason, r.status) for r in rows] == [
        ("req_000001", 0, "local/qwen", "first", 503),
        ("req_000001", 1, "openai/mini", "fallback", 200),
    ]
    assert row(store, "req_000001")["target"] == "openai/mini"


@pytest.mark.parametrize("many", [1, ROWS - 1, ROWS, ROWS + 1, BATCH + ROWS + 3])
def test_stop_writes_all_that_waits(store: Store, many: int) -> None:
    keep(store, *(record(n) for n in range(many)))

    assert (count(store), count(store, "attempts")) == (many, many)


def test_what_only_some_of_a_batch_have_stays_with_them(store: Store) -> None:
    keep(
        store,
        *(record(n) for n in range(3)),
        record(3, text="a clause", features=b"\x01"),
        record(4, answer="plainly", attempts=()),
        record(5, recognition=None, decision=None),
    )

    found = [row(store, f"req_{n:06}") for n in range(6)]
    assert [each["text"] for each in found] == [None] * 3 + ["a clause", None, None]
    assert [each["features"] for each in found] == [None] * 3 + [b"\x01", None, None]
    assert [each["answer"] for each in found] == [None] * 4 + ["plainly", None]
    assert [each["route"] for each in found] == ["contracts"] * 5 + [None]
    assert [each["key"] for each in found] == ["key_1"] * 6


def test_records_are_written_without_a_stop(store: Store) -> None:
    writer = Writer(store, every_s=0.01)
    writer.start()
    writer.put(record(1))
    until(lambda: count(store) == 1)

    writer.put(record(2))
    until(lambda: count(store) == 2)
    writer.stop()


def test_flush_waits_until_what_was_put_is_there(store: Store) -> None:
    writer = Writer(store, every_s=3600)
    writer.start()
    for n in range(100):
        writer.put(record(n))

    assert writer.flush()
    assert count(store) == 100
    writer.stop()


def test_a_record_that_is_there_already_is_left_as_it_is(store: Store) -> None:
    keep(store, record(1))
    keep(store, record(1, model="other"), record(2))

    assert count(store) == 2
    assert row(store, "req_000001")["model"] == "auto"


def test_a_full_queue_says_so(store: Store) -> None:
    writer = Writer(store, bound=2)

    assert [writer.put(record(n)) for n in range(3)] == [True, True, False]
    assert (writer.refused, writer.waiting) == (1, 2)
    writer.start()
    writer.stop()
    assert count(store) == 2


def test_a_locked_database_loses_nothing(
    sqlite: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(sqlite, every_s=0.01)
    other = blocked(tmp_path)
    writer.start()
    for n in range(BATCH + 10):
        writer.put(record(n))
    until(lambda: "cannot write" in caplog.text)
    assert "database is locked; they are kept" in caplog.text
    assert writer.waiting == BATCH + 10

    other.rollback()
    until(lambda: count(sqlite) == BATCH + 10)
    writer.stop()
    assert "can be written again" in caplog.text
    assert writer.unstorable == 0


def test_a_stop_that_cannot_write_says_how_many_are_lost(sqlite: Store, tmp_path: Path) -> None:
    writer = Writer(sqlite)
    other = blocked(tmp_path)
    writer.start()
    for n in range(3):
        writer.put(record(n))

    with pytest.raises(StoreError, match=r"3 records could not be written.*are lost"):
        writer.stop(timeout_s=0.2)
    other.close()


def test_a_text_that_cannot_be_stored_is_mended(store: Store) -> None:
    keep(store, record(1), record(2, text="half a pair: \ud83d, whole: \U0001f600"), record(3))

    assert count(store) == 3
    assert row(store, "req_000002")["text"] == "half a pair: \ufffd, whole: \U0001f600"


def test_a_record_that_cannot_be_stored_harms_no_other(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(store)
    for n in range(80):
        writer.put(record(n, status=2**70 if n == 40 else 200))
    writer.start()
    writer.stop()

    assert count(store) == 79
    assert writer.unstorable == 1
    assert "record req_000040 cannot be stored" in caplog.text


def test_a_kill_keeps_what_was_written(tmp_path: Path) -> None:
    program = f"""
import sys, threading
from gateway.store.store import Store
from gateway.store.writer import Writer
from tests.store.world import record
writer = Writer(Store.open({url(tmp_path)!r}))
writer.start()
for n in range(500):
    writer.put(record(n))
print("put", flush=True)
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"put\n"
        store = Store.open(url(tmp_path))
        until(lambda: count(store) == 500)
        os.kill(child.pid, signal.SIGKILL)
    store.close()

    again = Store.open(url(tmp_path))
    assert count(again) == 500
    again.close()


def test_recognition_is_kept_where_nothing_was_decided(store: Store) -> None:
    known = Recognition("general", "default", 0.2)
    keep(store, record(1, recognition=known, decision=None, attempts=()))
    found = row(store, "req_000001")

    assert (found["route"], found["recognised_by"], found["confidence"]) == (
        "general",
        "default",
        0.2,
    )


def test_put_may_come_from_many_threads(store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    writer = Writer(store, every_s=0.001)
    writer.start()

    def put(worker: int) -> None:
        for n in range(200):
            each: Record = record(worker * 1000 + n)
            assert writer.put(each)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    writer.stop()

    assert count(store) == 800


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority")
def test_rows_keep_up_with_an_event_loop_that_leaves_no_core_free(tmp_path: Path) -> None:
    """Both on one core. A row comes after each spell of work, of six times the CPU that a row takes
    with nobody beside it: a request takes more than that. How fast the core is does not matter."""
    program = f"""
import os, time
from gateway.store.store import Store
from gateway.store.writer import Writer
from tests.store.world import record
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
writer = Writer(Store.open({url(tmp_path)!r}))
writer.start()
before = time.process_time()
for n in range(3000):
    writer.put(record(-n))
assert writer.flush(60)
spell = 6 * (time.process_time() - before) / 3000
put, ends = 0, time.process_time() + 3
while time.process_time() < ends:
    writer.put(record(put))
    put += 1
    done = time.thread_time() + spell
    while time.thread_time() < done:
        pass
print(put, writer.waiting)
writer.stop()
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    put, waiting = map(int, done.stdout.split())
    assert put > 1000
    assert waiting < put / 10
