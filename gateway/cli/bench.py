"""`switchboard bench classify`: how good and how fast the classifiers are on fixed data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway.cli import routing
from gateway.cli.opening import JsonOption
from gateway.cli.routing import ENCODER, encoder_here

if TYPE_CHECKING:
    from gateway.classify.fit import Kind


def register(app: typer.Typer) -> None:
    """Adds `bench classify`."""
    bench = typer.Typer(help="Measure parts of the gateway.", no_args_is_help=True)
    app.add_typer(bench, name="bench")

    @bench.callback()
    def only() -> None:
        """Measure parts of the gateway."""

    @bench.command()
    def classify(
        data: Annotated[
            Path,
            typer.Option(
                metavar="DIR", help="Folder of BANKING77, CLINC150 and HWU64 with their splits."
            ),
        ],
        model: Annotated[
            Path | None,
            typer.Option(
                metavar="DIR",
                help="A sentence-transformer's directory, for `embedding`; "
                f"if left out, {ENCODER} where it is there.",
            ),
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Measure the classifiers: accuracy, calibration error and microseconds a text."""
        from gateway.classify.bench import run
        from gateway.errors import SwitchboardError

        notes = Console(stderr=True, highlight=False, soft_wrap=True)
        found = model or encoder_here()
        kinds: list[Kind] = ["lexical", "embedding"] if found is not None else ["lexical"]
        if found is None:
            notes.print(
                f"embedding is left out: {ENCODER} is not there; "
                "`python3 scripts/models.py` fetches it, or name a directory with --model"
            )
        try:
            result = run(data, kinds, found, notes.print)
        except SwitchboardError as error:
            notes.print(f"[red]{error}[/red]")
            raise typer.Exit(1) from error
        if as_json:
            print(msgspec.json.encode(result).decode())
        else:
            Console().print(_table(result))

    routing.register(bench)


def _table(result: dict[str, dict[str, Any]]) -> Table:
    """A column a classifier, a row a figure; a figure by set has a row a set."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for kind in result:
        table.add_column(kind, justify="right")
    rows = [_flat(figures) for figures in result.values()]
    for name in rows[0]:
        table.add_row(name, *(_shown(row[name]) for row in rows))
    return table


def _flat(figures: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name} ")
        else:
            flat[prefix + name] = value
    return flat


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
