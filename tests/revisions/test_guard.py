"""When a new revision is found to do worse."""

import random

import pytest

from gateway.revisions.guard import Ended, Limits, Seen, judged, seen

LIMITS = Limits(errors=0.02, latency=0.5)


def ended(
    n: int, *, failed: int = 0, s: float = 1.0, route: str = "general", seed: int = 1
) -> list[Ended]:
    draw = random.Random(seed)
    return [
        Ended(route, "error" if k < failed else "ok", s * draw.lognormvariate(-1, 0.3),
              s * draw.lognormvariate(0, 0.4))
        for k in range(n)
    ]  # fmt: skip


def test_of_the_same_nothing_is_found_and_it_says_what_it_saw() -> None:
    found = judged(seen(ended(300, failed=3)), seen(ended(200, failed=2, seed=2)), LIMITS)
    assert not found.worse
    assert found.why == "200 requests, 1 % failed, 1 % before"


@pytest.mark.parametrize(("failed", "worse"), [(0, False), (2, False), (8, False), (30, True)])
def test_failures_count_where_they_are_surely_more_than_allowed(failed: int, worse: bool) -> None:
    found = judged(seen(ended(300, failed=6)), seen(ended(100, failed=failed, seed=2)), LIMITS)
    assert found.worse == worse
    if worse:
        assert found.why == ("30 % of its requests failed, 2 % before (allowed: 2 points more)")


@pytest.mark.parametrize(("factor", "worse"), [(0.5, False), (1.3, False), (1.5, False), (2, True)])
def test_slower_counts_where_it_is_surely_slower_than_allowed(factor: float, worse: bool) -> None:
    found = judged(seen(ended(300)), seen(ended(150, s=factor, seed=2)), LIMITS)
    assert found.worse == worse
    if worse:
        assert "the first token takes" in found.why
        assert "% longer than before (allowed: 50 %)" in found.why


def test_another_mix_of_routes_is_no_difference() -> None:
    before = ended(200, s=0.1, route="quick") + ended(20, s=10, route="long", seed=2)
    after = ended(20, s=0.1, route="quick", seed=3) + ended(200, s=10, route="long", seed=4)
    assert not judged(seen(before), seen(after), LIMITS).worse
    slow = ended(20, s=0.3, route="quick", seed=3) + ended(200, s=30, route="long", seed=4)
    assert judged(seen(before), seen(slow), LIMITS).worse


def test_with_few_requests_nothing_is_found() -> None:
    found = judged(seen(ended(300)), seen(ended(19, failed=19)), LIMITS)
    assert not found.worse
    assert "19 requests, too few to tell" in found.why


def test_with_nothing_before_none_is_taken_to_have_failed() -> None:
    assert judged(Seen(), seen(ended(40, failed=20)), LIMITS).worse
    assert not judged(Seen(), seen(ended(40)), LIMITS).worse


def test_who_went_away_says_nothing() -> None:
    gone = [Ended("general", "abandoned", None, 9.0)] * 50
    assert seen([*gone, *ended(20)]).requests == 20


def test_a_false_alarm_is_rare_though_it_looks_all_the_time() -> None:
    """Two hundred changes that change nothing, each looked at after every ten requests."""
    alarms = 0
    for n in range(200):
        before = seen(ended(400, failed=8, seed=n))
        after = ended(400, failed=0, seed=1000 + n)
        draw = random.Random(n)
        after = [
            Ended(e.route, "error" if draw.random() < 0.02 else "ok", e.first_token_s, e.total_s)
            for e in after
        ]
        alarms += any(
            judged(before, seen(after[:size]), LIMITS).worse for size in range(20, 401, 20)
        )
    assert alarms <= 4
