"""`switchboard audit`: who changed what; and how commands at the store itself are written down."""

import getpass
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from gateway.cli.opening import (
    MOST,
    ConfigOption,
    SinceOption,
    StoreOption,
    console,
    instant,
    local,
    opened,
)
from gateway.cli.records import ASIDE, Cell, Lines
from gateway.errors import SwitchboardError

if TYPE_CHECKING:
    from gateway.store.audit import Entry
    from gateway.store.store import Store

HEAD = ("time", "who", "from", "outcome", "action", "subject", "")

OUTCOMES = {"done": "green", "refused": "yellow", "failed": "red"}


def register(app: typer.Typer) -> None:
    """Adds `audit`."""

    @app.command()
    def audit(
        since: SinceOption = "7d",
        limit: Annotated[
            int, typer.Option(min=1, max=MOST, metavar="N", help="Only the newest so many.")
        ] = 100,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print JSON, one object a line, for programs.")
        ] = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Show every command that changed something, or was to: who, when, from where, outcome."""
        from gateway.store.audit import AuditBook

        begin = instant(since, time.time())
        with opened(store, config) as found:
            entries = AuditBook(found).list(begin, limit)
        if as_json:
            for entry in entries:
                print(msgspec.json.encode(entry).decode())
        elif not entries:
            console().print(f"nothing since {local(begin)}", style=ASIDE)
        else:
            Lines(console(), HEAD).print([_row(entry) for entry in entries])


@contextmanager
def written_down(
    store: "Store", action: str, subject: str, /, **detail: Any
) -> Iterator[dict[str, Any]]:
    """Around a change at the store itself: in the audit log after, done or failed, with the name
    of this machine and of who is logged in here. What is put into what it gives is written too."""
    from gateway.store.audit import AuditBook

    book = AuditBook(store)
    who: dict[str, Any] = {"name": user(), "source": socket.gethostname()}
    try:
        yield detail
    except SwitchboardError as error:
        book.add(action, subject, outcome="failed", **who, **detail, error=str(error))
        raise
    book.add(action, subject, **who, **detail)


def user() -> str:
    """Who is logged in here, or the number of a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _row(entry: "Entry") -> list[Cell]:
    said = "; ".join(f"{name} {_told(value)}" for name, value in entry.detail.items())
    return [
        Cell(local(entry.at), ASIDE),
        Cell(entry.name, "" if entry.key is None else "bold"),
        Cell(entry.source, ASIDE),
        Cell(entry.outcome, OUTCOMES.get(entry.outcome, "")),
        Cell(entry.action),
        Cell(entry.subject or "–"),
        Cell(said, ASIDE),
    ]


def _told(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
