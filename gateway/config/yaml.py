"""YAML by the rules of version 1.2's core schema, with the line of every key and value.

Where PyYAML follows version 1.1 this does not: `no`, `on`, `yes` and `1_000` are words, `0o17` is
an octal number and `017` is seventeen, and a key that is set twice is an error.

`${X}` stands for an environment variable in any style, flow style too, and `${X:-text}` for one
that may be unset or empty; `$${` is `${` itself. Variables are put in after the text has been
parsed, so what they hold can never be read as YAML: it is always text. `{key.tenant}`, which
stands for something of the caller's key, is left as it is, in flow style too.
"""

import re
from collections.abc import Iterator, Mapping, Set
from typing import TypeAlias

import msgspec
import yaml

from gateway.errors import Problem

Path: TypeAlias = tuple[str | int, ...]

MAX_CHARS = 8 * 1024 * 1024
MAX_DEPTH = 50
MAX_NODES = 500_000
"""Of a document with every alias written out: far above any honest file, far below a bomb."""

_REFERENCE = re.compile(r"\$\$\{[A-Za-z_][A-Za-z0-9_]*\}|\$\$\{|\$\{[^}\n]*\}|\$\{|\{key\.[a-z]+\}")
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_OPEN, _CLOSE = "\ue000", "\ue001"
_STANDIN = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_CONSTANTS: Mapping[str, bool | float | None] = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
    **dict.fromkeys([".nan", ".NaN", ".NAN"], float("nan")),
}
_CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "map", "seq")
)
_STR_TAG = "tag:yaml.org,2002:str"

HIDDEN_CHARS = 6
"""A variable's value that is shorter, such as a port, is hidden only at the place where it stands:
elsewhere it may as well be a word of ours."""

_QUOTED = re.compile(r"`([^`]*)`|'([^']*)'")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where PyYAML was built with it; about ten times as fast."""


class Document(msgspec.Struct, frozen=True):
    """One file's content: dicts with text as keys, lists, and scalars.

    `lines` has the line of every key and of every item of a list by its path, counted from 1.
    `unset` are the paths whose value is not known because of a problem with a variable. `over` has
    the file of what another file laid over this one. `variables` has, by path, each value that a
    variable is a part of, with how it is written; `secrets` has what the environment gave, with
    its references.
    """

    file: str
    data: object
    lines: Mapping[Path, int]
    unset: frozenset[Path] = frozenset()
    over: Mapping[Path, str] = {}
    variables: Mapping[Path, tuple[str, str]] = {}
    secrets: Mapping[str, str] = {}

    def problem(self, path: Path, message: str, mend: str = "") -> Problem:
        """An error at `path`. What the environment gave is said as it is written, `${X}`: messages
        go into logs and to clients."""
        written = {each for _, each in self.variables.values()}

        def shown(text: str) -> str:
            for known, (value, said) in self.variables.items():
                size = min(len(known), len(path))
                if known[:size] == path[:size]:  # whole, whatever marks are in it
                    text = text.replace(f"`{value}`", f"`{said}`")
            return _QUOTED.sub(lambda quoted: self._shown(path, quoted, written), text)

        found = Problem(
            self.file_of(path), self.line(path), dotted(path), shown(message), shown(mend)
        )
        return without_values(found, self.secrets)

    def _shown(self, path: Path, quoted: re.Match[str], written: Set[str]) -> str:
        """A word that is quoted at `path`: where it is a value with a variable, or cut out of the
        one that stands there, that value as it is written."""
        mark, text = quoted[0][0], quoted[1] or quoted[2] or ""
        word = _plain(text)
        if not word or text in written:
            return quoted[0]
        for known, (value, said) in self.variables.items():
            whole = _plain(value)
            below = len(known) > len(path) and known[: len(path)] == path
            if word == whole if below else path[: len(known)] == known and word in whole:
                return f"{mark}{said}{mark}"
        return quoted[0]

    def line(self, path: Path) -> int:
        """The line of what is at `path`, or of the nearest thing around it that is there."""
        return self.lines.get(self._near(path), 0)

    def file_of(self, path: Path) -> str:
        """The file that `line` counts in."""
        return self.over.get(self._near(path), self.file)

    def _near(self, path: Path) -> Path:
        return next(
            (path[:end] for end in range(len(path), -1, -1) if path[:end] in self.lines), ()
        )


def without_values(problem: Problem, secrets: Mapping[str, str]) -> Problem:
    """The problem with the references of these values in their place."""
    long = sorted((each for each in secrets if len(each) >= HIDDEN_CHARS), key=len, reverse=True)
    if not long:
        return problem
    references = {each.lower(): secrets[each] for each in long}
    # What is a reference already stays one, though a value be in its name.
    pattern = re.compile("|".join([r"\$\{[^}]*\}", *map(re.escape, long)]), re.IGNORECASE)

    def shown(text: str) -> str:
        return pattern.sub(lambda found: references.get(found[0].lower(), found[0]), text)

    return msgspec.structs.replace(
        problem,
        key=shown(problem.key),
        message=shown(problem.message),
        mend=shown(problem.mend),
    )


def _plain(text: str) -> str:
    """Its letters and digits: names are suggested in other letters, and with other marks."""
    return "".join(each for each in text.casefold() if each.isalnum())


class _Refused(Exception):
    """The text is not one document that can be read at all."""

    def __init__(self, line: int, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.mend = mend


def read(
    text: str, file: str, env: Mapping[str, str] | None
) -> tuple[Document | None, list[Problem]]:
    """The document in `text`, and everything wrong with it; no document when it cannot be parsed.

    `file` is only for the problems' sake; `env` is where `${X}` is looked up. Without one,
    variables stay as they are written.
    """
    reader = _Reader(file, env)
    try:
        return reader.document(text), reader.problems
    except _Refused as refused:
        problem = Problem(file, refused.line, "", str(refused), refused.mend)
        return None, [*reader.problems, problem]


def dotted(path: Path) -> str:
    """A path as people write it: `candidates[0].target`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(
        "."
    )


