"""How sure a run is of what it says."""

from typing import Any

import numpy as np
import pytest

from gateway.evals.compare import bootstrap, changed, compared, holm, mcnemar, report, wilson
from gateway.evals.runs import Result, Run


def result(case: int, target: str, right: bool | None, rep: int = 0, **more: Any) -> Result:
    values: dict[str, Any] = {
        "case": str(case), "target": target, "rep": rep, "input": f"question {case}",
        "expected": "yes", "output": "yes" if right else "no", "error": None,
        "scores": {} if right is None else {"exact": float(right)}, "right": right,
        "cost_usd": 0.001, "judge_usd": 0.0, "first_token_s": 0.1, "total_s": 0.5,
        "input_tokens": 10, "output_tokens": 5,
    }  # fmt: skip
    return Result(**(values | more))


def a_run() -> Run:
    return Run(
        "1", "s", None, "s.yaml", "", "", "", (), ("exact",), "exact", 10, 1, 0, 0.0, 1.0, True,
        10, 0, 0, 0.01, 0.0, {},
    )  # fmt: skip


def test_shares_have_wilsons_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, and 0 of 20.
    assert list(wilson(81, 263)) == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert list(wilson(0, 20)) == pytest.approx([0.0, 0.1611], abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilsons_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(4)
    for truth, n in ((0.9, 50), (0.99, 200), (0.5, 30)):
        right = random.binomial(n, truth, 2000)
        held = sum(low <= truth <= high for low, high in (wilson(float(r), n) for r in right))
        assert 0.92 <= held / 2000 <= 0.985


def test_mcnemars_mid_p() -> None:
    # The binomial at 1/2: 2 x (P(X < 1) + P(X = 1) / 2) of n = 8 is 2 x (1 + 4) / 256.
    assert mcnemar(1, 7) == mcnemar(7, 1) == pytest.approx(10 / 256)
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1.0
    # Under no difference it is below 5 % about as often as that.
    random = np.random.default_rng(9)
    below = [mcnemar(int(k), 40 - int(k)) < 0.05 for k in random.binomial(40, 0.5, 4000)]
    assert 0.02 <= np.mean(below) <= 0.05


def test_the_bootstraps_interval_holds_the_truth() -> None:
    random, held = np.random.default_rng(2), 0
    for _ in range(300):
        a, b = random.random(150) < 0.9, random.random(150) < 0.8
        low, high, _ = bootstrap(a.astype(float) - b.astype(float))
        held += low <= 0.1 <= high
    assert 0.91 <= held / 300 <= 0.98


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_report_says_who_is_better_and_who_is_on_the_front() -> None:
    results = [
        *(result(case, "ours", case < 99, cost_usd=0.0001) for case in range(100)),
        *(result(case, "theirs", case < 90, cost_usd=0.01) for case in range(100)),
        *(result(case, "cheap", case < 85, cost_usd=0.00005) for case in range(100)),
    ]
    found = report(a_run(), results)
    front = {each.target: each.on_front for each in found.standings}
    assert front == {"ours": True, "theirs": False, "cheap": True}
    pair = next(each for each in found.compared if (each.one, each.other) == ("ours", "theirs"))
    assert pair.sure
    assert pair.difference == pytest.approx(0.09)
    assert pair.low < 0.09 < pair.high
    assert (pair.only_one, pair.only_other) == (9, 0)
    assert pair.test == "McNemar's mid-p test"
    case = found.disagreements[0]
    assert case.right[max(case.right, key=lambda name: case.right[name])]
    assert len(found.disagreements) == 14


def test_a_case_asked_often_counts_once() -> None:
    """Answers to the same question are no further evidence of others."""
    results = [result(case, "a", case < 6, rep) for case in range(10) for rep in range(50)]
    (standing,) = report(a_run(), results).standings
    assert standing.cases == 10
    assert (standing.low, standing.high) == wilson(6, 10)


def test_scores_between_are_compared_by_the_bootstrap() -> None:
    (pair,) = compared({"a": {"1": 0.5, "2": 1.0, "3": 0.75}, "b": {"1": 0.5, "2": 0.5, "3": 0.5}})
    assert pair.test == "paired bootstrap"


def test_what_failed_is_no_wrong_answer() -> None:
    results = [result(1, "a", True), result(2, "a", None, error="503")]
    (standing,) = report(a_run(), results).standings
    assert (standing.cases, standing.errors, standing.quality) == (1, 1, 1.0)


def test_a_regression_between_runs_is_found() -> None:
    before = [result(case, "a", True) for case in range(60)]
    after = [result(case, "a", case >= 12) for case in range(60)]
    (change,) = changed(before, [*after, result(1, "new", True)])
    assert change.worse
    assert [each.case for each in change.regressions][:2] == ["0", "1"]
    (same,) = changed(before, [result(case, "a", case != 3) for case in range(60)])
    assert not same.worse
    assert len(same.regressions) == 1
