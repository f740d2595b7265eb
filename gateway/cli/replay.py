"""`switchboard replay`: what another policy would have brought for logged requests."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.cli.opening import (
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    SinceOption,
    StoreOption,
    console,
    fail,
    instant,
    missing,
    opened,
    tell_problems,
)
from gateway.errors import ConfigError, unread
from gateway.policy.words import dollars, number

if TYPE_CHECKING:
    from gateway.revisions.replay import Figure, Replay, RouteReplay, Support
    from gateway.store.revisions import Revision
    from gateway.store.store import Store
    from gateway.types.snapshot import Snapshot


def register(app: typer.Typer) -> None:
    """Adds `replay`."""

    @app.command()
    def replay(
        policy: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="A policy's file. One of a name that runs takes its place on its routes; one "
                "of a new name is tried on --route, or on every route.",
            ),
        ] = None,
        files: Annotated[
            Path | None,
            typer.Option(metavar="DIR", help="A whole configuration's directory instead."),
        ] = None,
        since: SinceOption = "7d",
        route: Annotated[str | None, typer.Option(metavar="NAME", help="Only this route.")] = None,
        as_json: JsonOption = False,
        environment: EnvironmentOption = None,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Say what another policy would have brought for the requests that were logged.

        Each is decided again from the estimates that were logged with it. The change in cost, time
        and share right, with 95 % intervals, comes from what was explored: `explore` in a policy.
        """
        from gateway.classify.encoder import EncoderError

        if (policy is None) == (files is None):
            raise typer.BadParameter("name one of --policy FILE and --files DIR")
        now = time.time()
        begin = instant(since, now)
        with opened(store, config) as found:
            try:
                told, what = _replayed(
                    found, policy, files, begin, now, route, config, environment, quiet=as_json
                )
            except EncoderError as error:
                fail(str(error))
        if as_json:
            print(msgspec.json.encode(told).decode())
        else:
            _print(console(), told, what)


def _replayed(
    store: "Store",
    policy: Path | None,
    files: Path | None,
    begin: float,
    now: float,
    route: str | None,
    config: Path,
    environment: str | None,
    *,
    quiet: bool,
) -> "tuple[Replay, str]":
    from gateway.config.load import load_texts
    from gateway.learn.kinds import kind_for
    from gateway.learn.versions import Current, current
    from gateway.qualities import with_qualities
    from gateway.revisions.reading import Reading
    from gateway.revisions.replay import replay
    from gateway.revisions.tried import Served, reachable
    from gateway.store.evidence import EvidenceBook
    from gateway.store.feedback import FeedbackBook
    from gateway.store.learned import LearnedBook
    from gateway.store.replay import ReplayLog
    from gateway.store.revisions import Revisions

    revisions = Revisions(store)
    latest = revisions.latest()
    if latest is None:
        fail("no revision runs yet: `switchboard serve` or `switchboard apply` makes the first one")
    try:
        running = load_texts(latest.files, config, os.environ, latest.environment).snapshot
        if route is not None and route not in running.routes:
            missing("route", route, running.routes)
        new, what, routes = _other(policy, files, running, latest, route, config, environment)
    except ConfigError as error:
        tell_problems(error.problems, as_json=quiet)
    if not routes:
        fail(f"no route has {what}; name one with --route")
    log = ReplayLog(store)
    known = {running.hash: running, latest.hash: running}
    served = Served(revisions, config, os.environ, known)
    if any(each.learned for each in (*running.policies.values(), *new.policies.values())):
        new = with_qualities(new, FeedbackBook(store), EvidenceBook(store), now)
    kind, learned = None, Current()
    if any(each.learned for each in new.policies.values()):
        kind = kind_for(new)
        learned = current(LearnedBook(store), new, {}, kind)
        for name, why in learned.unfit.items():
            said = f"{name} is decided again by its own figures: {why}"
            Console(stderr=True, soft_wrap=True, highlight=False).print(said, style="yellow")
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )
    with bars:
        task = bars.add_task("deciding again", total=log.count(begin, now, routes))
        told = replay(
            log,
            reachable(new),
            reachable(running),
            served.under,
            begin,
            now,
            routes=routes,
            recognise=Reading(new, config / ".switchboard"),
            learned=learned.scorers,
            kind=kind,
            progress=lambda read: bars.update(task, completed=read),
        )
    return told, what


