"""The best of several answers: who is asked, and which is chosen."""

import pytest

from gateway.compose.best_of import best_of
from gateway.compose.moves import Ask, Failed, Given, Nothing, Said
from gateway.types.compositions import Composition, Judge, Step
from tests.compose.playing import names, played

THREE = Composition("three", "best_of", (Step("a", "x/a"), Step("b", "x/b"), Step("c", "x/c")))
JUDGED = Composition(
    "judged", "best_of", (Step("1", "x/a"),), samples=3, temperature=0.7,
    judge=Judge("x/judge", "Correct."),
)  # fmt: skip


def chosen(composition: Composition, answers: dict[str, str | Said | Failed]) -> str:
    _, ending = played(best_of(composition, "?", {}), answers)
    assert isinstance(ending, Given)
    return ending.said.text


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (("Yes.", "no", "yes"), "Yes."),
        (("no", "Yes.", "yes"), "Yes."),
        (("one", "two", "three"), "one"),
    ],
)
def test_what_most_say_is_given_and_of_equal_ones_the_earliest(
    answers: tuple[str, str, str], wanted: str
) -> None:
    assert chosen(THREE, dict(zip("abc", answers, strict=True))) == wanted


def test_all_are_asked_at_once_and_as_the_client_asked() -> None:
    asked, _ = played(best_of(THREE, "?", {}), {"a": "x", "b": "x", "c": "x"})
    assert asked == [(Ask("a", "x/a"), Ask("b", "x/b"), Ask("c", "x/c"))]


def test_those_that_fail_are_left_out_and_one_is_enough() -> None:
    failed = {name: Failed(Ask(name, f"x/{name}"), f"{name} is away") for name in "abc"}
    assert chosen(THREE, {**failed, "c": "yes"}) == "yes"
    assert played(best_of(THREE, "?", {}), failed)[1] == Nothing("a is away; b is away; c is away")


def test_calls_of_tools_are_alike_where_they_call_the_same() -> None:
    def call(name: str, id: str, made: str) -> Said:
        return Said(Ask(name, f"x/{name}"), id.encode(), "", calls=made)

    one, two, three = call("a", "1", "[f]"), call("b", "2", "[g]"), call("c", "3", "[g]")
    _, ending = played(best_of(THREE, "?", {}), {"a": one, "b": two, "c": three})
    assert ending == Given(two)


def test_a_judge_marks_each_by_itself_and_the_best_is_given() -> None:
    notes: dict[str, str] = {}
    answers: dict[str, str | Failed] = {"1.1": "one", "1.2": "two", "1.3": "three"}
    marks = {"1.1.judge": "Mark: 3", "1.2.judge": "Mark: 5", "1.3.judge": "Mark: 4"}
    asked, ending = played(best_of(JUDGED, "?", notes), {**answers, **marks})
    assert names(asked) == [["1.1", "1.2", "1.3"], ["1.1.judge", "1.2.judge", "1.3.judge"]]
    assert isinstance(ending, Given)
    assert ending.said.text == "two"
    assert notes == {"1.2": "chosen: its judge gives 5"}


def test_where_no_mark_is_given_most_decide() -> None:
    answers: dict[str, str | Said | Failed] = {"1.1": "one", "1.2": "two", "1.3": "two"}
    for n in "123":
        answers[f"1.{n}.judge"] = Failed(Ask(f"1.{n}.judge", "x/judge"), "away")
    assert chosen(JUDGED, answers) == "two"
