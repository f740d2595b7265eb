"""`switchboard adapters fetch`, `mix` and `check`: adapters' files, without a running gateway."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.opening import ConfigOption, JsonOption, console, fail, snapshot_of
from gateway.cli.records import ASIDE, Cell, Lines

if TYPE_CHECKING:
    from gateway.adapters.registry import Standing
    from gateway.cli.mixing import Tried
    from gateway.types.backends import Adapter
    from gateway.types.snapshot import Snapshot


def register(group: typer.Typer) -> None:
    """Adds them to `adapters`."""
    _checking(group)
    _fetching(group)
    _mixing(group)


def _fetching(group: typer.Typer) -> None:
    @group.command()
    def fetch(
        names: Annotated[
            list[str] | None,
            typer.Argument(metavar="NAME", help="Of these adapters alone, as local/qwen+support."),
        ] = None,
        as_json: JsonOption = False,
        config: ConfigOption = Path(),
    ) -> None:
        """Fetch, mix and check every version that the files declare, before a gateway needs it.

        Needs no running gateway: what is kept here already is not fetched again. Ends with 1 where
        a version cannot be used.
        """
        from gateway.cli.fetching import fetched

        snapshot = snapshot_of(config)
        known = [adapter.target for adapter in snapshot.adapters]
        for name in names or ():
            if name not in known:
                fail(f"there is no adapter {name}; declared are {', '.join(known) or 'none'}")
        standings = fetched(snapshot, names or known, Console(stderr=True))
        if as_json:
            print(msgspec.json.encode(standings).decode())
        elif not standings:
            console().print("no adapters are declared")
        else:
            rows = [_fetched(name, standing) for name, standing in standings.items()]
            Lines(console(), ("version", "MB", "rank", "sha256", "")).print(rows)
        if any(standing.failed for standing in standings.values()):
            raise typer.Exit(1)


def _mixing(group: typer.Typer) -> None:
    @group.command("mix")
    def mix_grid(
        name: Annotated[
            str, typer.Argument(metavar="NAME", help="A declared mix, as local/qwen+both or both.")
        ],
        suites: Annotated[
            list[Path],
            typer.Option("--suite", metavar="FILE", help="A suite to try it on; several may be."),
        ],
        weights: Annotated[
            list[str] | None,
            typer.Option(metavar="PART=W,W", help="Weights of a part, instead of the usual four."),
        ] = None,
        replica: Annotated[
            str | None, typer.Option(metavar="URL", help="Where to try it; else the first replica.")
        ] = None,
        as_json: JsonOption = False,
        config: ConfigOption = Path(),
    ) -> None:
        """Try a grid of a mix's weights on suites, and show which are best at what.

        Each mixture is made, loaded at a replica, asked every case, and unloaded. Nothing goes
        live: for that, write the weights as a version and promote it.
        """
        import asyncio

        from gateway.cli import mixing
        from gateway.cli.fetching import fetched
        from gateway.errors import ConfigError, SwitchboardError
        from gateway.evals.suites import read

        snapshot = snapshot_of(config)
        adapter = _declared(snapshot, name)
        version = next((each for each in adapter.versions if each.mix), None)
        if version is None:
            fail(f"{adapter.target} is no mix; write `mix: {{support: 1.0, brand: 0.8}}` for it")
        backend = snapshot.backends[adapter.backend]
        if backend.agent is not None:
            fail(f"the replicas of {backend.name} share no directory with this machine")
        base = adapter.target.partition("+")[0]
        targets = {part: f"{base}+{part.partition('@')[0]}" for part in version.mix}
        try:
            read_suites = [read(path, os.environ) for path in suites]
            chosen = mixing.grid(version.mix, _weights(weights or [], version.mix))
            standings = fetched(snapshot, set(targets.values()), Console(stderr=True))
            digests = {}
            for part, target in targets.items():
                number = part.partition("@")[2]
                standing = standings[f"{target}@{number}" if number else target]
                if standing.files is None:
                    fail(f"its part {part} cannot be used: {standing.problem}")
                digests[part] = standing.files.digest
            tried = asyncio.run(
                mixing.try_out(
                    chosen,
                    digests,
                    read_suites,
                    backend,
                    (replica or backend.replicas[0]).rstrip("/"),
                    rank=version.rank,
                    base_matches=adapter.base_matches,
                    out=Console(stderr=True),
                )
            )
        except ConfigError as error:
            fail("\n".join(str(problem) for problem in error.problems))
        except SwitchboardError as error:
            fail(str(error))
        except ExceptionGroup as group:  # of the cases that were asked side by side
            fail(str(group.exceptions[0]))
        if as_json:
            print(msgspec.json.encode(tried).decode())
        else:
            _print_tried(console(), tried)


def _checking(group: typer.Typer) -> None:
    @group.command()
    def check(
        paths: Annotated[
            list[Path], typer.Argument(metavar="PATH", help="Directories of adapters.")
        ],
        base: Annotated[
            Path | None,
            typer.Option(metavar="CONFIG", help="The base's config.json, or its directory."),
        ] = None,
        base_id: Annotated[
            str | None, typer.Option(metavar="ID", help="What the backend calls the base.")
        ] = None,
        max_rank: Annotated[
            int | None, typer.Option(metavar="N", help="The replicas' --max-lora-rank.")
        ] = None,
        base_matches: Annotated[
            bool, typer.Option("--base-matches", help="It fits, whatever base its files name.")
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Check adapters by hand as the gateway does, from their config and tensor names alone."""
        from gateway.adapters import files
        from gateway.adapters.check import Finding
        from gateway.adapters.check import check as checked

        known = None
        results: dict[str, list[Finding]] = {}
        summaries: dict[str, str] = {}
        try:
            known = files.read_base(base) if base is not None else None
        except files.AdapterError as error:
            raise typer.BadParameter(str(error)) from None
        for path in paths:
            name = path.name
            try:
                read = files.read(path)
            except files.AdapterError as error:
                results[str(path)] = [Finding(name, error.file.name, error.found, error.expected)]
                continue
            results[str(path)] = checked(
                read,
                known,
                name=name,
                base_id=base_id,
                max_rank=max_rank,
                base_matches=base_matches,
            )
            summaries[str(path)] = _summary(read)
        if as_json:
            print(msgspec.json.encode(results).decode())
        else:
            _print_findings(console(), results, summaries)
        if any(each.severity == "error" for found in results.values() for each in found):
            raise typer.Exit(1)


