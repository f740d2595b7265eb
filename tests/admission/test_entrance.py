"""The entrance to one replica: bounds, refusals, and what is expected. No clock but the test's."""

import heapq
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.entrance import Entrance
from gateway.admission.line import Flow, Refused, Ticket
from gateway.admission.pace import alike
from gateway.types.backends import Admission
from gateway.types.routes import Priority

NORMAL: Flow = ("key", "normal")


class Told:
    """What one that waits has heard."""

    def __init__(self) -> None:
        self.heard: list[Refused | None] = []

    def __call__(self, refused: Refused | None) -> None:
        self.heard.append(refused)

    @property
    def admitted(self) -> bool:
        return self.heard == [None]


def full(concurrent: int, queue: int = 8, wait: float | None = 100.0) -> Entrance:
    """A entrance whose replica has all that it may have, each for a second."""
    entrance = Entrance(Admission(concurrent, queue, wait))
    entrance.hold_s = 1.0
    for _ in range(concurrent):
        assert entrance.enter()
    return entrance


def test_there_is_room_until_the_bound_is_reached() -> None:
    entrance = full(3)
    assert not entrance.enter()
    entrance.leave(1.0, 0.0, answered=True)
    assert entrance.enter()
    assert entrance.running == 3


def test_without_a_bound_everybody_is_let_in() -> None:
    entrance = Entrance(Admission())
    assert all(entrance.enter() for _ in range(5000))


def test_who_waits_is_let_in_when_one_has_ended() -> None:
    entrance, told = full(1), Told()
    ticket = entrance.ask(NORMAL, 1.0, 0.0, 100.0, told)
    assert isinstance(ticket, Ticket)
    assert entrance.waiting == 1
    assert not entrance.enter()

    entrance.leave(1.0, 1.5, answered=True)

    assert told.admitted
    assert (entrance.running, entrance.waiting, entrance.admitted, entrance.waited_s) == (
        1,
        0,
        1,
        1.5,
    )


def test_nobody_who_comes_later_slips_in_before_those_who_wait() -> None:
    entrance = full(1)
    entrance.ask(NORMAL, 1.0, 0.0, 100.0, Told())
    entrance.leave(1.0, 1.0, answered=True)  # the one that waited has the place
    assert not entrance.enter()


def test_what_would_wait_for_too_long_is_refused_at_once() -> None:
    entrance = full(2, wait=2.0)
    asked = [entrance.ask(NORMAL, 1.0, 0.0, 100.0, Told()) for _ in range(5)]

    # Two leave every second: the fourth would wait for 2.0 s, the fifth for 2.5 s.
    assert [isinstance(each, Ticket) for each in asked] == [True] * 4 + [False]
    refused = asked[-1]
    assert isinstance(refused, Refused)
    assert refused.reason == "wait"
    assert refused.retry_after == pytest.approx(2.5)
    assert entrance.refused == {"wait": 1}


def test_a_request_that_has_less_time_is_refused_earlier() -> None:
    entrance = full(1)
    refused = entrance.ask(NORMAL, 1.0, 0.0, 0.5, Told())
    assert isinstance(refused, Refused)
    assert refused.reason == "wait"


def test_where_none_is_declared_one_waits_as_long_as_an_answer_takes() -> None:
    entrance = full(10, wait=None)
    entrance.hold_s = 4.0
    assert entrance.wait_s == 4.0
    asked = [entrance.ask(NORMAL, 4.0, 0.0, 100.0, Told()) for _ in range(11)]
    assert [isinstance(each, Ticket) for each in asked].count(True) == 8  # the queue's bound
    entrance.hold_s = 1000.0
    assert entrance.wait_s == 10.0


def test_a_queue_of_none_refuses_everybody_who_finds_no_room() -> None:
    entrance = full(1, queue=0)
    refused = entrance.ask(NORMAL, 1.0, 0.0, 100.0, Told())
    assert isinstance(refused, Refused)
    assert refused.reason == "full"


def test_a_key_cannot_keep_others_out_by_filling_the_line() -> None:
    entrance, greedy = full(1), [Told() for _ in range(8)]
    for told in greedy:
        assert isinstance(entrance.ask(("greedy", "normal"), 1.0, 0.0, 100.0, told), Ticket)

    assert isinstance(entrance.ask(("greedy", "normal"), 1.0, 0.0, 100.0, Told()), Refused)
    other = Told()
    assert isinstance(entrance.ask(("modest", "normal"), 1.0, 0.0, 100.0, other), Ticket)

    assert [told.heard for told in greedy[:7]] == [[]] * 7
    displaced = greedy[7].heard[0]
    assert displaced is not None
    assert displaced.reason == "displaced"
    entrance.leave(1.0, 1.0, answered=True)
    entrance.leave(1.0, 2.0, answered=True)
    assert other.admitted
    assert entrance.waiting == 6


