"""`switchboard log` and `switchboard usage`: what happened, and what it cost."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from gateway.cli.opening import (
    MOST,
    ConfigOption,
    JsonOption,
    SinceOption,
    StoreOption,
    console,
    instant,
    known_routes,
    local,
    missing,
    opened,
    snapshot_of,
)

if TYPE_CHECKING:
    from gateway.store.reader import Filter, Reader, UsageRow
    from gateway.store.store import Store

FOLLOW_EVERY_S = 0.5

OUTCOMES = {
    "ok": "green",
    "refused": "yellow",
    "abandoned": "yellow",
    "truncated": "red",
    "error": "red",
}
"""The colour of each outcome: green is answered, yellow is nobody's failure, red is a failure."""

ASIDE = "dim"


class Cell(NamedTuple):
    """A text, its colour, and whether it is a figure: figures stand to the right."""

    text: str
    style: str = ""
    figure: bool = False


def register(app: typer.Typer) -> None:
    """Adds `log` and `usage`."""

    @app.command()
    def log(
        route: Annotated[str | None, typer.Option(metavar="NAME", help="Only this route.")] = None,
        target: Annotated[
            str | None, typer.Option(metavar="NAME", help="Only what this target answered.")
        ] = None,
        key: Annotated[
            str | None, typer.Option(metavar="ID|NAME", help="Only this key, by name or id.")
        ] = None,
        status: Annotated[
            str | None, typer.Option(metavar="STATUS", help="Only this status: 429, or 5xx.")
        ] = None,
        outcome: Annotated[
            str | None,
            typer.Option(metavar="WORD", help=f"Only this outcome: {', '.join(OUTCOMES)}."),
        ] = None,
        since: Annotated[
            str | None,
            typer.Option(
                metavar="TIME", help="Only from then on: 15m, 1h, 7d ago, or a local time."
            ),
        ] = None,
        limit: Annotated[
            int, typer.Option(min=1, max=MOST, metavar="N", help="Only the newest so many.")
        ] = 50,
        follow: Annotated[
            bool,
            typer.Option("--follow", "-f", help="Go on with new ones as they come, until ctrl-C."),
        ] = False,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print JSON, one object a line, for programs.")
        ] = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Show the requests that were answered or refused, the newest last."""
        from gateway.store.reader import Filter, Reader, status_range

        if outcome is not None and outcome not in OUTCOMES:
            raise typer.BadParameter(f"'{outcome}' is none of {', '.join(OUTCOMES)}")
        if status is not None:
            try:
                status_range(status)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
        begin = None if since is None else instant(since, time.time())
        only = Filter(route, target, key, status, outcome, begin)
        with opened(store, config) as found:
            reader = Reader(found)
            if route is not None:
                _check_route(route, reader, known_routes(found, config))
            batches = _batches(reader, only, limit, follow)
            try:
                if as_json:
                    _print_json(batches)
                else:
                    _print_lines(console(), batches)
            except KeyboardInterrupt:
                raise typer.Exit() from None

    @app.command()
    def usage(
        by: Annotated[
            str,
            typer.Option(
                metavar="WORD",
                help="Summed by: route, target, key, adapter, policy, tenant or composition.",
            ),
        ] = "route",
        since: SinceOption = "7d",
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Sum up requests, tokens, dollars and seconds, the dearest first.

        Tokens and dollars count every attempt; seconds are those of good answers. By adapter or
        key, what our own servers cost is billed below: each hour's price over its measured tokens.
        """
        from gateway.store.reader import GROUPS, Reader

        group = next((each for each in GROUPS if each == by), None)
        if group is None:
            raise typer.BadParameter(f"'{by}' is none of {', '.join(GROUPS)}")
        begin = instant(since, time.time())
        with opened(store, config) as found:
            rows = Reader(found).usage(group, begin)
            billed = _billed(found, by, begin, config)
        if as_json:
            summed: dict[str, Any] = {"by": by, "since": begin, "rows": rows}
            if billed:
                summed["billed_micro_usd"] = billed
            print(msgspec.json.encode(summed).decode())
        elif not rows:
            console().print(f"nothing since {local(begin)}")
        else:
            out = console()
            head, lines = usage_table(by, rows)
            Lines(out, head).print(lines)
            if billed:
                _print_bill(out, by, billed)
            out.print(f"since {local(begin)}", style=ASIDE)


