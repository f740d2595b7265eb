import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import gateway.store
from gateway.adapters.state import NEW
from gateway.store.adapters import AdapterBook
from gateway.store.experiments import ExperimentBook
from gateway.store.learned import Kept, LearnedBook
from gateway.store.schema import VERSION, metadata
from gateway.store.store import Store, StoreAway, StoreError
from gateway.store.weights import WeightBook
from gateway.types.experiments import Standing
from tests import servers
from tests.servers import RealServer
from tests.store.world import url


def test_the_migrations_make_the_schema_that_the_code_has(store: Store) -> None:
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_newest_migration_is_the_one_that_the_code_asks_for() -> None:
    folder = Path(gateway.store.__file__).parent / "migrations"
    scripts = ScriptDirectory.from_config(_config(folder))

    assert scripts.get_current_head() == VERSION


def _config(folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    return config


def test_a_store_that_is_up_to_date_opens_without_alembic(tmp_path: Path) -> None:
    Store.open(url(tmp_path)).close()
    program = (
        "import sys; from gateway.store.store import Store; "
        f"Store.open({url(tmp_path)!r}).close(); sys.exit('alembic' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_sqlite_writes_ahead_and_is_for_its_owner_alone(sqlite: Store, tmp_path: Path) -> None:
    file = tmp_path / "switchboard.db"
    with sqlite.read() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "page_size")
        ]

    assert pragmas == ["wal", 1, 50, 16384]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_several_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Store.open(url(tmp_path), busy_s=30), range(4)))

    for store in stores:
        with store.read() as connection:
            assert MigrationContext.configure(connection).get_current_revision() == VERSION
        store.close()


def test_many_hosts_may_make_the_schema_at_once(postgres_server: RealServer) -> None:
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS many")
        connection.execute("CREATE DATABASE many")
    new = postgres_server.url.removesuffix("/switchboard") + "/many"
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: Store.open(new), range(6)))

    for store in stores:
        with store.read() as connection:
            context = MigrationContext.configure(connection)
            assert context.get_current_revision() == VERSION
            assert compare_metadata(context, metadata) == []
        store.close()


def test_how_a_store_stands_is_told_without_touching_it(tmp_path: Path) -> None:
    assert Store.standing(url(tmp_path)).at is None
    assert list(tmp_path.iterdir()) == []

    Store.open(url(tmp_path)).close()
    assert Store.standing(url(tmp_path)).is_current


def test_a_newer_store_is_refused_with_the_reason(tmp_path: Path) -> None:
    Store.open(url(tmp_path)).close()
    connection = sqlite3.connect(tmp_path / "switchboard.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()

    with pytest.raises(StoreError, match=r"it is at 9999.*Run that version"):
        Store.open(url(tmp_path))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "switchboard.db").write_text("not a database at all, by any means" * 100)

    with pytest.raises(StoreError, match="not a database"):
        Store.open(url(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("switchboard.db", "write sqlite:///FILE"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://root@localhost/x", "cannot be in mysql"),
        ("sqlite:////no/such/folder/x.db", "make /no/such/folder first"),
    ],
)
def test_a_wrong_url_names_its_mend(wrong: str, told: str) -> None:
    with pytest.raises(StoreError, match=told):
        Store.open(wrong)


def test_an_error_never_shows_a_password() -> None:
    with pytest.raises(StoreError) as caught:
        Store.open("postgresql://someone:hunter2@127.0.0.1:1/none")

    assert "someone:***@127.0.0.1" in str(caught.value)


def test_a_store_is_not_made_by_who_only_reads(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store sqlite:///"):
        Store.open(url(tmp_path), new=False)

    assert list(tmp_path.iterdir()) == []
    Store.open(url(tmp_path)).close()
    Store.open(url(tmp_path), new=False).close()


def test_a_database_that_says_nothing_is_given_up() -> None:
    with servers.postgres() as server:
        store = Store.open(f"{server.url}?connect_timeout=2", patience_s=2.0)
        server.hold()
        try:
            with pytest.raises(StoreAway, match=r"no answer within|timeout"):
                with store.read() as asking:
                    asking.exec_driver_sql("SELECT 1")
            with pytest.raises(StoreAway, match=r"no answer within|timeout"):
                Store.standing(f"{server.url}?connect_timeout=2", patience_s=2.0)
        finally:
            server.go_on()
        with store.read() as asking:
            assert asking.exec_driver_sql("SELECT 1").scalar() == 1
        store.close()


@pytest.mark.parametrize(
    "save",
    [
        lambda store: WeightBook(store).save("a/b", 0.5, "", "me"),
        lambda store: AdapterBook(store).save("a/b+c", NEW, "", "me"),
        lambda store: ExperimentBook(store).save("x", Standing("hash", 0.0), "me"),
        lambda store: LearnedBook(store).save(Kept("r", "v", "", 0.0, "me", True, "{}"), b""),
    ],
    ids=["weights", "adapters", "experiments", "learned"],
)
def test_what_is_followed_by_its_number_is_written_one_after_the_other(
    save: Callable[[Store], object], postgres: Store, postgres_server: RealServer
) -> None:
    hurried = Store.open(f"{postgres_server.url}?options=-c%20lock_timeout%3D50")
    with postgres.change_alone(), pytest.raises(StoreError, match="lock timeout"):
        save(hurried)
    save(hurried)
    hurried.close()
