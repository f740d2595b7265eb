"""Suites: read with every mistake named, and scored."""

import re
from pathlib import Path
from typing import Any

import pytest

from demo import suites, tasks
from gateway.cli.mixing import MOST, Tried, TryFailed, grid, with_front
from gateway.config.files.suites import ScorerPart
from gateway.errors import ConfigError
from gateway.evals.scoring import ScorerError, of_text
from gateway.evals.suites import read

ROOT = Path(__file__).parents[2]


def written(folder: Path, suite: str, **data: str) -> Path:
    for name, text in data.items():
        (folder / name.replace("_", ".")).write_text(text)
    path = folder / "suite.yaml"
    path.write_text(suite)
    return path


def test_a_suite_is_read_with_its_cases(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'name: desk\ndata: cases.jsonl\nprompt: "Queue of: {input}"\nscore: normalised\n',
        cases_jsonl='{"input": "It {broke}.", "expected": "Repair"}\n\n'
        '{"input": 7, "expected": 8}\n',
    )
    suite = read(path, {})
    asked = [(case.id, case.prompt, case.expected) for case in suite.cases]
    assert asked == [("1", "Queue of: It {broke}.", "Repair"), ("3", "Queue of: 7", "8")]
    assert (suite.name, suite.right, suite.max_tokens) == ("desk", "normalised", 64)


def test_comma_separated_values_are_read_as_well(tmp_path: Path) -> None:
    path = written(
        tmp_path, "name: desk\ndata: cases.csv\n", cases_csv='input,expected\n"a, b",c\n'
    )
    (case,) = read(path, {}).cases
    assert (case.prompt, case.expected) == ("a, b", "c")


