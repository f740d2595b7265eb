"""`switchboard migrate`: the store's schema, brought up to date or looked at."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway.cli.opening import ConfigOption, JsonOption, StoreOption, console, fail, store_of
from gateway.errors import SwitchboardError


def register(app: typer.Typer) -> None:
    """Adds `migrate`."""

    @app.command()
    def migrate(
        config: ConfigOption = Path(),
        store: StoreOption = None,
        check: Annotated[
            bool,
            typer.Option(
                "--check", help="Change nothing; exit code 2 where something is to be done."
            ),
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Make the store's tables, or bring them to what this version needs.

        `serve` and every other command that opens a store does the same by itself; several may
        at once, for only one migrates while the others wait. Run it before a new version is rolled
        out to many hosts, so that none of them waits; those of the version before serve on.
        """
        from gateway.store.store import Store

        try:
            url = store or store_of(config)
            before = Store.standing(url)
            if not check and not before.is_newer:
                Store.open(url).close()
        except SwitchboardError as error:
            fail(str(error))
        after = before if check or before.is_newer else Store.standing(url)
        out = console()
        if as_json:
            told = {**msgspec.structs.asdict(after), "before": before.at}
            out.print_json(msgspec.json.encode(told).decode())
        elif before.is_newer:
            out.print(f"{before.store} is at {before.at}, newer than this version's {after.wanted}")
        elif check or before.is_current:
            at = "has no tables yet" if before.at is None else f"is at {before.at}"
            todo = "nothing to do" if before.is_current else f"to be brought to {before.wanted}"
            out.print(f"{before.store} {at}: {todo}")
        else:
            out.print(f"{before.store} is at {after.at} now (was: {before.at or 'new'})")
        if not after.is_current:
            raise typer.Exit(2)
