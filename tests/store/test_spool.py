"""Rows wait on disk while the database is away, slow or stopped, and are counted once."""

import math
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from gateway.store.spool import Spool
from gateway.store.store import Store, StoreError
from gateway.store.writer import Writer
from gateway.types.records import Record
from tests import servers
from tests.store.world import decision, record, until


@pytest.fixture(scope="module")
def server() -> Iterator[servers.RealServer]:
    """A PostgreSQL that these tests may kill."""
    with servers.postgres() as own:
        yield own


@pytest.fixture
def database(server: servers.RealServer) -> Iterator[Store]:
    opened = Store.open(server.url)
    with opened.change() as connection:
        connection.exec_driver_sql("TRUNCATE requests, attempts")
    yield opened
    opened.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close()


def counted(store: Store, table: str = "requests") -> int:
    with store.read() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def all_of(spool: Spool) -> list[Record]:
    found: list[Record] = []
    for segment in spool.left():
        found += segment.records()
        segment.release()
    return found


@contextmanager
def closed(server: servers.RealServer) -> Iterator[None]:
    """The database takes no connections, and ends those that it has."""
    other_url = server.url.removesuffix("/switchboard") + "/postgres"
    with psycopg.connect(other_url, autocommit=True) as other:
        other.execute("ALTER DATABASE switchboard ALLOW_CONNECTIONS false")
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'switchboard'"
        )
        try:
            yield
        finally:
            other.execute("ALTER DATABASE switchboard ALLOW_CONNECTIONS true")


def put(writer: Writer, first: int, many: int) -> None:
    for n in range(first, first + many):
        assert writer.put(record(n))


# ---------------------------------------------------------------- the files


def test_a_record_comes_back_as_it_was(spool: Spool) -> None:
    endless = record(2, decision=decision(), total_s=math.inf)
    half = record(3, text="half a pair: \ud83d", answer=None)
    assert spool.append([record(1, text="a clause"), endless, half]) == 3

    first, second, third = all_of(spool)
    assert first == record(1, text="a clause")
    assert second == endless
    assert third.text == "half a pair: \ufffd"


def test_files_are_for_their_owner_alone(spool: Spool) -> None:
    spool.append([record(1)])
    (file,) = spool.directory.iterdir()

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700


def test_it_takes_no_more_than_its_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path, bound=3000)
    taken = spool.append([record(n) for n in range(100)])

    assert 0 < taken < 100
    assert spool.append([record(1000)]) == 0
    assert spool.size() <= 3000
    assert [each.id for each in all_of(spool)] == [record(n).id for n in range(taken)]


def test_what_a_power_cut_left_unfinished_ends_its_file(spool: Spool) -> None:
    spool.append([record(n) for n in range(3)])
    spool.close()
    (file,) = spool.directory.iterdir()
    os.truncate(file, file.stat().st_size - 5)

    assert [each.id for each in all_of(spool)] == ["req_000000", "req_000001"]


def test_what_cannot_be_read_is_kept_for_people(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    spool.append([record(n) for n in range(3)])
    spool.close()
    (file,) = spool.directory.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)

    (segment,) = spool.left()
    assert [each.id for each in segment.records()] == ["req_000000"]
    segment.done()
    (kept,) = spool.directory.iterdir()
    assert kept.name.endswith(".damaged")
    assert "is damaged at byte" in caplog.text


def test_a_file_that_another_process_writes_is_not_taken(tmp_path: Path) -> None:
    mine, others = Spool(tmp_path), Spool(tmp_path)
    others.append([record(1)])
    assert list(mine.left()) == []

    others.close()
    (segment,) = mine.left()
    assert list(others.left()) == []
    segment.done()
    assert list(others.left()) == []
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- a database that is not there


