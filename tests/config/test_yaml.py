"""YAML by the rules of 1.2, environment variables, and where everything stands."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import yaml
from gateway.config.yaml import Document, dotted, resolve


def data_of(text: str, **env: str) -> object:
    """What a text without problems holds."""
    document, problems = yaml.read(text, "file.yaml", env)
    assert problems == []
    assert document is not None
    return document.data


def document_of(text: str) -> Document:
    """A text's document, whatever its problems."""
    document, _ = yaml.read(text, "file.yaml", {})
    assert document is not None
    return document


def said(text: str, **env: str) -> list[str]:
    """Everything wrong with a text."""
    return [str(problem) for problem in yaml.read(text, "file.yaml", env)[1]]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("-12", -12),
        ("+12", 12),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("-.inf", -math.inf),
        (".Inf", math.inf),
        ("true", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        ("0b11", "0b11"),
        ("-", "-"),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("0.01 usd", "0.01 usd"),
        ("=", "="),
    ],
)
def test_plain_scalars_follow_the_core_schema(written: str, value: object) -> None:
    found = resolve(written)
    assert found == value
    assert type(found) is type(value)


def test_nan_is_not_a_number() -> None:
    found = resolve(".nan")
    assert isinstance(found, float)
    assert math.isnan(found)


def test_quoted_scalars_are_text() -> None:
    assert data_of("""{a: "12", b: 'true', c: !!str 12, d: ''}""") == {
        "a": "12",
        "b": "true",
        "c": "12",
        "d": "",
    }


def test_keys_are_always_text() -> None:
    assert data_of("8080: a\ntrue: b\n") == {"8080": "a", "true": "b"}


def test_a_key_set_twice_names_both_lines() -> None:
    assert said("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n") == [
        "file.yaml:5: b.c: `c` is set twice, on line 3 and on line 5; keep one of them"
    ]


def test_every_repeated_key_is_said() -> None:
    assert len(said("a: 1\na: 2\na: {b: 1, b: 2}\n")) == 3


# ---------------------------------------------------------------- variables


@pytest.mark.parametrize(
    "text",
    [
        "a: ${X}",
        'a: "${X}"',
        "a: '${X}'",
        "{a: ${X}}",
        "a: >-\n  ${X}",
        "a: |-\n  ${X}",
        "a: ${Y:-value}",
        "{a: ${Y:-value}}",
        "a: ${EMPTY:-value}",
    ],
)
def test_a_variable_stands_in_every_style(text: str) -> None:
    assert data_of(text, X="value", EMPTY="") == {"a": "value"}


def test_variables_stand_in_lists_and_within_text() -> None:
    assert data_of("[${A}, http://${A}:80/${B}, ${A}${B}]", A="a", B="b") == [
        "a",
        "http://a:80/b",
        "ab",
    ]


def test_what_a_variable_holds_is_never_yaml() -> None:
    evil = "x, b: [1]}\nc: &d *e #"
    assert data_of("{a: ${X}, b: 2}", X=evil) == {"a": evil, "b": 2}


@given(st.text(max_size=40))
def test_any_value_comes_through_unchanged(value: str) -> None:
    assert data_of("- ${X}\n- {a: '${X}'}\n", X=value) == [value, {"a": value}]


def test_what_stands_for_the_callers_key_is_left_alone() -> None:
    assert data_of("[{target: local/qwen+{key.tenant}, quality: 0.9}]\n") == [
        {"target": "local/qwen+{key.tenant}", "quality": 0.9}
    ]


def test_a_variables_value_is_text_whatever_it_looks_like() -> None:
    assert data_of("[${A}, ${B}]", A="12", B="true") == ["12", "true"]


def test_a_dollar_twice_is_the_sign_itself() -> None:
    assert data_of("a: $${X}\nb: [$${X}]\nc: '$${not a name}'\nd: costs $5 {really}") == {
        "a": "${X}",
        "b": ["${X}"],
        "c": "${not a name}",
        "d": "costs $5 {really}",
    }


def test_an_unset_variable_is_a_problem_with_its_line() -> None:
    assert said("a: 1\nb:\n  - ${MISSING}\n") == [
        "file.yaml:3: b[0]: the environment variable MISSING is not set;"
        " set it, or give a default: `${MISSING:-text}`"
    ]


