"""`switchboard bench classify`: how good and how fast the classifiers are on fixed data."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table


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
            Path, typer.Option(help="Folder of BANKING77, CLINC150 and HWU64 with their splits.")
        ],
        model: Annotated[
            Path | None, typer.Option(help="A sentence-transformer's directory, for `embedding`.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    ) -> None:
        """Accuracy on the fixed 10-shot splits, calibration error and microseconds a text."""
        from gateway.classify.bench import run

        kinds = ["lexical", "embedding"] if model is not None else ["lexical"]
        console = Console(stderr=True)
        with console.status("fitting …") as status:
            result = run(data, kinds, model, status.update)
        if as_json:
            print(msgspec.json.encode(result).decode())
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("classifier")
        names = list(next(iter(result.values())))
        for name in names:
            table.add_column(name, justify="right")
        for kind, figures in result.items():
            table.add_row(kind, *(_shown(figures.get(name)) for name in names))
        Console().print(table)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{part:.3f}" for part in value.values())
    if isinstance(value, float):
        return f"{value:.3f}" if value < 2 else f"{value:,.0f}"
    return str(value)