@pytest.mark.parametrize(
    ("suite", "data", "said"),
    [
        ("name: desk\n", "", "suite.yaml:1: data: is missing"),
        ("name: desk\ndata: no.jsonl\n", "", "no.jsonl: cannot be read"),
        ("name: desk\ndata: cases.jsonl\n", "", "cases.jsonl: has no cases"),
        ("name: desk\ndata: cases.jsonl\n", "7\n", "cases.jsonl:1: needs fields"),
        ("name: desk\ndata: cases.jsonl\n", '\n{"a"\n', "cases.jsonl:2: is not JSON"),
        (
            'name: desk\ndata: cases.jsonl\nprompt: "{question}"\n',
            '{"expected": "x"}\n',
            "cases.jsonl:1: has no field `question`",
        ),
        (
            "name: desk\ndata: cases.jsonl\nscore: regex\n",
            '{"input": "x", "expected": "("}\n',
            "cases.jsonl:1: `expected` is no pattern",
        ),
        ("name: desk\ndata: cases.jsonl\nscores: 1\n", "", "scores: unknown key"),
        (
            "name: desk\ndata: cases.jsonl\n",
            '{"input": "x", "expected": null}\n',
            "cases.jsonl:1: has no field `expected`",
        ),
        (
            "name: desk\ndata: cases.jsonl\n",
            '{"id": 1, "input": "x", "expected": "x"}\n{"id": 1, "input": "y", "expected": "y"}\n',
            "cases.jsonl:2: a case before has the id `1`, too",
        ),
        (
            "name: desk\ndata: cases.jsonl\nscorers: {n: {kind: number}}\n",
            '{"input": "x", "expected": "n/a"}\n',
            "cases.jsonl:1: `expected` has no number in it: `n/a`",
        ),
        (
            "name: desk\ndata: cases.jsonl\nscorers: {n: {kind: fields}}\n",
            '{"input": "x", "expected": "{"}\n',
            "cases.jsonl:1: `expected` is not JSON, whose fields are compared",
        ),
    ],
)
def test_each_mistake_is_said_with_its_place(
    tmp_path: Path, suite: str, data: str, said: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read(written(tmp_path, suite, cases_jsonl=data), {})
    assert said in " ".join(str(raised.value).split()).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("input,expected\nalone\n", "cases.csv:2: has 1 fields, and the head 2; a text with a"),
        ("input,expected\nYes, please,yes\n", "cases.csv:2: has 3 fields, and the head 2"),
        ("input,input,expected\na,b,c\n", "cases.csv:1: has the column `input` twice"),
        ("", "cases.csv: has no cases"),
        ('input,expected\n"a,b\n', "cases.csv:2: has 1 fields"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_line(
    tmp_path: Path, data: str, said: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read(written(tmp_path, "name: desk\ndata: cases.csv\n", cases_csv=data), {})
    assert said in " ".join(str(raised.value).split()).replace(f"{tmp_path}/", "")


def test_texts_of_a_table_may_be_long_and_lines_empty(tmp_path: Path) -> None:
    data = f"input,expected\n\n{'x' * 200_000},yes\n"
    (case,) = read(written(tmp_path, "name: desk\ndata: cases.csv\n", cases_csv=data), {}).cases
    assert len(case.prompt) == 200_000


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ('{"properties": {"a": {"type": "frog"}}}', "'frog' is not valid"),
        ('{"$ref": "http://127.0.0.1:9/x.json"}', "refers to http://127.0.0.1:9/x.json"),
        ("[1", "is no JSON Schema that can be read"),
    ],
)
def test_a_schema_that_is_none_is_said(tmp_path: Path, schema: str, said: str) -> None:
    (tmp_path / "s.json").write_text(schema)
    part = ScorerPart.model_validate({"kind": "schema", "schema": "s.json"})

    def scored() -> None:
        score = of_text(part, tmp_path)
        assert score is not None
        score('{"a": 1}', "")

    with pytest.raises((ScorerError, ValueError), match=re.escape(said)):
        scored()


@pytest.mark.parametrize(
    ("score", "expected", "right", "wrong"),
    [
        ("exact", "Repair", " Repair\n", "repair"),
        ("normalised", "Re-pair it!", "  repair  IT", "repaired it"),
        ("contains", "pair", "Repair", "Par"),
        ("regex", r"\d+ (EUR|USD)", "12 EUR", "12 EUR or so"),
    ],
)
def test_when_an_answer_is_right(score: Any, expected: str, right: str, wrong: str) -> None:
    scored = of_text(ScorerPart(kind=score), ROOT)
    assert scored is not None
    assert (scored(right, expected), scored(wrong, expected)) == (1.0, 0.0)


SUITES = sorted((ROOT / "evals").glob("*.yaml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_the_suites_of_this_tree_are_right(path: Path) -> None:
    suite = read(path, {})
    assert suite.name == suite.route == path.stem
    assert suite.cases


def test_every_route_of_the_demo_has_a_suite() -> None:
    assert {path.stem for path in (ROOT / "routes").glob("*.yaml")} == {p.stem for p in SUITES}


def test_nothing_of_the_suites_was_trained_on() -> None:
    for task in tasks.TASKS:
        prompts = [case.prompt for case in read(ROOT / f"evals/{task}.yaml", {}).cases]
        assert len(set(prompts)) == len(prompts) == 100
        assert {tasks.split_of(prompt) for prompt in prompts} == {"test"}
        assert prompts == [example.prompt for example in suites.cases(task)]


# ---------------------------------------------------------------- a grid of weights


def test_the_grid_is_every_combination_of_what_is_given_and_the_usual() -> None:
    found = grid({"a": 1.0, "b": 1.0}, {"a": [1.0, 2.0]})
    assert len(found) == 2 * 4
    assert {"a": 2.0, "b": 0.5} in found
    with pytest.raises(TryFailed, match=f"{MOST} are the most"):
        grid(dict.fromkeys("abcd", 1.0), {})


def test_on_the_front_is_what_no_other_beats_everywhere() -> None:
    def tried(n: float, one: float, other: float) -> Tried:
        return Tried({"a": n}, {"one": one, "other": other})

    found = with_front(
        [tried(1, 0.9, 0.5), tried(2, 0.5, 0.9), tried(3, 0.5, 0.5), tried(4, 0.9, 0.9)]
    )
    assert [(each.weights["a"], each.on_front) for each in found] == [
        (4, True),
        (1, False),
        (2, False),
        (3, False),
    ]
    both = with_front([tried(1, 0.9, 0.5), tried(2, 0.5, 0.9)])
    assert all(each.on_front for each in both)
