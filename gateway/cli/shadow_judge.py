"""`switchboard shadow judge`: whether a shadow's answers are better, by a model or a scorer."""

import asyncio
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from gateway.cli.admin import GatewayOption, base_of
from gateway.cli.eval_gateway import TargetsKeyOption, answering, headers_of, progress_bars
from gateway.cli.evals import suite_of
from gateway.cli.opening import (
    MOST,
    ConfigOption,
    JsonOption,
    SinceOption,
    StoreOption,
    console,
    fail,
    instant,
    missing,
    opened,
    snapshot_of,
)
from gateway.cli.records import ASIDE
from gateway.errors import SwitchboardError
from gateway.types.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.evals.purse import Progress
    from gateway.evals.runs import Result, Run
    from gateway.evals.shadowed import Both, Chosen
    from gateway.evals.suites import Scorer
    from gateway.evals.wins import Preference

ANSWERED = "what was answered"


def register(group: typer.Typer) -> None:
    """Adds it to `shadow`."""

    @group.command("judge")
    def judge(
        route: Annotated[str, typer.Argument(metavar="ROUTE", help="The route's name.")],
        by: Annotated[
            str | None,
            typer.Option(
                "--judge", metavar="TARGET", help="A model says which of both answers is better."
            ),
        ] = None,
        rubric: Annotated[
            str | None, typer.Option(metavar="TEXT", help="What a good answer is, for --judge.")
        ] = None,
        suite: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="A scorer of this suite, instead of --judge."),
        ] = None,
        scorer: Annotated[
            str | None,
            typer.Option(metavar="NAME", help="Which of the suite's; that which `right` names."),
        ] = None,
        cases: Annotated[
            int, typer.Option(min=1, max=MOST, metavar="N", help="At most so many requests.")
        ] = 500,
        seed: Annotated[int, typer.Option(metavar="N", help="Of the choice among more.")] = 0,
        since: SinceOption = "7d",
        limit_usd: Annotated[
            float | None,
            typer.Option(min=0, metavar="USD", help="Stop before more than that is spent."),
        ] = None,
        at_once: Annotated[
            int, typer.Option(min=1, max=256, metavar="N", help="Questions at once.")
        ] = 8,
        gateway: GatewayOption = None,
        key: TargetsKeyOption = None,
        store: StoreOption = None,
        config: ConfigOption = Path(),
        as_json: JsonOption = False,
    ) -> None:
        """Judge what a shadow said beside what was answered: wins, ties and losses.

        The judge is asked through the gateway, in both orders, and what it says is kept: nothing is
        asked twice. It makes a run, shadow-ROUTE, which `eval report` shows and people may label by
        `eval label`. Exits with 2 where the limit ended it.
        """
        snapshot = snapshot_of(config)
        if route not in snapshot.routes:
            missing("route", route, snapshot.routes)
        means, folder = _scorer(by, rubric, suite, scorer)
        picked = _picked(route, since, cases, seed, store, config)
        started, out = time.time(), Console(stderr=True, highlight=False)
        try:
            results, progress = asyncio.run(
                _judged(
                    means, folder, picked.pairs, snapshot, route,
                    config=config, base=base_of(gateway, config), named=gateway is not None,
                    key=key, limit_usd=limit_usd, at_once=at_once, out=out,
                )
            )  # fmt: skip
        except SwitchboardError as error:
            fail(str(error))
        run = _kept(means, route, suite, snapshot, results, progress, started, seed, config)
        wins, left_out = _wins(results, means.name), dict(picked.left_out)
        if unsaid := len(results) // 2 - sum(each.cases for each in wins):
            left_out["got no word from the judge"] = unsaid
        if as_json:
            print(msgspec.json.encode(_told(run, means.name, wins, left_out)).decode())
        else:
            _print(run, wins, left_out)
        if not run.complete:
            raise typer.Exit(2)


def _picked(
    route: str, since: str, cases: int, seed: int, store: str | None, config: Path
) -> "Chosen":
    """The pairs to judge; if there are none, why in red, with exit code 1."""
    from gateway.evals.shadowed import chosen
    from gateway.store.shadows import ShadowBook

    with opened(store, config) as found:
        pairs = list(ShadowBook(found).pairs(route, instant(since, time.time())))
    picked = chosen(pairs, cases, seed)
    if not picked.pairs:
        why = ", ".join(f"{count} {each}" for each, count in picked.left_out.items())
        mend = (
            "`shadow` and `keep: text` in the route keep them"
            if not why or "text" in why
            else "look at `switchboard log`"
        )
        fail(f"there is nothing to judge since {since}: {why or 'no copies'}; {mend}")
    return picked


def _told(
    run: "Run", scorer: str, wins: "tuple[Preference, ...]", left_out: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "route": run.route,
        "run": f"{run.suite}/{run.id}",
        "scorer": scorer,
        "complete": run.complete,
        "shadows": [{**msgspec.to_builtins(each), "sure": each.sure} for each in wins],
        "left_out": left_out,
        "judge_usd": run.judge_usd,
    }


