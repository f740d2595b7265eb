"""What a limit promises, for any course of events."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.accounts import NANO, SLICES, Account, Window, day_of, month_of
from gateway.types.limits import Quota, Rate

MINUTE = 60.0
AT = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()

steps = st.lists(
    st.tuples(
        st.floats(0, 40),  # seconds since the one before
        st.integers(1, 60),  # reserved
        st.integers(0, 60),  # used
        st.floats(0, 90),  # seconds that it takes
    ),
    max_size=40,
)


@given(steps, st.integers(1, 100))
def test_in_no_minute_is_more_taken_than_the_limit(
    events: list[tuple[float, int, int, float]], limit: int
) -> None:
    window, now = Window(Rate(limit, MINUTE)), 1000.0
    taken: list[tuple[float, int]] = []
    for wait, count, _, _ in events:
        now += wait
        window.roll(now)
        if window.total + count <= limit:
            window.take(count)
            taken.append((now, count))
        else:
            free = window.wait_s(count, now, limit)
            assert (free is None) is (count > limit)
            if free is not None:
                # Just so long, and no longer than a slice more than the exact minute.
                assert 0 < free <= MINUTE + MINUTE / SLICES
                window_then = sum(n for at, n in taken if at > now + free - MINUTE)
                assert window_then + count <= limit
        for end, _ in taken:
            assert sum(n for at, n in taken if end - MINUTE < at <= end) <= limit


@given(steps)
def test_what_was_reserved_is_given_back_exactly(
    events: list[tuple[float, int, int, float]],
) -> None:
    """However requests overlap, a window counts what they have used, each while it counts."""
    account = Account("key:a", "key 'a'", Quota(tokens=Rate(10**9, MINUTE), day=10**6))
    assert account.tokens is not None
    assert account.day is not None
    order: list[tuple[float, str, int]] = []
    at, spent = 1000.0, 0
    for n, (wait, _, _, takes) in enumerate(events):
        at += wait
        order += [(at, "in", n), (at + takes, "out", n)]
    slices: dict[int, int] = {}
    for at, what, n in sorted(order):
        _, reserved, used, _ = events[n]
        account.roll(at, AT)
        if what == "in":
            slices[n] = account.take(reserved, reserved)
        else:
            account.settle(slices[n], reserved, used, reserved, used)
            spent += used
    assert account.running == account.reserved == 0
    assert account.day.spent == spent
    assert min(account.tokens.taken) >= 0
    assert account.tokens.total == sum(account.tokens.taken)
    account.roll(at + MINUTE + MINUTE / SLICES + 0.1, AT)
    assert account.tokens.total == 0


@given(steps, st.integers(1, 300), st.integers(1, 4))
def test_no_budget_is_passed_by_what_stays_within_its_reservation(
    events: list[tuple[float, int, int, float]], limit: int, workers: int
) -> None:
    """Nor by several workers that cannot ask each other, all together."""
    quota = Quota(day=limit / NANO)
    accounts = [Account("key:a", "key 'a'", quota) for _ in range(workers)]
    order = []
    for n, (wait, _, _, takes) in enumerate(events):
        order += [(n * 5 + wait, 0, n), (n * 5 + wait + takes, 1, n)]
    let_in: set[int] = set()
    for at, end, n in sorted(order):
        _, reserved, used, _ = events[n]
        account = accounts[n % workers]
        account.roll(1000 + at, AT)
        if end == 0:
            if not account.refusal(0, reserved, workers):
                account.take(0, reserved)
                let_in.add(n)
        elif n in let_in:
            account.settle(0, 0, 0, reserved, min(used, reserved))
    assert sum(account.day.spent for account in accounts if account.day is not None) <= limit


def test_days_and_months_begin_anew_in_utc() -> None:
    evening = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert day_of(evening)[1] == month_of(evening)[1] == evening + 1
    account = Account("key:a", "key 'a'", Quota(day=1e-9, month=2e-9))
    account.roll(0, evening)
    account.take(0, 1)
    account.settle(0, 0, 0, 1, 1)
    assert account.refusal(0, 1, 1) == "day"
    account.roll(1, evening + 1)
    assert account.refusal(0, 1, 1) == ""
    march = datetime(2028, 2, 29, 12, tzinfo=UTC).timestamp()
    assert month_of(march)[1] == datetime(2028, 3, 1, tzinfo=UTC).timestamp()


def test_requests_at_once_are_counted_and_shares_let_one_through() -> None:
    account = Account("key:a", "key 'a'", Quota(concurrent=2, tokens=Rate(100, MINUTE)))
    account.roll(0, AT)
    account.take(10, 0)
    account.take(10, 0)
    assert account.refusal(10, 0, 1) == "concurrent"
    account.settle(0, 10, 10, 0, 0)
    assert account.refusal(10, 0, 1) == ""
    assert account.refusal(81, 0, 1) == "tokens"

    alone = Account("key:a", "key 'a'", Quota(concurrent=2, tokens=Rate(100, MINUTE)))
    alone.roll(0, AT)
    assert alone.refusal(90, 0, 8) == ""  # more than its share, but it is the only one
    alone.take(90, 0)
    assert alone.refusal(1, 0, 8) == "tokens"


def test_other_limits_are_taken_and_what_was_used_stays() -> None:
    account = Account("key:a", "key 'a'", Quota(requests=Rate(2, MINUTE), day=1.0))
    account.roll(0, AT)
    account.take(0, 0)
    account.settle(0, 0, 0, 0, NANO // 2)
    account.declare(Quota(requests=Rate(1, MINUTE), day=2.0, month=9.0))
    account.roll(0, AT)
    assert account.refusal(0, 0, 1) == "requests"
    assert account.day is not None
    assert account.day.spent == NANO // 2
    own = Quota(concurrent=3, lifted=frozenset({"day"})).over(Quota(concurrent=9, day=1, month=2))
    assert own == Quota(concurrent=3, month=2)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12),
    st.sampled_from(
        [
            Quota(requests=Rate(5, MINUTE)),
            Quota(tokens=Rate(100, MINUTE), concurrent=4),
            Quota(day=100 / NANO, month=150 / NANO),
            Quota(Rate(6, MINUTE), Rate(90, MINUTE), 7, 120 / NANO, 130 / NANO),
        ]
    ),
)
def test_one_step_lets_in_what_two_would_and_can_be_undone(
    asked: list[tuple[int, int]], quota: Quota
) -> None:
    one, two = Account("key:a", "key 'a'", quota), Account("key:a", "key 'a'", quota)
    for account in (one, two):
        account.roll(0, AT)
    for tokens, nano in asked:
        before = _state(one)
        slice = one.enter(tokens, nano)
        assert (slice < 0) == bool(two.refusal(tokens, nano, 1))
        if slice >= 0:
            one.leave(slice, tokens, nano)
            assert _state(one) == before
            assert one.enter(tokens, nano) == two.take(tokens, nano)
        assert _state(one) == _state(two)


def _state(account: Account) -> tuple[object, ...]:
    windows = (account.requests, account.tokens)
    counted = [(w.total, list(w.taken)) for w in windows if w is not None]
    return account.running, account.reserved, counted
