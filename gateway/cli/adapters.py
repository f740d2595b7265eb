"""`switchboard adapters`: what a running gateway serves, and the commands that change it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli import adapter_files
from gateway.cli.admin import GatewayOption, KeyOption, ask
from gateway.cli.opening import ConfigOption, JsonOption, console, local, share_of
from gateway.cli.records import ASIDE, Cell, Lines

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
    adapter_files.register(group)


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
