"""The `switchboard` command. Each group of commands registers itself; nothing is imported early."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.cli import (
    adapters,
    agent,
    audit,
    bench,
    config,
    decisions,
    differences,
    evals,
    experiments,
    export,
    keys,
    limits,
    migrate,
    plan,
    prune,
    quality,
    records,
    replay,
    revisions,
    serve,
    shadows,
    traffic,
    train,
    up,
)
from gateway.cli.opening import tell
from gateway.errors import SwitchboardError


class _Plain(TyperGroup):
    """What goes wrong on purpose, or at a file, is told without a trace, and ends with 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read has gone: that is no error of ours
            raise
        except (SwitchboardError, OSError) as error:
            tell(error)
            raise typer.Exit(1) from None


def _told(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"switchboard {version('switchboard')}")
        raise typer.Exit


def _switchboard(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_told, is_eager=True, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    """What goes before any command."""


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="switchboard",
        cls=_Plain,
        help="A model-routing gateway: each request to the target worth most for it.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,  # locals can hold keys
        rich_markup_mode="rich",
    )
    app.callback()(_switchboard)
    running = (
        serve,
        up,
        config,
        differences,
        replay,
        revisions,
        decisions,
        records,
        quality,
        limits,
        adapters,
        traffic,
        experiments,
        shadows,
    )
    for group in (*running, export, evals, train, agent, plan, keys, audit, migrate, prune, bench):
        group.register(app)
    return app


def main() -> None:
    """The console entry point."""
    build()()
