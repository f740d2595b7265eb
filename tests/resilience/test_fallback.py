"""Fallback: in order, at most as many as allowed, failures gathered into one error."""

import pytest

from gateway.resilience.base import AttemptFailed, Once, gathered
from gateway.resilience.fallback import Fallback
from tests.resilience.asking import Scripted, choice, fails

TWO = Fallback(Once(), tries=2)


async def test_the_best_answers_and_nobody_else_is_asked() -> None:
    backends = Scripted(a="yes", b="no")
    assert await backends.given(TWO, choice("a"), choice("b")) == "yes"
    assert backends.asked == [("a", "first")]


async def test_the_next_is_asked_once_when_the_first_fails() -> None:
    backends = Scripted(a=fails("a"), b="yes", c="never")
    assert await backends.given(TWO, choice("a"), choice("b"), choice("c")) == "yes"
    assert backends.asked == [("a", "first"), ("b", "fallback")]


async def test_no_more_are_asked_than_the_policy_says() -> None:
    backends = Scripted(a=fails("a"), b=fails("b"), c="never")
    with pytest.raises(AttemptFailed):
        await backends.given(TWO, choice("a"), choice("b"), choice("c"))
    assert [name for name, _ in backends.asked] == ["a", "b"]


@pytest.mark.parametrize(
    ("first", "second", "status", "retry_after", "code"),
    [
        (fails("a"), fails("b"), 502, None, "upstream_failed"),
        (
            fails("a", 429, "busy", retry_after=7.0),
            fails("b", 429, "busy", retry_after=3.0),
            429,
            3.0,
            "upstream_busy",
        ),
        (fails("a"), fails("b", 429, "busy", retry_after=3.0), 502, 3.0, "upstream_failed"),
        (fails("a", 502), fails("b", 504, "timeout"), 504, None, "upstream_failed"),
        (fails("a"), fails("b", 401, "setup"), 502, None, "upstream_failed"),
        (fails("a"), fails("b", 400, "context"), 400, None, "context_length_exceeded"),
        (fails("a"), fails("b", 400, "refused"), 400, None, "content_filter"),
    ],
)
def test_all_failures_are_gathered(
    first: AttemptFailed, second: AttemptFailed, status: int, retry_after: float | None, code: str
) -> None:
    error = gathered([first, second])
    assert (error.status, error.retry_after, error.code) == (status, retry_after, code)
    assert first.message in error.message
    assert second.message in error.message


async def test_a_replica_that_takes_no_connection_is_not_asked_for_something_else() -> None:
    ranked = [choice("a", "http://dead"), choice("b", "http://dead"), choice("c")]
    backends = Scripted(a=fails("a", 502, "away"), b="never", c="yes")
    assert await backends.given(TWO, *ranked) == "yes"
    assert backends.asked == [("a", "first"), ("c", "fallback")]


async def test_where_all_else_is_at_that_replica_the_failure_is_told() -> None:
    backends = Scripted(a=fails("a", 502, "away"), b="never")
    with pytest.raises(AttemptFailed) as caught:
        await backends.given(TWO, choice("a", "http://dead"), choice("b", "http://dead"))
    assert caught.value.target == "a"


async def test_what_is_too_long_goes_only_to_a_longer_context() -> None:
    backends = Scripted(a=fails("a", 400, "context"), short="never", long="yes")
    backends.contexts = {"a": 1000, "short": 1000, "long": 2000}
    ranked = [choice("a"), choice("a", "http://2"), choice("short"), choice("long")]
    assert await backends.given(TWO, *ranked) == "yes"
    assert backends.asked == [("a", "first"), ("long", "fallback")]


@pytest.mark.parametrize("kind", ["refused", "parameter"])
async def test_what_a_model_refused_is_not_asked_of_it_elsewhere(kind: str) -> None:
    backends = Scripted(a=fails("a", 400, kind), b="yes")
    assert await backends.given(TWO, choice("a"), choice("a", "http://2"), choice("b")) == "yes"
    assert backends.asked == [("a", "first"), ("b", "fallback")]


async def test_what_no_backend_was_asked_counts_as_no_try() -> None:
    backends = Scripted(a=fails("a", 503, "busy", asked=False), b=fails("b"), c="yes")
    assert await backends.given(TWO, choice("a"), choice("b"), choice("c")) == "yes"


async def test_when_the_time_is_over_nobody_else_is_asked() -> None:
    backends = Scripted(a=fails("a", 504, "timeout", late=True), b="never")
    with pytest.raises(AttemptFailed):
        await backends.given(TWO, choice("a"), choice("b"))
    assert backends.asked == [("a", "first")]
