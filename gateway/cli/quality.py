"""`switchboard quality`: how often each target is right on each route, as far as it is known."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from gateway.cli.opening import ConfigOption, JsonOption, StoreOption, missing, opened, snapshot_of
from gateway.cli.records import ASIDE, Cell, Lines
from gateway.types.routes import Route

if TYPE_CHECKING:
    from gateway.store.evidence import Evidence
    from gateway.store.feedback import FeedbackBook

HEAD = ("route", "target", "declared", "tried", "heard", "right", "95 % between", "others")


def register(app: typer.Typer) -> None:
    """Adds `quality`."""

    @app.command()
    def quality(
        route: Annotated[
            str | None, typer.Option(metavar="NAME", help="Only of this route.")
        ] = None,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Show how often each target is right: declared, tried in evals, and by feedback.

        `right` is what decisions go by: all of it together, what is older counting less.
        """
        from gateway.store.evidence import EvidenceBook
        from gateway.store.feedback import FeedbackBook

        routes = snapshot_of(config).routes
        if route is not None and route not in routes:
            missing("route", route, routes)
        chosen = [each for name, each in routes.items() if route in (None, name)]
        with opened(store, config) as found:
            said, evidence = FeedbackBook(found), EvidenceBook(found).read()
            rows = [row for each in chosen for row in rows_of(each, said, evidence, time.time())]
        if as_json:
            print(msgspec.json.encode({"rows": rows}).decode())
            return
        out = Console(soft_wrap=True, highlight=False)
        Lines(out, HEAD).print([_cells(row) for row in rows])
        silent = [each.name for each in chosen if each.right is None]
        if silent:
            out.print(
                f"only declared, as nothing makes an answer right: {', '.join(silent)}"
                " (`metrics` and `right` of the route)",
                style=ASIDE,
            )


def rows_of(
    route: Route, said: "FeedbackBook", evidence: "list[Evidence]", now: float
) -> Iterable[dict[str, Any]]:
    """A row for each target that is a candidate or of which something is known."""
    from gateway.policy.quality import posterior
    from gateway.qualities import HALF_LIVES, declared_of, qualities_of

    known = qualities_of(route, said, evidence, now)
    heard: dict[str, dict[str, list[float]]] = {}
    for metric in route.metrics:
        for each in said.tallies(route.name, metric, now, HALF_LIVES * route.half_life_s):
            sums = heard.setdefault(each.target, {}).setdefault(metric.name, [0.0, 0.0])
            sums[0] += each.n
            sums[1] += each.total
    tried: dict[str, float] = {}
    for shown in evidence:
        if (shown.route, shown.metric) == (route.name, route.right):
            tried[shown.target] = tried.get(shown.target, 0.0) + shown.n
    targets = dict.fromkeys([each.target for each in route.candidates])
    for target in [*targets, *(name for _, name in known if name not in targets)]:
        declared, worth = declared_of(route, target)
        found = known.get((route.name, target)) or posterior(declared, worth, [], route.half_life_s)
        metrics = heard.get(target, {})
        yield {
            "route": route.name,
            "target": target,
            "right": route.right,
            "declared": declared if worth else None,
            "declared_n": worth,
            "tried": tried.get(target, 0.0),
            "heard": metrics.get(route.right or "", [0.0])[0],
            "quality": msgspec.structs.asdict(found),
            "metrics": {
                name: {"n": n, "mean": total / n} for name, (n, total) in metrics.items() if n
            },
        }


def _cells(row: dict[str, Any]) -> list[Cell]:
    quality = row["quality"]
    others = ", ".join(
        f"{name} {each['mean']:.2f} of {each['n']:.0f}"
        for name, each in row["metrics"].items()
        if name != row["right"]
    )
    declared = row["declared"]
    return [
        Cell(row["route"]),
        Cell(row["target"]),
        Cell("–" if declared is None else f"{declared:.2f}", ASIDE, figure=True),
        Cell(f"{row['tried']:.0f}", figure=True),
        Cell(f"{row['heard']:.0f}", figure=True),
        Cell(f"{quality['mean']:.3f}", "bold", figure=True),
        Cell(f"{quality['low']:.3f} and {quality['high']:.3f}", figure=True),
        Cell(others or "–", ASIDE),
    ]
