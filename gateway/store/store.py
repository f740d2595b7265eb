"""Opens the store: SQLite or PostgreSQL by one schema, brought up to date on the way."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Row, create_engine, event, inspect, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from gateway.errors import SwitchboardError
from gateway.store.schema import VERSION

PAGE_SIZE = 16_384
"""Bytes. Rows have 1 to 2 KB; against SQLite's 4,096 this takes a third less CPU a row."""

MIGRATING = 7_232_650_011
"""The number of PostgreSQL's advisory lock, held while the schema changes."""

CHANGING = 7_232_650_012
"""… and of the one that is held while what runs is changed: a revision, a weight and the like."""

IN_TIME = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "switchboard",
}
"""libpq's settings, where the URL has no other: a host that went away without a word is given up
after some ten seconds. (Seconds; milliseconds for the last timeout.)"""


class StoreError(SwitchboardError):
    """The store cannot be opened or written; says which, why, and the mend."""


class StoreAway(StoreError):
    """The store does not answer now."""


class Standing(msgspec.Struct, frozen=True):
    """How a store's schema stands to the code: `at` is its migration, None for a new store."""

    store: str
    at: str | None
    wanted: str = VERSION

    @property
    def is_current(self) -> bool:
        """Whether nothing is to be done."""
        return self.at == self.wanted

    @property
    def is_newer(self) -> bool:
        """Whether a later version of Switchboard made it: this one cannot use it."""
        return self.at is not None and self.at > self.wanted


