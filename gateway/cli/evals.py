"""`switchboard eval`: suites asked of targets, offline."""

import asyncio
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gateway.cli import eval_begin, eval_feed, eval_labels, eval_reports
from gateway.cli.admin import GatewayOption, base_of
from gateway.cli.eval_feed import fed, feedable, learned_from, scored, summed
from gateway.cli.eval_gateway import (
    TargetsKeyOption,
    answering,
    chats,
    encoder_for,
    headers_of,
    progress_bars,
)
from gateway.cli.opening import (
    ConfigOption,
    JsonOption,
    StoreOption,
    fail,
    snapshot_of,
    tell_problems,
)
from gateway.cli.records import ASIDE, Cell, Lines
from gateway.errors import ConfigError, SwitchboardError
from gateway.types.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.evals.running import Runner
    from gateway.evals.runs import Asked, Result, Run
    from gateway.evals.suites import Suite, To

HEAD = ("target", "right", "answers", "errors", "usd each", "first s", "whole s")


def register(app: typer.Typer) -> None:
    """Adds `eval`."""
    evals = typer.Typer(help="Ask suites of targets, and compare them.", no_args_is_help=True)
    app.add_typer(evals, name="eval")
    eval_begin.register(evals)
    _register_run(evals)
    eval_reports.register(evals)
    eval_labels.register(evals)
    eval_feed.register(evals)


def _register_run(evals: typer.Typer) -> None:
    @evals.command("run")
    def run(
        suite: Annotated[Path, typer.Argument(metavar="SUITE", help="The suite's YAML file.")],
        targets: Annotated[
            str | None,
            typer.Option(metavar="A,B", help="These targets instead of the suite's."),
        ] = None,
        repetitions: Annotated[
            int | None, typer.Option(min=1, metavar="N", help="Instead of the suite's.")
        ] = None,
        limit_usd: Annotated[
            float | None,
            typer.Option(min=0, metavar="USD", help="Stop before more than that is spent."),
        ] = None,
        at_once: Annotated[
            int, typer.Option(min=1, max=256, metavar="N", help="Questions at once.")
        ] = 8,
        feed: Annotated[
            bool, typer.Option("--feed", help="Let its results bear on the route's decisions.")
        ] = False,
        fresh: Annotated[
            bool, typer.Option("--fresh", help="Ask everything anew, whatever was kept.")
        ] = False,
        note: Annotated[str, typer.Option(metavar="TEXT", help="Kept with the run.")] = "",
        gateway: GatewayOption = None,
        key: TargetsKeyOption = None,
        store: StoreOption = None,
        config: ConfigOption = Path(),
        as_json: JsonOption = False,
    ) -> None:
        """Ask a suite of its targets and score the answers.

        Targets are asked through the running gateway; where none answers, one is started for the
        run. Answers are kept: a run that was interrupted goes on where it was, and nothing is asked
        twice. Exits with 2 where the run is not complete.
        """
        from gateway.evals.runs import HOME
        from gateway.evals.runs import as_json as told

        read_suite, snapshot = suite_of(suite), snapshot_of(config)
        chosen = _targets(read_suite, targets, snapshot)
        if feed:
            feedable(read_suite.route, snapshot, read_suite.name)
        out = Console(stderr=True, highlight=False)
        try:
            done, results = asyncio.run(
                _run(
                    _repeated(read_suite, repetitions),
                    suite,
                    chosen,
                    snapshot,
                    home=config / HOME,
                    base=base_of(gateway, config),
                    named=gateway is not None,
                    key=key,
                    limit_usd=limit_usd,
                    at_once=at_once,
                    fresh=fresh,
                    note=note,
                    config=config,
                    out=out,
                )
            )
        except SwitchboardError as error:
            fail(str(error))
        learned_from(done, results, snapshot, store, config, out)
        if feed and done.complete:
            fed(done, scored(results), snapshot, store, config, out)
        if as_json:
            import msgspec

            print(msgspec.json.encode({**told(done), "rows": summed(results)}).decode())
        else:
            _print(done, results, config / HOME)
        if not done.complete:
            raise typer.Exit(2)


def suite_of(path: Path) -> "Suite":
    """A suite's file, or what is wrong with it in red, with exit code 1."""
    from gateway.evals.suites import read

    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        there = sorted(Path("evals").glob("*.yaml"))
        mend = f"there are: {', '.join(map(str, there))}" if there else "write its YAML file"
        fail(f"'{path}' is no suite's file; {mend}")
    try:
        return read(path, os.environ)
    except ConfigError as error:
        tell_problems(error.problems)


def _repeated(suite: "Suite", repetitions: int | None) -> "Suite":
    import msgspec

    if repetitions is None:
        return suite
    return msgspec.structs.replace(suite, repetitions=repetitions)


