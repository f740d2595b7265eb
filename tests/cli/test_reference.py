"""`docs/cli.md` is what the commands say, and they say it in one way."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gateway.cli import build
from gateway.cli.reference import PAGE, page

ROOT = Path(__file__).parents[2]


def walk(command: Any, path: str = "switchboard") -> Iterator[tuple[str, Any]]:
    """Every command and group below one, itself first."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{path} {name}")


COMMANDS = dict(walk(typer.main.get_command(build())))


def reference(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The module as it is called, in a folder of its own."""
    command = [sys.executable, "-m", "gateway.cli.reference", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_page_is_current() -> None:
    assert (ROOT / PAGE).read_text("utf-8") == page(), "run: python -m gateway.cli.reference"


def test_it_is_written_then_checked_and_a_stale_one_is_named(tmp_path: Path) -> None:
    missing = reference(tmp_path, "--check")
    assert missing.returncode == 1
    assert reference(tmp_path).returncode == 0
    assert (tmp_path / PAGE).read_text("utf-8") == page()
    assert reference(tmp_path, "--check").returncode == 0
    (tmp_path / PAGE).write_text("# Something else\n", "utf-8")
    stale = reference(tmp_path, "--check")
    assert stale.returncode == 1
    told = "docs/cli.md is not current; write it with: python -m gateway.cli.reference\n"
    assert missing.stdout == stale.stdout == told
    assert (tmp_path / PAGE).read_text("utf-8") == "# Something else\n"


def test_every_command_and_option_is_on_the_page() -> None:
    text = page()
    for path, command in COMMANDS.items():
        if hasattr(command, "commands"):
            continue
        section = text.partition(f"\n## {path}\n")[2].partition("\n## ")[0]
        assert section, path
        for param in command.params:
            options = [name for name in param.opts if name.startswith("-")]
            assert all(f"`{name}" in section for name in options), (path, param.name)
            assert param.help.replace("*", "\\*") in section


@pytest.mark.parametrize("path", COMMANDS)
def test_help_is_sentences(path: str) -> None:
    command = COMMANDS[path]
    assert command.help, path
    for part in command.help.split("\n\n"):
        assert part.rstrip().endswith("."), part
    assert command.help[0].isupper()


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != "switchboard"])
def test_each_option_says_what_it_is_and_what_it_takes(path: str) -> None:
    for param in COMMANDS[path].params:
        assert param.help, (path, param.name)
        assert param.help[0].isupper(), param.help
        assert param.help.endswith("."), param.help
        flag = getattr(param, "is_flag", False)
        assert flag or param.metavar, f"{path} {param.name} says not what it takes"


@pytest.mark.parametrize("name", ["--config", "--store", "--json", "--since", "--route"])
def test_an_option_takes_the_same_thing_everywhere(name: str) -> None:
    taken = {
        param.metavar
        for command in COMMANDS.values()
        for param in command.params
        if name in param.opts
    }
    assert len(taken) == 1
