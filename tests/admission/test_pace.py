"""Bounds that are learned from how long answers take, in simulated time."""

import random
from collections.abc import Callable

import pytest

from gateway.admission.pace import SORTS, UNBOUND, Pace, alike
from gateway.admission.usual import ERA_ANSWERS, FIRST, Usual
from tests.admission.simulation import Work, World, answers, equal, streams, varied

Kind = Callable[[random.Random], Work]

KINDS = {"equal": equal(0.5), "varied": varied(0.5, 0.7), "answers": answers, "streams": streams}


def stepped(before: float, after: float, at: float) -> Callable[[float], float]:
    """So many a second, and from then on so many."""
    return lambda now: before if now < at else after


def capacity(work: Kind, slots: int) -> float:
    """Answers a second that so many slots make."""
    draw = random.Random(0)
    return slots / (sum(work(draw).whole_s for _ in range(5000)) / 5000)


# ---------------------------------------------------------------- servers that have a bound


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", ["equal", "varied"])
def test_a_silent_server_answers_in_time_at_ten_times_the_load(kind: str, seed: int) -> None:
    world = World(KINDS[kind], slots=20, rate=stepped(20.0, 400.0, 20.0), seed=seed)
    world.run(90.0)
    assert world.goodput(55.0, 90.0) >= 0.9 * 40.0
    assert world.p99(55.0, 90.0) <= 3.0 * world.p99(0.0, 20.0)
    assert world.refused(0.0, 20.0) == 0.0


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", ["equal", "varied"])
def test_at_a_jump_it_is_bound_within_a_second_and_a_half_and_two_answers(
    kind: str, seed: int
) -> None:
    world = World(KINDS[kind], slots=20, rate=stepped(20.0, 400.0, 20.0), seed=seed)
    world.run(30.0)
    bound = min(at for at, limit in world.limits if limit < 40.0)
    assert bound - 20.0 <= 1.5 + 2 * 0.5 + 0.05


@pytest.mark.parametrize("kind", ["answers", "streams"])
def test_so_it_does_whether_they_are_long_or_short(kind: str) -> None:
    most = capacity(KINDS[kind], 20)
    world = World(KINDS[kind], slots=20, rate=stepped(0.5 * most, 3.0 * most, 60.0))
    world.run(400.0)
    assert world.goodput(200.0, 400.0) >= 0.8 * most
    assert world.p99(200.0, 400.0) <= 3.0 * world.p99(0.0, 60.0)
    assert world.refused(0.0, 60.0) == 0.0


@pytest.mark.parametrize("times", [1.3, 2.0])
def test_a_little_too_much_is_noticed_too(times: float) -> None:
    world = World(equal(0.5), slots=20, rate=stepped(20.0, times * 40.0, 20.0))
    world.run(90.0)
    assert world.goodput(50.0, 90.0) >= 0.95 * 40.0
    assert world.p99(50.0, 90.0) <= 3.0 * 0.5


def test_a_server_that_has_grown_gets_more_again() -> None:
    world = World(equal(0.5), slots=20, rate=stepped(20.0, 120.0, 20.0))
    world.at(60.0, lambda: setattr(world, "slots", 200))
    world.run(90.0)
    assert world.refused(40.0, 60.0) > 0.5
    assert world.refused(70.0, 90.0) == 0.0


def test_a_bound_that_is_not_in_use_is_none_in_the_end() -> None:
    world = World(equal(0.5), slots=20, rate=lambda t: 80.0 if 20.0 < t < 40.0 else 10.0)
    world.run(7200.0)
    assert min(limit for _, limit in world.limits) < 30.0
    assert world.limits[-1][1] == UNBOUND
    assert world.refused(60.0, 7200.0) == 0.0


# ---------------------------------------------------------------- servers that have none


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_takes_any_number_is_never_bound(kind: str, seed: int) -> None:
    world = World(KINDS[kind], slots=None, rate=stepped(20.0, 200.0, 20.0), seed=seed)
    world.run(60.0)
    assert world.limits == [(0.0, UNBOUND)]


@pytest.mark.parametrize("seed", range(3))
def test_nor_as_the_load_comes_and_goes(seed: int) -> None:
    world = World(
        varied(0.5, 1.0), slots=None, rate=lambda t: 100.0 if t % 100 < 50 else 20.0, seed=seed
    )
    world.run(400.0)
    assert world.limits == [(0.0, UNBOUND)]


def test_nor_as_answers_become_longer() -> None:
    def work(draw: random.Random) -> Work:
        written = 30 if world.now < 30.0 else 1000
        return Work(alike("t", 100, written), 0.01 * written, 0.01 * written)

    world = World(work, slots=None, rate=lambda _: 40.0)
    world.run(90.0)
    assert world.limits == [(0.0, UNBOUND)]


@pytest.mark.parametrize("kind", ["equal", "varied"])
def test_a_slow_hour_is_none_of_our_making(kind: str) -> None:
    """A bound is tried, less and less often, and taken back; nearly all who come are served."""
    world = World(
        KINDS[kind],
        slots=None,
        rate=lambda _: 40.0,
        slower=lambda t: 3.0 if 20.0 < t < 320.0 else 1.0,
    )
    world.run(400.0)
    assert world.refused(0.0, 400.0) < 0.03
    assert world.limits[-1][1] == UNBOUND
    bound = sum(
        later - since
        for (since, limit), (later, _) in zip(world.limits, world.limits[1:], strict=False)
        if limit < UNBOUND
    )
    assert bound < 0.15 * 300.0


def test_what_takes_milliseconds_is_left_alone_whatever_happens() -> None:
    world = World(equal(0.01), slots=20, rate=stepped(1000.0, 2100.0, 10.0))
    world.run(13.0)
    assert world.p99(12.0, 13.0) > 5.0 * 0.01
    assert world.limits == [(0.0, UNBOUND)]


# ---------------------------------------------------------------- what is usual


def test_what_is_usual_follows_what_becomes_quicker_and_not_what_waits() -> None:
    usual = Usual(0.0)
    for _ in range(FIRST):
        usual.saw(1.0, 0.0, 0.0, in_use=False)
    assert usual.level == pytest.approx(1.0)
    for now in (10.0, 20.0):
        for _ in range(ERA_ANSWERS):
            usual.saw(3.0, 0.0, now, in_use=False)
    assert usual.level == pytest.approx(1.0)
    for now in range(30, 100):
        for _ in range(ERA_ANSWERS):
            usual.saw(0.5, 0.0, float(now), in_use=False)
    assert usual.level == pytest.approx(0.5)


def test_what_has_become_slower_for_good_is_usual_in_the_end() -> None:
    usual = Usual(0.0)
    for now in range(0, 3000, 1):
        for _ in range(10):
            usual.saw(1.0 if now < 500 else 3.0, 0.0, float(now), in_use=False)
    assert usual.level == pytest.approx(3.0)


def test_a_new_sort_is_taken_to_wait_as_the_others_do() -> None:
    usual = Usual(0.0)
    for _ in range(FIRST):
        usual.saw(2.0, 1.0, 0.0, in_use=False)
    assert usual.level == pytest.approx(1.0)


def test_sorts_are_no_more_than_are_kept() -> None:
    pace = Pace()
    for n in range(2000):
        pace.began(alike(f"t{n}", 1, 1), 0.1, 1, float(n))
    assert pace.limit == UNBOUND
    assert len(pace._usual) <= SORTS