class Store:
    """An open store. One per process; its parts are the writer, the reader, keys and revisions.

    One that is `behind` was away when it was to be opened: it is brought up to date before
    anything is read or changed in it.
    """

    def __init__(self, engine: Engine, name: str, *, behind: bool = False) -> None:
        self.engine = engine
        self.name = name
        self.behind = behind
        self._opening = threading.Lock()
        self._away = f"the store {name} has not answered since the start"

    @classmethod
    def open(
        cls,
        url: str,
        *,
        busy_s: float = 5.0,
        new: bool = True,
        patience_s: float | None = None,
        later: bool = False,
    ) -> "Store":
        """Opens `sqlite:///FILE` or `postgresql://…`, and makes or migrates its tables.

        `busy_s` is how long SQLite waits for another process's write, `patience_s` how long
        PostgreSQL may take to answer one statement before the connection is given up. Without
        `new` a file that is not there is an error, and is not made. With `later` its tables are not
        looked at before it is used. Raises StoreError.
        """
        parsed = _checked(url)
        name = parsed.render_as_string(hide_password=True)
        if not new and _is_sqlite(parsed) and not Path(parsed.database or "").exists():
            raise StoreError(f"there is no store {name} (yet, or not from this directory)")
        with _opening(name):
            engine = _engine(parsed, name, busy_s, patience_s)
            if not later:
                _bring_up_to_date(engine, name)
        return cls(engine, name, behind=later)

    @staticmethod
    def named(url: str) -> str:
        """The store's name: its URL without a password. Raises StoreError for no store's URL."""
        return _checked(url).render_as_string(hide_password=True)

    @staticmethod
    def standing(url: str, *, patience_s: float | None = None) -> Standing:
        """How the store's schema stands; nothing is made or changed. `patience_s` is as for `open`.
        Raises StoreError."""
        parsed = _checked(url)
        name = parsed.render_as_string(hide_password=True)
        if _is_sqlite(parsed) and not Path(parsed.database or "").exists():
            return Standing(name, None)
        with _opening(name):
            engine = _engine(parsed, name, 5.0, patience_s)
            try:
                with engine.connect() as connection:
                    return Standing(name, _version(connection))
            finally:
                engine.dispose()

    def close(self) -> None:
        """Closes the pool's connections."""
        self.engine.dispose()

    @property
    def url(self) -> str:
        """What opens it again, with its password: for another process of ours only."""
        return self.engine.url.render_as_string(hide_password=False)

    @property
    def placeholder(self) -> str:
        """What stands for a parameter in SQL given straight to the driver."""
        return "?" if self.engine.dialect.paramstyle == "qmark" else "%s"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to read with; StoreAway where the database does not answer."""
        self._catch_up()
        try:
            with self.engine.connect() as connection:
                yield connection
        except (DBAPIError, NoConnectionFree) as error:
            raise StoreAway(f"cannot read the store {self.name}: {_cause(error)}") from error

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """A transaction; StoreError where the database does not take it."""
        self._catch_up()
        try:
            with self.engine.begin() as connection:
                yield connection
        except (DBAPIError, NoConnectionFree) as error:
            raise StoreError(f"cannot write to the store {self.name}: {_cause(error)}") from error

    @contextmanager
    def change_alone(self) -> Iterator[Connection]:
        """As `change`, but one after the other: who follows the highest number misses none, for a
        row with a lower one is never there to be read later than one with a higher."""
        with self.change() as connection:
            if _is_sqlite(self.engine.url):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({CHANGING})")
            yield connection

    def _catch_up(self) -> None:
        """Opens what was away. Only one thread tries: the others need not wait with it."""
        if not self.behind:
            return
        if not self._opening.acquire(blocking=False):
            raise StoreAway(self._away)
        try:
            if self.behind:
                with _opening(self.name):
                    _bring_up_to_date(self.engine, self.name)
                self.behind = False
        except StoreError as error:
            self._away = str(error)
            raise
        finally:
            self._opening.release()


def _cause(error: Exception) -> object:
    return error.orig if isinstance(error, DBAPIError) else error


@contextmanager
def _opening(name: str) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, OSError) as error:
        away = isinstance(error, DBAPIError) and name.startswith("postgresql")
        kind = StoreAway if away else StoreError
        raise kind(f"cannot open the store {name}: {_cause(error)}") from error


def fields(row: "Row[Any]") -> dict[str, Any]:
    """A row by its columns' names, as plain `str`: SQLAlchemy's own kind breaks JSON encoders."""
    return {str(name): value for name, value in row._mapping.items()}


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError(
            f"'{url}' is no store; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from None
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise StoreError(f"the store '{url}' names no file; write sqlite:///switchboard.db")
        return parsed
    if kind == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise StoreError(f"a store cannot be in {kind}; write sqlite:///FILE or postgresql://…")


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _engine(url: URL, name: str, busy_s: float, patience_s: float | None) -> Engine:
    return _sqlite(url, busy_s) if _is_sqlite(url) else _postgres(url, name, patience_s)


def _postgres(url: URL, name: str, patience_s: float | None) -> Engine:
    try:
        from gateway.store.patience import patient_connection

        given = {key: value for key, value in IN_TIME.items() if key not in url.query}
        engine = create_engine(url, pool_pre_ping=True, connect_args=given)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"the store {name} needs psycopg: pip install 'switchboard[postgres]'"
        ) from error
    if patience_s is not None:

        @event.listens_for(engine, "do_connect")
        def connect(_: Any, __: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
            return patient_connection(patience_s).connect(*arguments, **named)

    return engine


def _sqlite(url: URL, busy_s: float) -> Engine:
    path = Path(url.database or "")
    if not path.parent.is_dir():
        raise StoreError(f"the store {path} is in no directory; make {path.parent} first")
    if not path.exists():
        # Prompts and answers may stand in it: for its owner's eyes only.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {round(busy_s * 1000)}")
        cursor.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        _into_wal(cursor, busy_s)
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA secure_delete = ON")  # a text that is erased is nowhere in the file
        cursor.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        cursor.close()

    return engine


def _into_wal(cursor: Any, busy_s: float) -> None:
    """Waits for others as long as any statement may: of itself this one does not wait at all."""
    until = time.monotonic() + busy_s
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(0.01)
        else:
            return


def _bring_up_to_date(engine: Engine, name: str) -> None:
    """Alembic takes a tenth of a second to import: only a store that is behind pays for it."""
    with engine.connect() as connection:
        if _version(connection) == VERSION:
            return
    with engine.begin() as connection:
        if _is_sqlite(engine.url):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATING})")
        standing = Standing(name, _version(connection))
        if standing.is_newer:
            raise StoreError(
                f"the store {name} was made by a newer version of Switchboard: it is at "
                f"{standing.at}, and this one knows {VERSION}. Run that version, or restore the "
                "copy of the store from before it was migrated"
            )
        if not standing.is_current:
            _migrate(connection, name)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


def _migrate(connection: Connection, name: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(f"the store {name} cannot be brought to {VERSION}: {error}") from error
