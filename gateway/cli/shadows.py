"""`switchboard shadow report`: what a shadow answered, beside what was answered in truth."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from gateway.cli import shadow_judge
from gateway.cli.opening import (
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
)
from gateway.cli.records import Cell, Lines

if TYPE_CHECKING:
    from gateway.store.shadows import Pair

HEAD = ("", "requests", "failed", "$ a request", "first p50", "first p95", "whole p50", "whole p95")


class Side(msgspec.Struct, frozen=True):
    """What one side came to; dollars, and seconds of what was answered."""

    requests: int
    failed: int
    cost_usd: float
    first_token_p50_s: float | None
    first_token_p95_s: float | None
    total_p50_s: float | None
    total_p95_s: float | None


class Report(msgspec.Struct, frozen=True):
    """Both sides of the same requests; `same` of `compared` texts are word for word the same."""

    route: str
    answered: Side
    shadow: Side
    compared: int
    same: int


def register(app: typer.Typer) -> None:
    """Adds `shadow`."""
    group = typer.Typer(help="Copies of requests, answered for nobody.", no_args_is_help=True)
    app.add_typer(group, name="shadow")

    shadow_judge.register(group)

    @group.callback()
    def shadow() -> None:
        """Copies of requests, answered for nobody."""

    @group.command()
    def report(
        route: Annotated[str, typer.Argument(metavar="ROUTE", help="The route's name.")],
        since: SinceOption = "7d",
        pairs: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="Write both answers of each request as JSON lines, to be judged; texts only"
                " where the route keeps text.",
            ),
        ] = None,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Compare what was answered with what the shadow said, on the same requests."""
        from gateway.store.shadows import ShadowBook

        begin = instant(since, time.time())
        with opened(store, config) as found:
            all_ = list(ShadowBook(found).pairs(route, begin))
            known = known_routes(found, config)
        if not all_ and known and route not in known:
            missing("route", route, sorted(known))
        if pairs is not None:
            pairs.write_bytes(b"".join(msgspec.json.encode(pair) + b"\n" for pair in all_))
        made = reported(route, all_)
        if as_json:
            print(msgspec.json.encode(made).decode())
            return
        if not all_:
            console().print(f"no copies of requests of '{route}' since {local(begin)}")
            return
        Lines(console(), HEAD).print([_row("answered", made.answered), _row("shadow", made.shadow)])
        if made.compared:
            console().print(f"{made.same} of {made.compared} answers are the same word for word")
        else:
            console().print("no texts are kept: `keep: text` in the route keeps them")


def reported(route: str, pairs: "Iterable[Pair]") -> Report:
    """Both sides of the pairs."""
    from gateway.evals.shadowed import said

    all_ = list(pairs)
    kept = [
        (a, b)
        for pair in all_
        if (a := said(pair.answer)) is not None and (b := said(pair.shadow_answer)) is not None
    ]
    good = [pair for pair in all_ if pair.shadow_outcome == "ok"]
    return Report(
        route,
        _side(
            len(all_), 0, [p.cost for p in all_],
            [p.first_token_s for p in all_], [p.total_s for p in all_],
        ),
        _side(
            len(all_), len(all_) - len(good), [p.shadow_cost for p in all_],
            [p.shadow_first_token_s for p in good], [p.shadow_total_s for p in good],
        ),
        compared=len(kept),
        same=sum(a == b for a, b in kept),
    )  # fmt: skip


def _side(
    requests: int, failed: int, costs: list[float], first: list[float | None], whole: list[float]
) -> Side:
    known = [each for each in first if each is not None]
    return Side(
        requests,
        failed,
        sum(costs),
        _quantile(known, 0.5),
        _quantile(known, 0.95),
        _quantile(whole, 0.5),
        _quantile(whole, 0.95),
    )


def _quantile(values: list[float], share: float) -> float | None:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


def _row(name: str, side: Side) -> list[Cell]:
    def figure(value: float | None) -> Cell:
        return Cell("–" if value is None else f"{value:.3g}", figure=True)

    return [
        Cell(name, "bold"),
        Cell(f"{side.requests:,}", figure=True),
        Cell(f"{side.failed:,}", figure=True),
        figure(side.cost_usd / side.requests if side.requests else None),
        figure(side.first_token_p50_s),
        figure(side.first_token_p95_s),
        figure(side.total_p50_s),
        figure(side.total_p95_s),
    ]
