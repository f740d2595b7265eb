"""A chain: what each step is asked, from what the steps before it have said."""

from gateway.compose.chain import chain
from gateway.compose.moves import Ask, Failed, Given, Last, Nothing, Said
from gateway.types.compositions import Composition, Step
from tests.compose.playing import played

REVIEWED = Composition(
    "reviewed",
    "chain",
    (
        Step("draft", "local/small"),
        Step("check", "openai/mini", prompt="Q: {input}\nA: {draft}\nErrors?", max_tokens=50),
        Step("rewrite", "local/big", prompt="{draft} // {check} // {other}", system="Be brief."),
    ),
)


def test_each_step_is_told_what_was_said_and_the_last_answers() -> None:
    asked, ending = played(
        chain(REVIEWED, "Why {draft}?", {}), {"draft": "Since {check}.", "check": "None."}
    )
    assert asked == [
        (Ask("draft", "local/small"),),
        (
            Ask(
                "check",
                "openai/mini",
                prompt="Q: Why {draft}?\nA: Since {check}.\nErrors?",
                inner=True,
                max_tokens=50,
            ),
        ),
    ]
    assert ending == Last(
        Ask("rewrite", "local/big", "Be brief.", "Since {check}. // None. // {other}")
    )


def test_a_step_that_fails_ends_it() -> None:
    failed = Failed(Ask("check", "openai/mini"), "away")
    _, ending = played(chain(REVIEWED, "?", {}), {"draft": "x", "check": failed})
    assert ending == Nothing("step check: away")


def test_a_draft_that_calls_tools_is_given_as_it_is() -> None:
    call = Said(Ask("draft", "local/small"), b"", "", calls="[f]")
    assert played(chain(REVIEWED, "?", {}), {"draft": call})[1] == Given(call)