def _other(
    policy: Path | None,
    files: Path | None,
    running: "Snapshot",
    latest: "Revision",
    route: str | None,
    config: Path,
    environment: str | None,
) -> "tuple[Snapshot, str, tuple[str, ...]]":
    """What is tried, what it is called, and on which routes."""
    from gateway.config.load import load
    from gateway.revisions.tried import with_policy

    if policy is not None:
        try:
            text = policy.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            fail(f"{policy}: {unread(error)}")
        try:
            new, name, tried = with_policy(
                running,
                latest.files,
                (policy.name, text),
                config,
                os.environ,
                latest.environment,
                route,
            )
        except ConfigError as error:
            # It is read as one of the running files, and found where it is.
            own = f"policies/{policy.name}"
            raise ConfigError(
                [
                    msgspec.structs.replace(each, file=str(policy)) if each.file == own else each
                    for each in error.problems
                ]
            ) from error
        return new, f"the policy {name}", tried
    assert files is not None
    new = load(files, os.environ, environment).snapshot
    return new, f"the files in {files}", tuple(running.routes) if route is None else (route,)


# ---------------------------------------------------------------- what is said


def _print(out: Console, told: "Replay", what: str) -> None:
    days = (told.until - told.since) / 86_400
    if not told.logged:
        out.print("There was no request in that time.")
        return
    lacking = told.logged - told.requests
    span = f"{days:.3g} days" if days >= 1 else f"{24 * days:.3g} hours"
    out.print(
        f"[bold]{told.logged:,}[/bold] requests of {span} under {escape(what)}: "
        + (f"{lacking:,} cannot be replayed" if lacking else "all replayed")
    )
    for left in told.left_out:
        mend = f" Mend: {left.mend}." if left.mend else ""
        out.print(f"  [yellow]{left.requests:,}[/yellow] {escape(left.why)}.{escape(mend)}")
    if not told.requests:
        return
    for line in sentences(told):
        out.print(escape(line))
    if len(told.routes) > 1:
        out.print(_table(told))
    for each in told.routes:
        for line in doubts(each):
            out.print(f"[yellow]{escape(line)}[/yellow]")
    for target, count in told.declared.items():
        out.print(
            f"[yellow]{escape(target)}[/yellow] was never asked about in {count:,} of them: "
            "it is taken as it is declared."
        )


def sentences(told: "Replay") -> Iterator[str]:
    """The change in words."""
    figures = told.figures
    share = f"{100 * told.elsewhere:.3g} % would go elsewhere"
    refused = f", {100 * told.refused:.3g} % would be refused" if told.refused else ""
    yield f"{share}{refused}."
    cost = figures["cost"]
    base = cost.logged
    yield (
        f"It would cost {_percent(cost, base)}: "
        f"{dollars((base + cost.change) * told.requests, 3)} instead of "
        f"{dollars(base * told.requests, 3)}."
    )
    yield f"Right {points(figures['right'])}."
    yield (
        f"First token {_seconds(figures['first_token'])}; whole answer "
        f"{_seconds(figures['whole'])}."
    )
    net = figures["net"]
    better = "more" if net.change >= 0 else "less"
    ends = _ends(net, 1.0, lambda value: dollars(value, 3))
    yield f"Worth {dollars(abs(net.change), 3)} {better} a request{ends}{_whose(net)}."


def points(figure: "Figure") -> str:
    """A change of the share right, in points."""
    change = 100 * figure.change
    side = "more" if change >= 0 else "fewer"
    ends = _ends(figure, 100.0, lambda value: f"{value:+.1f}")
    if figure.measured:
        ends = ends.replace("95 %: ", "") + f", known of {figure.known:,}"
    return f"{abs(change):.1f} points {side}{ends}{_whose(figure)}"


