"""A cascade's machine: which step is next, from the answers so far."""

import msgspec
import pytest

from gateway.compose.cascade import cascade
from gateway.compose.checks import failing
from gateway.compose.moves import Ask, Failed, Given, Last, Said
from gateway.types.compositions import Check, Composition, Judge, Step
from tests.compose.playing import names, played, said

ANIMAL = Check("regex", pattern="(cat|dog)")
CHEAP = Step("1", "local/small", (ANIMAL,))
MIDDLE = Step("2", "local/big", (ANIMAL, Check("contains", text="o")))
DEAR = Step("3", "openai/mini")
THREE = Composition("animals", "cascade", (CHEAP, MIDDLE, DEAR))
ONE, TWO, THIRD = (Ask(step.name, step.target) for step in THREE.steps)


def test_an_answer_that_passes_is_given_and_no_other_step_is_asked() -> None:
    notes: dict[str, str] = {}
    asked, ending = played(cascade(THREE, "?", notes), {"1": " cat\n"})
    assert names(asked) == [["1"]]
    assert ending == Given(said(ONE, " cat\n"))
    assert notes == {"1": "passed"}


def test_one_that_does_not_pass_escalates_and_all_of_a_step_s_checks_count() -> None:
    notes: dict[str, str] = {}
    asked, ending = played(cascade(THREE, "?", notes), {"1": "a cat", "2": "cat"})
    assert names(asked) == [["1"], ["2"]]
    assert ending == Last(THIRD, instead=said(TWO, "cat"))
    assert notes == {
        "1": "escalated: does not match (cat|dog)",
        "2": "escalated: does not contain 'o'",
    }


def test_a_step_that_fails_is_passed_over() -> None:
    _, ending = played(cascade(THREE, "?", {}), {"1": Failed(ONE, "away"), "2": "dog"})
    assert ending == Given(said(TWO, "dog"))
    two = Composition("two", "cascade", (CHEAP, DEAR))
    _, ending = played(cascade(two, "?", {}), {"1": Failed(ONE, "away")})
    assert ending == Last(THIRD, instead=None)


def test_an_answer_that_calls_tools_has_nothing_to_be_checked() -> None:
    call = Said(ONE, b"", "", calls="[]")
    assert played(cascade(THREE, "?", {}), {"1": call})[1] == Given(call)


def test_where_the_next_might_cost_too_much_the_latest_answer_is_given() -> None:
    dear = Failed(TWO, "might cost", too_dear=True)
    assert played(cascade(THREE, "?", {}), {"1": "cow", "2": dear})[1] == Given(said(ONE, "cow"))


def checked(check: Check) -> Composition:
    return Composition("one", "cascade", (Step("1", "a/b", (check,)), Step("2", "c/d")))


@pytest.mark.parametrize(
    ("probability", "why"),
    [
        (0.95, ""),
        (0.5, "its tokens have a probability of 0.5, under 0.9"),
        (None, "tells no log-probabilities"),
    ],
)
def test_how_sure_a_model_was_is_asked_for_and_checked(probability: float | None, why: str) -> None:
    notes: dict[str, str] = {}
    machine = cascade(checked(Check("log_probability", least=0.9)), "?", notes)
    ask = Ask("1", "a/b", probability=True)
    asked, ending = played(machine, {"1": Said(ask, b"x", "x", probability=probability)})
    assert asked == [(ask,)]
    assert isinstance(ending, Given) is (why == "")
    assert notes["1"] == ("passed" if not why else f"escalated: {why}")


@pytest.mark.parametrize(
    ("answers", "given"),
    [
        (("4.", "It is 4", "5"), "4."),
        (("5", "4", "It is 4."), "4"),
        (("4", "5", "6"), None),
    ],
)
def test_self_consistency_gives_what_most_say(
    answers: tuple[str, str, str], given: str | None
) -> None:
    check = Check("agreement", least=0.6, samples=3, temperature=0.7, alike="number")
    machine = cascade(checked(check), "2 + 2?", {})
    said_by = dict(zip(("1", "1.2", "1.3"), answers, strict=True))
    asked, ending = played(machine, said_by)
    assert names(asked) == [["1"], ["1.2", "1.3"]]
    assert [ask.temperature for ask in asked[1]] == [0.7, 0.7]
    assert asked[0][0].temperature is None
    text = ending.said.text if isinstance(ending, Given) else None
    assert text == given


def test_a_sample_that_fails_agrees_with_nothing() -> None:
    check = Check("agreement", least=0.6, samples=3, temperature=0.7)
    failed = {name: Failed(Ask(name, "a/b"), "away") for name in ("1.2", "1.3")}
    _, ending = played(cascade(checked(check), "?", {}), {"1": "x", **failed})
    assert isinstance(ending, Last)


@pytest.mark.parametrize(
    ("marked", "why"),
    [
        ("Fine.\nMark: 4", ""),
        ("Poor.\nMark: 2", "its judge gives 2, under 4"),
        ("I cannot say.", "its judge gives no mark"),
    ],
)
def test_a_judge_s_mark(marked: str, why: str) -> None:
    check = Check("judge", least=4.0, judge=Judge("openai/mini", "Correct."))
    notes: dict[str, str] = {}
    machine = cascade(checked(check), "What is it?", notes)
    asked, ending = played(machine, {"1": "A cat.", "1.judge": marked})
    (judging,) = asked[1]
    assert judging.target == "openai/mini"
    assert judging.alone
    assert "What is it?" in (judging.prompt or "")
    assert "A cat." in (judging.prompt or "")
    assert isinstance(ending, Given) is (why == "")
    assert notes["1"] == (f"escalated: {why}" if why else "passed")


def test_where_its_judge_might_cost_too_much_the_answer_stands() -> None:
    check = Check("judge", least=4.0, judge=Judge("openai/mini", "Correct."))
    dear = Failed(Ask("1.judge", "openai/mini"), "might cost", too_dear=True)
    _, ending = played(cascade(checked(check), "?", {}), {"1": "cat", "1.judge": dear})
    assert isinstance(ending, Given)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ('{"queue": "billing"}', True),
        ('```json\n{"queue": "billing"}\n```', True),
        ('{"queue": 7}', False),
        ("billing", False),
        ("", False),
    ],
)
def test_schemas(text: str, passes: bool) -> None:
    schema = {"type": "object", "properties": {"queue": {"type": "string"}}, "required": ["queue"]}
    check = Check("schema", schema=msgspec.json.encode(schema))
    assert (failing(check, said(ONE, text)) == "") is passes
