"""`switchboard validate`, `init` and `schema`: a team's files, checked, begun and described."""

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.opening import EnvironmentOption, JsonOption, print_problems, tell
from gateway.config.load import Loaded, load
from gateway.errors import ConfigError, Problem


def register(app: typer.Typer) -> None:
    """Adds `validate`, `init` and `schema`."""

    @app.command()
    def validate(
        config: Annotated[
            Path,
            typer.Option(metavar="DIR", help="Directory of gateway.yaml, routes/ and policies/."),
        ] = Path(),
        as_json: JsonOption = False,
        environment: EnvironmentOption = None,
    ) -> None:
        """Say everything that is wrong with a configuration, with file, line, key and mend.

        Exit code 1 if it cannot run.
        """
        loaded, problems = _checked(config, environment)
        if as_json:
            print(msgspec.json.encode(_report(loaded, problems)).decode())
        else:
            _print(config, loaded, problems)
        if loaded is None:
            raise typer.Exit(1)

    @app.command()
    def init(
        directory: Annotated[
            Path, typer.Argument(metavar="DIR", help="Where to write; made if need be.")
        ],
    ) -> None:
        """Write a commented configuration to start from. Nothing is overwritten."""
        from gateway.config.init import write

        try:
            written = write(directory)
        except OSError as error:
            tell(error)
            raise typer.Exit(1) from None
        console = Console()
        for path in written:
            console.print(f"wrote {path}", highlight=False, markup=False)
        console.print(f"next: switchboard validate --config {directory}", markup=False)

    @app.command()
    def schema(
        directory: Annotated[
            Path,
            typer.Argument(
                metavar="DIR", help="Where to write; editors find them by each file's first line."
            ),
        ] = Path("schemas"),
        check: Annotated[
            bool, typer.Option("--check", help="Write nothing; exit code 1 if one is not current.")
        ] = False,
    ) -> None:
        """Write the JSON Schemas of gateway.yaml, routes/*.yaml and policies/*.yaml."""
        from gateway.config.schema import run

        sys.exit(run(directory, check=check))


def _checked(directory: Path, environment: str | None) -> tuple[Loaded | None, tuple[Problem, ...]]:
    try:
        loaded = load(directory, os.environ, environment)
    except ConfigError as error:
        return None, error.problems
    return loaded, loaded.warnings


def _report(loaded: Loaded | None, problems: tuple[Problem, ...]) -> dict[str, object]:
    return {
        "valid": loaded is not None,
        "snapshot": loaded.snapshot.hash if loaded is not None else None,
        "problems": [msgspec.to_builtins(problem) for problem in problems],
    }


def _print(directory: Path, loaded: Loaded | None, problems: tuple[Problem, ...]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    print_problems(console, problems)
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    counted = f"{errors} {_plural('error', errors)}, {warnings} {_plural('warning', warnings)}"
    if loaded is None:
        console.print(f"[red]{escape(str(directory))}: {counted}[/red]")
        return
    snapshot = loaded.snapshot
    console.print(
        f"[green]{escape(str(directory))} is valid[/green]:"
        f" {len(snapshot.routes)} {_plural('route', len(snapshot.routes))},"
        f" {len(snapshot.policies)} {'policy' if len(snapshot.policies) == 1 else 'policies'},"
        f" {len(snapshot.targets)} {_plural('target', len(snapshot.targets))},"
        f" {warnings} {_plural('warning', warnings)}; snapshot {snapshot.hash[:12]}"
    )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