def _percent(figure: "Figure", base: float) -> str:
    if not base:
        return f"{dollars(figure.change, 3)} more a request"
    change = 100 * figure.change / base
    side, sign = ("more", 1.0) if change >= 0 else ("less", -1.0)
    ends = _ends(figure, sign * 100.0 / base, lambda value: f"{value:.3g}")
    return f"{abs(change):.3g} % {side}{ends}{_whose(figure)}"


def _seconds(figure: "Figure") -> str:
    side, sign = ("later", 1.0) if figure.change >= 0 else ("sooner", -1.0)
    ends = _ends(figure, sign, lambda value: number(value, 3))
    return f"{number(abs(figure.change), 3)} s {side}{ends}{_whose(figure)}"


def _ends(figure: "Figure", scale: float, told: Callable[[float], str]) -> str:
    if figure.low is None or figure.high is None:
        return ""
    low, high = sorted((figure.low * scale, figure.high * scale))
    return f" (95 %: {told(low)} to {told(high)})".replace("-", "−")


def _whose(figure: "Figure") -> str:
    return "" if figure.measured else ", as the decisions expected it, not measured"


def _table(told: "Replay") -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("route", "policy"):
        table.add_column(name)
    for name in ("requests", "elsewhere", "cost", "right", "first token", "whole"):
        table.add_column(name, justify="right")
    for each in told.routes:
        cost = each.figures["cost"]
        mark = "" if each.figures["right"].measured else "?"
        table.add_row(
            each.route,
            each.policy,
            f"{each.requests:,}",
            f"{100 * each.elsewhere:.3g} %",
            f"{100 * cost.change / cost.logged:+.3g} %" if cost.logged else "–",
            f"{100 * each.figures['right'].change:+.2g} pt{mark}",
            f"{each.figures['first_token'].change:+.2g} s",
            f"{each.figures['whole'].change:+.2g} s",
        )
    return table


def doubts(each: "RouteReplay") -> Iterator[str]:
    """Where the log knows too little, and what it would take."""
    support = each.support
    lacking = [move for move in each.targets if move.unsupported > 0.001]
    if lacking:
        names = ", ".join(f"{move.target} ({100 * move.unsupported:.3g} %)" for move in lacking)
        yield (
            f"{each.route}: of what it would choose, {100 * support.unsupported:.3g} % was never "
            f"chosen there, so nothing is known of it: {names}. {_need(support)}"
        )
        return
    # What nobody has said is not measured either, but not for being too few; `net` is of all these.
    known = [each.figures[what] for what in ("right", "cost", "first_token", "whole")]
    if not all(figure.measured for figure in known if figure.known):
        yield (
            f"{each.route}: too few requests to measure it by: all of it weighs as much as "
            f"{support.effective:,.0f}. {_need(support)}"
        )
        return
    right = each.figures["right"]
    if right.low is not None and right.high is not None and right.high - right.low > 0.02:
        yield (
            f"{each.route}: all of it weighs as much as {support.effective:,.0f} requests. "
            f"{_need(support)}"
        )
    if support.cut:
        yield (
            f"{each.route}: {support.cut:,} requests weighed more than {support.cap:,.0f} and "
            "count as that: exploring was so rare there that the estimate leans on the model."
        )


def _need(support: "Support") -> str:
    ways = []
    if support.requests is not None:
        ways.append(f"about {_round(support.requests):,} requests logged like these")
    if support.explore is not None:
        ways.append(f"`explore: {max(100 * support.explore, 0.1):.2g} %` for as many as these")
    if not ways:
        return "To know it within 1 point takes more requests than these, whatever is explored."
    return f"To know the share right within 1 point takes {', or '.join(ways)}."


def _round(count: int) -> int:
    """To two digits, upwards: more is not known of it."""
    step = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // step) * step
