"""Adapters' files fetched ahead of time, with a progress bar for each."""

import asyncio
from collections.abc import Collection

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gateway.adapters.registry import Key, Registry, Standing, name_of
from gateway.types.backends import Adapter
from gateway.types.snapshot import Snapshot


def fetched(snapshot: Snapshot, targets: Collection[str], out: Console) -> dict[str, Standing]:
    """Every version of some adapters, by its name: its files on the shelf, or what is wrong.

    `out` shows how far each has come, where it is a terminal.
    """
    wanted = _with_parts(snapshot, targets)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=out,
        disable=not out.is_terminal,
    )
    tasks: dict[Key, TaskID] = {}

    def progress(key: Key, done: int, total: int | None) -> None:
        if key not in tasks:
            tasks[key] = bars.add_task(name_of(key), total=total)
        bars.update(tasks[key], completed=done, total=total)

    async def run() -> dict[Key, Standing]:
        registry = Registry(lambda: None, progress)
        registry.settle(snapshot.backends, wanted)
        await registry.settled()
        return registry.standings()

    with bars:
        found = asyncio.run(run())
    return {name_of(key): each for key, each in found.items() if key[0] in targets}


def _with_parts(snapshot: Snapshot, targets: Collection[str]) -> list[Adapter]:
    """The adapters, and those that they are mixed from."""
    known = {adapter.target: adapter for adapter in snapshot.adapters}
    found: dict[str, Adapter] = {}
    waiting = list(targets)
    while waiting:
        target = waiting.pop()
        if target in found:
            continue
        found[target] = known[target]
        base = target.partition("+")[0]
        for version in known[target].versions:
            waiting += [f"{base}+{part.partition('@')[0]}" for part in version.mix]
    return [adapter for adapter in snapshot.adapters if adapter.target in found]