def test_high_priority_takes_the_place_of_low() -> None:
    entrance, batch = full(1, queue=1), Told()
    entrance.ask(("a", "low"), 1.0, 0.0, 100.0, batch)
    assert isinstance(entrance.ask(("b", "low"), 1.0, 0.0, 100.0, Told()), Refused)
    assert isinstance(entrance.ask(("b", "high"), 1.0, 0.0, 100.0, Told()), Ticket)
    assert batch.heard != []
    assert not batch.admitted


def test_who_gives_up_leaves_its_place() -> None:
    entrance = full(1, queue=1)
    ticket = entrance.ask(NORMAL, 1.0, 0.0, 100.0, Told())
    assert isinstance(ticket, Ticket)
    assert entrance.give_up(ticket) is None
    assert entrance.waiting == 0
    assert entrance.refused == {}
    assert isinstance(entrance.ask(NORMAL, 1.0, 0.0, 100.0, Told()), Ticket)


def test_others_are_told_how_long_a_newcomer_would_wait() -> None:
    seen: list[float] = []
    entrance = Entrance(Admission(1, 8, 100.0), seen.append)
    entrance.enter()
    entrance.hold_s = 2.0
    entrance.ask(NORMAL, 2.0, 0.0, 100.0, Told())
    entrance.ask(NORMAL, 2.0, 0.0, 100.0, Told())
    entrance.leave(2.0, 2.0, answered=True)
    entrance.leave(2.0, 4.0, answered=True)
    assert seen == [4.0, 6.0, 4.0, 0.0]


def test_a_wider_bound_lets_in_who_waits_and_a_narrower_one_cuts_nobody() -> None:
    entrance, told = full(2), [Told(), Told()]
    for each in told:
        entrance.ask(NORMAL, 1.0, 0.0, 100.0, each)
    entrance.declare(Admission(3, 8, 100.0), 0.0)
    assert [each.admitted for each in told] == [True, False]
    entrance.declare(Admission(1, 8, 100.0), 0.0)
    assert entrance.running == 3
    for _ in range(3):
        assert not told[1].admitted
        entrance.leave(1.0, 1.0, answered=True)
    assert told[1].admitted


# ---------------------------------------------------------------- nobody has declared a bound


def test_a_provider_that_is_busy_is_given_less_and_then_a_little_more() -> None:
    entrance = Entrance(Admission())
    for _ in range(100):
        entrance.enter()
    entrance.busy(10.0)
    entrance.busy(10.5)  # the same moment's
    assert entrance.limit == 70.0
    entrance.busy(20.0)
    assert entrance.limit == pytest.approx(49.0)
    for _ in range(60):
        entrance.leave(1.0, 21.0, answered=True)
    assert 49.3 < entrance.limit < 50.3
    for n in range(100):
        entrance.busy(100.0 + 10 * n)
    assert entrance.limit == 4.0


def test_an_engine_is_given_no_more_than_keeps_it_busy() -> None:
    entrance, told = Entrance(Admission()), Told()
    for _ in range(80):
        entrance.enter()
    entrance.told(40, 0, 0.0)
    assert entrance.limit == 256.0
    entrance.told(40, 40, 1.0)
    assert entrance.limit == 45.0  # 80 less what waits beyond 40 / 8
    entrance.ask(NORMAL, 1.0, 1.0, 100.0, told)
    for _ in range(36):
        entrance.leave(1.0, 2.0, answered=True)
    assert told.admitted
    entrance.told(45, 0, 3.0)
    assert entrance.limit > 55.0


def test_an_engine_that_never_has_a_line_is_given_all() -> None:
    entrance = Entrance(Admission())
    entrance.told(0, 0, 0.0)
    for second in range(20):
        for _ in range(int(min(entrance.limit, 5000)) - entrance.running):
            assert entrance.enter()
        entrance.told(entrance.running, 0, float(second))
    assert entrance.limit == float("inf")


def test_an_engine_that_was_in_use_already_is_cut_by_its_line_alone() -> None:
    entrance = Entrance(Admission())
    for _ in range(900):
        entrance.enter()
    entrance.told(900, 0, 0.0)
    assert entrance.limit >= 900.0


