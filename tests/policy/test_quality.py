"""What is known of a target's quality, and when it has changed."""

import numpy as np
import pytest

from gateway.policy.quality import Tally, beta_cdf, beta_quantile, change_of, posterior

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("x", "a", "b", "share"),
    [
        (0.5, 2.0, 2.0, 0.5),
        (0.3, 1.0, 1.0, 0.3),
        (0.9, 5.0, 1.0, 0.9**5),
        (0.2, 1.0, 7.0, 1 - 0.8**7),
        (0.25, 0.5, 0.5, 1 / 3),  # the arcsine law: 2/pi x asin(sqrt(x))
    ],
)
def test_the_beta_distribution_where_it_is_known(
    x: float, a: float, b: float, share: float
) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(share, abs=1e-12)
    assert beta_quantile(share, a, b) == pytest.approx(x, abs=1e-8)


@pytest.mark.parametrize(("a", "b"), [(3.5, 90.0), (900.0, 120.0), (50_000.0, 400.0)])
def test_quantiles_are_those_of_samples(a: float, b: float) -> None:
    sample = np.random.default_rng(7).beta(a, b, 200_000)
    for share in (0.025, 0.5, 0.975):
        assert np.mean(sample <= beta_quantile(share, a, b)) == pytest.approx(share, abs=0.002)


def test_what_was_seen_outweighs_what_was_declared() -> None:
    declared = posterior(0.9, 20.0, [], DAY_S)
    assert (declared.n, declared.seen) == (20.0, 0.0)
    assert declared.mean == pytest.approx(0.9)
    known = posterior(0.9, 20.0, [Tally(1000, 600)], DAY_S)
    assert known.mean == pytest.approx(618 / 1020)
    assert declared.high - declared.low > 3 * (known.high - known.low)
    assert known.low < 0.6 < known.high


def test_what_was_seen_long_ago_counts_less() -> None:
    """A provider that became worse without a word shows after a few half-lives."""
    old, new = Tally(1000, 950, age_s=5 * DAY_S), Tally(1000, 600)
    assert posterior(0.9, 20.0, [old, new], DAY_S).mean < 0.62
    assert posterior(0.9, 20.0, [old, new], 1000 * DAY_S).mean == pytest.approx(0.7767, abs=1e-3)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random, within = np.random.default_rng(11), 0
    for _ in range(1000):
        truth = random.beta(18, 2)  # as declared: 0.9, worth 20 observations
        right = random.binomial(150, truth)
        found = posterior(0.9, 20.0, [Tally(150, float(right))], DAY_S)
        within += found.low <= truth <= found.high
    assert 930 <= within <= 968  # 95 %, and 2.7 standard errors of 1,000 runs


def test_where_nothing_was_declared_a_few_right_answers_do_not_make_it_sure() -> None:
    found = posterior(0.5, 0.0, [Tally(10, 10)], DAY_S)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.7828, abs=1e-3)  # Jeffreys' of 10 of 10
    none = posterior(0.5, 0.0, [Tally(10, 0)], DAY_S)
    assert (none.mean, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.7828, abs=1e-3)


def test_a_change_is_seen_and_where_it_was() -> None:
    random = np.random.default_rng(3)
    outcomes = [*(random.random(400) < 0.95), *(random.random(120) < 0.75)]
    change = change_of(outcomes, 0.01)
    assert change is not None
    assert 385 <= change.at <= 420
    assert change.before > 0.92
    assert change.after < 0.85


def test_without_a_change_none_is_seen_however_often_one_looks() -> None:
    """Looked for after every tenth outcome, over 300 runs of 600."""
    random, alarms = np.random.default_rng(5), 0
    for _ in range(300):
        outcomes = list(random.random(600) < 0.9)
        alarms += any(change_of(outcomes[:n], 0.01) for n in range(10, 601, 10))
    assert alarms <= 9  # three times the 1 % that it is to be


def test_too_few_say_nothing() -> None:
    assert change_of([], 0.01) is None
    assert change_of([True], 0.01) is None
    assert change_of([True] * 500, 0.01) is None
