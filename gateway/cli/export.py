"""`switchboard export`: good and corrected answers as a set to train the next adapter on."""

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from gateway.cli.opening import (
    AllTenantsOption,
    ConfigOption,
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
from gateway.types.snapshot import Snapshot


def register(app: typer.Typer) -> None:
    """Adds `export`."""

    @app.command()
    def export(
        route: Annotated[str, typer.Option(metavar="NAME", help="The route whose chats they are.")],
        out: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Instead of the standard output.")
        ] = None,
        format: Annotated[
            Literal["openai-jsonl"],
            typer.Option(metavar="FORMAT", help="OpenAI's chat format, a line each: openai-jsonl."),
        ] = "openai-jsonl",
        since: SinceOption = "30d",
        tenant: TenantOption = None,
        all_tenants: AllTenantsOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Write a fine-tuning set of answers that were said to be right, or were corrected.

        Answers of providers whose terms forbid it are left out: a backend says so by
        `outputs_may_train`.
        """
        from gateway.evals.tuning import of_chats
        from gateway.store.feedback import FeedbackBook

        snapshot = snapshot_of(config)
        declared = snapshot.routes.get(route)
        if declared is None:
            missing("route", route, snapshot.routes)
        metric = declared.metric(declared.right)
        if metric is None:
            fail(f"nothing makes an answer of '{route}' right: write `metrics` and `right`")
        if declared.keep != "text":
            fail(f"the route '{route}' keeps no text: write `keep: text`, and wait for traffic")
        with opened(store, config) as found:
            begin = instant(since, time.time())
            chats = FeedbackBook(found).spoken_of(
                route, metric, begin, tenant, all_tenants=all_tenants
            )
        made = of_chats(chats, lambda target: _may_train(snapshot, target))
        text = "".join(f"{line}\n" for line in made.lines)
        if out is None:
            print(text, end="")
        else:
            # What users wrote is nobody else's to read.
            with os.fdopen(os.open(out, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
                file.write(text)
        notes = Console(stderr=True, soft_wrap=True, highlight=False)
        notes.print(f"{len(made.lines)} chats, {made.corrected} of them corrected", style="bold")
        for why, count in made.left_out.items():
            notes.print(f"{count} {why}", style=ASIDE, markup=False)


def _may_train(snapshot: Snapshot, target: str) -> bool:
    composition = snapshot.compositions.get(target)
    if composition is not None:
        return all(_may_train(snapshot, each) for each in composition.targets)
    known = snapshot.targets.get(target.partition("@")[0])
    return known is not None and snapshot.backends[known.backend].may_train
