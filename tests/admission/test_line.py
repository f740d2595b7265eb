"""Fair shares: who is served next, for any arrivals."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.line import WEIGHTS, Flow, Line, Refused, Ticket
from gateway.types.routes import Priority


def nobody(_: Refused | None) -> None:
    """Who does not want to hear."""


def join(line: Line, key: str, cost: float = 1.0, priority: Priority = "normal") -> Ticket:
    stamp, before = line.stamp((key, priority), cost)
    ticket = Ticket((key, priority), stamp, before, 0.0, 1.0, nobody)
    line.join(ticket)
    return ticket


def served(line: Line, count: int | None = None) -> list[str]:
    """The keys of the next ones."""
    return [line.take().flow[0] for _ in range(len(line) if count is None else count)]


def test_a_key_that_sends_many_waits_behind_its_own() -> None:
    line = Line()
    for _ in range(100):
        join(line, "greedy")
    join(line, "modest")
    join(line, "modest")

    assert served(line, 4) == ["greedy", "modest", "greedy", "modest"]


def test_one_key_is_served_in_its_order() -> None:
    line = Line()
    tickets = [join(line, "a") for _ in range(5)]

    assert [line.take() for _ in tickets] == tickets


def test_who_takes_longer_is_served_less_often() -> None:
    line = Line()
    for _ in range(20):
        join(line, "long", cost=4.0)
        join(line, "short", cost=1.0)

    assert Counter(served(line, 20)) == {"short": 16, "long": 4}


def test_priorities_share_four_to_one_and_none_starves() -> None:
    line = Line()
    for priority in WEIGHTS:
        for _ in range(100):
            join(line, priority, priority=priority)

    assert Counter(served(line, 84)) == {"high": 64, "normal": 16, "low": 4}


def test_a_late_comer_of_high_priority_overtakes() -> None:
    line = Line()
    for n in range(10):
        join(line, f"batch {n}", priority="low")
    join(line, "urgent", priority="high")

    assert served(line, 1) == ["urgent"]


def test_a_key_that_was_quiet_has_saved_nothing() -> None:
    line = Line()
    for _ in range(50):
        join(line, "busy")
    served(line, 40)
    for _ in range(50):
        join(line, "quiet")

    assert Counter(served(line, 10)) == {"busy": 5, "quiet": 5}


def test_what_was_not_served_is_not_held_against_its_key() -> None:
    line = Line()
    join(line, "other")
    for ticket in [join(line, "a") for _ in range(10)][::-1]:
        assert line.leave(ticket)
    join(line, "b")
    join(line, "a")

    assert not line.leave(ticket)
    assert served(line) == ["other", "b", "a"]


flows = st.tuples(st.sampled_from("abc"), st.sampled_from(list(WEIGHTS)))
costs = st.floats(0.01, 100.0)


@given(
    st.lists(costs, min_size=30, max_size=30),
    st.lists(costs, min_size=30, max_size=30),
    st.sampled_from(list(WEIGHTS)),
    st.sampled_from(list(WEIGHTS)),
    st.integers(1, 29),
)
def test_of_two_that_always_wait_neither_is_ahead_by_more_than_a_request_of_each(
    of_a: list[float], of_b: list[float], a: Priority, b: Priority, taken: int
) -> None:
    """Golestani's bound, whatever their costs and weights."""
    line = Line()
    for cost in of_a:
        join(line, "a", cost, a)
    for cost in of_b:
        join(line, "b", cost, b)
    work: dict[Flow, float] = {("a", a): 0.0, ("b", b): 0.0}
    left = {("a", a): iter(of_a), ("b", b): iter(of_b)}

    for _ in range(taken):
        flow = line.take().flow
        work[flow] += next(left[flow])

    share_a, share_b = work["a", a] / WEIGHTS[a], work["b", b] / WEIGHTS[b]
    assert abs(share_a - share_b) <= max(of_a) / WEIGHTS[a] + max(of_b) / WEIGHTS[b] + 1e-6


@given(st.lists(st.one_of(st.tuples(flows, costs), st.integers(0, 40), st.none()), max_size=200))
def test_whatever_comes_and_goes_the_line_is_in_order_and_forgets(
    steps: list[tuple[Flow, float] | int | None],
) -> None:
    """A flow and a cost join, a number leaves, None is served."""
    line = Line()
    waiting: list[Ticket] = []
    for step in steps:
        if step is None:
            if waiting:
                waiting.remove(line.take())
        elif isinstance(step, int):
            if step < len(waiting):
                assert line.leave(waiting.pop(step))
        else:
            (key, priority), cost = step
            stamp, _ = line.stamp((key, priority), cost)
            before = line.ahead(stamp)
            ticket = join(line, key, cost, priority)
            waiting.append(ticket)
            assert list(line).index(ticket) == before
        assert set(line) == set(waiting)
        stamps = [ticket.stamp for ticket in line]
        assert stamps == sorted(stamps)
    for _ in range(len(line)):
        line.take()
    assert line.stamp(("a", "normal"), 1.0) == (1.0, 0.0)
