"""What is said of an experiment's requests: arms, guards, the answer, and how long it takes."""

import html.parser
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.experiments.answers import answer
from gateway.experiments.findings import Findings, breach, ended, found, guards
from gateway.experiments.page import page
from gateway.experiments.planning import Logged, planned
from gateway.experiments.progress import OVERLAP, Ended, Numbers, Progress, Scored
from gateway.types.experiments import Asked, Experiment, Standing

ASKED = Asked("new", "old", "accepted", no_worse=True, margin=0.05)
PLAIN = Experiment(
    "old-vs-new",
    {"old": "a/one", "new": "a/two"},
    {"old": 0.5, "new": 0.5},
    0.2,
    asked=ASKED,
    first_token_p95=1.0,
    errors=0.02,
)


def happened(
    n: int, right: dict[str, float], experiment: Experiment = PLAIN, **changes: Any
) -> Progress:
    """`n` requests, one a minute, each of a user of its own, half of them in each arm."""
    rng = np.random.default_rng(11)
    progress = Progress(
        experiment.arms, late_s=experiment.first_token_p95, slots=experiment.slot_s is not None
    )
    for seq in range(1, n + 1):
        arm = "new" if rng.random() < 0.5 else "old"
        plain = Ended(
            seq, 60.0 * seq, arm, f"u{seq}", failed=False, counts=True,
            cost=0.001 if arm == "new" else 0.003, first_token_s=0.2, total_s=1.0,
        )  # fmt: skip
        changed = {name: value(arm, rng) for name, value in changes.items()}
        progress.ended([msgspec.structs.replace(plain, **changed)])
        score = float(rng.random() < right[arm])
        progress.scored([Scored(seq, arm, plain.unit, 0.5, score)])
    return progress


def said(progress: Progress, experiment: Experiment = PLAIN, **more: Any) -> Findings:
    standing = Standing("hash", 0.0)
    return found(experiment, "general", progress, standing, 1e6, shared=False, **more)


def test_an_arm_that_is_as_good_and_cheaper_is_found_to_be_no_worse() -> None:
    progress = happened(2500, {"old": 0.9, "new": 0.9})
    seen = said(progress)

    ended_ = answer(PLAIN, progress)
    assert ended_ is not None
    assert (ended_.winner, ended_.yes) == ("new", True)
    assert seen.said == "95 % sure: new is no worse than old by more than 5 points in accepted"
    assert seen.at is not None
    assert seen.at < 2500
    assert seen.ratio_p == 1.0
    assert seen.warnings == ()
    assert sum(arm.requests for arm in seen.arms) == 2500
    # $0.002 less for each of a request a minute, a fifth of the traffic:
    assert seen.saved_a_month == pytest.approx(0.002 * 5 * 30 * 24 * 60, rel=0.01)
    last = seen.course[-1]
    assert last.low < last.estimate < last.high


def test_one_that_is_worse_is_found_to_be_worse_and_the_contrary_of_the_question_is_told() -> None:
    progress = happened(1500, {"old": 0.95, "new": 0.7})

    ended_ = answer(PLAIN, progress)
    assert ended_ is not None
    assert (ended_.winner, ended_.yes) == ("old", False)
    assert "new is worse than old by more than 5 points" in said(progress).said


def test_without_enough_there_is_no_answer() -> None:
    progress = happened(60, {"old": 0.9, "new": 0.9})

    assert answer(PLAIN, progress) is None
    assert said(progress).said.startswith("not sure yet: the difference is ")
    assert said(progress, looks=1).said == said(progress).said  # of the last unit, not the first
    assert said(Progress(PLAIN.arms)).said == "there is no outcome yet"


