"""A cascade's machine: which step is next, from the answers so far."""

import msgspec
import pytest

from gateway.compose.cascade import cascade
from gateway.compose.checks import failing
from gateway.compose.moves import Ask, Ending, Failed, Given, Heard, Last, Machine, Said
from gateway.types.compositions import Check, Composition, Step

ANIMAL = Check("regex", pattern="(cat|dog)")
CHEAP = Step("1", "local/small", (ANIMAL,))
MIDDLE = Step("2", "local/big", (ANIMAL, Check("contains", text="o")))
DEAR = Step("3", "openai/mini")
THREE = Composition("animals", "cascade", (CHEAP, MIDDLE, DEAR))


def said(step: Step, text: str, *, calls: bool = False) -> Said:
    return Said(step, text.encode(), text, calls)


def ended(machine: Machine, *heard: Heard) -> tuple[list[str], Ending]:
    """Whom a machine asked, given these answers in turn, and how it ended."""
    asked: list[str] = []
    asks: tuple[Ask, ...] = next(machine)
    for each in heard:
        asked += [ask.step.target for ask in asks]
        try:
            asks = machine.send((each,))
        except StopIteration as stopped:
            ending: Ending = stopped.value
            return asked, ending
    raise AssertionError("it has not ended")


def test_an_answer_that_passes_is_given_and_no_other_step_is_asked() -> None:
    notes: dict[str, str] = {}
    good = said(CHEAP, " cat\n")
    assert ended(cascade(THREE, notes), good) == (["local/small"], Given(good))
    assert notes == {"1": "passed"}


def test_one_that_does_not_pass_escalates_and_all_of_a_step_s_checks_count() -> None:
    notes: dict[str, str] = {}
    first, second = said(CHEAP, "a cat"), said(MIDDLE, "cat")
    asked, ending = ended(cascade(THREE, notes), first, second)
    assert asked == ["local/small", "local/big"]
    assert ending == Last(DEAR, instead=second)
    assert notes == {
        "1": "escalated: does not match (cat|dog)",
        "2": "escalated: does not contain 'o'",
    }


def test_a_step_that_fails_is_passed_over() -> None:
    good = said(MIDDLE, "dog")
    assert ended(cascade(THREE, {}), Failed(CHEAP, "away"), good)[1] == Given(good)
    two = Composition("two", "cascade", (CHEAP, DEAR))
    assert ended(cascade(two, {}), Failed(CHEAP, "away"))[1] == Last(DEAR, instead=None)


def test_an_answer_that_calls_tools_has_nothing_to_be_checked() -> None:
    call = said(CHEAP, "", calls=True)
    assert ended(cascade(THREE, {}), call)[1] == Given(call)


def test_where_the_next_might_cost_too_much_the_latest_answer_is_given() -> None:
    first = said(CHEAP, "cow")
    ending = ended(cascade(THREE, {}), first, Failed(MIDDLE, "might cost", too_dear=True))[1]
    assert ending == Given(first)


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
    assert (failing(check, text) == "") is passes