def _billed(found: "Store", by: str, since: float, config: Path) -> dict[str, int]:
    """What hosted backends' hours cost, in micro-dollars, by adapter's target or by key."""
    from gateway.metering.hosting import summed
    from gateway.store.hosting import HostingBook, Terms

    if by not in ("adapter", "key") or not (config / "gateway.yaml").is_file():
        return {}
    book = HostingBook(found)
    if not book.hours(since):
        return {}
    terms = {
        name: Terms(backend.replica_hour, backend.idle)
        for name, backend in snapshot_of(config).backends.items()
        if backend.replica_hour is not None
    }
    return summed(book.bills(since, "adapter" if by == "adapter" else "key", terms))


def _print_bill(out: Console, by: str, billed: dict[str, int]) -> None:
    whole = sum(billed.values())
    out.print("\nwhat our own servers' hours cost, by measured tokens", style="bold")
    rows = [*billed.items(), ("in all", whole)]
    Lines(out, ("target" if by == "adapter" else by, "usd", "share")).print(
        [
            [
                Cell(name, "bold" if name == "in all" else ASIDE if name[0] == "(" else ""),
                Cell(f"{micro / 1e6:,.6f}", "bold" if name == "in all" else "", figure=True),
                Cell(f"{micro / whole:.1%}", ASIDE, figure=True),
            ]
            for name, micro in rows
        ]
    )


class Lines:
    """Prints rows below one head, aligned; columns only ever grow, for what is still to come."""

    def __init__(self, out: Console, head: Sequence[str]) -> None:
        self._out = out
        self._head: Sequence[str] | None = head
        self._widths = [len(name) for name in head]

    def print(self, rows: Sequence[Sequence[Cell]]) -> None:
        """Prints them; the head comes before the first ones."""
        for row in rows:
            fitted = zip(self._widths, row, strict=True)
            self._widths = [max(width, len(cell.text)) for width, cell in fitted]
        if rows and self._head is not None:
            names = zip(self._head, rows[0], strict=True)
            self._line([Cell(name, "bold", cell.figure) for name, cell in names])
            self._head = None
        for row in rows:
            self._line(row)

    def _line(self, row: Sequence[Cell]) -> None:
        line = Text(no_wrap=True, overflow="ignore")
        for width, cell in zip(self._widths, row, strict=True):
            text = cell.text.rjust(width) if cell.figure else cell.text.ljust(width)
            line.append(text, cell.style).append("  ")
        line.rstrip()
        self._out.print(line, soft_wrap=True)


# ---------------------------------------------------------------- log


def _check_route(route: str, reader: "Reader", known: set[str]) -> None:
    """Fails for a route that is not declared, as far as that is known, nor ever was logged."""
    if known and route not in known and not reader.has_route(route):
        missing("route", route, sorted(known))


LOG_HEAD = (
    *("time", "status", "outcome", "route", "target", "key"),
    *("in", "out", "usd", "first s", "whole s", "id"),
)


def log_row(row: dict[str, Any]) -> list[Cell]:
    """One request as cells below LOG_HEAD."""
    colour = OUTCOMES.get(row["outcome"], "")
    about = "~" if row["estimated"] else ""
    return [
        Cell(local(row["started"]), ASIDE),
        Cell(str(row["status"]), colour, figure=True),
        Cell(row["outcome"], colour),
        Cell(_part(row)),
        Cell(row["target"] or "–"),
        Cell(row["key_name"], ASIDE),
        Cell(f"{about}{row['input_tokens']:,}", figure=True),
        Cell(f"{about}{row['output_tokens']:,}", figure=True),
        Cell(f"{about}{row['cost_usd']:.6f}", figure=True),
        Cell(_seconds(row["first_token_s"]), figure=True),
        Cell(_seconds(row["total_s"]), figure=True),
        Cell(row["id"], ASIDE),
    ]