def _scorer(
    by: str | None, rubric: str | None, suite: Path | None, name: str | None
) -> "tuple[Scorer, Path]":
    """Who says which is better, and the directory of its files."""
    from gateway.config.files.suites import ScorerPart
    from gateway.evals.suites import Scorer

    if (by is None) == (suite is None):
        fail("who judges? Name a model (--judge TARGET) or a suite with a scorer (--suite FILE)")
    if suite is None:
        part = ScorerPart(kind="judge", target=by, rubric=rubric, against="expected")
        return Scorer("judge", part), Path()
    if rubric is not None:
        fail("the rubric is the suite's; --rubric goes with --judge")
    read = suite_of(suite)
    names = [each.name for each in read.scorers]
    wanted = name or read.right
    if wanted not in names:
        fail(f"the suite {read.name} has no scorer '{wanted}'; it has: {', '.join(names)}")
    return next(each for each in read.scorers if each.name == wanted), read.folder


async def _judged(
    scorer: "Scorer",
    folder: Path,
    pairs: "tuple[Both, ...]",
    snapshot: Snapshot,
    route: str,
    *,
    config: Path,
    base: str,
    named: bool,
    key: str | None,
    limit_usd: float | None,
    at_once: int,
    out: Console,
) -> "tuple[list[Result], Progress]":
    import httpx

    from gateway.evals.asking import Asker
    from gateway.evals.purse import Cache, Purse
    from gateway.evals.runs import HOME
    from gateway.evals.shadowed import Judging

    bars = progress_bars(out)
    async with httpx.AsyncClient(trust_env=False) as client:

        async def through(url: str) -> "tuple[list[Result], Progress]":
            purse = Purse(
                snapshot.targets,
                Asker(client, url, headers_of(key, route)),
                Cache(config / HOME / "cache"),
                limit_usd=limit_usd,
            )
            judging = Judging(
                scorer, folder, purse, at_once=at_once,
                internal=snapshot.routes[route].internal,
                told=lambda: bars.update(
                    bar,
                    completed=purse.progress.done,
                    spent=f"${purse.progress.spent:.4f}",
                ),
            )  # fmt: skip
            with bars:
                bar = bars.add_task(f"shadow of {route}", total=len(pairs), spent="")
                return await judging.judged(pairs), purse.progress

        if scorer.part.target is None:
            return await through(base)
        async with answering(base, snapshot, config, out, named=named) as url:
            return await through(url)


def _kept(
    scorer: "Scorer",
    route: str,
    suite: Path | None,
    snapshot: Snapshot,
    results: "list[Result]",
    progress: "Progress",
    started: float,
    seed: int,
    config: Path,
) -> "Run":
    """What was found as a run, written beside those of suites."""
    from gateway.evals import runs

    pairwise = scorer.part.kind == "judge" and scorer.part.against == "expected"
    run = runs.Run(
        id=runs.new_id(started),
        suite=f"shadow-{route}",
        route=route,
        suite_file=str(suite or ""),
        suite_hash="",
        data_hash="",
        snapshot=snapshot.hash,
        targets=tuple(
            runs.Asked(name, "") for name in dict.fromkeys(each.target for each in results)
        ),
        scorers=(scorer.name,),
        right=None if pairwise else scorer.name,
        cases=len(results) // 2,
        repetitions=1,
        seed=seed,
        started=started,
        finished=time.time(),
        complete=not progress.stopped,
        asked=0,
        cached=0,
        errors=0,
        cost_usd=sum(each.cost_usd for each in results),
        judge_usd=progress.judge_usd,
        versions={"switchboard": version("switchboard"), "python": platform.python_version()},
        note=progress.stopped and f"stopped by {progress.stopped}",
        judges=(scorer.name,) if scorer.part.kind == "judge" else (),
    )
    runs.write(config / runs.HOME, run, results)
    return run


def _wins(results: "list[Result]", scorer: str) -> "tuple[Preference, ...]":
    """Each shadow's against what was answered, by whomever."""
    from gateway.evals.wins import by_score

    return by_score(
        [
            msgspec.structs.replace(each, target=each.target if place % 2 else ANSWERED)
            for place, each in enumerate(results)
        ],
        scorer,
        against=ANSWERED,
    )


def _print(run: "Run", wins: "tuple[Preference, ...]", left_out: Mapping[str, int]) -> None:
    from gateway.evals.wins import words

    out = console()
    for each in wins:
        out.print(words(each), style="green" if each.sure else "", markup=False)
    if not wins:
        out.print("the judge has said nothing of any pair", style="yellow")
    for why, count in left_out.items():
        out.print(f"{count} requests {why}", style=ASIDE)
    out.print(
        f"{run.cases} requests, judging ${run.judge_usd:.6f}; kept as {run.suite}/{run.id}",
        style=ASIDE,
    )
    if not run.complete:
        out.print(f"{run.note}; run it again to go on", style="yellow")