def test_which_is_best_is_told_with_the_leaders_difference_to_every_other() -> None:
    arms = {"a": "x/a", "b": "x/b", "c": "x/c"}
    asked = Asked("", "", "accepted", no_worse=False, best=True)
    best = Experiment("best", arms, dict.fromkeys(arms, 1 / 3), 1.0, bandit=True, asked=asked)
    rng, progress, rates = np.random.default_rng(5), Progress(arms), {"a": 0.5, "b": 0.9, "c": 0.6}
    for n in range(1, 2400):
        arm = "abc"[int(rng.integers(3))]
        progress.scored([Scored(n, arm, f"u{n}", 1 / 3, float(rng.random() < rates[arm]))])
        if n == 60:
            early = said(progress, best)
    seen = said(progress, best)

    assert early.said.startswith("not sure yet: b leads, and the difference to ")
    assert seen.asked == "which of a, b and c is best in accepted?"
    assert (seen.answer, seen.winner) == (True, "b")
    assert seen.said == "95 % sure: b is the best arm in accepted"
    assert [(each.arm, each.than) for each in seen.versus] == [("b", "a"), ("b", "c")]
    assert all(each.low < each.estimate < each.high for each in seen.versus)
    assert seen.versus[0].estimate == pytest.approx(0.4, abs=0.08)
    assert "b less a: +" in page(seen, 0.0)
    within = msgspec.structs.replace(best, asked=msgspec.structs.replace(asked, margin=0.02))
    assert "is no worse than any other arm by more than 2 points" in said(progress, within).said
    # Of a named pair of the bandit's arms as well.
    pair = msgspec.structs.replace(best, asked=Asked("c", "b", "accepted", no_worse=False))
    assert said(progress, pair).said == "95 % sure: c is not better than b in accepted"
    plan = planned(best, Logged(1.0, 1000, 1, 1000, 0.8), None, None)
    assert plan.days is not None
    assert [plan.treated, plan.control] == pytest.approx([0.85, 0.8])
    # That all of a few were right is not taken for certain.
    assert planned(within, Logged(1.0, 9, 1, 9, 1.0), None, None).control == pytest.approx(0.95)


def test_a_user_counts_once_however_often_they_answer() -> None:
    progress = Progress(PLAIN.arms)
    progress.scored(Scored(seq, "new", "mia", 0.5, 1.0) for seq in range(1, 100))
    progress.scored([Scored(50, "old", "leo", 0.5, 1.0)])  # read again: its number was seen

    assert progress.arms["new"].scored == 1
    assert progress.arms["old"].scored == 0
    assert progress.arms["new"].rewards.n == 99


def test_rows_that_are_seen_late_or_twice_count_once() -> None:
    """Of several writers the one with the lower numbers may be the later one."""
    numbers = Numbers()
    assert [numbers.is_new(n) for n in (1, 40, 2, 40, 2, 3)] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
    assert numbers.after == 0
    assert numbers.is_new(3 * OVERLAP)
    assert numbers.after == 2 * OVERLAP
    assert not numbers.is_new(41)
    assert all(numbers.is_new(n) for n in range(3 * OVERLAP + 1, 9 * OVERLAP))
    assert not any(numbers.is_new(n) for n in range(1, 9 * OVERLAP))


def test_a_slot_of_time_counts_by_its_mean() -> None:
    progress = Progress(PLAIN.arms, slots=True)
    rows = [("new", "s1", 1.0), ("new", "s1", 0.0), ("old", "s2", 1.0), ("new", "s3", 1.0)]
    progress.scored(Scored(n, arm, s, 0.5, score) for n, (arm, s, score) in enumerate(rows, 1))
    treated, scores, chances = progress.pair("new", "old", 0.5)

    assert (list(treated), list(scores), list(chances)) == ([True], [0.5], [0.5])


def test_guards_speak_of_the_arm_that_is_tried_and_not_of_the_control() -> None:
    fine = happened(400, {"old": 0.9, "new": 0.9})
    failing = happened(
        400, {"old": 0.9, "new": 0.9}, failed=lambda arm, rng: arm == "new" and rng.random() < 0.1
    )
    slow = happened(
        400, {"old": 0.9, "new": 0.9}, first_token_s=lambda arm, rng: float(rng.exponential(0.6))
    )

    assert breach(guards(PLAIN, fine)) is None
    assert {each.arm for each in guards(PLAIN, fine)} == {"new"}
    why = breach(guards(PLAIN, failing))
    assert why is not None
    assert why.startswith("arm new failed ")
    assert why.endswith("of its requests (allowed: 2 %)")
    why = breach(guards(PLAIN, slow))
    assert why is not None
    assert "first token" in why


