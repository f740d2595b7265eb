"""`switchboard adapters`: what a running gateway serves, and the commands that change it."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.admin import GatewayOption, KeyOption, ask
from gateway.cli.opening import ConfigOption, console, fail, local, share_of, snapshot_of
from gateway.cli.records import ASIDE, Cell, Lines

if TYPE_CHECKING:
    from gateway.adapters.registry import Standing
    from gateway.cli.mixing import Tried
    from gateway.types import Adapter, Snapshot

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="An adapter, as support or local/qwen+support.")
]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="One of its versions.")]
ReplicaOption = Annotated[
    str | None, typer.Option(metavar="URL", help="At this replica alone; else at all.")
]

LIST_HEAD = (
    *("adapter", "live", "canary", "loaded", "quality"),
    *("requests", "failed", "in", "out", "usd", ""),
)


def register(app: typer.Typer) -> None:
    """Adds `adapters`."""
    group = typer.Typer(
        help="Adapters of a running gateway: versions, residency, canaries.", no_args_is_help=True
    )
    app.add_typer(group, name="adapters")
    _looking(group)
    _changing(group)
    _residing(group)
    _checking(group)
    _fetching(group)
    _mixing(group)


def _looking(group: typer.Typer) -> None:
    @group.command("list")
    def list_adapters(
        as_json: JsonOption = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Show every adapter: what is live, where it is loaded, and its last hour."""
        found = ask("GET", "adapters", gateway=gateway, key=key, config=config)["data"]
        if as_json:
            print(msgspec.json.encode(found).decode())
        elif not found:
            console().print("no adapters are declared")
        else:
            Lines(console(), LIST_HEAD).print([_listed(each) for each in found])

    @group.command()
    def show(
        name: NameArgument,
        as_json: JsonOption = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Show one adapter: its versions, every replica, its use, and what was done to it."""
        found = ask("GET", f"adapters/{name}", gateway=gateway, key=key, config=config)
        if as_json:
            print(msgspec.json.encode(found).decode())
        else:
            _print_adapter(console(), found)


def _changing(group: typer.Typer) -> None:
    @group.command()
    def promote(
        name: NameArgument,
        version: VersionArgument,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Make a version live, once it is loaded and has answered wherever it is needed."""
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        state = ask("POST", f"adapters/promote/{name}", {"version": version}, **where)
        before = (
            f"; `rollback {name}` goes back to {state['previous']}" if state["previous"] else ""
        )
        console().print(f"[green]{escape(state['live'])} is live[/green]{escape(before)}")

    @group.command()
    def rollback(
        name: NameArgument,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """End the canary, or make the version live that was so before."""
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        state = ask("POST", f"adapters/rollback/{name}", {}, **where)
        console().print(f"[green]{escape(state['live'] or 'the first version')} is live[/green]")

    @group.command()
    def canary(
        name: NameArgument,
        version: VersionArgument,
        share: Annotated[
            str, typer.Option(metavar="SHARE", help="Of users or conversations: 5%, or 0.05.")
        ] = "5%",
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Give a version a share of the requests; it steps up by itself, or goes back and says why.

        A user or a conversation stays with the version that it got.
        """
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        asked = {"version": version, "share": share_of(share)}
        state = ask("POST", f"adapters/canary/{name}", asked, **where)
        steps = [state["canary"]["share"], *state["canary"]["steps"]]
        way = " → ".join(f"{100 * step:g} %" for step in steps)
        console().print(f"[green]{escape(version)} on trial[/green]: {way}")


def _residing(group: typer.Typer) -> None:
    @group.command()
    def load(
        name: NameArgument,
        replica: ReplicaOption = None,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Load an adapter, or `NAME@VERSION`, without waiting for a request."""
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        done = ask("POST", f"adapters/load/{name}", {"replica": replica}, **where)
        for url, seconds in done["seconds"].items():
            console().print(f"[green]loaded[/green] at {escape(url)} in {seconds:.3f} s")

    @group.command()
    def unload(
        name: NameArgument,
        replica: ReplicaOption = None,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Take an adapter from the replicas, until it is asked for again."""
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        done = ask("POST", f"adapters/unload/{name}", {"replica": replica}, **where)
        if not done["replicas"]:
            console().print("it was loaded nowhere")
        for url in done["replicas"]:
            console().print(f"unloaded at {escape(url)}")

    @group.command()
    def pin(
        name: NameArgument,
        off: Annotated[bool, typer.Option("--off", help="No longer.")] = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Keep an adapter in memory where it is at home, however seldom it is asked for."""
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        ask("POST", f"adapters/{'unpin' if off else 'pin'}/{name}", {}, **where)
        console().print("no longer pinned" if off else "[green]pinned[/green]")


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


# ---------------------------------------------------------------- printing


def _listed(adapter: dict[str, Any]) -> list[Cell]:
    replicas = adapter["replicas"].values()
    loaded = sum(adapter["serving"] in replica["loaded"] for replica in replicas)
    failed = any(replica["failed"] for replica in replicas)
    used = _summed(adapter["last_hour"].values())
    trial = adapter["canary"]
    problem = adapter["problem"] or next(
        (why for replica in replicas for why in replica["failed"].values()), ""
    )
    notes = " ".join(["pinned"] * adapter["pinned"] + [problem] * bool(problem))
    colour = "red" if failed else "green" if loaded else ""
    return [
        Cell(adapter["target"]),
        Cell(adapter["live"] or "–"),
        Cell(f"{trial['version']} {100 * trial['share']:g} %" if trial else "–", "yellow"),
        Cell(f"{loaded} of {len(replicas)}", colour, figure=True),
        Cell(_quality(adapter["quality"].values()), figure=True),
        Cell(f"{used['requests']:,}", figure=True),
        Cell(f"{used['failed']:,}", "red" if used["failed"] else "", figure=True),
        Cell(f"{used['input_tokens']:,}", figure=True),
        Cell(f"{used['output_tokens']:,}", figure=True),
        Cell(f"{used['cost_usd']:.6f}", figure=True),
        Cell(notes, "red" if problem else ASIDE),
    ]


def _quality(declared: Iterable[float]) -> str:
    """One figure, or from the least to the most of several routes."""
    figures = sorted({f"{each:g}" for each in declared})
    return "–" if not figures else "–".join(dict.fromkeys((figures[0], figures[-1])))


def _summed(used: Iterable[dict[str, Any]]) -> dict[str, Any]:
    names = ("requests", "failed", "input_tokens", "cached_tokens", "output_tokens", "cost_usd")
    known = list(used)
    return {name: sum(each[name] for each in known) for name in names}


def _print_adapter(out: Console, adapter: dict[str, Any]) -> None:
    out.print(f"[bold]{escape(adapter['target'])}[/bold]{'  pinned' * adapter['pinned']}")
    if adapter["problem"]:
        out.print(f"  [red]{escape(adapter['problem'])}[/red]")
    if adapter["ended"]:
        out.print(f"  [yellow]{escape(adapter['ended'])}[/yellow]")
    for route, quality in adapter["quality"].items():
        out.print(f"  quality {quality:g} on {escape(route)}")
    out.print()
    versions = ("version", "state", "served as", "rank", "MB", "content")
    Lines(out, versions).print([_version(each, adapter) for each in adapter["versions"]])
    out.print()
    Lines(out, ("replica", "loaded", "P(resident)", "")).print(
        [_replica(url, each) for url, each in adapter["replicas"].items()]
    )
    if adapter["last_hour"]:
        out.print()
        head = ("last hour", "requests", "failed", "in", "cached", "out", "usd")
        Lines(out, head).print([_use(name, each) for name, each in adapter["last_hour"].items()])
    if adapter["history"]:
        out.print()
        Lines(out, ("when", "who", "what")).print(
            [
                [Cell(local(each["saved"]), ASIDE), Cell(each["author"]), Cell(each["change"])]
                for each in adapter["history"]
            ]
        )


def _version(version: dict[str, Any], adapter: dict[str, Any]) -> list[Cell]:
    name = version["version"]
    trial = adapter["canary"]
    state = (
        "live"
        if name == adapter["live"]
        else f"canary {100 * trial['share']:g} %"
        if trial and trial["version"] == name
        else "before"
        if name == adapter["previous"]
        else ""
    )
    if "served" not in version:
        blank = [Cell(""), Cell("", figure=True), Cell("", figure=True)]
        return [Cell(name or "–"), Cell(state), *blank, Cell(version["problem"], "red")]
    return [
        Cell(name or "–"),
        Cell(state, "green" if state == "live" else "yellow"),
        Cell(version["served"]),
        Cell(str(version["rank"]), figure=True),
        Cell(f"{version['size'] / 1e6:,.1f}", figure=True),
        Cell(version["digest"], ASIDE),
    ]


def _replica(url: str, replica: dict[str, Any]) -> list[Cell]:
    failed = "; ".join(f"{name}: {why}" for name, why in replica["failed"].items())
    away = "" if replica["reachable"] else "cannot be reached"
    return [
        Cell(url),
        Cell(", ".join(replica["loaded"]) or "–"),
        Cell(f"{replica['p_resident']:.2f}", figure=True),
        Cell(failed or away, "red"),
    ]


def _use(name: str, used: dict[str, Any]) -> list[Cell]:
    counts = ("requests", "failed", "input_tokens", "cached_tokens", "output_tokens")
    return [
        Cell(name),
        *(Cell(f"{used[count]:,}", figure=True) for count in counts),
        Cell(f"{used['cost_usd']:.6f}", figure=True),
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
