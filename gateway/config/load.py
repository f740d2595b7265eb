"""Reads a directory of configuration into a snapshot, or says everything that is wrong with it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from pydantic import BaseModel

from gateway.config import compile, yaml
from gateway.config.check import check
from gateway.config.models import GatewayFile, PolicyFile, RouteFile
from gateway.config.problems import validated
from gateway.config.sheets import Files, Sheet
from gateway.errors import ConfigError, Problem
from gateway.types import Snapshot

MAX_PROMPT_BYTES = 1024 * 1024

M = TypeVar("M", bound=BaseModel)


class Loaded(msgspec.Struct, frozen=True):
    """A valid configuration. `warnings` do not keep it from running.

    `texts` are the files that it was made of, by path from the directory, as they stand: variables
    are not put in, so there is no secret in them that was not in the files.
    """

    snapshot: Snapshot
    warnings: tuple[Problem, ...]
    directory: Path
    texts: Mapping[str, str]

    @property
    def files(self) -> tuple[Path, ...]:
        """What was read."""
        return tuple(self.directory / name for name in self.texts)


def load(directory: Path, env: Mapping[str, str]) -> Loaded:
    """The configuration in `directory`, with variables from `env`.

    Raises ConfigError with every problem at once.
    """
    reading = _Reading(directory, env)
    files = Files(
        directory=directory,
        gateway=reading.gateway(),
        routes=reading.folder("routes", RouteFile),
        policies=reading.folder("policies", PolicyFile),
    )
    prompts = reading.prompts(files.routes)
    problems = sorted(
        [*reading.problems, *check(files)], key=lambda each: (each.file, each.line, each.key)
    )
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    assert files.gateway is not None
    assert files.gateway.model is not None
    snapshot = compile.snapshot(
        files.gateway.model,
        directory,
        {route.name: compile.route(route, prompts) for route in _models(files.routes)},
        {policy.name: compile.policy(policy) for policy in _models(files.policies)},
    )
    return Loaded(snapshot, tuple(problems), directory, reading.texts)


def _models(sheets: Iterable[Sheet[M]]) -> list[M]:
    return [sheet.model for sheet in sheets if sheet.model is not None]


def _why(error: UnicodeDecodeError | OSError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 ({error.reason} at byte {error.start})"
    return str(error.strerror or error)


class _Reading:
    """Reads files and gathers what is wrong with each by itself."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self.texts: dict[str, str] = {}
        self._directory = directory
        self._env = env

    def gateway(self) -> Sheet[GatewayFile] | None:
        """`gateway.yaml`."""
        if not (self._directory / "gateway.yaml").is_file():
            self._problem(
                "gateway.yaml", "there is no such file", "`switchboard init DIR` makes one"
            )
            return None
        return self._sheet("gateway.yaml", GatewayFile)

    def folder(self, name: str, model: type[M]) -> list[Sheet[M]]:
        """Every YAML file in a folder, in the order of their names."""
        sheets = []
        for path in sorted((self._directory / name).glob("*")):
            relative = f"{name}/{path.name}"
            if path.suffix == ".yaml":
                sheet = self._sheet(relative, model)
                if sheet is not None:
                    sheets.append(sheet)
            elif path.suffix in (".yml", ".json"):
                self._problem(relative, "is not read", f"name it {path.stem}.yaml")
        return sheets

    def prompts(self, routes: Iterable[Sheet[RouteFile]]) -> dict[str, str]:
        """The text of every system prompt that a candidate names."""
        found: dict[str, str] = {}
        for sheet in routes:
            for index, candidate in enumerate(sheet.model.candidates if sheet.model else ()):
                if candidate.system is None:
                    continue
                wrong = self._unreadable(candidate.system)
                if wrong is not None:
                    place = ("candidates", index, "system")
                    self.problems.append(sheet.problem(place, *wrong))
                else:
                    found[candidate.system] = self._text(candidate.system).strip()
        return found

    def _unreadable(self, written: str) -> tuple[str, str] | None:
        """Why a prompt's file cannot be used, and the mend."""
        root = self._directory.resolve()
        path = (root / written).resolve()
        if not path.is_relative_to(root):
            return f"`{written}` lies outside of the configuration", "move it into the directory"
        if not path.is_file():
            return f"there is no file `{written}`", f"write the prompt into {self._named(written)}"
        if path.stat().st_size > MAX_PROMPT_BYTES:
            return f"`{written}` is longer than {MAX_PROMPT_BYTES:,} bytes", "shorten it"
        try:
            empty = not path.read_text("utf-8-sig").strip()
        except (UnicodeDecodeError, OSError) as error:
            return f"`{written}` cannot be read: {_why(error)}", ""
        return (
            (f"`{written}` is empty", "write the prompt, or leave the key out") if empty else None
        )

    def _sheet(self, relative: str, model: type[M]) -> Sheet[M] | None:
        try:
            text = self._text(relative)
        except (UnicodeDecodeError, OSError) as error:
            self._problem(relative, f"cannot be read: {_why(error)}")
            return None
        document, problems = yaml.read(text, self._named(relative), self._env)
        self.problems += problems
        if document is None:
            return None
        value, problems = validated(model, document)
        self.problems += problems
        return Sheet(document, value)

    def _text(self, relative: str) -> str:
        text = (self._directory / relative).read_text("utf-8-sig")
        self.texts[relative] = text
        return text

    def _named(self, relative: str) -> str:
        return str(self._directory / relative)

    def _problem(self, relative: str, message: str, mend: str = "") -> None:
        self.problems.append(Problem(self._named(relative), 0, "", message, mend))
