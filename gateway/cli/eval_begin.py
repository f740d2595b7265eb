"""`switchboard eval init`: a suite from what was asked, and was right."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
import yaml
from rich.console import Console

from gateway.cli.eval_gateway import chats
from gateway.cli.opening import (
    MOST,
    AllTenantsOption,
    ConfigOption,
    JsonOption,
    SinceOption,
    StoreOption,
    TenantOption,
    fail,
    instant,
    missing,
    opened,
    snapshot_of,
)
from gateway.cli.records import ASIDE
from gateway.types.routes import Metric, Route
from gateway.types.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.evals.beginning import Beginning

RUBRIC = "Right, whole and to the point."


def register(evals: typer.Typer) -> None:
    """Adds it to `eval`."""

    @evals.command("init")
    def init(
        route: Annotated[
            str, typer.Option("--from-log", metavar="ROUTE", help="The route whose chats they are.")
        ],
        out: Annotated[
            Path, typer.Option(metavar="DIR", help="Where the suite and its cases go.")
        ] = Path("evals"),
        name: Annotated[
            str | None, typer.Option(metavar="NAME", help="The suite's; ROUTE-log if left out.")
        ] = None,
        cases: Annotated[
            int, typer.Option(min=1, max=MOST, metavar="N", help="At most so many.")
        ] = 200,
        seed: Annotated[int, typer.Option(metavar="N", help="Of the choice among more.")] = 0,
        since: SinceOption = "7d",
        tenant: TenantOption = None,
        all_tenants: AllTenantsOption = False,
        judge: Annotated[
            str | None,
            typer.Option(
                metavar="TARGET",
                help="A model marks answers; then chats of which nobody said anything are cases.",
            ),
        ] = None,
        rubric: Annotated[
            str, typer.Option(metavar="TEXT", help="What a good answer is, for --judge.")
        ] = RUBRIC,
        store: StoreOption = None,
        config: ConfigOption = Path(),
        as_json: JsonOption = False,
    ) -> None:
        """Make a suite of chats that a route kept, and whose right answer somebody has told.

        With --judge a model marks the answers, and chats count whose right answer nobody told.
        """
        from gateway.evals.beginning import beginning
        from gateway.store.feedback import FeedbackBook

        snapshot = snapshot_of(config)
        declared, metric = _from(route, judge, snapshot)
        suite = name or f"{route}-log"
        files = out / f"{suite}.yaml", out / f"{suite}.jsonl"
        for path in files:
            if path.exists():
                fail(f"{path} is there already; name another suite with --name")
        with opened(store, config) as found:
            kept = FeedbackBook(found).spoken_of(
                route,
                metric,
                instant(since, time.time()),
                tenant,
                all_tenants=all_tenants,
                silent=judge is not None,
            )
        made = beginning(kept, cases, seed, judged=judge is not None)
        if not made.cases:
            fail(_nothing(route, since, len(kept), made.left_out, judged=judge is not None))
        head = _head(suite, files[1].name, made, declared, snapshot)
        if judge is None:
            head["score"] = "normalised"
        else:
            marks = {"kind": "judge", "target": judge, "rubric": rubric, "right_when": ">= 0.75"}
            head["scorers"] = {"judged": _plain(marks)}
        text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100)
        out.mkdir(parents=True, exist_ok=True)
        _private(files[0], text)
        _private(files[1], "".join(msgspec.json.encode(c).decode() + "\n" for c in made.cases))
        _tell(files, made, as_json=as_json, judged=judge is not None)


def _from(route: str, judge: str | None, snapshot: Snapshot) -> tuple[Route, Metric]:
    """The route, and the metric that says which answers are right; one that never does where a
    model is to judge. What is wrong with them in red, with exit code 1."""
    declared = snapshot.routes.get(route)
    if declared is None:
        missing("route", route, snapshot.routes)
    metric = declared.metric(declared.right)
    if metric is None and judge is None:
        fail(
            f"nothing says which answers of '{route}' are right: write `metrics` and `right`"
            " in the route and send feedback, or let a model mark them with --judge TARGET"
        )
    if judge is not None:
        _may_judge(judge, declared, snapshot)
    if declared.keep != "text":
        fail(f"the route '{route}' keeps no text: write `keep: text`, and wait for traffic")
    return declared, metric or Metric("", "boolean")


def _head(
    suite: str, data: str, made: "Beginning", route: Route, snapshot: Snapshot
) -> dict[str, Any]:
    """The suite's file but for its scorer."""
    from gateway.evals.beginning import room

    head: dict[str, Any] = {"name": suite, "route": route.name, "data": data}
    head["max_tokens"] = room(made.cases, _context(route, snapshot))
    if made.system is not None:
        head |= _plain({"system": made.system})
    return head


def _plain(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts that mean themselves in a file where `${X}` is a variable of the environment: who wrote
    a prompt must not be told what is in ours."""
    return {name: text.replace("${", "$${") for name, text in texts.items()}


def _tell(files: tuple[Path, Path], made: "Beginning", *, as_json: bool, judged: bool) -> None:
    if as_json:
        told = {
            "suite": str(files[0]),
            "data": str(files[1]),
            "cases": len(made.cases),
            "left_out": made.left_out,
        }
        print(msgspec.json.encode(told).decode())
        return
    notes = Console(stderr=True, soft_wrap=True, highlight=False)
    notes.print(f"{files[0]}: {len(made.cases)} cases", style="bold", markup=False)
    if made.left_out:
        notes.print(f"left out: {_said(made.left_out)}", style=ASIDE, markup=False)
    scorer = "" if judged else ", and choose a scorer that fits longer answers"
    notes.print(
        f"They hold what users wrote: look at them before they go anywhere{scorer}.",
        style="yellow",
    )
    notes.print(f"Ask it: switchboard eval run {files[0]}", style=ASIDE, markup=False)


def _may_judge(judge: str, route: Route, snapshot: Snapshot) -> None:
    target = snapshot.targets.get(judge)
    if target is None:
        fail(f"there is no target `{judge}`; there are: {', '.join(sorted(snapshot.targets))}")
    if route.internal and not target.internal:
        fail(f"`{judge}` is not self-hosted, and the data of '{route.name}' is internal")


def _context(route: Route, snapshot: Snapshot) -> int | None:
    """The tokens that the smallest of a route's candidates takes."""
    declared = [
        snapshot.targets[each.target].capabilities.context
        for each in route.candidates
        if each.target in snapshot.targets and chats(each.target, snapshot)
    ]
    return min((each for each in declared if each is not None), default=None)


def _nothing(
    route: str, since: str, chats: int, left_out: Mapping[str, int], *, judged: bool
) -> str:
    if chats:
        return f"none of {chats} kept chats makes a case: {_said(left_out)}"
    if judged:
        return f"no chat of '{route}' was kept since {since}"
    return (
        f"of no chat of '{route}' that was kept since {since} anybody said that it is right: send"
        " feedback, or let a model mark answers with --judge TARGET"
    )


def _said(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in left_out.items())


def _private(path: Path, text: str) -> None:
    """Readable by its owner alone."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
