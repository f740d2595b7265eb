"""`switchboard eval init`: a suite from what was asked, and was right."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import yaml
from rich.console import Console

from gateway.cli.opening import (
    ConfigOption,
    StoreOption,
    fail,
    instant,
    opened,
    snapshot_of,
)
from gateway.cli.records import ASIDE


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
        cases: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 200,
        seed: Annotated[int, typer.Option(metavar="N", help="Of the choice among more.")] = 0,
        since: Annotated[
            str, typer.Option(metavar="TIME", help="From then on: 7d ago, or a local time.")
        ] = "7d",
        tenant: Annotated[
            str | None, typer.Option(metavar="NAME", help="This tenant's; else those of none.")
        ] = None,
        all_tenants: Annotated[
            bool, typer.Option("--all-tenants", help="Of all tenants together.")
        ] = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Make a suite of chats that a route kept and whose right answer somebody has told."""
        from gateway.evals.beginning import beginning
        from gateway.store.feedback import FeedbackBook

        snapshot = snapshot_of(config)
        declared = snapshot.routes.get(route)
        if declared is None:
            fail(f"there is no route '{route}'; there are: {', '.join(snapshot.routes)}")
        metric = declared.metric(declared.right)
        if metric is None:
            fail(f"nothing makes an answer of '{route}' right: write `metrics` and `right`")
        if declared.keep != "text":
            fail(f"the route '{route}' keeps no text: write `keep: text`, and wait for traffic")
        suite = name or f"{route}-log"
        files = out / f"{suite}.yaml", out / f"{suite}.jsonl"
        for path in files:
            if path.exists():
                fail(f"{path} is there already; name another suite with --name")
        with opened(store, config) as found:
            begin = instant(since, time.time())
            chats = FeedbackBook(found).spoken_of(
                route, metric, begin, tenant, all_tenants=all_tenants
            )
        made = beginning(chats, cases, seed)
        if not made.cases:
            fail(f"none of {len(chats)} kept chats makes a case: {_said(made.left_out) or 'none'}")
        head = {"name": suite, "route": route, "data": files[1].name, "max_tokens": 512}
        if made.system is not None:
            head["system"] = made.system
        head["score"] = "normalised"
        text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
        out.mkdir(parents=True, exist_ok=True)
        _private(files[0], text)
        _private(files[1], "".join(msgspec.json.encode(c).decode() + "\n" for c in made.cases))
        notes = Console(stderr=True, soft_wrap=True, highlight=False)
        notes.print(f"{files[0]}: {len(made.cases)} cases", style="bold", markup=False)
        if made.left_out:
            notes.print(f"left out: {_said(made.left_out)}", style=ASIDE, markup=False)
        notes.print(
            "They hold what users wrote: look at them before they go anywhere, and choose a scorer"
            " that fits longer answers.",
            style="yellow",
        )


def _said(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in left_out.items())


def _private(path: Path, text: str) -> None:
    """Readable by its owner alone."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
