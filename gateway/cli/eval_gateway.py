"""The gateway that offline commands ask: the running one, or one of their own."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.cli.admin import readiness
from gateway.cli.records import ASIDE
from gateway.errors import SwitchboardError
from gateway.types.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.classify.encoder import Encoder
    from gateway.evals.suites import Suite

TargetsKeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="SWITCHBOARD_KEY",
        metavar="KEY",
        help="A key that may name targets.",
        show_envvar=True,
    ),
]


def chats(name: str, snapshot: Snapshot) -> bool:
    """Whether a target can be asked a suite's questions; one that is not known here may."""
    target = snapshot.targets.get(name)
    return target is None or "chat/completions" in target.capabilities.endpoints


def headers_of(key: str | None, route: str | None) -> dict[str, str]:
    """Those of questions to targets: the key, and the route whose data they are, for the rules of
    the default route (what it keeps, its shadow, its limits) are not meant for them."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return headers if route is None else headers | {"x-switchboard-route": route}


def progress_bars(out: Console) -> Progress:
    """How far it is and what it has cost (the field `spent`), where a person looks."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[spent]}"),
        console=out,
        disable=not out.is_terminal,
    )


@contextlib.asynccontextmanager
async def answering(
    base: str, snapshot: Snapshot, config: Path, out: Console, *, named: bool
) -> AsyncIterator[str]:
    """The URL of the running gateway, or of one that is there for this run alone."""
    import tempfile

    if await asyncio.to_thread(readiness, base) is not None:
        yield base
        return
    if named:
        raise SwitchboardError(f"no gateway answers at {base}")
    from gateway.app import Gateway
    from gateway.serving import listening, litellm_python
    from gateway.store.store import Store

    out.print(f"no gateway answers at {base}: one is started for this run", style=ASIDE)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/switchboard.db")
        started = Gateway(
            snapshot,
            store,
            cache=config / ".switchboard",
            litellm_python=litellm_python(config, os.environ),
        )
        await started.start()
        try:
            async with listening(started, "127.0.0.1", 0, snapshot.server) as port:
                await started.adapters_present()
                yield f"http://127.0.0.1:{port}"
        finally:
            await started.stop()


def encoder_for(snapshot: Snapshot, suite: "Suite") -> "Encoder | None":
    """The sentence encoder, if a scorer of the suite needs one and it is declared."""
    if snapshot.server.encoder is None or all(
        each.part.kind != "similarity" for each in suite.scorers
    ):
        return None
    from gateway.classify.bert import BertEncoder

    return BertEncoder(Path(snapshot.server.encoder))