class _Reader:
    """Builds data from a parser's events. One for each text."""

    def __init__(self, file: str, env: Mapping[str, str] | None) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._env = env
        self._references: list[str] = []
        self._lines: dict[Path, int] = {}
        self._unset: set[Path] = set()
        self._variables: dict[Path, tuple[str, str]] = {}
        self._secrets: dict[str, str] = {}
        self._anchors: dict[str, tuple[object, int, Path]] = {}
        self._nodes = 0
        self._events: Iterator[yaml.Event]

    def document(self, text: str) -> Document:
        if len(text) > MAX_CHARS:
            raise _Refused(0, f"the file is longer than {MAX_CHARS:,} characters", "split it")
        for mark in (_OPEN, _CLOSE):
            if mark in text:
                line = text.count("\n", 0, text.index(mark)) + 1
                raise _Refused(line, f"the private character U+{ord(mark):04X} is not allowed")
        self._events = yaml.parse(_REFERENCE.sub(self._stand_in, text), Loader=_LOADER)
        self._next()
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            return Document(self._file, None, {(): 1})
        root = self._next()
        self._lines[()] = _line(root)
        data = self._node(root, (), 0)
        self._next()
        end = self._next()
        if not isinstance(end, yaml.StreamEndEvent):
            raise _Refused(_line(end), "a second document begins here", "one file, one document")
        return Document(
            self._file,
            data,
            self._lines,
            frozenset(self._unset),
            variables=self._variables,
            secrets=self._secrets,
        )

    # ------------------------------------------------------------ nodes

    def _next(self) -> yaml.Event:
        try:
            return next(self._events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = " ".join(part for part in (error.context, error.problem) if part)
            raise _Refused(mark.line + 1 if mark else 0, f"not YAML: {self._shown(said)}") from None
        except yaml.YAMLError as error:
            raise _Refused(0, f"not YAML: {error}") from None

    def _node(self, event: yaml.Event, path: Path, depth: int) -> object:
        line = _line(event)
        if depth > MAX_DEPTH:
            raise _Refused(line, f"nested deeper than {MAX_DEPTH} levels")
        before = self._nodes
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _Refused(line, f"unknown alias *{event.anchor}")
            value, size, anchored = self._anchors[event.anchor]
            self._count(size, line)
            for known in [e for e in self._variables if e[: len(anchored)] == anchored]:
                self._variables[(*path, *known[len(anchored) :])] = self._variables[known]
            return value
        self._count(1, line)
        if isinstance(event, yaml.MappingStartEvent):
            self._check_tag(event, path)
            value = self._mapping(path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, path)
            value = self._sequence(path, depth)
        else:
            assert isinstance(event, yaml.ScalarEvent)
            value = self._scalar(event, path)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before, path)
        return value

    def _mapping(self, path: Path, depth: int) -> dict[str, object]:
        value: dict[str, object] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise _Refused(line, "a key must be plain text", "quote it if it has brackets")
            key = self._expand(event.value, line, path) or ""
            held = self._next()
            if key == "<<" and not event.style:
                self._problem(line, path, "`<<` is not in YAML 1.2", "write the keys out")
            elif key in value:
                first = self._lines[(*path, key)]
                self._problem(
                    line,
                    (*path, key),
                    f"`{key}` is set twice, on line {first} and on line {line}",
                    "keep one of them",
                )
            else:
                self._lines[(*path, key)] = line
                value[key] = self._node(held, (*path, key), depth + 1)
                continue
            self._node(held, (*path, key, line), depth + 1)
        return value

    def _sequence(self, path: Path, depth: int) -> list[object]:
        value: list[object] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            inner = (*path, len(value))
            self._lines[inner] = _line(event)
            value.append(self._node(event, inner, depth + 1))
        return value

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> object:
        text: str = event.value
        if _OPEN in text:
            return self._expand(text, _line(event), path)
        if event.tag is not None and event.tag not in ("!", _STR_TAG):
            self._check_tag(event, path)
            return resolve(text)
        plain = event.tag is None and not event.style
        return resolve(text) if plain else text

    def _check_tag(self, event: yaml.NodeEvent, path: Path) -> None:
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", *_CORE_TAGS):
            self._problem(_line(event), path, f"the tag `{tag}` is not known", "leave it out")

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _Refused(line, f"more than {MAX_NODES:,} values, aliases written out")

    # ------------------------------------------------------------ variables

    def _stand_in(self, match: re.Match[str]) -> str:
        self._references.append(match[0])
        return f"{_OPEN}{len(self._references) - 1}{_CLOSE}"

    def _shown(self, said: str) -> str:
        """What the parser said, with the references as they were written."""
        return _STANDIN.sub(lambda match: self._reference(match), said)

    def _reference(self, match: re.Match[str]) -> str:
        index = int(match[1])
        return self._references[index] if index < len(self._references) else ""

    def _expand(self, text: str, line: int, path: Path) -> str | None:
        """`text` with its variables put in; None when one of them is not known."""
        if _OPEN not in text:
            return text
        unknown: list[str] = []

        def put(match: re.Match[str]) -> str:
            reference = self._reference(match)
            if self._env is None:
                return reference
            if not reference.startswith("${"):
                return reference.removeprefix("$")
            value = self._variable(reference, line, path)
            if value is None:
                unknown.append(reference)
            return value or ""

        expanded = _STANDIN.sub(put, text)
        if unknown:
            self._unset.add(path)
            return None
        written = self._shown(text)
        if expanded != written:
            self._variables[path] = (expanded, written)
        return expanded

    def _variable(self, reference: str, line: int, path: Path) -> str | None:
        variable = _VARIABLE.fullmatch(reference)
        if variable is None:
            self._problem(
                line,
                path,
                f"`{reference}` does not name an environment variable",
                "write `${NAME}` or `${NAME:-text}`, or `$${` for `${` itself",
            )
            return None
        name, default = variable["name"], variable["default"]
        assert self._env is not None
        value = self._env.get(name)
        if value:
            self._secrets[value] = reference
        if default is not None:
            return value or default
        if value is None:
            self._problem(
                line,
                path,
                f"the environment variable {name} is not set",
                f"set it, or give a default: `${{{name}:-text}}`",
            )
        return value

    def _problem(self, line: int, path: Path, message: str, mend: str) -> None:
        problem = Problem(self._file, line, dotted(path), message, mend)
        self.problems.append(without_values(problem, self._secrets))


def resolve(text: str) -> object:
    """What a plain scalar means by YAML 1.2's core schema (chapter 10.3.2 of the specification)."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "-+.0123456789":
        return text
    if _INT.fullmatch(text):
        return int(text) if len(text) < 4000 else text
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    infinite = _INFINITE.fullmatch(text)
    return float(f"{infinite[1]}inf") if infinite else text


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark is not None else 0
