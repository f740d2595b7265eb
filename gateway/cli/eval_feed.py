"""`switchboard eval feed`: what a run found, counted by what decisions go by."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gateway.cli.eval_labels import marked
from gateway.cli.eval_reports import RunArgument, read_run
from gateway.cli.opening import ConfigOption, JsonOption, StoreOption, fail, opened, snapshot_of
from gateway.cli.records import ASIDE
from gateway.types.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.evals.runs import Result, Run


def register(evals: typer.Typer) -> None:
    """Adds it to `eval`."""

    @evals.command("feed")
    def feed_run(
        run: RunArgument,
        labels: Annotated[
            bool,
            typer.Option(
                "--labels", help="What people said is right, in the place of what scorers say."
            ),
        ] = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
        as_json: JsonOption = False,
    ) -> None:
        """Let a run's results bear on the decisions of its route."""
        folder, done, results = read_run(run, config)
        counts = marked(folder) if labels else scored(results)
        out = Console(stderr=True)
        snapshot = snapshot_of(config)
        rows = fed(done, counts, snapshot, store, config, out)
        learned_from(done, results, snapshot, store, config, out)
        if as_json:
            import msgspec

            print(msgspec.json.encode({"fed": rows}).decode())


def scored(results: "list[Result]") -> dict[str, tuple[int, float]]:
    """By target how many cases were scored, and how many of them were right; one that was asked
    several times counts once, by its share."""
    from gateway.evals.compare import by_target, case_shares

    found = {target: case_shares(rows) for target, rows in by_target(results).items()}
    return {target: (len(each), sum(each.values())) for target, each in found.items() if each}


def feedable(route: "str | None", snapshot: Snapshot, suite: str) -> tuple[str, str]:
    """The route that a suite's runs bear on, and its metric; if there is none, why in red, with
    exit code 1."""
    if route is None:
        fail(
            f"the suite {suite} names no route that its results could bear on: write `route` there"
        )
    declared = snapshot.routes.get(route)
    if declared is None:
        fail(f"the suite {suite} is of the route '{route}', which there is none of any more")
    if declared.right is None:
        fail(
            f"nothing says which answers of the route '{route}' are right: write `metrics` and"
            " `right` in its file"
        )
    return declared.name, declared.right


def fed(
    run: "Run",
    counts: Mapping[str, tuple[int, float]],
    snapshot: Snapshot,
    store: str | None,
    config: Path,
    out: Console,
) -> list[dict[str, Any]]:
    """Writes by target how many answers there were and how many of them right; the rows."""
    import msgspec

    from gateway.evals.runs import named
    from gateway.store.evidence import Evidence, EvidenceBook

    route, right = feedable(run.route, snapshot, run.suite)
    if not run.complete:
        fail(f"the run {named(run)} is not complete; ask it again before it is fed")
    if not counts:
        fail(f"nothing in the run {named(run)} says of an answer that it is right or wrong")
    ways = {each.target for each in run.targets if each.way_of is not None}
    if ways >= set(counts):
        fail(
            f"the run {named(run)} asked in ways of its own alone ({', '.join(sorted(ways))}), as"
            " no request is; name a target without `name`"
        )
    at = run.finished or run.started
    source = f"eval:{run.suite}"
    rows = [
        Evidence(route, target, right, source, n, sum_right, at)
        for target, (n, sum_right) in counts.items()
        if target not in ways
    ]
    with opened(store, config, new=True) as found:
        EvidenceBook(found).add(rows)
    told = ", ".join(f"{row.target} {row.right:.4g} of {row.n:.0f}" for row in rows)
    out.print(f"fed to the route {route}: {told}", style=ASIDE)
    return [msgspec.to_builtins(row) for row in rows]


def learned_from(
    run: "Run",
    results: "list[Result]",
    snapshot: Snapshot,
    store: str | None,
    config: Path,
    out: Console,
) -> None:
    """Keeps in the store what quality is learned from, as far as the run's route keeps prompts."""
    from gateway.classify.encoder import EncoderError
    from gateway.evals.lessons import keep_run
    from gateway.learn.kinds import kind_for
    from gateway.store.evaluated import EvalBook
    from gateway.store.store import Store, StoreError

    route = snapshot.routes.get(run.route or "")
    if route is None or route.keep == "none":
        return
    try:
        found = Store.open(store or snapshot.server.store)
        try:
            news = keep_run(EvalBook(found), run, results, route.keep, kind_for(snapshot))
        finally:
            found.close()
    except (StoreError, EncoderError) as error:
        out.print(
            f"other hosts cannot learn from it: {error}; `switchboard eval feed` tries again",
            style="yellow",
            markup=False,
        )
        return
    if news:
        what = "texts" if route.keep == "text" else "features"
        out.print(f"kept in the store for training, with its prompts' {what}", style=ASIDE)


def summed(results: "Iterable[Result]") -> list[dict[str, Any]]:
    """Each target's answers as a row; seconds are medians, `n` the answers that were scored."""
    from statistics import median

    rows: dict[str, list[Result]] = {}
    for each in results:
        rows.setdefault(each.target, []).append(each)
    found = []
    for target, answers in rows.items():
        scored = [each for each in answers if each.right is not None]
        first = [each.first_token_s for each in answers if each.first_token_s is not None]
        whole = [each.total_s for each in answers if each.total_s is not None]
        found.append(
            {
                "target": target,
                "n": len(scored),
                "right": sum(bool(each.right) for each in scored),
                "answers": len(answers),
                "errors": sum(each.error is not None for each in answers),
                "cost_usd": sum(each.cost_usd for each in answers),
                "judge_usd": sum(each.judge_usd for each in answers),
                "first_token_s": median(first) if first else None,
                "total_s": median(whole) if whole else None,
            }
        )
    return found