def test_its_time_is_up_by_dollars_or_days() -> None:
    progress = happened(10, {"old": 0.9, "new": 0.9})
    dear = msgspec.structs.replace(PLAIN, most_usd=0.01)
    old = msgspec.structs.replace(PLAIN, most_s=86400.0)

    assert ended(PLAIN, progress, 0.0, 1e9) is None
    assert "has cost" in (ended(dear, progress, 0.0, 0.0) or "")
    assert ended(old, progress, 0.0, 2 * 86400.0) == "it is 2 days old"


def test_other_shares_than_declared_are_a_warning() -> None:
    progress = happened(3000, {"old": 0.9, "new": 0.9})
    skewed = msgspec.structs.replace(PLAIN, shares={"old": 0.6, "new": 0.4})

    assert "declared shares" in said(progress, skewed).warnings[0]
    assert said(progress, msgspec.structs.replace(skewed, bandit=True)).ratio_p is None


def test_times_of_arms_that_wait_for_each_other_are_not_comparable() -> None:
    progress = happened(20, {"old": 0.9, "new": 0.9})
    shared = found(PLAIN, "general", progress, None, 0.0, shared=True)
    switched = msgspec.structs.replace(PLAIN, slot_s=60.0)

    assert "share replicas" in shared.warnings[0]
    assert found(switched, "general", progress, None, 0.0, shared=True).times_comparable


def test_the_page_stands_alone_and_escapes_what_is_not_ours() -> None:
    progress = happened(300, {"old": 0.9, "new": 0.9})
    told = msgspec.structs.replace(said(progress), why="<script>alert(1)</script>")
    written = page(told, -0.05)

    class Reader(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            assert not {name for name, _ in attrs} & {"src", "href"}

    reader = Reader()
    reader.feed(written)
    assert {"svg", "polygon", "table"} <= set(reader.tags)
    assert "script" not in reader.tags
    assert "http" not in written


def test_a_plan_counts_days_by_the_logged_traffic() -> None:
    logged = Logged(days=10.0, requests=20_000, keys=7, scored=10_000, mean=0.9)
    plan = planned(PLAIN, logged, None, None)

    assert plan.asked == "is new no worse than old by more than 5 points in accepted?"
    assert plan.a_day == pytest.approx(200.0)
    assert plan.sizes.most is not None
    assert plan.days == pytest.approx(plan.sizes.most / 200.0)
    better = msgspec.structs.replace(PLAIN, asked=Asked("new", "old", "accepted", no_worse=False))
    assert planned(better, logged, 0.5, 10.0).sizes.fixed == 606
    with pytest.raises(ValueError, match="--rate"):
        planned(PLAIN, msgspec.structs.replace(logged, mean=None), None, None)
    with pytest.raises(ValueError, match="no question"):
        planned(msgspec.structs.replace(PLAIN, asked=None), logged, None, None)


def test_times_of_whole_slots_are_compared_as_a_ratio() -> None:
    rng = np.random.default_rng(12)
    switched = msgspec.structs.replace(PLAIN, slot_s=60.0)
    progress = Progress(switched.arms, slots=True)
    seq = 0
    for slot in range(120):
        arm = "new" if rng.random() < 0.5 else "old"
        for _ in range(5):
            seq += 1
            seconds = float(rng.lognormal(0.7 if arm == "new" else 0.0, 0.4))
            row = Ended(
                seq, 60.0 * slot, arm, f"s{slot}", failed=False, counts=True, cost=0.0,
                first_token_s=None, total_s=seconds, share=0.5,
            )  # fmt: skip
            progress.ended([row])
    seen = said(progress, switched)

    assert seen.first_token_ratio is None
    assert seen.whole_ratio is not None
    assert seen.whole_ratio.slots == 119
    assert 1.3 < seen.whole_ratio.low < 2.0 < seen.whole_ratio.high < 3.0
    assert "times as long" in page(seen, None)
