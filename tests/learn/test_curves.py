"""How good a router is, where that is known by hand."""

import numpy as np
import pytest

from gateway.learn.curves import aiq, apgr, cpt, hull, points, pool_answers


def test_apgr_of_a_straight_line_is_a_half() -> None:
    share = np.linspace(0, 1, 11)
    assert apgr(share, 0.6 + 0.2 * share, 0.8, 0.6) == pytest.approx(0.5)
    assert cpt(share, 0.6 + 0.2 * share, 0.8, 0.6, 0.5) == pytest.approx(50.0)
    assert cpt(share, 0.6 + 0.2 * share, 0.8, 0.6, 0.8) == pytest.approx(80.0)


def test_a_router_that_knows_needs_the_strong_one_only_where_it_helps() -> None:
    random = np.random.default_rng(1)
    weak = (random.random(4000) < 0.6).astype(float)
    strong = np.maximum(weak, random.random(4000) < 0.5)
    share, accuracy = points(strong - weak + 1e-6 * random.random(4000), strong, weak)
    a, b = float(strong.mean()), float(weak.mean())
    # The strong one helps on a fifth; all of its lead is had there.
    assert cpt(share, accuracy, a, b, 0.999) <= 100 * (a - b) * 1.1 + 10
    assert apgr(share, accuracy, a, b) > 0.85
    by_chance = points(random.random(4000), strong, weak)
    assert apgr(*by_chance, a, b) == pytest.approx(0.5, abs=0.03)


def test_what_cannot_be_reached_is_no_number() -> None:
    share = np.linspace(0, 1, 3)
    assert np.isnan(cpt(share, np.array([0.6, 0.6, 0.6]), 0.8, 0.6, 0.5))
    assert np.isnan(apgr(np.array([0.5]), np.array([0.7]), 0.8, 0.6))


def test_the_hull_leaves_out_what_mixtures_beat() -> None:
    cost, quality = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([0.5, 0.52, 0.8, 0.7, 0.9])
    c, q = hull(cost, quality)
    assert list(c) == [1.0, 3.0, 5.0]
    assert list(q) == [0.5, 0.8, 0.9]


def test_aiq_is_the_mean_height_of_the_hull() -> None:
    # From 0.5 at $1 in a line to 0.9 at $5; the mean over that range is 0.7.
    assert aiq(np.array([1.0, 5.0]), np.array([0.5, 0.9]), 1.0, 5.0) == pytest.approx(0.7)
    # Beyond its ends it is flat.
    assert aiq(np.array([3.0]), np.array([0.8]), 1.0, 5.0) == pytest.approx(0.8)


def test_a_pools_router_asks_for_what_is_worth_its_price() -> None:
    quality = np.array([[1.0, 1.0], [0.0, 1.0]])
    cost = np.array([[1.0, 10.0], [1.0, 10.0]])
    c, q = pool_answers(quality, quality, cost, cost, [0.001, 100.0])
    assert list(c.mean(axis=1)) == [1.0, 5.5]
    assert list(q.mean(axis=1)) == [0.5, 1.0]
