"""`switchboard train`: learns from eval runs which target is right on which prompt."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway.cli.opening import ConfigOption, fail, snapshot_of
from gateway.types.routes import Route
from gateway.types.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.learn.training import Answer, Rows, Trained, Versus
    from gateway.learn.versions import Version


def register(app: typer.Typer) -> None:
    """Adds `train`."""

    @app.command()
    def train(
        route: Annotated[
            str | None, typer.Option(metavar="NAME", help="Of this route; else of each with runs.")
        ] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Report only; keep no version.")
        ] = False,
        use: Annotated[
            str | None, typer.Option(metavar="VERSION", help="Go back to this one; learn nothing.")
        ] = None,
        config: ConfigOption = Path(),
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    ) -> None:
        """Learn from eval runs which target is right on which prompt, and what that is worth.

        The report is of rows held out. A version that is surely worse than going by each target's
        share of right answers, or than the version before on prompts new to it, is not kept.
        """
        snapshot = snapshot_of(config)
        home = config if config.is_dir() else config.parent
        if route is not None and route not in snapshot.routes:
            fail(f"there is no route '{route}'; there are: {', '.join(snapshot.routes)}")
        if use is not None:
            _go_back(home, route, use)
            return
        known = _answers(home)
        routes = (
            [route] if route is not None else [name for name in known if name in snapshot.routes]
        )
        if not any(name in known for name in routes):
            fail("there is no eval run of a route to learn from: run `switchboard eval run` first")
        found = [
            made
            for name in routes
            if (made := _trained(home, snapshot, name, *known[name], keep=not dry_run)) is not None
        ]
        if not found:
            raise typer.Exit(1)
        if as_json:
            print(msgspec.json.encode(found).decode())
        else:
            for made in found:
                Console().print(_table(made))


def _go_back(home: Path, route: str | None, version: str) -> None:
    from gateway.errors import SwitchboardError
    from gateway.learn import versions

    if route is None:
        fail("--use needs --route: versions are a route's own")
    try:
        versions.use(home / versions.HOME, route, version)
    except SwitchboardError as error:
        fail(str(error))
    Console(stderr=True, highlight=False).print(f"{route}: {version} from now on", markup=False)


def _answers(home: Path) -> "dict[str, tuple[list[Answer], tuple[str, ...]]]":
    """Of each route: what its runs say of answers, and which they are."""
    from gateway.errors import SwitchboardError
    from gateway.evals import runs
    from gateway.learn.training import Answer

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
    home: Path,
    snapshot: Snapshot,
    name: str,
    answers: "list[Answer]",
    names: tuple[str, ...],
    *,
    keep: bool,
) -> "Version | None":
    """The version, kept or not; None, with the reason said, where there is too little."""
    from gateway.learn import versions
    from gateway.learn.features import KIND
    from gateway.learn.training import rows_of, train

    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    route = snapshot.routes[name]
    rows = rows_of(answers, _targets(route, answers))
    with notes.status(f"{name}: learning from {len(rows.texts):,} prompts") as status:
        try:
            trained = train(
                rows,
                route.value,
                lambda done, of: status.update(f"{name}: {done} of {of} fits"),
            )
        except ValueError as error:
            notes.print(f"{name}: {error}", style="yellow", markup=False)
            return None
    lead = _versus(home, name, rows, trained, answers)
    made = versions.Version("", time.time(), name, KIND, names, trained.report, lead)
    for than, high in (
        ("each target's share", trained.report.gain_high),
        ("the version before", lead.gain_high if lead is not None else 0.0),
    ):
        if high < 0.0:
            notes.print(f"{name}: surely worse than {than}; not kept", style="red")
            keep = False
    return versions.write(home / versions.HOME, trained.model, made) if keep else made


def _versus(
    home: Path, name: str, rows: "Rows", trained: "Trained", answers: "list[Answer]"
) -> "Versus | None":
    """Against the version before, on prompts that are new to it, where it can be compared."""
    from gateway.errors import SwitchboardError
    from gateway.learn import versions
    from gateway.learn.features import KIND
    from gateway.learn.training import versus

    try:
        kept = versions.history(home / versions.HOME, name)
        if not kept or (kept[-1].kind, kept[-1].report.targets) != (KIND, rows.targets):
            return None
        before = versions.read(home / versions.HOME, kept[-1])
    except SwitchboardError as error:
        fail(str(error))
    known = {each.text for each in answers if each.run in kept[-1].runs}
    return versus(rows, trained, before, known)


def _targets(route: Route, answers: "list[Answer]") -> list[str]:
    """Its candidates that something is known of, in their order."""
    tried = {each.target for each in answers}
    return [each.target for each in route.candidates if each.target in tried]


def _table(made: "Version") -> Table:
    report = made.report
    title = f"{made.route}: {made.version or 'not kept'}, {report.prompts:,} prompts"
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
        table.add_row("left out", f"{report.left_out:,}", "not answered by all")
    return table
