"""`docs/cli.md`, written from the commands. `python -m gateway.cli.reference [--check]`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
import typer.main

from gateway.cli import build
from gateway.config.docs import written_or_checked

PAGE = Path("docs/cli.md")

_INTRODUCTION = """\
# The command line

<!-- Written by `python -m gateway.cli.reference` from the commands in gateway/cli/. -->

Each command says with `--help` what stands here. What was asked for goes to the output, what is
said about it to the error output, so that `--json` and a key can be piped. The exit code is 0 when
it is done, 1 when something is wrong (it is said what, and how to mend it), and 2 for an option or
argument that the command does not take. `switchboard --install-completion` teaches the shell that
it runs in to complete all of this.
"""


def page() -> str:
    """The whole page."""
    found = list(_commands(typer.main.get_command(build()), "switchboard"))
    overview = [f"| [`{path}`](#{_anchor(path)}) | {_first(command)} |" for path, command in found]
    parts = [_INTRODUCTION, "\n".join(["| command | what |", "|---|---|", *overview, ""])]
    parts += [_section(path, command) for path, command in found]
    return "\n".join(parts).rstrip() + "\n"


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with all of its words; groups only lead to theirs."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, each in inner.items():
        yield from _commands(each, f"{path} {name}")


def _section(path: str, command: Any) -> str:
    text = "\n\n".join(_prose(part) for part in command.help.split("\n\n"))
    rows = [_row(param) for param in command.params]
    table = "\n".join(["| option | what | default |", "|---|---|---|", *rows, ""])
    return f"## {path}\n\n{text}\n\n{table}"


def _row(param: Any) -> str:
    what = _prose(param.help)
    if param.envvar is not None:
        what += f" Also `{param.envvar}`."
    return f"| {_spelled(param)} | {what} | {_default(param)} |"


def _spelled(param: Any) -> str:
    if param.param_type_name == "argument":
        return _code(param.metavar or param.name.upper())
    value = "" if _is_flag(param) else f" {param.metavar or param.name.upper()}"
    names: Sequence[str] = [*param.opts, *param.secondary_opts]
    return ", ".join(_code(name + value) for name in names)


def _default(param: Any) -> str:
    if param.required:
        return "**needed**"
    unsaid = param.default is None or _is_flag(param)
    return "" if unsaid else _code(str(param.default))


def _is_flag(param: Any) -> bool:
    return bool(getattr(param, "is_flag", False))


def _code(text: str) -> str:
    """As code within a cell, where a bar would end the cell."""
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`"


def _first(command: Any) -> str:
    return _prose(command.help.split("\n\n")[0])


def _prose(text: str) -> str:
    """On one line; a star is a star and no emphasis."""
    return " ".join(text.split()).replace("*", "\\*")


def _anchor(path: str) -> str:
    return path.replace(" ", "-")


def main() -> int:
    """The command line of this module."""
    return written_or_checked(PAGE, page(), "gateway.cli.reference", __doc__)


if __name__ == "__main__":
    sys.exit(main())