def test_rows_wait_on_disk_while_the_database_is_away(
    server: servers.RealServer, database: Store, spool: Spool
) -> None:
    writer = Writer(database, every_s=0.01, spool=spool)
    writer.start()
    put(writer, 0, 10)
    assert writer.flush()
    server.kill()
    put(writer, 10, 6000)
    until(lambda: writer.waiting == 0)
    assert writer.away
    assert len(list(spool.directory.iterdir())) >= 1

    server.start()
    until(lambda: writer.spooled == 0)
    writer.stop()
    assert (counted(database), counted(database, "attempts")) == (6010, 6010)


def test_rows_of_a_killed_process_are_written_by_the_next_one(
    server: servers.RealServer, database: Store, spool: Spool
) -> None:
    program = f"""
import sys, threading
from pathlib import Path
from gateway.store.spool import Spool
from gateway.store.store import Store
from gateway.store.writer import Writer
from tests.store.world import record, until
spool = Spool(Path({str(spool.directory)!r}))
writer = Writer(Store.open({server.url!r}), every_s=0.01, slow_s=0.1, spool=spool)
writer.start()
print("open", flush=True)
sys.stdin.readline()
for n in range(300):
    writer.put(record(n))
until(lambda: writer.waiting == 0)
print("on disk", flush=True)
threading.Event().wait()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        server.hold()
        try:
            child.stdin.write("go\n")
            child.stdin.flush()
            assert child.stdout.readline() == "on disk\n"
            os.kill(child.pid, signal.SIGKILL)
        finally:
            server.go_on()
    writer = Writer(database, every_s=0.01, spool=spool)
    writer.start()
    until(lambda: counted(database) == 300 and writer.spooled == 0)
    writer.stop()
    assert counted(database, "attempts") == 300


def test_an_end_while_the_database_is_away_loses_nothing(
    server: servers.RealServer, database: Store, spool: Spool
) -> None:
    writer = Writer(database, every_s=3600, spool=spool)
    writer.start()
    put(writer, 0, 50)
    with closed(server):
        writer.stop()

    again = Writer(database, every_s=0.01, spool=spool)
    again.start()
    until(lambda: again.spooled == 0)
    again.stop()
    assert counted(database) == 50


def test_a_slow_database_holds_up_nobody_and_gets_every_row(database: Store, spool: Spool) -> None:
    with database.change() as connection:
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql "
            "AS 'BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END'"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER slow BEFORE INSERT ON requests "
            "FOR EACH STATEMENT EXECUTE FUNCTION slow()"
        )
    writer = Writer(database, every_s=0.01, slow_s=0.02, spool=spool, bound=100)
    writer.start()
    put(writer, 0, 50)
    until(lambda: writer.waiting == 0)
    put(writer, 50, 80)  # more than its queue could hold beside the first
    until(lambda: writer.waiting == 0)
    assert writer.spooled > 0
    with database.change() as connection:
        connection.exec_driver_sql("DROP TRIGGER slow ON requests")
    until(lambda: writer.spooled == 0)
    writer.stop()
    assert counted(database) == 130


def test_without_room_on_disk_rows_wait_in_memory_and_the_rest_is_refused(
    server: servers.RealServer, database: Store, tmp_path: Path
) -> None:
    writer = Writer(database, every_s=0.01, bound=100, spool=Spool(tmp_path, bound=0))
    writer.start()
    with closed(server):
        put(writer, 0, 100)
        until(lambda: writer.away)
        assert writer.waiting == 100
        while writer.put(record(0)):
            pass
        assert writer.refused == 1

    until(lambda: writer.waiting == 0)
    writer.stop()
    assert counted(database) == 100


def test_a_stop_without_database_or_room_says_how_many_are_lost(
    server: servers.RealServer, database: Store, tmp_path: Path
) -> None:
    writer = Writer(database, spool=Spool(tmp_path, bound=0))
    writer.start()
    put(writer, 0, 3)
    with closed(server):
        with pytest.raises(StoreError, match=r"3 records could not be written.*are lost"):
            writer.stop(timeout_s=0.2)
