"""What experiments say of two arms, against simulations whose truth is known."""

import numpy as np
import pytest

from benchmarks import experiments as bench
from gateway.experiments.bandit import FLOOR, Rewards, weights
from gateway.experiments.planning import fixed_horizon, simulated, sizes
from gateway.experiments.rates import SRM_ALPHA, above, ratio_p
from gateway.experiments.stats import Contrasts, between, contrasts, estimate, evidence, intervals

RUNS = 300


def _within(rate: bench.Rate, most: float) -> bool:
    """Whether a share is at most that, as far as a simulation of that size can tell."""
    return rate.share <= most + 2.0 * rate.error


@pytest.mark.parametrize("rate", [0.5, 0.95])
def test_peeking_all_the_time_finds_nothing_where_nothing_is(rate: float) -> None:
    assert _within(bench.false_positives(rate, RUNS, 2000), 0.05)


def test_just_at_the_margin_it_is_not_said_to_be_no_worse() -> None:
    assert _within(bench.at_the_margin(0.9, 0.05, RUNS, 2000), 0.05)


def test_times_that_are_alike_are_not_told_apart_however_often_they_are_read() -> None:
    assert _within(bench.slots_alike(100, 150), 0.05)


def test_weights_that_follow_the_data_are_no_excuse() -> None:
    assert _within(bench.adaptive_false_positives(0.8, 60, 1000), 0.05)


@pytest.mark.parametrize("bandit", [True, False])
def test_of_arms_that_are_alike_none_is_said_to_be_the_best(bandit: bool) -> None:
    assert _within(bench.best_arm([0.9, 0.9, 0.9], 60, 2000, bandit=bandit).wrong, 0.05)
    assert _within(bench.best_arm([0.6, 0.6, 0.2], 40, 2000, bandit=bandit).wrong, 0.05)


def test_the_best_arm_of_a_bandit_is_found_and_one_as_good_as_it_within_a_margin() -> None:
    found = bench.best_arm([0.6, 0.9, 0.5], 20, 2000)
    assert (found.wrong.share, found.right.share > 0.8) == (0.0, True)
    assert bench.best_arm([0.9, 0.9, 0.5], 10, 4000, margin=0.1).right.share > 0.8


def test_a_bandits_contrasts_are_right_on_average_and_within_their_bounds() -> None:
    """Of three arms whose shares swing, from the chance of the drawn arm alone."""
    rng = np.random.default_rng(12)
    shares = np.array([[0.05, 0.6, 0.35], [0.7, 0.05, 0.25]])[np.arange(60_000) % 2]
    arm = (rng.random((60_000, 1)) > np.cumsum(shares, axis=1)).sum(axis=1)
    scores = (rng.random(60_000) < np.array([0.8, 0.7, 0.2])[arm]).astype(float)
    drawn = shares[np.arange(60_000), arm]
    seen = between(arm == 0, arm == 1, scores, drawn, 0.05, 0.05)

    assert estimate(seen) == pytest.approx(0.1, abs=0.03)
    assert (seen.least <= seen.values + 1e-9).all()
    assert (seen.values <= seen.most + 1e-9).all()


def test_the_peeking_that_is_guarded_against_is_real() -> None:
    assert bench.naive(0.9, RUNS, 2000).share > 0.15


def test_a_difference_is_found_nearly_as_soon_as_by_a_test_read_once() -> None:
    found = bench.power("better", 0.95, 0.85, 0.0, RUNS)

    assert found.answered.share > 0.97
    assert found.mean < 2.0 * found.fixed


def test_the_interval_holds_the_truth_at_every_look() -> None:
    assert bench.covered(0.9, 0.8, 25, 400).share >= 0.9


def test_an_interval_is_what_the_tests_leave() -> None:
    rng = np.random.default_rng(5)
    both = simulated(rng, 0.9, 0.8, 0.5, (1, 900))
    seen = Contrasts(both.values[0], both.least[0], both.most[0])

    ((low, high),) = intervals(seen, 0.05)

    assert low < estimate(seen) < high
    assert evidence(seen, low - 0.01).max() >= np.log(40) > evidence(seen, low + 0.01).max()
    assert evidence(seen, high + 0.01, "below").max() >= np.log(40)


def test_the_estimate_is_right_whatever_the_propensities_were() -> None:
    rng = np.random.default_rng(6)
    p = np.where(np.arange(40_000) % 2, 0.1, 0.8)
    z = rng.random(p.size) < p
    y = (rng.random(p.size) < np.where(z, 0.7, 0.6)).astype(float)

    assert estimate(contrasts(z, y, p)) == pytest.approx(0.1, abs=0.02)


def test_contrasts_stay_between_what_they_could_have_been() -> None:
    rng = np.random.default_rng(7)
    seen = contrasts(rng.random(500) < 0.3, rng.random(500), np.array(0.3))

    assert (seen.least <= seen.values + 1e-9).all()
    assert (seen.values <= seen.most + 1e-9).all()
    assert (seen.least <= -1.0 + 1e-9).all()


def test_without_units_nothing_is_said() -> None:
    seen = contrasts(np.zeros(0, bool), np.zeros(0), np.array(0.5))

    assert intervals(seen, 0.05, np.array([0])) == [(-1.0, 1.0)]
    assert estimate(seen) == 0.0


def test_wrong_shares_are_told_and_right_ones_are_not() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}

    assert ratio_p({"a": 5000, "b": 3000, "c": 2000}, shares) == 1.0
    assert ratio_p({"a": 5300, "b": 2700, "c": 2000}, shares) < SRM_ALPHA
    assert _within(bench.wrong_ratio(RUNS, 0.5, 1000), SRM_ALPHA)


def test_a_guard_speaks_of_rates_that_are_surely_above_its_limit() -> None:
    assert above(0.01, 1, 20) < 20
    assert above(0.01, 12, 200) > 20
    assert above(0.0, 1, 5) == float("inf")
    assert _within(bench.false_guards(RUNS, units=2000), 0.05)


def test_a_bandit_goes_to_the_better_arm_and_leaves_the_other_its_floor() -> None:
    rng = np.random.default_rng(8)
    good, bad = Rewards(), Rewards()
    for _ in range(300):
        good, bad = good.with_(float(rng.random() < 0.9)), bad.with_(float(rng.random() < 0.6))

    assert weights({"x": Rewards(), "y": Rewards()}, rng) == {"x": 0.5, "y": 0.5}
    assert weights({"good": good, "bad": bad}, rng) == pytest.approx(
        {"good": 1 - FLOOR, "bad": FLOOR}
    )
    found = bench.regret("two", [0.9, 0.7], [0.0, 0.0], 0.02, 10, 2000)
    assert found.bandit < 0.6 * found.split


def test_a_plan_is_between_the_fixed_horizon_and_a_few_times_as_much() -> None:
    plan = sizes(0.95, 0.95, 0.05, 0.05)

    assert plan.fixed == fixed_horizon(0.95, 0.95, 0.05, 0.05) == 470
    assert plan.most is not None
    assert plan.fixed < plan.most < 3 * plan.fixed
    with pytest.raises(ValueError, match="nothing to show"):
        sizes(0.8, 0.9, 0.05, 0.05)
