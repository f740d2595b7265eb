"""`switchboard train`: learns from eval runs and feedback which target is right on which prompt."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway.cli.audit import user, written_down
from gateway.cli.opening import (
    ConfigOption,
    JsonOption,
    StoreOption,
    console,
    fail,
    local,
    missing,
    opened,
    snapshot_of,
    tell_problems,
)
from gateway.cli.records import ASIDE, Cell, Lines
from gateway.errors import ConfigError
from gateway.types.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.learn.features import FeatureKind
    from gateway.learn.versions import History, Version
    from gateway.store.store import Store

HEAD = ("time", "version", "", "by", "learned from", "gain $ a request")


def register(app: typer.Typer) -> None:
    """Adds `train`."""

    @app.command()
    def train(
        route: Annotated[
            str | None,
            typer.Option(
                metavar="NAME", help="Of this route; else of each that something is known of."
            ),
        ] = None,
        over_all: Annotated[
            bool,
            typer.Option(
                "--over-all",
                help="Learn over all routes together: a route goes by that where it knows too"
                " little by itself, or where that is surely better.",
            ),
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Report only; keep no version.")
        ] = False,
        use: Annotated[
            str | None, typer.Option(metavar="VERSION", help="Go back to this one; learn nothing.")
        ] = None,
        history: Annotated[
            bool, typer.Option("--history", help="List the route's versions; learn nothing.")
        ] = False,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Learn which target is right on which prompt, from eval runs and feedback.

        The report is of rows held out. A version that is surely worse than going by each target's
        share of right answers, or than the version before on prompts new to it, is kept beside and
        not used. Routes are as they run; where nothing has run yet, as the files declare them. The
        exit code is 3 where too little is known to learn anything.
        """
        home = config if config.is_dir() else config.parent
        if route is None and (use is not None or history):
            fail("name the route with --route: versions are a route's own")
        with opened(store, config, new=True) as found:
            snapshot = _running(found, config)
            if route is not None and route not in snapshot.routes:
                missing("route", route, snapshot.routes)
            if use is not None:
                assert route is not None
                _go_back(found, snapshot, route, use)
            elif history:
                assert route is not None
                _show(found, route, as_json=as_json)
            else:
                from gateway.cli.training import learn

                made = learn(found, home, snapshot, route, over_all=over_all, keep=not dry_run)
                if as_json:
                    print(msgspec.json.encode(made).decode())
                else:
                    for each in made:
                        Console().print(_table(each))


def _running(store: "Store", config: Path) -> Snapshot:
    from gateway.config.load import load_texts
    from gateway.store.revisions import Revisions

    latest = Revisions(store).latest()
    if latest is None:
        return snapshot_of(config)
    try:
        return load_texts(latest.files, config, os.environ, latest.environment).snapshot
    except ConfigError as error:
        tell_problems(error.problems)


def _kind(snapshot: Snapshot) -> "FeatureKind":
    """Of the features that are learned of: of vectors where there is an encoder."""
    from gateway.errors import SwitchboardError
    from gateway.learn.kinds import kind_for

    try:
        return kind_for(snapshot)
    except SwitchboardError as error:
        fail(str(error))


def _go_back(store: "Store", snapshot: Snapshot, route: str, version: str) -> None:
    from gateway.learn import versions
    from gateway.store.learned import LearnedBook

    kind = _kind(snapshot)
    with written_down(store, "train", route, use=version):
        versions.use(LearnedBook(store), route, version, user(), time.time(), kind)
    Console(stderr=True, highlight=False).print(f"{route}: {version} from now on", markup=False)


def _show(store: "Store", route: str, *, as_json: bool) -> None:
    from gateway.learn import versions
    from gateway.store.learned import LearnedBook

    lines = versions.history(LearnedBook(store), route)
    if as_json:
        for line in lines:
            print(msgspec.json.encode(line).decode())
    elif not lines:
        console().print(f"{route} has no version yet", style=ASIDE)
    else:
        current = max((at for at, line in enumerate(lines) if line.used), default=-1)
        rows = [_line(line, current=at == current) for at, line in enumerate(lines)]
        Lines(console(), HEAD).print(rows)


