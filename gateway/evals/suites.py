"""Suites: cases with known answers, from a YAML file and its data, and when an answer is right."""

import csv
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.config import yaml
from gateway.config.models import SuiteFile
from gateway.config.problems import validated
from gateway.errors import ConfigError, Problem

Score = Literal["exact", "normalised", "contains", "regex"]


class Case(msgspec.Struct, frozen=True):
    """One question and the answer that is right."""

    prompt: str
    expected: str


class Suite(msgspec.Struct, frozen=True):
    """Cases that are asked alike."""

    name: str
    cases: tuple[Case, ...]
    system: str | None = None
    max_tokens: int = 64
    score: Score = "exact"

    def is_right(self, case: Case, said: str) -> bool:
        """Whether an answer is the one that was wanted."""
        match self.score:
            case "exact":
                return said.strip() == case.expected.strip()
            case "normalised":
                return normalised(said) == normalised(case.expected)
            case "contains":
                return case.expected in said
            case "regex":
                return re.fullmatch(case.expected, said.strip(), re.DOTALL) is not None


def normalised(text: str) -> str:
    """Without case, punctuation and more than one space in a row."""
    words = text.casefold().translate(str.maketrans("", "", string.punctuation)).split()
    return " ".join(words)


def read(path: Path, env: Mapping[str, str]) -> Suite:
    """The suite of a file with its cases. Raises ConfigError with everything that is wrong."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error}")]) from error
    document, problems = yaml.read(text, str(path), env)
    file = None
    if document is not None:
        file, wrong = validated(SuiteFile, document)
        problems = [*problems, *wrong]
    if file is None or document is None or problems:
        raise ConfigError(problems)
    data = path.parent / file.data
    cases = []
    for line, row in _rows(data):
        case = _case(file, row)
        if isinstance(case, str):
            problems.append(Problem(str(data), line, "", case))
        else:
            cases.append(case)
    if not cases and not problems:
        problems.append(Problem(str(data), 0, "", "has no cases", "write one on each line"))
    if problems:
        raise ConfigError(problems)
    return Suite(file.name, tuple(cases), file.system, file.max_tokens, file.score)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, fields) of JSONL or CSV, an error's text in the place of fields."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    yield reader.line_num, row
                return
            for line, text in enumerate(file, start=1):
                if text.strip():
                    try:
                        yield line, msgspec.json.decode(text)
                    except msgspec.DecodeError as error:
                        yield line, f"is not JSON: {error}"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), 0, "", f"cannot be read: {error}")]) from error


def _case(file: SuiteFile, row: Any) -> Case | str:
    """A case, or what is wrong with its row."""
    if isinstance(row, str):
        return row
    if not isinstance(row, dict) or "expected" not in row:
        return "needs the fields of the prompt and `expected`"
    expected = str(row["expected"])
    if file.score == "regex":
        try:
            re.compile(expected)
        except re.error as error:
            return f"`expected` is no pattern: {error}"
    wanted = re.findall(r"\{(\w+)\}", file.prompt)
    missing = [name for name in wanted if name not in row]
    if missing:
        return f"has no field `{missing[0]}`, which the prompt wants"
    # One pass, so that braces in what is put in stay what they are.
    prompt = re.sub(r"\{(\w+)\}", lambda found: str(row[found[1]]), file.prompt)
    return Case(prompt, expected)