def _targets(suite: "Suite", named: str | None, snapshot: Snapshot) -> "list[To]":
    """Who is asked: those named, else the suite's, else the candidates of its route that chat."""
    from gateway.evals.suites import To

    if suite.route is not None and suite.route not in snapshot.routes:
        fail(f"suite {suite.name}: there is no route '{suite.route}'")
    own = {each.label: each for each in suite.targets}
    if named is not None:
        return [own.get(name, To(name)) for name in named.split(",")]
    if own:
        return list(own.values())
    if suite.route is None:
        fail(f"suite {suite.name} names neither targets nor a route; use --targets")
    names = [each.target for each in snapshot.routes[suite.route].candidates]
    return [To(name) for name in names if chats(name, snapshot)]


async def _run(
    suite: "Suite",
    file: Path,
    targets: "list[To]",
    snapshot: Snapshot,
    *,
    home: Path,
    base: str,
    named: bool,
    key: str | None,
    limit_usd: float | None,
    at_once: int,
    fresh: bool,
    note: str,
    config: Path,
    out: Console,
) -> "tuple[Run, list[Result]]":
    import httpx

    from gateway.evals import runs
    from gateway.evals.asking import Asker
    from gateway.evals.purse import Cache
    from gateway.evals.running import Runner

    route = snapshot.routes[suite.route] if suite.route is not None else None
    started = time.time()
    bars = progress_bars(out)
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        answering(base, snapshot, config, out, named=named) as url,
    ):
        with bars:
            bar = bars.add_task(suite.name, spent="")
            runner = Runner(
                suite,
                targets,
                snapshot.targets,
                Asker(client, url, headers_of(key, suite.route)),
                Cache(home / "cache", reads=not fresh),
                limit_usd=limit_usd,
                at_once=at_once,
                encoder=encoder_for(snapshot, suite),
                internal=route is not None and route.internal,
                told=lambda: bars.update(
                    bar,
                    completed=runner.progress.done,
                    spent=f"${runner.progress.spent:.4f}",
                ),
            )
            bars.update(bar, total=runner.count)
            asked, results = await runner.run()
    done = _told(runner, suite, file, snapshot, asked, started, note)
    runs.write(home, done, results)
    return done, results


def _told(
    runner: "Runner",
    suite: "Suite",
    file: Path,
    snapshot: Snapshot,
    asked: "list[Asked]",
    started: float,
    note: str,
) -> "Run":
    from gateway.evals.runs import Run, new_id

    progress = runner.progress
    return Run(
        id=new_id(started),
        suite=suite.name,
        route=suite.route,
        suite_file=str(file),
        suite_hash=suite.hash,
        data_hash=suite.data_hash,
        snapshot=snapshot.hash,
        targets=tuple(asked),
        scorers=tuple(each.name for each in suite.scorers),
        right=suite.right,
        cases=len(suite.cases),
        repetitions=suite.repetitions,
        seed=suite.seed,
        started=started,
        finished=time.time(),
        complete=not progress.stopped and not progress.errors,
        asked=progress.asked,
        cached=progress.cached,
        errors=progress.errors,
        cost_usd=progress.cost_usd,
        judge_usd=progress.judge_usd,
        versions={"switchboard": version("switchboard"), "python": platform.python_version()},
        note="; ".join(filter(None, (note, progress.stopped and f"stopped by {progress.stopped}"))),
        judges=tuple(each.name for each in suite.scorers if each.part.kind == "judge"),
    )


# ---------------------------------------------------------------- what was found


def _print(run: "Run", results: "list[Result]", home: Path) -> None:
    from gateway.evals.runs import lacking, named

    out = Console(soft_wrap=True, highlight=False)
    Lines(out, HEAD).print([_cells(row) for row in summed(results)])
    spent = f"${run.cost_usd:.6f}"
    if run.judge_usd:
        spent += f", judging ${run.judge_usd:.6f}"
    out.print(
        f"{named(run)}: {run.cases} cases, {run.asked} asked, {run.cached} kept from before,"
        f" {spent}",
        style=ASIDE,
    )
    if not run.complete:
        why = lacking(run)
        out.print(f"not complete: {why}; it feeds nothing; run it again to go on", style="yellow")
    unscored = sum(each.error is None and each.right is None for each in results)
    if unscored:
        out.print(
            f"{unscored} answers are neither right nor wrong: the judge of `{run.right}` did not"
            " say, in the form that it was asked for",
            style="yellow",
            markup=False,
        )
    for each in [each for each in results if each.error is not None][:3]:
        out.print(f"  {each.target}, case {each.case}: {each.error}", style="red")


def _cells(row: dict[str, Any]) -> list[Cell]:
    share = f"{100 * row['right'] / row['n']:.1f} %" if row["n"] else "–"
    each = row["cost_usd"] / row["answers"] if row["answers"] else 0.0
    return [
        Cell(row["target"]),
        Cell(share, "bold", figure=True),
        Cell(str(row["answers"]), figure=True),
        Cell(str(row["errors"]), "red" if row["errors"] else ASIDE, figure=True),
        Cell(f"{each:.7f}", figure=True),
        Cell(_seconds(row["first_token_s"]), figure=True),
        Cell(_seconds(row["total_s"]), figure=True),
    ]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
