"""What the estimators say, against a world whose truth is known."""

import numpy as np
import pytest

from benchmarks.replay_world import REGIMES, Regime, coverage
from gateway.experiments.estimators import (
    Logged,
    exploring,
    influences,
    student,
    weights,
)


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_intervals_hold_the_truth_as_often_as_they_promise(regime: Regime) -> None:
    found = coverage(regime, 150)
    for what, methods in found.items():
        held = methods["dr"][0]
        # 95 % of 150 runs, give or take three standard errors.
        assert 0.89 <= held <= 1.0, (what, methods)


def test_the_doubly_robust_one_is_the_sharper() -> None:
    found = coverage(REGIMES[0], 30)
    assert found["right"]["dr"][1] < 0.6 * found["right"]["ips"][1]


def test_the_same_policy_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    old = np.tile([0.9, 0.1], (200, 1))
    taken = (rng.random(200) < 0.1).astype(np.int64)
    logged = Logged(taken, old, old, np.zeros(200, dtype=np.int64))
    found = weights(logged)
    told = influences(logged, found, rng.random(200), np.full((200, 2), 0.5))
    assert found.effective == pytest.approx(200.0)
    for each in told.values():
        assert each.interval().low == each.interval().high == pytest.approx(0.0)


def test_what_was_never_chosen_has_no_support_and_rare_choices_are_cut() -> None:
    old = np.array([[1.0, 0.0]] * 98 + [[1.0 - 1e-5, 1e-5]] * 2)
    new = np.tile([0.25, 0.75], (100, 1))
    taken = np.array([0] * 99 + [1])
    logged = Logged(taken, old, new, np.zeros(100, dtype=np.int64))
    found = weights(logged)
    assert found.unsupported == pytest.approx(0.75 * 0.98)
    assert (found.cut, found.cap) == (1, 200.0)
    assert exploring(logged, found, 0.4, 0.01).requests is None


def test_as_much_exploring_as_is_asked_for_is_enough() -> None:
    """With what `exploring` names the interval is as narrow as was wanted."""
    n = 4000
    old, new = np.tile([0.995, 0.005], (n, 1)), np.tile([0.005, 0.995], (n, 1))
    logged = Logged(np.zeros(n, dtype=np.int64), old, new, np.zeros(n, dtype=np.int64))
    need = exploring(logged, weights(logged), 0.4, 0.05)
    assert need.requests is not None
    assert need.share is not None

    rng = np.random.default_rng(2)
    for size, rare in ((need.requests, 0.005), (n, need.share / 2)):
        old, new = np.tile([1 - rare, rare], (size, 1)), np.tile([rare, 1 - rare], (size, 1))
        taken = (rng.random(size) < rare).astype(np.int64)
        right = (rng.random(size) < 0.8).astype(float)
        logged = Logged(taken, old, new, np.zeros(size, dtype=np.int64))
        told = influences(logged, weights(logged), right, np.full((size, 2), 0.5))
        interval = told["dr"].interval()
        assert (interval.high - interval.low) / 2 == pytest.approx(0.05, rel=0.25)


def test_students_t_is_as_in_the_tables() -> None:
    for freedom, table in ((3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)):
        assert student(freedom) == pytest.approx(table, rel=0.01)