def _line(line: "History", *, current: bool) -> list[Cell]:
    report, version = line.version.report, line.version
    state = "used now" if current else "" if line.used else "not used"
    runs = f"{len(version.runs)} runs" if version.runs else ""
    over = f"{len(version.over)} routes" if version.over else ""
    heard = report.heard
    asked = f"{heard.labelled:,} of {heard.requests:,} requests" if heard is not None else ""
    return [
        Cell(local(line.at), ASIDE),
        Cell(version.version),
        Cell(state, "green" if current else "yellow"),
        Cell(line.author),
        Cell(", ".join(each for each in (runs, asked, over) if each)),
        Cell(f"{report.gain:.3g} ({report.gain_low:.3g} to {report.gain_high:.3g})"),
    ]


def _table(made: "Version") -> Table:
    from gateway.learn.rows import TIMES

    report = made.report
    state = "" if made.used else f" ({made.why}: not used)"
    title = f"{made.route}: {made.version or 'not kept'}{state}, {report.prompts:,} prompts"
    table = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")
    for heading in ("", "learned", "by shares"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("Brier score", f"{report.brier:.4f}", f"{report.brier_shares:.4f}")
    table.add_row("log loss", f"{report.log_loss:.4f}", f"{report.log_loss_shares:.4f}")
    table.add_row("calibration error", f"{report.calibration_error:.4f}", "")
    table.add_row("net $ a request", f"{report.net:.6g}", f"{report.net_shares:.6g}")
    between = f"{report.gain_low:.3g} to {report.gain_high:.3g}"
    table.add_row("gain $ a request", f"{report.gain:.3g}", f"95 %: {between}")
    if made.versus is not None:
        lead = made.versus
        between = f"95 %: {lead.gain_low:.3g} to {lead.gain_high:.3g}, {lead.prompts} new prompts"
        table.add_row("over the one before", f"{lead.gain:.3g}", between)
    if made.over_own is not None:
        lead = made.over_own
        between = f"95 %: {lead.gain_low:.3g} to {lead.gain_high:.3g}"
        table.add_row("over all routes, over its own", f"{lead.gain:.3g}", between)
    if made.over:
        table.add_row("learned over", f"{len(made.over)} routes", ", ".join(made.over))
    if report.left_out:
        table.add_row("not judged by", f"{report.left_out:,}", "not answered by all")
    for target, n in report.few.items():
        table.add_row("too little known", target, f"{n} answers")
    again = made.replayed
    if again is not None:
        table.add_row("replayed", f"{again.requests:,}", f"of {again.logged:,} of the last 7 days")
        table.add_row("  would go elsewhere", f"{again.elsewhere:.1%}", "")
        table.add_row("  right", f"{100 * again.right:+.2g} points", "")
        table.add_row("  cost $ a request", f"{again.cost:+.3g}", "")
        between = "as expected, not measured"
        if again.net_low is not None and again.net_high is not None:
            between = f"95 %: {again.net_low:.3g} to {again.net_high:.3g}"
        table.add_row("  net $ a request", f"{again.net:+.3g}", between)
        for why, n in again.left_out.items():
            table.add_row("  not replayed", f"{n:,}", why)
    heard = report.heard
    if heard is not None:
        table.add_row("requests spoken of", f"{heard.labelled:,}", f"of {heard.requests:,}")
        for at, target in enumerate(report.targets):
            table.add_row(
                f"  {target}",
                f"{heard.effective[at]:,.0f}",
                f"as many of equal weight; could not be asked in {heard.unsupported[at]:.1%}",
            )
            if heard.right:
                table.add_row(
                    "    right",
                    f"{heard.right[at]:.1%}",
                    f"{heard.low[at]:.1%} to {heard.high[at]:.1%} if right answers are spoken of"
                    f" {TIMES:g} times as often as wrong ones, or half as often",
                )
        if heard.cut:
            table.add_row("  weights cut", f"{heard.cut:,}", f"at {heard.cap:.0f}")
        for why, n in heard.left_out.items():
            table.add_row("  left out", f"{n:,}", why)
    return table
