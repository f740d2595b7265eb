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
from gateway.errors import ConfigError, Problem, SwitchboardError


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

        Exit code 1 if it cannot run, or a suite in evals/ cannot.
        """
        checked = _checked(config, environment)
        if as_json:
            print(msgspec.json.encode(_report(checked)).decode())
        else:
            _print(config, checked)
        if checked.errors:
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
        except (OSError, SwitchboardError) as error:
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
        """Write the JSON Schemas of gateway.yaml, routes, policies and suites (suite.json)."""
        from gateway.config.schema import run

        sys.exit(run(directory, check=check))


class _Checked(msgspec.Struct, frozen=True):
    """What the files are, as far as they are that, and all that is wrong with them."""

    loaded: Loaded | None
    suites: int
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> int:
        return sum(problem.severity == "error" for problem in self.problems)


def _checked(directory: Path, environment: str | None) -> _Checked:
    from gateway.evals.suites import read

    loaded: Loaded | None = None
    try:
        loaded = load(directory, os.environ, environment)
        problems = loaded.warnings
    except ConfigError as error:
        problems = error.problems
    suites = sorted((directory / "evals").glob("*.yaml"))
    for path in suites:
        try:
            read(path, os.environ, None if loaded is None else loaded.snapshot)
        except ConfigError as error:
            problems += error.problems
    return _Checked(loaded, len(suites), problems)


def _report(checked: _Checked) -> dict[str, object]:
    loaded = checked.loaded
    return {
        "valid": not checked.errors,
        "snapshot": loaded.snapshot.hash if loaded is not None else None,
        "problems": [msgspec.to_builtins(problem) for problem in checked.problems],
    }


def _print(directory: Path, checked: _Checked) -> None:
    console = Console(soft_wrap=True, highlight=False)
    print_problems(console, checked.problems)
    errors = checked.errors
    warnings = len(checked.problems) - errors
    counted = f"{errors} {_plural('error', errors)}, {warnings} {_plural('warning', warnings)}"
    if errors or checked.loaded is None:
        console.print(f"[red]{escape(str(directory))}: {counted}[/red]")
        return
    snapshot = checked.loaded.snapshot
    suites = f" {checked.suites} {_plural('suite', checked.suites)}," if checked.suites else ""
    console.print(
        f"[green]{escape(str(directory))} is valid[/green]:"
        f" {len(snapshot.routes)} {_plural('route', len(snapshot.routes))},"
        f" {len(snapshot.policies)} {'policy' if len(snapshot.policies) == 1 else 'policies'},"
        f" {len(snapshot.targets)} {_plural('target', len(snapshot.targets))},"
        f"{suites} {warnings} {_plural('warning', warnings)}; snapshot {snapshot.hash[:12]}"
    )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
