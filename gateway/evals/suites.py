"""Suites: cases with known answers, who is asked and how it is scored, from a YAML file and its
data."""

import csv
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from gateway.config import yaml
from gateway.config.files.suites import AskedPart, ScorerPart, SuiteFile
from gateway.config.problems import validated
from gateway.config.words import did_you_mean
from gateway.errors import ConfigError, Problem, unread
from gateway.evals import scorers
from gateway.types.routes import Comparison
from gateway.types.snapshot import Snapshot

csv.field_size_limit(1 << 27)
_FIELD = re.compile(r"\{(\w+)\}")


class Case(msgspec.Struct, frozen=True):
    """One question, from the fields of a row, and the answer that is right."""

    id: str
    fields: Mapping[str, str]
    prompt: str
    expected: str


class Scorer(msgspec.Struct, frozen=True):
    """A scorer as declared. An answer is right where its score compares with `bound` so."""

    name: str
    part: ScorerPart
    comparison: Comparison = "="
    bound: float = 1.0

    def is_right(self, score: float) -> bool:
        """Whether an answer of this score is right."""
        return {
            "=": abs(score - self.bound) < 1e-9,
            ">=": score >= self.bound,
            ">": score > self.bound,
            "<=": score <= self.bound,
            "<": score < self.bound,
        }[self.comparison]


class To(msgspec.Struct, frozen=True):
    """A target that is asked, and what is its own of how; `name` where it is asked in several
    ways."""

    target: str
    system: str | None = None
    prompt: str | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """What results call it."""
        return self.name or self.target


class Suite(msgspec.Struct, frozen=True):
    """Cases that are asked alike. Files that scorers name are looked for in `folder`.

    The hashes are SHA-256 in hex, of the file and of its data.
    """

    name: str
    cases: tuple[Case, ...]
    scorers: tuple[Scorer, ...]
    right: str
    folder: Path
    system: str | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    repetitions: int = 1
    seed: int = 0
    route: str | None = None
    targets: tuple[To, ...] = ()
    hash: str = ""
    data_hash: str = ""

    @property
    def scorer(self) -> Scorer:
        """The one that says whether an answer is right."""
        return next(each for each in self.scorers if each.name == self.right)


