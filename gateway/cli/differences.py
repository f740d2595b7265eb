"""`switchboard diff`: what the files would change of what runs."""

import os
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.admin import GatewayOption, KeyOption, ask
from gateway.cli.opening import (
    ConfigOption,
    EnvironmentOption,
    StoreOption,
    console,
    fail,
    print_problems,
    tell_problems,
)
from gateway.cli.replay import sentences
from gateway.errors import ConfigError, SwitchboardError
from gateway.policy.words import dollars

if TYPE_CHECKING:
    from gateway.config.load import Loaded
    from gateway.revisions.diff import Change
    from gateway.revisions.replay import Replay
    from gateway.revisions.report import Report
    from gateway.revisions.traffic import Traffic

MARKS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


class Format(StrEnum):
    """How a difference is shown."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Adds `diff`."""

    @app.command()
    def diff(
        form: Annotated[
            Format,
            typer.Option(
                "--format",
                metavar="text|markdown|json",
                help="For people, for a review, or for programs.",
            ),
        ] = Format.TEXT,
        as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
        out: Annotated[
            Path | None,
            typer.Option(metavar="PLAN", help="Write a plan, for `switchboard apply PLAN`."),
        ] = None,
        environment: EnvironmentOption = None,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """What the files would change of what runs, and of the last day's requests.

        Exit code 0 for no difference, 2 for one, 1 for files that are wrong. With a key the running
        gateway compares, by its own variables and by what it has measured.
        """
        as_json = as_json or form is Format.JSON
        loaded = _loaded(config, environment, as_json=as_json)
        if key is not None:
            report = _asked(loaded, environment, gateway, key, config, as_json=as_json)
        else:
            report = _compared(loaded, environment, store, config)
        if out is not None:
            _write_plan(out, loaded, environment, report)
        if as_json:
            print(msgspec.json.encode(report).decode())
        elif form is Format.MARKDOWN:
            print("\n".join(markdown(report)))
        else:
            print_problems(Console(stderr=True, soft_wrap=True, highlight=False), loaded.warnings)
            _print(console(), report)
        if report.differs:
            raise typer.Exit(2)


def _loaded(config: Path, environment: str | None, *, as_json: bool) -> "Loaded":
    from gateway.config.load import load

    try:
        return load(config, os.environ, environment)
    except ConfigError as error:
        tell_problems(error.problems, as_json=as_json)


def _asked(
    loaded: "Loaded",
    environment: str | None,
    gateway: str | None,
    key: str,
    config: Path,
    *,
    as_json: bool,
) -> "Report":
    from gateway.revisions.report import Report

    body = {"files": dict(loaded.texts), "environment": environment}
    found = ask("POST", "diff", body, gateway=gateway, key=key, config=config, as_json=as_json)
    return msgspec.convert(found, Report)


def _compared(
    loaded: "Loaded", environment: str | None, store: str | None, config: Path
) -> "Report":
    """Against the store. One that is not there yet has no revision."""
    from gateway.revisions.report import reported
    from gateway.store.reader import Reader
    from gateway.store.revisions import Revisions
    from gateway.store.store import Store, StoreError

    try:
        found = Store.open(store or loaded.snapshot.server.store, new=False)
    except StoreError as error:
        if "there is no store" not in str(error):
            fail(str(error))
        return reported(None, loaded, environment, os.environ, None, time.time())
    try:
        latest = Revisions(found).latest()
        return reported(latest, loaded, environment, os.environ, Reader(found), time.time())
    except SwitchboardError as error:
        fail(str(error))
    finally:
        found.close()


def _write_plan(out: Path, loaded: "Loaded", environment: str | None, report: "Report") -> None:
    from gateway.revisions.plan import Plan, write

    try:
        write(Plan(dict(loaded.texts), environment, report, time.time()), out)
    except OSError as error:
        fail(f"{out}: {error.strerror}")
    Console(stderr=True).print(f"wrote {out}", highlight=False, markup=False)


# ---------------------------------------------------------------- what is said


def _print(out: Console, report: "Report") -> None:
    if not report.differs:
        out.print(f"[green]no difference[/green]: revision {report.running} has these files")
        return
    out.print(f"[bold]{escape(_against(report))}[/bold]")
    for change in report.changes:
        mark, colour = MARKS[change.kind]
        said = f"{mark} {change.path}"
        if change.kind == "changed":
            said = f"[{colour}]{escape(said)}[/{colour}]: {escape(change.old)} → "
            out.print(said + escape(change.new) + _later(change))
        else:
            value = change.new or change.old
            out.print(f"[{colour}]{escape(f'{said}: {value}')}[/{colour}]{_later(change)}")
    for line in _about_traffic(report):
        out.print(escape(line))


def _against(report: "Report") -> str:
    if not report.running:
        return "nothing runs yet"
    count = len(report.changes)
    return (
        f"{count} {'change' if count == 1 else 'changes'} to revision {report.running} "
        f"({report.running_hash[:12]})"
    )


def _later(change: "Change") -> str:
    return "  (from the next start on)" if change.at_start else ""


def markdown(report: "Report") -> Iterator[str]:
    """The report for a review."""
    if not report.differs:
        yield f"No difference to revision {report.running}."
        return
    yield f"**{_against(report)}**"
    yield ""
    yield "| | key | runs | would run |"
    yield "|---|---|---|---|"
    for change in report.changes:
        cells = (MARKS[change.kind][0], f"`{change.path}`", change.old, change.new + _later(change))
        yield (
            "| " + " | ".join(each.replace("|", "\\|").replace("\n", " ") for each in cells) + " |"
        )
    lines = list(_about_traffic(report))
    if lines:
        yield ""
        yield from (f"- {line}" for line in lines)


def _about_traffic(report: "Report") -> Iterator[str]:
    """What would become of the last day's requests: as expected, and by the log itself."""
    if report.untold:
        yield report.untold
    if report.traffic is not None:
        yield from told(report.traffic)
    if report.replay is not None and report.replay.elsewhere:
        yield from replayed(report.replay)


def replayed(replay: "Replay") -> Iterator[str]:
    """What the log says of the change."""
    if not replay.figures["cost"].measured:
        yield (
            "The log cannot tell what that would bring: what would be chosen was hardly explored. "
            "`switchboard replay --files` says what it takes."
        )
        return
    yield f"By what was explored, from {replay.requests:,} of the requests:"
    yield from sentences(replay)


def told(traffic: "Traffic") -> Iterator[str]:
    """What would become of the last day's requests, in sentences."""
    if not traffic.requests:
        yield "There was no request in the last day."
        return
    if traffic.sample < traffic.requests:
        yield (
            f"Of {traffic.requests} requests of the last day {traffic.sample} were looked at, "
            f"evenly taken, and {traffic.again} decided again; figures for all are scaled up."
        )
    else:
        yield f"Of {traffic.requests} requests of the last day {traffic.again} were decided again."
    for why, count in traffic.left_out.items():
        yield f"Not decided again: {count} that {why}."
    if not traffic.again:
        return
    if traffic.by_prompt:
        yield (
            f"{traffic.by_prompt} of them by what their prompts say, by the versions of learned "
            "quality that routes go by now."
        )
    scale = traffic.scale
    share = 100 * traffic.elsewhere / traffic.again
    yield f"{_scaled(traffic.elsewhere, scale)} would go elsewhere ({share:.3g} %)."
    if traffic.refused:
        yield f"{_scaled(traffic.refused, scale)} would find no target any more."
    for move in traffic.moves[:10]:
        to = move.new or "no target"
        yield f"{move.route}: {_scaled(move.requests, scale)} from {move.old} to {to}."
    measured = "as the gateway measures its targets" if traffic.live else "as targets are declared"
    yield (
        f"Expected cost {measured}: {dollars(traffic.old_usd * scale, 3)} now, "
        f"{dollars(traffic.new_usd * scale, 3)} then; they really came to "
        f"{dollars(traffic.logged_usd * scale, 3)}."
    )


def _scaled(count: int, scale: float) -> str:
    return f"about {round(count * scale)}" if scale > 1.0 else str(count)
