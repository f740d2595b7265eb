"""The loader under anything that may stand in a file: a snapshot, or problems with their lines."""

import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config import yaml
from gateway.config.load import load
from gateway.errors import ConfigError, Problem

ROOT = Path(__file__).parents[2]
REAL = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        ROOT / "gateway.yaml",
        *sorted(ROOT.glob("routes/*.yaml")),
        *sorted(ROOT.glob("policies/*.yaml")),
        *sorted(path for path in ROOT.glob("prompts/**/*") if path.is_file()),
    )
}
EDITED = sorted(name for name in REAL if name.endswith(".yaml"))
PATIENCE_S = 20.0
"""No file of a few kilobytes takes as long, however busy the machine is."""

tokens = st.sampled_from(
    [
        *(
            "a",
            "b: ",
            "- ",
            "? ",
            ": ",
            ", ",
            "\n",
            "\n  ",
            "\n    ",
            " ",
            "\t",
            "#",
            "---\n",
            "...\n",
        ),
        *(
            "{",
            "}",
            "[",
            "]",
            "|\n",
            ">-\n",
            "'",
            '"',
            "\\",
            "%YAML 9.9\n",
            "@",
            "`",
            "!",
            "!!map ",
        ),
        *("&a ", "*a", "<<: *a", "!!binary x", "!!python/object:os.system ", "~", ".nan", "-.inf"),
        *("${X}", "${", "$${", "${X:-y}", "${:}", "{key.tenant}", "0x" + "f" * 6000, "9" * 5000),
        *(
            "0o" + "7" * 6000,
            "1e999",
            "\x00",
            "\x85",
            "\u2028",
            "\ufeff",
            "\ue000",
            "\ue001",
            "\ud7ff",
        ),
        *(
            "name",
            "backends",
            "kind",
            "vllm",
            "models",
            "id",
            "replicas",
            "price",
            "0.1 usd",
            "5 %",
        ),
    ]
)
texts = st.one_of(st.lists(tokens, max_size=60).map("".join), st.text(max_size=200))


@settings(deadline=None, max_examples=150)
@given(texts)
@example("[" * 5000)
@example("a: " * 5000)
@example("? " * 5000)
@example("- " * 5000)
@example("{a: " * 5000)
@example("&a [*a, *a]")
@example("&a {*a : 1}")
def test_any_text_is_a_document_or_problems_with_lines(text: str) -> None:
    began = time.monotonic()
    document, problems = yaml.read(text, "file.yaml", {"X": "x"})
    assert time.monotonic() - began < PATIENCE_S
    assert document is not None or problems
    lines = text.count("\n") + text.count("\x85") + text.count("\u2028") + text.count("\r") + 2
    for problem in problems:
        assert problem.file == "file.yaml"
        assert 0 <= problem.line <= lines
        assert str(problem)


@pytest.mark.parametrize(
    "bomb",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n"
            for a, b in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "a: &a {x: y}\n"
        + "".join(
            f"{b}: &{b} {{{', '.join(f'k{n}: *{a}' for n in range(10))}}}\n"
            for a, b in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "[" * 100_000,
        "- " * 100_000,
        "x" * 9_000_000,
    ],
)
def test_bombs_are_refused_at_once(bomb: str) -> None:
    began = time.monotonic()
    document, problems = yaml.read(bomb, "file.yaml", {})
    assert document is None
    assert len(problems) == 1
    assert time.monotonic() - began < PATIENCE_S


def mutated(text: str, draw: random.Random) -> str:
    """The text with a few things wrong, as hands and tools make them so."""
    lines = text.split("\n")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        line = lines[at]
        match draw.randrange(9):
            case 0:
                del lines[at : at + draw.randint(1, 3)]
            case 1:
                lines.insert(at, lines[draw.randrange(len(lines))] if lines else "")
            case 2:
                lines[at] = " " * draw.randint(0, 6) + line.strip()
            case 3:
                lines[at] = line.replace(
                    ":", draw.choice(["", "::", ": &a", ": *a", ": [", ": {"]), 1
                )
            case 4:
                lines[at] = line.partition(":")[0] + ": " + draw.choice(VALUES)
            case 5 if line:
                cut = draw.randrange(len(line))
                lines[at] = (
                    line[:cut] + draw.choice("{}[]&*!|>'\"%@`#,?:-\t\x00\u2028é🦊") + line[cut:]
                )
            case 6 if line:
                cut = draw.randrange(len(line))
                lines[at] = line[:cut] + line[cut + 1 :]
            case 7:
                lines[at] = draw.choice(VALUES)
            case _:
                lines[at:] = []
        lines = lines or [""]
    return "\n".join(lines)


VALUES = [
    *(
        "",
        "~",
        "[]",
        "{}",
        "''",
        "0",
        "-1",
        "1e999",
        ".nan",
        ".inf",
        "true",
        "no",
        "9" * 30,
        "9" * 5000,
    ),
    *(
        "0x" + "f" * 6000,
        "5 %",
        "500 %",
        "-3 usd",
        "1e400 usd",
        "0.1 usd/Mtok",
        "99999999999 s",
        "-1 s",
    ),
    *("[a, b]", "{a: b}", "[[[[]]]]", "{a: {b: {c: d}}}", "${X}", "${NOT_SET}", "${", "x" * 10_000),
    *(
        "http://",
        "http://x:99999",
        "unix://",
        "dns://",
        "../../etc/passwd",
        "a/b+c@d",
        "local/qwen",
    ),
    *("'\\0'", '"\\ud800"', '"\\0"', '"\\x07"', "é", "🦊", "(((((", "(a+)+$", "*", "?"),
]


@pytest.mark.parametrize("edited", EDITED)
def test_a_mutated_file_is_a_snapshot_or_problems_with_lines(tmp_path: Path, edited: str) -> None:
    for name, content in REAL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for seed in range(40 if edited == "gateway.yaml" else 6):
        text = mutated(REAL[edited], random.Random(f"{edited} {seed}"))
        (tmp_path / edited).write_text(text)
        began = time.monotonic()
        for problem in problems_of(tmp_path):
            said = str(problem)[:300]
            assert problem.message
            assert len(str(problem)) < 3000
            place = Path(problem.file)
            assert place.is_relative_to(tmp_path), (seed, said)
            lines = place.read_text().count("\n") + 2 if place.is_file() else 0
            assert 0 <= problem.line <= lines, (seed, said)
            in_whole = not place.is_file() or "not YAML" in said or not place.read_text().strip()
            assert problem.line or in_whole, (seed, said)
        assert time.monotonic() - began < PATIENCE_S


def problems_of(directory: Path) -> Sequence[Problem]:
    """What is wrong with a directory; no other error but ConfigError is one."""
    try:
        return load(directory, ENV).warnings
    except ConfigError as error:
        return error.problems


ENV = {"OPENAI_API_KEY": "sk-x", "ANTHROPIC_API_KEY": "sk-y", "X": "x"}