def _batches(
    reader: "Reader", only: "Filter", limit: int, follow: bool
) -> Iterator[list[dict[str, Any]]]:
    """The newest rows; then, where they are followed, the new ones each time that there are any."""
    last = reader.last_seq() if follow else 0
    known = reader.numbers(only, last) if follow else set()
    rows = reader.recent(only, limit=limit)
    yield rows
    known |= {row["seq"] for row in rows}
    while follow:
        last = max({last, *known})
        there = reader.numbers(only, last)
        new, known = there - known, there
        if new:
            yield reader.recent(only, limit=None, among=new)
        else:
            time.sleep(FOLLOW_EVERY_S)


def _print_json(batches: Iterable[list[dict[str, Any]]]) -> None:
    for rows in batches:
        for row in rows:
            print(msgspec.json.encode(row).decode(), flush=True)


def _part(row: dict[str, Any]) -> str:
    """The route, with the arm of an experiment that the request was in."""
    route = row["route"] or "–"
    return route if row["arm"] is None else f"{route}, {row['experiment']}: {row['arm']}"


def _print_lines(out: Console, batches: Iterable[list[dict[str, Any]]]) -> None:
    lines = Lines(out, LOG_HEAD)
    for place, rows in enumerate(batches):
        if not place and not rows:
            out.print("no requests yet, or none that pass", style=ASIDE)
        for run in _runs(rows):
            lines.print([log_row(row) for row in run])
            if run[-1]["error"]:
                why = Text(f"  {run[-1]['error']}", OUTCOMES.get(run[-1]["outcome"], ""))
                out.print(why, soft_wrap=True)


def _runs(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """Rows in runs, each up to one that has an error to be told below it."""
    start = 0
    for place, row in enumerate(rows, 1):
        if row["error"] or place == len(rows):
            yield rows[start:place]
            start = place


# ---------------------------------------------------------------- usage


def usage_table(by: str, rows: Sequence["UsageRow"]) -> tuple[list[str], list[list[Cell]]]:
    """The head and the rows, with a sum below where there are several."""
    head = [by, "requests", "attempts", "in", "cached", "out", "usd", "estimated"]
    lines = [_usage_row(row) for row in rows]
    if len(rows) > 1:
        lines.append(_sum(by, rows))
    return [*head, "p50 s", "p95 s"], lines


def _usage_row(row: "UsageRow") -> list[Cell]:
    tokens = (row.input_tokens, row.cached_tokens, row.output_tokens)
    counts = (row.requests, row.attempts, *tokens)
    return [
        Cell(row.group or "(none)", "" if row.group else ASIDE),
        *(Cell(f"{count:,}", figure=True) for count in counts),
        Cell(f"{row.cost_usd:,.6f}", "bold", figure=True),
        Cell(f"{row.estimated:.1%}", "yellow" if row.estimated else ASIDE, figure=True),
        Cell(_seconds(row.p50_s), figure=True),
        Cell(_seconds(row.p95_s), figure=True),
    ]


def _sum(by: str, rows: Sequence["UsageRow"]) -> list[Cell]:
    """Requests are not summed by target or adapter: one may have had to do with several."""
    counts = [
        "" if by in ("target", "adapter") else f"{sum(row.requests for row in rows):,}",
        f"{sum(row.attempts for row in rows):,}",
        f"{sum(row.input_tokens for row in rows):,}",
        f"{sum(row.cached_tokens for row in rows):,}",
        f"{sum(row.output_tokens for row in rows):,}",
        f"{sum(row.cost_usd for row in rows):,.6f}",
    ]
    blank = [Cell("", figure=True)] * 3
    return [Cell("in all", "bold"), *(Cell(count, "bold", True) for count in counts), *blank]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