def read(path: Path, env: Mapping[str, str], snapshot: Snapshot | None = None) -> Suite:
    """The suite of a file with its cases. Raises ConfigError with everything that is wrong: with a
    `snapshot` also that its route or a target is none there."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            [Problem(str(path), 0, "", f"cannot be read: {unread(error)}")]
        ) from error
    document, problems = yaml.read(text, str(path), env)
    file = None
    if document is not None:
        file, wrong = validated(SuiteFile, document)
        problems = [*problems, *wrong]
        if file is not None:
            problems += _unfit(file, document)
            problems += _unknown(file, document, snapshot) if snapshot is not None else ()
    if file is None or document is None or problems:
        raise ConfigError(problems)
    data = path.parent / file.data
    cases, problems = _cases(file, data)
    if not cases and not problems:
        problems.append(Problem(str(data), 0, "", "has no cases", "write one on each line"))
    if problems:
        raise ConfigError(problems)
    declared = _scorers(file)
    return Suite(
        name=file.name,
        cases=_chosen(cases, file),
        scorers=declared,
        right=file.right or declared[0].name,
        folder=path.parent,
        system=file.system,
        max_tokens=file.max_tokens,
        temperature=file.temperature,
        repetitions=file.repetitions,
        seed=file.seed,
        route=file.route,
        targets=tuple(_to(each) for each in file.targets),
        hash=sha256(text.encode()).hexdigest(),
        data_hash=sha256(data.read_bytes()).hexdigest(),
    )


def filled(template: str, fields: Mapping[str, str]) -> str:
    """A template with the fields of a case put in, in one pass: braces in those stay as they are.

    Raises KeyError for a field that the case does not have.
    """
    return _FIELD.sub(lambda found: fields[found[1]], template)


_NEEDS = {"schema": "schema", "judge": "target", "code": "run", "python": "function"}
"""What a kind of scorer cannot do without."""


def _unfit(file: SuiteFile, document: yaml.Document) -> Iterator[Problem]:
    problem = document.problem
    for name, part in file.scorers.items():
        needed = _NEEDS.get(part.kind)
        has = part.schema_file if needed == "schema" else getattr(part, needed or "kind")
        if not has:
            mend = f"write `{needed}`"
            yield problem(("scorers", name), f"a scorer by {part.kind} needs `{needed}`", mend)
        if isinstance(part.right_when, bool):
            path = ("scorers", name, "right_when")
            yield problem(path, "a score is a number", "write a comparison, as `>= 0.8`")
    labels: set[str] = set()
    for place, to in enumerate(map(_to, file.targets)):
        if to.label in labels:
            mend = "give each way of asking it a `name` of its own"
            yield problem(("targets", place), f"`{to.label}` is asked twice", mend)
        labels.add(to.label)
    if file.right is not None and file.right not in (list(file.scorers) or [file.score]):
        mend = did_you_mean(file.right, list(file.scorers), "declare it under `scorers`")
        yield problem(("right",), f"unknown scorer `{file.right}`", mend)


def _unknown(file: SuiteFile, document: yaml.Document, snapshot: Snapshot) -> Iterator[Problem]:
    """What the suite names that the configuration has not."""
    named: list[tuple[yaml.Path, str, str, Iterable[str]]] = []
    if file.route is not None:
        named.append((("route",), "route", file.route, snapshot.routes))
    for place, to in enumerate(map(_to, file.targets)):
        named.append((("targets", place), "target", to.target, snapshot.targets))
    for name, part in file.scorers.items():
        if part.target is not None:
            named.append((("scorers", name, "target"), "target", part.target, snapshot.targets))
    for path, kind, name, known in named:
        if name not in known:
            mend = did_you_mean(name, known, "declare it first")
            yield document.problem(path, f"unknown {kind} `{name}`", mend)


def _scorers(file: SuiteFile) -> tuple[Scorer, ...]:
    if not file.scorers:
        return (Scorer(file.score, ScorerPart(kind=file.score)),)
    return tuple(
        Scorer(name, part, *part.right_when)
        if isinstance(part.right_when, tuple)
        else Scorer(name, part)
        for name, part in file.scorers.items()
    )


def _to(part: str | AskedPart) -> To:
    return (
        To(part) if isinstance(part, str) else To(part.target, part.system, part.prompt, part.name)
    )


def _chosen(cases: list[Case], file: SuiteFile) -> tuple[Case, ...]:
    """As many as are asked for, in the order of the file."""
    if file.cases is None or file.cases >= len(cases):
        return tuple(cases)
    chosen = sorted(random.Random(file.seed).sample(range(len(cases)), file.cases))
    return tuple(cases[place] for place in chosen)


def _cases(file: SuiteFile, data: Path) -> tuple[list[Case], list[Problem]]:
    cases: list[Case] = []
    problems: list[Problem] = []
    kinds = {each.part.kind for each in _scorers(file)}
    ids: set[str] = set()
    templates = [file.prompt, file.expected]
    templates += [
        each.prompt for each in file.targets if isinstance(each, AskedPart) and each.prompt
    ]
    for line, row in _rows(data):
        case = _case(file, templates, row, line, kinds)
        if isinstance(case, str):
            problems.append(Problem(str(data), line, "", case))
        elif case.id in ids:
            problems.append(
                Problem(
                    str(data),
                    line,
                    "",
                    f"a case before has the id `{case.id}`, too",
                    "give each its own: results are compared by it",
                )
            )
        else:
            ids.add(case.id)
            cases.append(case)
    return cases, problems


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, fields) of JSONL or CSV, an error's text in the place of fields."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                reader = csv.reader(file)
                yield from _table((reader.line_num, row) for row in reader)
                return
            for line, text in enumerate(file, start=1):
                if text.strip():
                    try:
                        yield line, msgspec.json.decode(text)
                    except msgspec.DecodeError as error:
                        yield line, f"is not JSON: {error}"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = str(error) if isinstance(error, csv.Error) else unread(error)
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {why}")]) from error


def _table(rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, Any]]:
    """(line, fields) of a CSV; rows that the head does not fit are told: a comma that is not quoted
    would put a part of the question where the answer stands."""
    line, names = next(rows, (1, []))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield line, f"has the column `{twice[0]}` twice"
        return
    for line, row in rows:
        if len(row) == len(names):
            yield line, dict(zip(names, row, strict=True))
        elif row:
            yield (
                line,
                f"has {len(row)} fields, and the head {len(names)}; a text with a comma or a line"
                " break stands in quotes",
            )


def _case(
    file: SuiteFile, templates: list[str], row: Any, line: int, kinds: Set[str]
) -> Case | str:
    """A case, or what is wrong with its row."""
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        return 'needs fields: `{"input": …, "expected": …}`'
    fields = {str(name): _text(value) for name, value in row.items() if value is not None}
    for template in templates:
        for name in _FIELD.findall(template):
            if name not in fields:
                who = "the expected answer" if template == file.expected else "the prompt"
                return f"has no field `{name}`, which {who} wants"
    expected = filled(file.expected, fields)
    wrong = _unscorable(expected, kinds)
    if wrong is not None:
        return wrong
    return Case(fields.get("id", str(line)), fields, filled(file.prompt, fields), expected)


def _unscorable(expected: str, kinds: Set[str]) -> str | None:
    """Why no answer could ever be right beside this expected one."""
    if "regex" in kinds:
        try:
            re.compile(expected)
        except re.error as error:
            return f"`expected` is no pattern: {error}"
    if "number" in kinds and scorers.number_in(expected) is None:
        return f"`expected` has no number in it: `{expected[:80]}`"
    if "fields" in kinds:
        try:
            scorers.json_in(expected)
        except (msgspec.DecodeError, RecursionError) as error:
            return f"`expected` is not JSON, whose fields are compared: {error}"
    return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
