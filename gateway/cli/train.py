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
    from gateway.learn.rows import Answer, Rows
    from gateway.learn.training import Trained, Versus
    from gateway.learn.versions import History, Replayed, Version
    from gateway.store.learned import LearnedBook
    from gateway.store.store import Store

NOTHING = (
    "there is nothing to learn from: no eval run of a route, and nothing said of answers whose"
    " features or text were kept. Run `switchboard eval run`, or write `keep: features`,"
    " `metrics` and `right` in a route, and send feedback"
)
REPLAYED_S = 7 * 86_400.0
"""A new version is tried on the requests of so long."""
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
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Report only; keep no version.")
        ] = False,
        use: Annotated[
            str | None, typer.Option(metavar="VERSION", help="Go back to this one; learn nothing.")
        ] = None,
        history: Annotated[
            bool, typer.Option("--history", help="List the route's versions; learn nothing.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
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
                _learn(found, home, snapshot, route, keep=not dry_run, as_json=as_json)


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
    heard = report.heard
    asked = f"{heard.labelled:,} of {heard.requests:,} requests" if heard is not None else ""
    return [
        Cell(local(line.at), ASIDE),
        Cell(version.version),
        Cell(state, "green" if current else "yellow"),
        Cell(line.author),
        Cell(", ".join(each for each in (runs, asked) if each)),
        Cell(f"{report.gain:.3g} ({report.gain_low:.3g} to {report.gain_high:.3g})"),
    ]


def _learn(
    store: "Store",
    home: Path,
    snapshot: Snapshot,
    route: str | None,
    *,
    keep: bool,
    as_json: bool,
) -> None:
    from gateway.classify.encoder import EncoderError
    from gateway.learn.lessons import logged
    from gateway.learn.rows import rows_of
    from gateway.retraining import TOO_LITTLE
    from gateway.store.feedback import FeedbackBook

    known = _answers(home)
    kind = _kind(snapshot)
    book, now = FeedbackBook(store), time.time()
    routes = [route] if route is not None else list(snapshot.routes)
    made, anything = [], False
    for name in routes:
        answers, runs = known.get(name, ([], ()))
        try:
            requests, left_out = logged(book, snapshot.routes[name], now, kind)
        except EncoderError as error:
            fail(str(error))
        if not answers and not any(each.right is not None for each in requests):
            continue
        anything = True
        candidates = [each.target for each in snapshot.routes[name].candidates]
        try:
            rows = rows_of(answers, candidates, kind, requests, left_out)
        except EncoderError as error:
            fail(str(error))
        version = _trained(store, home, snapshot, name, kind, rows, answers, runs, now, keep=keep)
        if version is not None:
            made.append(version)
    if not anything:
        Console(stderr=True, highlight=False, soft_wrap=True).print(NOTHING, style="red")
    if not made:
        raise typer.Exit(TOO_LITTLE)
    if as_json:
        print(msgspec.json.encode(made).decode())
    else:
        for each in made:
            Console().print(_table(each))


def _answers(home: Path) -> "dict[str, tuple[list[Answer], tuple[str, ...]]]":
    """Of each route: what its runs say of answers, and which they are."""
    from gateway.errors import SwitchboardError
    from gateway.evals import runs
    from gateway.learn.rows import Answer

    found: dict[str, tuple[list[Answer], tuple[str, ...]]] = {}
    for file in sorted((home / runs.HOME).glob("*/*/run.json")):
        try:
            run, results = runs.read(file.parent)
        except SwitchboardError as error:
            fail(str(error))
        if run.route is None:
            continue
        answers, names = found.get(run.route, ([], ()))
        answers += [
            Answer(each.input, each.target, float(each.right), each.cost_usd, runs.named(run))
            for each in results
            if each.right is not None and each.error is None
        ]
        found[run.route] = answers, (*names, runs.named(run))
    return found


def _trained(
    store: "Store",
    home: Path,
    snapshot: Snapshot,
    name: str,
    kind: "FeatureKind",
    rows: "Rows",
    answers: "list[Answer]",
    runs: tuple[str, ...],
    now: float,
    *,
    keep: bool,
) -> "Version | None":
    """The version, kept or not; None, with the reason said, where there is too little."""
    from gateway.learn import versions
    from gateway.learn.training import train
    from gateway.store.learned import LearnedBook

    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    book = LearnedBook(store)
    with notes.status(f"{name}: learning from {len(rows.keys):,} prompts") as status:
        try:
            trained = train(
                rows,
                snapshot.routes[name].value,
                lambda done, of: status.update(f"{name}: {done} of {of} fits"),
            )
        except ValueError as error:
            notes.print(f"{name}: {error}", style="yellow", markup=False)
            return None
    lead = _versus(book, name, kind, rows, trained, answers)
    replayed = _replayed(store, home, snapshot, name, kind, rows, trained, now)
    worse = [
        than
        for than, high in (
            ("each target's share", trained.report.gain_high),
            ("the version before", lead.gain_high if lead is not None else 0.0),
        )
        if high < 0.0
    ]
    if replayed is not None and replayed.surely_worse:
        worse.append("what was decided")
    why = f"surely worse than {' and '.join(worse)}" if worse else ""
    if why:
        notes.print(f"{name}: {why}; not used", style="red")
    made = versions.Version(
        "", now, name, kind.name, runs, trained.report, lead, not why, why, replayed
    )
    if not keep:
        return made
    with written_down(store, "train", name) as said:
        made = versions.keep(book, trained.model, made, user())
        said.update(version=made.version, used=made.used, why=why or None)
    return made


def _versus(
    book: "LearnedBook",
    name: str,
    kind: "FeatureKind",
    rows: "Rows",
    trained: "Trained",
    answers: "list[Answer]",
) -> "Versus | None":
    """Against what the route goes by, on prompts new to it, where that can be compared: it has to
    have been learned of the same features."""
    from gateway.learn import versions
    from gateway.learn.training import versus

    kept = book.current().get(name)
    if kept is None or kept.kind != kind.name:
        return None
    before = versions.told(kept)
    model = versions.read(book, name, before.version)
    known = {each.text for each in answers if each.run in before.runs}
    return versus(rows, trained, model, before.report.targets, known, before.at)


def _replayed(
    store: "Store",
    home: Path,
    snapshot: Snapshot,
    name: str,
    kind: "FeatureKind",
    rows: "Rows",
    trained: "Trained",
    now: float,
) -> "Replayed | None":
    """What the version would have changed of what was logged, where anything was."""
    from gateway.learn.scorer import UNSURE, scorer
    from gateway.qualities import with_qualities
    from gateway.revisions.relearned import relearned
    from gateway.revisions.tried import Served
    from gateway.store.evidence import EvidenceBook
    from gateway.store.feedback import FeedbackBook
    from gateway.store.replay import ReplayLog
    from gateway.store.revisions import Revisions

    revisions = Revisions(store)
    latest = revisions.latest()
    if latest is None:
        return None
    known = {snapshot.hash: snapshot, latest.hash: snapshot}
    candidates = [each.target for each in snapshot.routes[name].candidates]
    version = scorer("", kind.name, trained.model, rows.targets, candidates)
    foretold = {
        key: [UNSURE if column is None else float(said[column]) for column in version.columns]
        for key, at, said in zip(rows.keys, rows.at, trained.predicted, strict=True)
        if at > 0.0
    }
    return relearned(
        ReplayLog(store),
        with_qualities(snapshot, FeedbackBook(store), EvidenceBook(store), now),
        Served(revisions, home, os.environ, known).under,
        name,
        version,
        kind,
        foretold,
        now - REPLAYED_S,
        now,
    )


def _table(made: "Version") -> Table:
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
        if heard.cut:
            table.add_row("  weights cut", f"{heard.cut:,}", f"at {heard.cap:.0f}")
        for why, n in heard.left_out.items():
            table.add_row("  left out", f"{n:,}", why)
    return table
