"""Retry: only what may pass, not too often, not too late, and not where the next is worth more."""

import pytest

from gateway.resilience.base import AttemptFailed, Once, Opener
from gateway.resilience.deadline import Deadline
from gateway.resilience.fallback import Fallback
from gateway.resilience.retry import PASSES, Retry
from tests.resilience.asking import Scripted, Time, choice, fails


def again(inner: Opener, time: Time, retries: int = 1, per_second: float | None = None) -> Retry:
    return Retry(
        inner,
        retries=retries,
        first_s=0.2,
        most_s=5.0,
        clock=time,
        sleep=time.sleep,
        draw=lambda: 0.0,
        per_second=per_second,
    )


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("busy", 2),
        ("broken", 2),
        ("away", 2),
        ("timeout", 1),
        ("setup", 1),
        ("refused", 1),
        ("parameter", 1),
        ("context", 1),
        ("client", 1),
    ],
)
async def test_only_what_may_pass_is_asked_again(kind: str, asked: int) -> None:
    backends = Scripted(a=[fails("a", 500, kind), "yes"])
    opener = again(Once(), Time())
    if asked == 2:
        assert await backends.given(opener, choice("a")) == "yes"
        assert backends.asked == [("a", "first"), ("a", "retry")]
    else:
        with pytest.raises(AttemptFailed):
            await backends.given(opener, choice("a"))
        assert backends.asked == [("a", "first")]


async def test_waits_grow_and_end() -> None:
    time = Time()
    backends = Scripted(a=fails("a"))
    with pytest.raises(AttemptFailed):
        await backends.given(again(Once(), time, retries=6), choice("a"))
    assert time.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 2.5]


async def test_a_backend_s_own_time_is_honoured_or_not_waited_for() -> None:
    time = Time()
    soon = Scripted(a=[fails("a", 429, "busy", retry_after=3.0), "yes"])
    assert await soon.given(again(Once(), time), choice("a")) == "yes"
    assert time.slept == [3.0]
    late = Scripted(a=[fails("a", 429, "busy", retry_after=6.0), "never"])
    with pytest.raises(AttemptFailed):
        await late.given(again(Once(), time), choice("a"))
    assert time.slept == [3.0]


async def test_nothing_is_waited_for_that_the_request_has_no_time_for() -> None:
    time = Time()
    backends = Scripted(a=[fails("a", 429, "busy", retry_after=3.0), "never"])
    opener = Deadline(again(Once(), time), total_s=2.0)
    with pytest.raises(AttemptFailed):
        await backends.given(opener, choice("a"))
    assert time.slept == []


async def test_after_all_have_failed_the_soonest_is_asked_again() -> None:
    time = Time()
    opener = again(Fallback(Once(), tries=2), time)
    backends = Scripted(
        a=fails("a", 429, "busy", retry_after=4.0),
        b=[fails("b", 429, "busy", retry_after=1.0), "yes"],
    )
    assert await backends.given(opener, choice("a"), choice("b")) == "yes"
    assert time.slept == [1.0]
    assert backends.asked == [("a", "first"), ("b", "fallback"), ("b", "retry")]


@pytest.mark.parametrize(("gap", "first"), [(2.0, "a"), (0.5, "b")])
async def test_the_same_is_asked_again_only_where_the_next_is_worth_less_than_the_wait(
    gap: float, first: str
) -> None:
    """`gap` in the dollars that the wait of 0.1 s costs."""
    per_second = 0.01
    time = Time()
    opener = Fallback(again(Once(), time, per_second=per_second))
    backends = Scripted(a=[fails("a"), "a"], b="b")
    net = 0.01 - gap * per_second * 0.1 / PASSES
    assert await backends.given(opener, choice("a", net=0.01), choice("b", net=net)) == first


async def test_the_retries_of_a_request_are_counted_together() -> None:
    time = Time()
    opener = again(Fallback(again(Once(), time), tries=2), time)
    backends = Scripted(a=fails("a"), b=fails("b"))
    with pytest.raises(AttemptFailed):
        await backends.given(opener, choice("a"), choice("b"))
    assert len(time.slept) == 1
