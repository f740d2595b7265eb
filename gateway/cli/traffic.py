"""`switchboard drain`, `enable` and `weight`: how much of its traffic something gets."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from gateway.cli.admin import GatewayOption, KeyOption, ask
from gateway.cli.opening import ConfigOption, JsonOption, console, local, share_of
from gateway.cli.records import ASIDE, Cell, Lines

NAMED = typer.Argument(
    metavar="TARGET|BACKEND|REPLICA", help="As local/qwen+support, local, or http://gpu-1:8000."
)
SubjectArgument = Annotated[str, NAMED]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="Shown beside it.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Even where it leaves a route without a candidate.")
]

HEAD = ("subject", "share", "by", "since", "under way", "why")


def register(app: typer.Typer) -> None:
    """Adds `drain`, `enable` and `weight`."""

    @app.command()
    def drain(
        subject: Annotated[str | None, NAMED] = None,
        listed: Annotated[
            bool, typer.Option("--list", help="Show what is drained, or gets a share.")
        ] = False,
        why: WhyOption = "",
        force: ForceOption = False,
        as_json: JsonOption = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Send no new requests to a target, a backend or a replica; those under way finish.

        It stays so over restarts and changes of the files, until it is enabled.
        """
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        if listed:
            _print_list(ask("GET", "weights", **where)["data"], as_json)
            return
        if subject is None:
            raise typer.BadParameter("name what to drain, or give --list")
        _give(subject, 0.0, why, force, as_json, where)

    @app.command()
    def enable(
        subject: SubjectArgument,
        as_json: JsonOption = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Send all of its requests again to what was drained, or had a share."""
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        _give(subject, 1.0, "", False, as_json, where)

    @app.command()
    def weight(
        subject: SubjectArgument,
        share: Annotated[str, typer.Argument(metavar="SHARE", help="As 25% or 0.25.")],
        why: WhyOption = "",
        force: ForceOption = False,
        as_json: JsonOption = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Let a target, a backend or a replica have a share of the requests that it would get.

        For the others it is the last resort. 0% drains it, 100% enables it.
        """
        where: dict[str, Any] = {"gateway": gateway, "key": key, "config": config}
        _give(subject, share_of(share, none=True), why, force, as_json, where)


def _give(
    subject: str, share: float, why: str, force: bool, as_json: bool, where: dict[str, Any]
) -> None:
    told = {"subject": subject, "share": share, "why": why, "force": force}
    found = ask("POST", "weights", told, **where)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    name = escape(subject)
    if share == 1.0:
        console().print(f"[green]{name} gets all of its requests again[/green]")
    elif share == 0.0:
        count = found.get("under_way")
        left = f"; {count} under way" if count is not None else ""
        console().print(f"[yellow]{name} gets no new requests[/yellow]{left}")
    else:
        console().print(f"[green]{name} gets {100 * share:.4g} % of its requests[/green]")


def _print_list(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif not found:
        console().print("nothing is drained, and everything gets all of its requests", style=ASIDE)
    else:
        Lines(console(), HEAD).print([_row(each) for each in found])


def _row(each: dict[str, Any]) -> list[Cell]:
    drained = each["share"] == 0.0
    why = each["why"] if each["declared"] else f"{each['why']} (not declared any more)".strip()
    return [
        Cell(each["subject"], "bold"),
        Cell("drained" if drained else f"{100 * each['share']:.4g} %", "yellow"),
        Cell(each["author"]),
        Cell(local(each["since"]), ASIDE),
        Cell("–" if each["under_way"] is None else str(each["under_way"]), figure=True),
        Cell(why, ASIDE),
    ]
