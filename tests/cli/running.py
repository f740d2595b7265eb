"""The whole command line, run as a shell runs it but in this process."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from typer.testing import CliRunner

from gateway.cli import build
from tests.config.trees import ENV


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The error output on one line: a terminal's width breaks it anywhere."""
        return " ".join(self.err.split())

    @property
    def plain(self) -> str:
        """The same without the frame that is drawn around what a command does not take."""
        return " ".join(self.err.replace("│", " ").split())


def switchboard(*words: str, home: Path | None = None, env: Mapping[str, str] = ENV) -> Ran:
    """`switchboard WORDS` in the directory `home`."""
    before = Path.cwd()
    try:
        os.chdir(home or before)
        found = CliRunner().invoke(build(), words, env={**env, "COLUMNS": "100"})
    finally:
        os.chdir(before)
    return Ran(found.exit_code, found.stdout, found.stderr)
