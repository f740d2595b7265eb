"""Opens the store: SQLite or PostgreSQL by one schema, brought up to date on the way."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, create_engine, event, inspect, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError

from gateway.errors import SwitchboardError
from gateway.store.schema import VERSION

PAGE_SIZE = 16_384
"""Bytes. Rows have 1 to 2 KB; against SQLite's 4,096 this takes a third less CPU a row."""

MIGRATING = 7_232_650_011
"""The number of PostgreSQL's advisory lock, held while the schema changes."""


class StoreError(SwitchboardError):
    """The store cannot be opened or written; says which, why, and the mend."""


class Store:
    """An open store. One per process; its parts are the writer, the reader, keys and revisions."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name

    @classmethod
    def open(cls, url: str, *, busy_s: float = 5.0, new: bool = True) -> "Store":
        """Opens `sqlite:///FILE` or `postgresql://…`, and makes or migrates its tables.

        `busy_s` is how long SQLite waits for another process's write. Without `new` a file that is
        not there is an error, and is not made. Raises StoreError.
        """
        parsed = _checked(url)
        name = parsed.render_as_string(hide_password=True)
        if not new and _is_sqlite(parsed) and not Path(parsed.database or "").exists():
            raise StoreError(f"there is no store {name} (yet, or not from this directory)")
        try:
            engine = _sqlite(parsed, busy_s) if _is_sqlite(parsed) else _postgres(parsed, name)
            _bring_up_to_date(engine, name)
        except (DBAPIError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise StoreError(f"cannot open the store {name}: {cause}") from error
        return cls(engine, name)

    def close(self) -> None:
        """Closes the pool's connections."""
        self.engine.dispose()

    @property
    def placeholder(self) -> str:
        """What stands for a parameter in SQL given straight to the driver."""
        return "?" if self.engine.dialect.paramstyle == "qmark" else "%s"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to read with."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """A transaction; StoreError where the database does not take it."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise StoreError(f"cannot write to the store {self.name}: {error.orig}") from error


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


def _postgres(url: URL, name: str) -> Engine:
    try:
        return create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"the store {name} needs psycopg: pip install 'switchboard[postgres]'"
        ) from error


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
        if _version(connection) != VERSION:
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
        raise StoreError(
            f"the store {name} was made by another version of Switchboard "
            f"(this one knows {VERSION}): {error}"
        ) from error
