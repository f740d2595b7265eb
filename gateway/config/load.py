"""Reads a configuration into a snapshot, or says everything that is wrong with it.

It is read from a directory, or from the texts that a revision kept: paths in it are relative to the
directory either way.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

import msgspec
from pydantic import BaseModel

from gateway.config import compile, yaml
from gateway.config.check import check
from gateway.config.compile_compositions import prompts_of, schemas_of
from gateway.config.files.gateway import GatewayFile
from gateway.config.files.policies import PolicyFile
from gateway.config.files.routes import RouteFile
from gateway.config.overlay import GATEWAY, environments, merged, overlay_name
from gateway.config.problems import validated
from gateway.config.sheets import Files, Sheet
from gateway.config.words import did_you_mean
from gateway.config.yaml import without_values
from gateway.errors import ConfigError, Problem, unread
from gateway.types.snapshot import Snapshot

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


def load(directory: Path, env: Mapping[str, str], environment: str | None = None) -> Loaded:
    """The configuration in `directory`, with variables from `env`.

    With an `environment`, `gateway.ENVIRONMENT.yaml` is laid over `gateway.yaml`. Raises
    ConfigError with every problem at once.
    """
    return _loaded(_Directory(directory), directory, env, environment)


def load_texts(
    texts: Mapping[str, str],
    directory: Path,
    env: Mapping[str, str],
    environment: str | None = None,
) -> Loaded:
    """The same of texts by their path from the directory, as `Loaded.texts` has them."""
    return _loaded(_Texts(texts), directory, env, environment)


def _loaded(
    source: "_Source", directory: Path, env: Mapping[str, str], environment: str | None
) -> Loaded:
    reading = _Reading(source, env, environment)
    gateway = reading.gateway()
    files = Files(
        directory=directory,
        gateway=gateway,
        routes=reading.folder("routes", RouteFile),
        policies=reading.folder("policies", PolicyFile),
        texts=reading.of_compositions(gateway),
    )
    prompts = reading.prompts(files.routes)
    # What one file says of another may quote what a variable gave that one.
    found = [without_values(each, reading.secrets) for each in (*reading.problems, *check(files))]
    problems = sorted(found, key=lambda each: (each.file, each.line, each.key))
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    assert files.gateway is not None
    assert files.gateway.model is not None
    snapshot = compile.snapshot(
        files.gateway.model,
        directory,
        {route.name: compile.route(route, prompts) for route in _models(files.routes)},
        {policy.name: compile.policy(policy) for policy in _models(files.policies)},
        files.texts,
    )
    return Loaded(snapshot, tuple(problems), directory, reading.texts)


class _Source(Protocol):
    """Where files are read from, by their path from the directory."""

    def has(self, relative: str) -> bool:
        """Whether there is such a file."""

    def text(self, relative: str) -> str:
        """What stands in it. Raises OSError, UnicodeDecodeError."""

    def names(self, folder: str) -> Sequence[str]:
        """The files of a folder, in order; of the directory itself with an empty name."""

    def outside(self, relative: str) -> bool:
        """Whether a path leads out of the directory."""

    def size(self, relative: str) -> int:
        """In bytes."""

    def named(self, relative: str) -> str:
        """How people find it."""


class _Directory:
    """Files on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, relative: str) -> bool:
        return (self._root / relative).is_file()

    def text(self, relative: str) -> str:
        return (self._root / relative).read_text("utf-8-sig")

    def names(self, folder: str) -> Sequence[str]:
        return sorted(path.name for path in (self._root / folder).glob("*"))

    def outside(self, relative: str) -> bool:
        root = self._root.resolve()
        return not (root / relative).resolve().is_relative_to(root)

    def size(self, relative: str) -> int:
        return (self._root / relative).stat().st_size

    def named(self, relative: str) -> str:
        return str(self._root / relative)


