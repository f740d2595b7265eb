"""What a limit promises, for any course of events."""

import math
from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.accounts import SLICES, Account, Hold, day_of, enter, month_of
from gateway.types.limits import NANO, Quota, Rate
from tests.limits.held import At, settle

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
    account, now = Account("key:a", "key 'a'", Quota(tokens=Rate(limit, MINUTE))), 1000.0
    window = account.tokens
    assert window is not None
    taken: list[tuple[float, int]] = []
    for wait, count, _, _ in events:
        now += wait
        if enter([account], count, 0, now, lambda: AT) is None:
            taken.append((now, count))
        else:
            free = window.wait_s(count, now, limit, account.tokens_left)
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
    begun: dict[int, float] = {}
    for at, what, n in sorted(order):
        _, reserved, used, _ = events[n]
        if what == "in":
            assert enter([account], reserved, reserved, at, lambda: AT) is None
            begun[n] = at
        else:
            settle([account], begun[n], reserved - used, reserved, used, at, lambda: AT)
            spent += used
    assert account.running == account.reserved == 0
    assert account.day.spent == spent
    account.roll(at + MINUTE / SLICES, AT)
    assert min(account.tokens.taken) >= 0
    assert account.tokens_used == sum(account.tokens.taken)
    account.roll(at + MINUTE + MINUTE / SLICES + 0.1, AT)
    assert account.tokens_used == 0


@given(steps, st.integers(0, 39), st.integers(1, 500))
def test_what_counts_is_what_a_plain_list_of_slices_says(
    events: list[tuple[float, int, int, float]], changed_at: int, limit: int
) -> None:
    """Another limit is declared in the middle, and more is used than was reserved by some."""
    quota = Quota(requests=Rate(10**6, MINUTE), tokens=Rate(10**6, MINUTE), concurrent=100)
    account = Account("key:a", "key 'a'", quota)
    order: list[tuple[float, str, int]] = []
    at = 1000.0
    for n, (wait, _, _, takes) in enumerate(events):
        at += wait
        order += [(at, "in", n), (at + takes, "out", n)]
    step = MINUTE / SLICES
    tokens: list[tuple[int, int]] = []
    requests: list[int] = []
    begun: dict[int, float] = {}
    running = 0
    for place, (now, what, n) in enumerate(sorted(order)):
        _, reserved, used, _ = events[n]
        slice = int(now / step)
        if place == changed_at:
            account.declare(msgspec.structs.replace(quota, tokens=Rate(limit + 10**5, MINUTE)))
        if what == "in":
            assert enter([account], reserved, 0, now, lambda: AT) is None
            begun[n] = now
            tokens.append((slice, reserved))
            requests.append(slice)
            running += 1
        else:
            settle([account], begun[n], reserved - used, 0, 0, now, lambda: AT)
            back = reserved - used
            tokens.append((slice if back < 0 else int(begun[n] / step), -back))
            running -= 1
        account.roll(now, AT)
        counted = slice - SLICES
        assert account.tokens_used == sum(count for of, count in tokens if of >= counted)
        assert account.requests_used == sum(of >= counted for of in requests)
        assert account.running == running


def test_what_was_reserved_before_a_rate_was_declared_is_not_given_back_to_it() -> None:
    account = Account("key:a", "key 'a'", Quota(tokens=Rate(1000, MINUTE)))
    assert enter([account], 100, 0, 1000.0, lambda: AT) is None
    account.declare(Quota(tokens=Rate(1000, 3600.0)))
    assert enter([account], 10, 0, 1000.5, lambda: AT) is None
    settle([account], 1000.0, 100, 0, 0, 1001.0, lambda: AT)
    assert account.tokens_used == 10


