"""Fallback: in order, at most as many as allowed, failures gathered into one error."""

import msgspec
import pytest

from gateway.errors import AttemptsFailed
from gateway.resilience.fallback import AttemptFailed, Reason, first_to_answer
from gateway.types import Choice


def choice(name: str) -> Choice:
    return Choice(name, "http://x", 0, 0.9, 0.0, 0.1, 0.2, 0.01)


class Scripted:
    """Answers or fails as told, and remembers what it was asked."""

    def __init__(self, **outcomes: AttemptFailed | str) -> None:
        self.outcomes = outcomes
        self.asked: list[tuple[str, Reason]] = []

    async def __call__(self, asked: Choice, reason: Reason) -> str:
        self.asked.append((asked.target, reason))
        outcome = self.outcomes[asked.target]
        if isinstance(outcome, AttemptFailed):
            raise outcome
        return outcome


def fails(target: str, status: int, retry_after: float | None = None) -> AttemptFailed:
    return AttemptFailed(target, status, f"{status} here", retry_after)


async def test_the_best_answers_and_nobody_else_is_asked() -> None:
    backends = Scripted(a="yes", b="no")
    assert await first_to_answer([choice("a"), choice("b")], backends) == "yes"
    assert backends.asked == [("a", "first")]


async def test_the_next_is_asked_once_when_the_first_fails() -> None:
    backends = Scripted(a=fails("a", 500), b="yes", c="never")
    assert await first_to_answer([choice("a"), choice("b"), choice("c")], backends) == "yes"
    assert backends.asked == [("a", "first"), ("b", "fallback")]


@pytest.mark.parametrize(
    ("first", "second", "status", "retry_after"),
    [
        (fails("a", 500), fails("b", 500), 502, None),
        (fails("a", 429, 7), fails("b", 429, 3), 429, 3),
        (fails("a", 500), fails("b", 429, 3), 502, 3),
        (fails("a", 502), fails("b", 504), 504, None),
        (fails("a", 500), fails("b", 401), 502, None),
        (fails("a", 500), fails("b", 400), 400, None),
    ],
)
async def test_all_failures_are_gathered(
    first: AttemptFailed, second: AttemptFailed, status: int, retry_after: float | None
) -> None:
    with pytest.raises(AttemptsFailed) as caught:
        await first_to_answer([choice("a"), choice("b")], Scripted(a=first, b=second))
    assert (caught.value.status, caught.value.retry_after) == (status, retry_after)
    assert first.message in caught.value.message
    assert second.message in caught.value.message


def at(name: str, replica: str) -> Choice:
    return msgspec.structs.replace(choice(name), replica=replica)


async def test_a_replica_that_takes_no_connection_is_not_asked_for_something_else() -> None:
    ranked = [at("a", "http://dead"), at("b", "http://dead"), at("c", "http://well")]
    backends = Scripted(a=AttemptFailed("a", 502, "refused", away=True), b="never", c="yes")
    assert await first_to_answer(ranked, backends) == "yes"
    assert backends.asked == [("a", "first"), ("c", "fallback")]


async def test_where_all_else_is_at_that_replica_the_failure_is_told() -> None:
    ranked = [at("a", "http://dead"), at("b", "http://dead")]
    backends = Scripted(a=AttemptFailed("a", 502, "refused", away=True), b="never")
    with pytest.raises(AttemptsFailed, match="a: refused"):
        await first_to_answer(ranked, backends)