def test_a_variable_that_is_empty_is_set() -> None:
    assert data_of("a: ${X}", X="") == {"a": ""}


@pytest.mark.parametrize("reference", ["${a b}", "${}", "${1X}", "${X-Y}", "${X:y}", "${"])
def test_only_names_of_variables_stand_in_braces(reference: str) -> None:
    (problem,) = said(f"a: '{reference}'")
    assert f"`{reference}` does not name an environment variable" in problem


def test_comments_may_say_what_they_like() -> None:
    assert data_of("a: 1 # ${MISSING} and ${what not\n") == {"a": 1}


def test_the_environment_is_not_asked_for_what_is_not_named() -> None:
    assert data_of("a: $HOME ~ %PATH%", HOME="x") == {"a": "$HOME ~ %PATH%"}


# ---------------------------------------------------------------- lines


def test_every_key_and_item_has_its_line() -> None:
    document = document_of("a:\n  b: 1\n  c:\n    - x\n    - y: |\n        text\n    -\n      z\n")
    assert document.line(("a",)) == 1
    assert document.line(("a", "b")) == 2
    assert document.line(("a", "c", 0)) == 4
    assert document.line(("a", "c", 1, "y")) == 5
    assert document.line(("a", "c", 2)) == 8


def test_a_missing_key_is_on_the_line_of_what_is_around_it() -> None:
    document = document_of("a: 1\nb:\n  c: {d: 1}\n")
    assert document.line(("b", "c", "missing")) == 3
    assert document.line(("b", "other", 3, "deep")) == 2
    assert document.line(("nothing",)) == 1


def test_a_path_reads_like_one() -> None:
    assert dotted(("backends", "local", "replicas", 0)) == "backends.local.replicas[0]"
    assert dotted(()) == ""


# ---------------------------------------------------------------- anchors and what is refused


def test_anchors_work() -> None:
    assert data_of("a: &x {k: [1, 2]}\nb: *x\nc: [*x]\n") == {
        "a": {"k": [1, 2]},
        "b": {"k": [1, 2]},
        "c": [{"k": [1, 2]}],
    }


def test_merge_keys_are_not_of_this_version() -> None:
    assert said("a: &x {k: 1}\nb: {<<: *x}\n") == [
        "file.yaml:2: b: `<<` is not in YAML 1.2; write the keys out"
    ]


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (problem,) = said("\n".join(lines))
    assert "aliases written out" in problem


def test_an_alias_within_its_own_anchor_is_refused() -> None:
    assert said("a: &a [*a]") == ["file.yaml:1: unknown alias *a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n---\nb: 2\n", "file.yaml:2: a second document begins here"),
        ("a: [1, 2\nb: 3\n", "file.yaml:2: not YAML"),
        ("a: b: c\n", "file.yaml:1: not YAML"),
        ("\tx: 1\n", "file.yaml:1: not YAML"),
        ("a: 'open\n", "not YAML"),
        ("[" * 200, "nested deeper than 50 levels"),
        ("? [a, b]\n: 1\n", "a key must be plain text"),
        ("a: \x00\n", "not YAML"),
        ("a: \ue000\n", "the private character U+E000 is not allowed"),
        ("a: " + "x" * (8 * 1024 * 1024), "longer than"),
    ],
)
def test_what_is_not_one_sound_document_is_refused(text: str, message: str) -> None:
    document, problems = yaml.read(text, "file.yaml", {})
    assert document is None
    assert message in str(problems[-1])


@pytest.mark.parametrize("text", ["a: !!python/object:os.system {}", "a: !mine b", "a: !!set {}"])
def test_tags_of_other_schemas_are_refused(text: str) -> None:
    (problem,) = said(text)
    assert "is not known" in problem


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_holds_nothing(text: str) -> None:
    assert data_of(text) is None


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    document, problems = yaml.read(text, "file.yaml", {})
    assert document is not None or problems


letters = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Co", "Cn", "Zl", "Zp"))
texts = st.text(letters, max_size=12).filter(lambda text: "${" not in text)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_json_is_yaml(value: object) -> None:
    assert data_of(json.dumps(value, ensure_ascii=False)) == value
