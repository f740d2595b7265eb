"""`switchboard experiment`: how long one would take, how those that run stand, stopping one."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer
from rich.markup import escape

from gateway.cli.admin import GatewayOption, KeyOption, ask
from gateway.cli.opening import (
    ConfigOption,
    JsonOption,
    StoreOption,
    console,
    fail,
    instant,
    local,
    opened,
    share_of,
    snapshot_of,
)
from gateway.cli.records import ASIDE, Cell, Lines
from gateway.config.words import did_you_mean
from gateway.policy.words import dollars

if TYPE_CHECKING:
    from gateway.experiments.findings import Findings
    from gateway.experiments.planning import Plan
    from gateway.store.store import Store
    from gateway.types.experiments import Experiment
    from gateway.types.routes import Route
    from gateway.types.snapshot import Snapshot

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The experiment's name.")]

STATES = {"running": "green", "promoted": "bold green", "answered": "cyan", "stopped": "yellow"}
LIST_HEAD = ("experiment", "route", "state", "units", "outcomes", "cost", "said")
ARMS_HEAD = (
    "arm", "target", "share %", "requests", "units", "outcomes", "mean %", "$ a request",
    "failed %", "first p50 s", "first p95 s",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds `experiment plan`, `list`, `show`, `report` and `stop`."""
    group = typer.Typer(help="Arms of a route compared on live traffic.", no_args_is_help=True)
    app.add_typer(group, name="experiment")
    _register_reading(group)

    @group.command()
    def stop(
        name: NameArgument,
        why: Annotated[str, typer.Option(metavar="TEXT", help="Shown beside it.")] = "",
        as_json: JsonOption = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """End an experiment now: its traffic is decided on as any other."""
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        found = ask("POST", f"experiments/stop/{name}", {"why": why}, **where)
        if as_json:
            print(msgspec.json.encode(found).decode())
        else:
            console().print(f"[yellow]{escape(name)} is stopped[/yellow]")

    @group.command()
    def plan(
        name: NameArgument,
        since: Annotated[
            str, typer.Option(metavar="TIME", help="The log that traffic and rates are read from.")
        ] = "14d",
        rate: Annotated[
            str | None,
            typer.Option(
                metavar="SHARE", help="The metric's rate, as 90% or 0.9, if it is not logged."
            ),
        ] = None,
        effect: Annotated[
            float | None,
            typer.Option(
                metavar="POINTS",
                help="By how many points the arm is expected to be better, 5 from 90 to 95 %: 0 if"
                " not given, or 5 beyond the margin of `better_than`.",
            ),
        ] = None,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Say how many days an experiment of the files would take, before it is applied."""
        snapshot = snapshot_of(config)
        route, experiment = _declared(snapshot, name)
        with opened(store, config) as found:
            begin, expected = instant(since, time.time()), None
            if rate is not None:
                expected = share_of(rate, none=True)
            made = _plan(found, route, experiment, begin, expected, effect)
        if as_json:
            print(msgspec.json.encode(made).decode())
        else:
            _print_plan(experiment, made)


def _register_reading(group: typer.Typer) -> None:
    @group.command("list")
    def list_(
        as_json: JsonOption = False, store: StoreOption = None, config: ConfigOption = Path()
    ) -> None:
        """Show every experiment of the files, and how it stands."""
        from gateway.experiments.watching import running

        snapshot = snapshot_of(config)
        with opened(store, config) as store_:
            all_ = [_found(store_, snapshot, *each, looks=1) for each in running(snapshot)]
        if as_json:
            print(msgspec.json.encode(all_).decode())
        elif not all_:
            console().print("no route has an experiment", style=ASIDE)
        else:
            Lines(console(), LIST_HEAD).print([_row(each) for each in all_])

    @group.command()
    def show(
        name: NameArgument,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Show an experiment's arms, guards, and what may be said by now."""
        snapshot = snapshot_of(config)
        with opened(store, config) as found:
            seen = _found(found, snapshot, *_declared(snapshot, name), looks=1)
        if as_json:
            print(msgspec.json.encode(seen).decode())
        else:
            _print(seen)

    @group.command()
    def report(
        name: NameArgument,
        html: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Write it as a page that needs nothing else."),
        ] = None,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Say all of it: the difference with its interval over time, guards, cost, what is saved.

        The interval may be read at any time: it holds at every moment at once.
        """
        from gateway.experiments.answers import null_of
        from gateway.experiments.page import page

        snapshot = snapshot_of(config)
        route, experiment = _declared(snapshot, name)
        with opened(store, config) as found:
            seen = _found(found, snapshot, route, experiment)
        if html is not None:
            html.write_text(page(seen, null_of(experiment)), "utf-8")
        if as_json:
            print(msgspec.json.encode(seen).decode())
        elif html is not None:
            console().print(f"[green]wrote {escape(str(html))}[/green]: {escape(seen.said)}")
        else:
            _print(seen)


def _declared(snapshot: "Snapshot", name: str) -> "tuple[Route, Experiment]":
    from gateway.experiments.watching import running

    known = {experiment.name: (route, experiment) for route, experiment in running(snapshot)}
    return known[name] if name in known else _missing(name, list(known))


def _missing(name: str, known: list[str]) -> NoReturn:
    hint = did_you_mean(name, known, "no route's file has one" if not known else "")
    fail(f"there is no experiment '{name}'; {hint}")


def _found(
    store: "Store",
    snapshot: "Snapshot",
    route: "Route",
    experiment: "Experiment",
    looks: int | None = None,
) -> "Findings":
    from gateway.experiments.assignment import declaration
    from gateway.experiments.findings import LOOKS, found
    from gateway.experiments.watching import gather, gathering
    from gateway.store.experiments import ExperimentBook

    book = ExperimentBook(store)
    standing = book.current().get(experiment.name)
    if standing is not None and standing.of != declaration(experiment):
        standing = None
    progress = gathering(experiment)
    if standing is not None:
        gather(progress, book, experiment, route, snapshot, standing.since)
    replicas = [url for target in experiment.arms.values() for url in _replicas(snapshot, target)]
    return found(
        experiment,
        route.name,
        progress,
        standing,
        time.time(),
        shared=len(set(replicas)) < len(replicas),
        looks=LOOKS if looks is None else looks,
    )


def _replicas(snapshot: "Snapshot", name: str) -> set[str]:
    """The replicas of our own at which a target, or a composition's steps, wait in line."""
    composition = snapshot.compositions.get(name)
    asked = (name,) if composition is None else composition.targets
    ours = (snapshot.targets[each] for each in asked if snapshot.targets[each].internal)
    return {url for each in ours for url in each.replicas}


def _plan(
    store: "Store",
    route: "Route",
    experiment: "Experiment",
    since: float,
    rate: float | None,
    effect: float | None,
) -> "Plan":
    from gateway.experiments.planning import planned
    from gateway.store.experiments import ExperimentBook

    logged = ExperimentBook(store).logged(experiment, route, since, time.time())
    try:
        return planned(experiment, logged, rate, effect)
    except ValueError as error:
        fail(str(error))


def _print_plan(experiment: "Experiment", plan: "Plan") -> None:
    out = console()
    out.print(f"[bold]{escape(plan.asked)}[/bold]")
    rates = f"if the rates are {100 * plan.treated:.1f} and {100 * plan.control:.1f} %"
    once = f"(a test read once, at its end, takes {plan.sizes.fixed:,})"
    if plan.sizes.most is None:
        out.print(f"{rates}, it takes more outcomes than could be tried {once}")
    else:
        out.print(
            f"{rates}, four of five such experiments are answered within {plan.sizes.most:,}"
            f" outcomes {once}"
        )
    if plan.days is None:
        out.print("[yellow]how many days that is cannot be told[/yellow]")
    else:
        days = f"{plan.days:,.1f} days" if plan.days >= 0.1 else "less than a tenth of a day"
        a_day = format(plan.a_day or 0.0, ",.0f" if plan.days < 1.0 else ",.1f")
        out.print(f"[bold green]{days}[/bold green], at {a_day} outcomes a day")
    for each in plan.notes:
        out.print(f"[yellow]{escape(each)}[/yellow]")


def _row(seen: "Findings") -> list[Cell]:
    return [
        Cell(seen.experiment, "bold"),
        Cell(seen.route),
        Cell(seen.state, STATES.get(seen.state, "")),
        Cell(f"{sum(each.units for each in seen.arms):,}", figure=True),
        Cell(f"{sum(each.scored for each in seen.arms):,}", figure=True),
        Cell(dollars(seen.cost), figure=True),
        Cell(seen.why or seen.said, ASIDE),
    ]


def _print(seen: "Findings") -> None:
    out = console()
    since = "" if seen.since is None else f", since {local(seen.since)}"
    style = STATES.get(seen.state, "bold")
    out.print(
        f"[bold]{escape(seen.experiment)}[/bold] of {seen.route}: "
        f"[{style}]{seen.state}[/{style}]{since}"
    )
    for line in (seen.why, seen.asked):
        if line and line != seen.said:
            out.print(escape(line), style=ASIDE)
    colour = {True: "bold green", False: "bold red", None: "bold"}[seen.answer]
    out.print(f"[{colour}]{escape(seen.said)}[/{colour}]\n")
    Lines(out, ARMS_HEAD).print([_arm(each) for each in seen.arms])
    if seen.course and seen.answer is not None and not seen.versus:
        now = seen.course[-1]
        points, low, high = (100 * value for value in (now.estimate, now.low, now.high))
        out.print(f"the difference is {points:+.1f} points, between {low:+.1f} and {high:+.1f}")
    for each in seen.versus:
        points, low, high = (100 * value for value in (each.estimate, each.low, each.high))
        out.print(
            f"{escape(each.arm)} less {escape(each.than)}: {points:+.1f} points, between"
            f" {low:+.1f} and {high:+.1f}"
        )
    for guard in seen.guards:
        state = "[red]breached[/red]" if guard.breached else "[green]kept[/green]"
        if guard.seen is None:
            state = "[yellow]nothing seen yet[/yellow]"
        times, unit = (100, "%") if guard.what == "errors" else (1, "s")
        value = "–" if guard.seen is None else f"{times * guard.seen:.3g} {unit}"
        limit = f"{times * guard.limit:.3g} {unit}"
        out.print(f"guard {guard.what} of {escape(guard.arm)}: {value}, limit {limit}: {state}")
    out.print(f"cost so far {dollars(seen.cost)}")
    if seen.saved_a_month is not None:
        what = "would be saved" if seen.saved_a_month >= 0 else "more would be spent"
        out.print(f"{dollars(abs(seen.saved_a_month))} a month {what} if all went to the arm")
    if seen.ratio_p is not None:
        out.print(f"units came in the declared shares: p = {seen.ratio_p:.3g}", style=ASIDE)
    for what, ratio in (("first token", seen.first_token_ratio), ("whole", seen.whole_ratio)):
        if ratio is not None:
            out.print(
                f"{what}: {ratio.mean:.2f} times as long ({ratio.low:.2f} to {ratio.high:.2f}), by"
                f" {ratio.slots} slots"
            )
    for warning in seen.warnings:
        out.print(f"[yellow]{escape(warning)}[/yellow]")


def _arm(each: Any) -> list[Cell]:
    def figure(value: float | None, form: str, times: float = 1.0) -> Cell:
        return Cell("–" if value is None else format(times * value, form), figure=True)

    return [
        Cell(each.arm, "bold"),
        Cell(each.target),
        figure(each.share, ".1f", 100),
        figure(each.requests, ",.0f"),
        figure(each.units, ",.0f"),
        figure(each.scored, ",.0f"),
        figure(each.mean, ".1f", 100),
        figure(each.per_request, ".3g"),
        figure(each.failed, ".2f", 100),
        figure(each.first_token.p50, ".3g"),
        figure(each.first_token.p95, ".3g"),
    ]
