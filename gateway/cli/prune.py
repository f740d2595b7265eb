"""`switchboard prune`: what is old in the store, let go by hand."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from gateway.cli.audit import written_down
from gateway.cli.opening import (
    ConfigOption,
    JsonOption,
    StoreOption,
    console,
    fail,
    instant,
    local,
    opened,
    snapshot_of,
)
from gateway.config import units
from gateway.types.snapshot import LEAST_REQUESTS_S

if TYPE_CHECKING:
    from gateway.store.retention import Gone, Horizon, RetentionBook


def register(app: typer.Typer) -> None:
    """Adds `prune`."""

    @app.command()
    def prune(
        texts: Annotated[
            str | None,
            typer.Option(
                metavar="TIME",
                help="Erase texts from before then, 30d ago or a local time, instead of by"
                " `retention` in gateway.yaml.",
            ),
        ] = None,
        requests: Annotated[
            str | None,
            typer.Option(
                metavar="TIME",
                help="Let whole requests from before then go, 400d ago or a local time; the same.",
            ),
        ] = None,
        check: Annotated[
            bool,
            typer.Option("--check", help="Change nothing; exit code 2 where something is to go."),
        ] = False,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Let go of old texts, and of old requests as a whole, in the store.

        `serve` does the same by itself, by `retention` in gateway.yaml. Nothing brings back what
        has gone: look first with --check.
        """
        from gateway.retention import told
        from gateway.store.retention import RetentionBook

        horizon = _horizon(texts, requests, config)
        with opened(store, config) as found:
            book = RetentionBook(found)
            gone = due = book.due(horizon)
            if due and not check:
                with written_down(found, "prune", "", **_since(horizon)) as written:
                    gone = _let_go(book, horizon, due)
                    written["gone"] = told(gone)
        if as_json:
            print(msgspec.json.encode(gone).decode())
        else:
            what = "to go" if check else "[red]let go[/red]"
            nothing = "nothing is older than that"
            console().print(f"{what}: {told(gone)}" if gone else nothing)
        if check and due:
            raise typer.Exit(2)


def _horizon(texts: str | None, requests: str | None, config: Path) -> "Horizon":
    from gateway.retention import horizon_of
    from gateway.store.retention import Horizon

    now = time.time()
    if texts is None and requests is None:
        declared = horizon_of(snapshot_of(config).retention, now)
        if not declared.texts and not declared.requests:
            fail(
                "gateway.yaml declares no `retention`; write there `retention: {text: 30 d}`, or"
                " say --texts 30d"
            )
        return declared
    horizon = Horizon(
        0.0 if texts is None else instant(texts, now),
        0.0 if requests is None else instant(requests, now),
    )
    if horizon.requests > now - LEAST_REQUESTS_S:
        month = units.format(LEAST_REQUESTS_S, units.DURATION)
        fail(
            f"a month's budgets are known by the requests of the last {month}: these stay. Their"
            " texts can go: --texts"
        )
    return horizon


def _since(horizon: "Horizon") -> dict[str, str]:
    ends = (("texts before", horizon.texts), ("requests before", horizon.requests))
    return {name: local(at) for name, at in ends if at}


def _let_go(book: "RetentionBook", horizon: "Horizon", due: "Gone") -> "Gone":
    """A batch after the other, with a bar for whoever looks on."""
    from gateway.store.retention import Gone

    gone = Gone()
    told = Console(stderr=True)
    with Progress(console=told, transient=True, disable=not told.is_terminal) as progress:
        bar = progress.add_task("letting go", total=sum(msgspec.structs.astuple(due)))
        for batch in book.batches(horizon):
            gone += batch
            progress.update(bar, completed=sum(msgspec.structs.astuple(gone)))
    return gone
