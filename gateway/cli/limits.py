"""`switchboard limits`: who is at what share of what."""

from pathlib import Path
from typing import Any

import msgspec
import typer

from gateway.cli.admin import GatewayOption, KeyOption, ask
from gateway.cli.opening import ConfigOption, JsonOption, console
from gateway.cli.records import Cell, Lines

HEAD = ("who", "limit", "of", "used", "share")

SHOWN = {
    "requests": "requests",
    "tokens": "tokens",
    "concurrent": "at once",
    "day": "a day",
    "month": "a month",
}

NEAR, REACHED = 0.8, 1.0


def register(app: typer.Typer) -> None:
    """Adds `limits`."""

    @app.command()
    def limits(
        as_json: JsonOption = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Show every key, tenant and route that has limits, and how much of each is used."""
        found = ask("GET", "limits", gateway=gateway, key=key, config=config)["data"]
        if as_json:
            print(msgspec.json.encode(found).decode())
            return
        rows = [
            _row(account["who"], what, limit)
            for account in found
            for what, limit in account["limits"].items()
        ]
        if not rows:
            console().print("no limits: declare them under `limits:`, or `switchboard keys limit`")
            return
        Lines(console(), HEAD).print(rows)


def _row(who: str, what: str, limit: dict[str, Any]) -> list[Cell]:
    share = limit["used"] / limit["limit"] if limit["limit"] else 1.0  # a key that is shut
    style = "red" if share >= REACHED else "yellow" if share >= NEAR else ""
    return [
        Cell(who),
        Cell(_named(what, limit)),
        Cell(_figure(what, limit["limit"]), figure=True),
        Cell(_figure(what, limit["used"]), figure=True),
        Cell(f"{share:.0%}", style, figure=True),
    ]


def _named(what: str, limit: dict[str, Any]) -> str:
    per = {1.0: "s", 60.0: "min", 3600.0: "h"}.get(limit.get("per_s", 0.0))
    return SHOWN[what] if per is None else f"{SHOWN[what]}/{per}"


def _figure(what: str, amount: float) -> str:
    return f"{amount:.4f} usd" if what in ("day", "month") else f"{amount:.0f}"