def test_what_ends_after_other_limits_were_declared_counts_in_them() -> None:
    """More was used than reserved, and another budget is there; its account was not due before."""
    account = Account("key:a", "key 'a'", Quota(tokens=Rate(1000, MINUTE), day=1.0))
    assert enter([account], 10, NANO // 2, 1000.0, lambda: AT) is None
    hold = Hold(At(lambda: AT), (account,), 10, NANO // 2, 1000.0, account.due, [])
    account.declare(Quota(tokens=Rate(1000, 3600.0), day=1.0, month=9.0))
    hold.settle(30, 0.25, 1000.5)
    account.roll(1001.0, AT)
    assert account.tokens_used == 20
    assert account.month is not None
    assert account.month.spent == NANO // 4


def test_where_one_account_has_no_room_none_of_them_is_taken_from() -> None:
    roomy = Account("key:a", "key 'a'", Quota(Rate(9, MINUTE), Rate(99, MINUTE), 9, 1.0, 1.0))
    full = Account("route:r", "route 'r'", Quota(concurrent=0))
    assert enter([roomy, full], 5, 7, 1000.0, lambda: AT) is full
    assert (roomy.requests_used, roomy.tokens_used) == (0, 0)
    assert (roomy.running, roomy.reserved) == (0, 0)


def test_money_is_told_of_once_it_comes_to_what_is_to_be_told() -> None:
    account = Account("key:a", "key 'a'", Quota(day=10.0, month=100.0))
    account.roll(1000.0, AT)
    assert account.day is not None
    assert account.month is not None
    account.day.alert_at, account.month.alert_at = 5.0 * NANO, math.inf
    account.book()
    alerts = []
    for _ in range(6):
        assert enter([account], 0, NANO, 1000.0, lambda: AT) is None
        alerts.append(settle([account], 1000.0, 0, NANO, NANO, 1000.0, lambda: AT))
    assert alerts == [False, False, False, False, True, True]
    assert account.day.spent == account.month.spent == 6 * NANO


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
            settle([account], at, 0, reserved, min(used, reserved), 1000 + at, lambda: AT)
    assert sum(account.day.spent for account in accounts if account.day is not None) <= limit


def test_days_and_months_begin_anew_in_utc() -> None:
    evening = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert day_of(evening)[1] == month_of(evening)[1] == evening + 1
    account = Account("key:a", "key 'a'", Quota(day=1e-9, month=2e-9))
    account.roll(0, evening)
    account.take(0, 1)
    settle([account], 0, 0, 1, 1, 0, lambda: evening)
    assert account.refusal(0, 1, 1) == "day"
    account.roll(1, evening + 1)
    assert account.refusal(0, 1, 1) == ""
    march = datetime(2028, 2, 29, 12, tzinfo=UTC).timestamp()
    assert month_of(march)[1] == datetime(2028, 3, 1, tzinfo=UTC).timestamp()


def test_what_was_spent_before_midnight_is_of_the_day_that_is_over() -> None:
    evening = datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC).timestamp()
    account = Account("key:a", "key 'a'", Quota(day=1.0, month=9.0))
    assert enter([account], 0, NANO, 1000.0, lambda: evening) is None
    settle([account], 1000.0, 0, NANO, NANO, 1000.5, lambda: evening)
    account.roll(1001.5, evening + 1.5)
    assert account.day is not None
    assert account.month is not None
    assert (account.day.spent, account.month.spent) == (0, NANO)
    assert account.refusal(0, NANO, 1) == ""


def test_requests_at_once_are_counted_and_shares_let_one_through() -> None:
    account = Account("key:a", "key 'a'", Quota(concurrent=2, tokens=Rate(100, MINUTE)))
    account.roll(0, AT)
    account.take(10, 0)
    account.take(10, 0)
    assert account.refusal(10, 0, 1) == "concurrent"
    settle([account], 0, 0, 0, 0, 0, lambda: AT)
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
    settle([account], 0, 0, 0, NANO // 2, 0, lambda: AT)
    account.declare(Quota(requests=Rate(1, MINUTE), day=2.0, month=9.0))
    account.roll(0, AT)
    assert account.refusal(0, 0, 1) == "requests"
    assert account.day is not None
    assert account.day.spent == NANO // 2
    own = Quota(concurrent=3, lifted=frozenset({"day"})).over(Quota(concurrent=9, day=1, month=2))
    assert own == Quota(concurrent=3, month=2)