def _declared(snapshot: "Snapshot", name: str) -> "Adapter":
    """The adapter of a full name, or of one that is enough."""
    found = [each for each in snapshot.adapters if name in (each.target, each.name)]
    if len(found) != 1:
        known = ", ".join(each.target for each in found or snapshot.adapters) or "none"
        fail(f"{name} is {'several adapters' if found else 'no adapter'}; there are {known}")
    return found[0]


def _weights(written: Iterable[str], parts: Iterable[str]) -> dict[str, list[float]]:
    """`support=0.5,1` as numbers by part."""
    found = {}
    for each in written:
        name, _, numbers = each.partition("=")
        if name not in parts:
            raise typer.BadParameter(f"'{name}' is none of {', '.join(parts)}")
        try:
            found[name] = [float(number) for number in numbers.split(",")]
        except ValueError:
            raise typer.BadParameter(f"'{each}' is not as {name}=0.5,1.0") from None
    return found


# ---------------------------------------------------------------- printing


def _print_tried(out: Console, tried: "Sequence[Tried]") -> None:
    names = list(tried[0].weights)
    suites = list(tried[0].right)
    rows = [
        [
            *(Cell(f"{each.weights[name]:g}", figure=True) for name in names),
            *(Cell(f"{100 * each.right[suite]:.1f} %", figure=True) for suite in suites),
            Cell("on the front" if each.on_front else "", "green"),
        ]
        for each in tried
    ]
    Lines(out, (*names, *(f"right: {suite}" for suite in suites), "")).print(rows)
    best = ", ".join(f"{name}: {weight:g}" for name, weight in tried[0].weights.items())
    out.print(f"\nto serve the first, write it as a version (mix: {{{best}}}) and promote that")


def _fetched(name: str, standing: "Standing") -> list[Cell]:
    files = standing.files
    if files is None:
        return [Cell(name), Cell(""), Cell(""), Cell(""), Cell(standing.problem, "red")]
    return [
        Cell(name),
        Cell(f"{files.size / 1e6:,.1f}", figure=True),
        Cell(str(files.rank), figure=True),
        Cell(files.digest[:12], ASIDE),
        Cell("; ".join(files.warnings), "yellow"),
    ]


def _summary(read: Any) -> str:
    size = sum(tensor.end - tensor.begin for tensor in read.tensors.values())
    dtypes = ", ".join(sorted({tensor.dtype for tensor in read.tensors.values()}))
    return f"rank {read.rank}, {read.parameters:,} parameters in {dtypes}, {size / 1e6:,.1f} MB"


def _print_findings(out: Console, results: dict[str, list[Any]], summaries: dict[str, str]) -> None:
    for path, found in results.items():
        wrong = any(each.severity == "error" for each in found)
        mark = "[red]✗[/red]" if wrong else "[green]✓[/green]"
        about = f"  [dim]{summaries[path]}[/dim]" if path in summaries else ""
        out.print(f"{mark} [bold]{escape(path)}[/bold]{about}")
        for each in found:
            colour = "red" if each.severity == "error" else "yellow"
            out.print(f"  [{colour}]{each.severity}[/{colour}] {escape(each.file)}")
            out.print(f"    found:    {escape(each.found)}")
            out.print(f"    expected: {escape(each.expected)}")
            if each.mend:
                out.print(f"    [green]mend:[/green]     {escape(each.mend)}")