def test_what_an_engine_or_a_person_says_counts_more_than_how_long_it_takes() -> None:
    said, declared = Entrance(Admission()), Entrance(Admission(concurrent=1000))
    said.told(0, 0, 0.0)
    for entrance in (said, declared):
        limit = entrance.limit
        for n in range(2000):
            assert entrance.enter()
            entrance.leave(0.001 * n, float(n), answered=True, sort=alike("t", 1, 1))
        assert entrance.limit == limit


# ---------------------------------------------------------------- under any load

arrivals = st.lists(
    st.tuples(
        st.floats(0.0, 0.2),  # seconds since the last
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["low", "normal", "high"]),
        st.floats(0.05, 3.0),  # seconds that it takes
        st.one_of(st.none(), st.floats(0.0, 2.0)),  # its client goes away after
    ),
    max_size=80,
)


@settings(deadline=None)
@given(arrivals, st.integers(1, 5), st.integers(0, 6), st.floats(0.1, 5.0))
def test_bounds_hold_whatever_comes(
    coming: list[tuple[float, str, Priority, float, float | None]],
    concurrent: int,
    queue: int,
    wait: float,
) -> None:
    """A simulation: never more under way or waiting than may, and each hears once."""
    entrance = Entrance(Admission(concurrent, queue, wait))
    now, ends = 0.0, list[tuple[float, int]]()
    asked = list[tuple[Told, Ticket]]()
    entered = refused = gone = 0
    for number, (gap, key, priority, takes, goes) in enumerate(coming):
        now += gap
        while ends and ends[0][0] <= now:
            at, _ = heapq.heappop(ends)
            before = sum(told.admitted for told, _ in asked)
            entrance.leave(takes, at, answered=True)
            after = sum(told.admitted for told, _ in asked)
            for n in range(after - before):
                heapq.heappush(ends, (at + takes, 1000 + number * 10 + n))
        if entrance.enter():
            entered += 1
            heapq.heappush(ends, (now + takes, number))
        else:
            told = Told()
            found = entrance.ask((key, priority), takes, now, 100.0, told)
            if isinstance(found, Refused):
                refused += 1
                assert found.retry_after >= 0.0
            else:
                asked.append((told, found))
                if goes is not None and goes < 0.1 and not told.heard:
                    entrance.give_up(found)
                    gone += 1
        assert entrance.running <= concurrent
        assert entrance.waiting <= queue
        assert entrance.waiting == 0 or entrance.running == concurrent
    admitted = sum(told.admitted for told, _ in asked)
    displaced = sum(told.heard != [] and not told.admitted for told, _ in asked)
    assert all(len(told.heard) <= 1 for told, _ in asked)
    assert entered + refused + admitted + displaced + gone + entrance.waiting == len(coming)
    assert sum(entrance.refused.values()) == refused + displaced


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0, 5.0, 10.0])
def test_at_ten_times_the_load_goodput_and_waits_stay(times: float) -> None:
    """Poisson arrivals of three keys, one of which sends most, at a server of 20 x 50 ms."""
    draw = random.Random(1)
    entrance = Entrance(Admission(concurrent=20))
    rate = times * 400.0
    now, served, late = 0.0, Counter[str](), list[float]()
    ends = list[float]()
    waiting = dict[int, tuple[Told, str, float]]()
    number = 0
    while now < 20.0:
        now += draw.expovariate(rate)
        while ends and ends[0] <= now:
            at = heapq.heappop(ends)
            entrance.leave(0.05, at, answered=True)
            for key, (told, who, since) in list(waiting.items()):
                if told.heard:
                    del waiting[key]
                    if told.admitted:
                        heapq.heappush(ends, at + 0.05)
                        served[who] += 1
                        late.append(at - since + 0.05)
        who = draw.choices("abg", [1, 1, 8])[0]
        if entrance.enter():
            heapq.heappush(ends, now + 0.05)
            served[who] += 1
            late.append(0.05)
            continue
        told = Told()
        if isinstance(entrance.ask((who, "normal"), 0.05, now, 100.0, told), Ticket):
            number += 1
            waiting[number] = (told, who, now)
    goodput = sum(served.values()) / 20.0
    late.sort()
    assert goodput >= 0.95 * min(rate, 0.9 * 400.0)
    assert late[int(0.99 * len(late))] <= 3.0 * 0.05
    if times >= 5.0:  # the greedy one has what the others leave, and they all that they want
        fair = goodput / 3.0
        assert min(served["a"], served["b"]) / 20.0 >= 0.85 * min(rate / 10.0, fair)