class _Texts:
    """Files that are at hand as texts; no file of the disk is read in their place."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = {posixpath.normpath(name): text for name, text in texts.items()}

    def has(self, relative: str) -> bool:
        return posixpath.normpath(relative) in self._texts

    def text(self, relative: str) -> str:
        return self._texts[posixpath.normpath(relative)]

    def names(self, folder: str) -> Sequence[str]:
        parts = (name.rpartition("/") for name in self._texts)
        return sorted(name for inside, _, name in parts if inside == folder)

    def outside(self, relative: str) -> bool:
        return posixpath.normpath(relative).startswith(("../", "/"))

    def size(self, relative: str) -> int:
        return len(self.text(relative).encode())

    def named(self, relative: str) -> str:
        return relative


def _models(sheets: Iterable[Sheet[M]]) -> list[M]:
    return [sheet.model for sheet in sheets if sheet.model is not None]


class _Reading:
    """Reads files and gathers what is wrong with each by itself."""

    def __init__(self, source: _Source, env: Mapping[str, str], environment: str | None) -> None:
        self.problems: list[Problem] = []
        self.texts: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self._source = source
        self._env = env
        self._environment = environment

    def gateway(self) -> Sheet[GatewayFile] | None:
        """`gateway.yaml`, under the overlay of the environment."""
        if not self._source.has(GATEWAY):
            self._problem(GATEWAY, "there is no such file", "`switchboard init DIR` makes one")
            return None
        document = self._document(GATEWAY)
        if self._environment is not None:
            over = self._overlay(self._environment)
            document = merged(document, over) if document is not None and over is not None else None
        return self._sheet(document, GatewayFile)

    def folder(self, name: str, model: type[M]) -> list[Sheet[M]]:
        """Every YAML file in a folder, in the order of their names."""
        sheets = []
        for file in self._source.names(name):
            relative, path = f"{name}/{file}", PurePosixPath(file)
            if path.suffix == ".yaml":
                sheet = self._sheet(self._document(relative), model)
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

    def of_compositions(self, sheet: Sheet[GatewayFile] | None) -> dict[str, str]:
        """The text of every file that a composition names, by its path as it is written."""
        found: dict[str, str] = {}
        parts = sheet.model.compositions if sheet is not None and sheet.model is not None else {}
        for name, part in parts.items():
            for place, written in (*prompts_of(part), *schemas_of(part)):
                wrong = self._unreadable(written)
                if wrong is not None:
                    assert sheet is not None
                    at = ("compositions", name, *place)
                    self.problems.append(sheet.problem(at, *wrong))
                else:
                    found[written] = self._text(written).strip()
        return found

    def _overlay(self, environment: str) -> yaml.Document | None:
        name = overlay_name(environment)
        if self._source.has(name):
            return self._document(name)
        there = environments(self._source.names(""))
        self._problem(
            name,
            f"there is no such file, and the environment is `{environment}`",
            did_you_mean(environment, there, f"write {name}, or leave the environment out"),
        )
        return None

    def _unreadable(self, written: str) -> tuple[str, str] | None:
        """Why a file that others name cannot be used, and the mend."""
        source = self._source
        if source.outside(written):
            return f"`{written}` lies outside of the configuration", "move it into the directory"
        if not source.has(written):
            return f"there is no file `{written}`", f"write {source.named(written)}"
        if source.size(written) > MAX_PROMPT_BYTES:
            return f"`{written}` is longer than {MAX_PROMPT_BYTES:,} bytes", "shorten it"
        try:
            empty = not source.text(written).strip()
        except (UnicodeDecodeError, OSError) as error:
            return f"`{written}` cannot be read: {unread(error)}", ""
        return (f"`{written}` is empty", "write something, or leave the key out") if empty else None

    def _document(self, relative: str) -> yaml.Document | None:
        try:
            text = self._text(relative)
        except (UnicodeDecodeError, OSError) as error:
            self._problem(relative, f"cannot be read: {unread(error)}")
            return None
        document, problems = yaml.read(text, self._source.named(relative), self._env)
        self.problems += problems
        if document is not None:
            self.secrets.update(document.secrets)
        return document

    def _sheet(self, document: yaml.Document | None, model: type[M]) -> Sheet[M] | None:
        if document is None:
            return None
        value, problems = validated(model, document)
        self.problems += problems
        return Sheet(document, value)

    def _text(self, relative: str) -> str:
        text = self._source.text(relative)
        self.texts[relative] = text
        return text

    def _problem(self, relative: str, message: str, mend: str = "") -> None:
        self.problems.append(Problem(self._source.named(relative), 0, "", message, mend))
