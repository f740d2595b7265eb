"""How most requests are let in, in one step, is how any is."""

import asyncio
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LimitReached
from gateway.limits.accounts import Account, Budget, Hold, enter
from gateway.limits.limiter import Limiter
from gateway.limits.refusing import fewest, room_lines
from gateway.limits.reserve import fares_of, nano_of, tokens_of
from gateway.policy.live import Live
from gateway.types.limits import NANO, Quota, Rate
from gateway.types.requests import Caller
from gateway.types.snapshot import Snapshot
from tests.limits.held import At
from tests.limits.test_reserve import asked, world

WALL = 1_764_000_000.0
MINUTE, SECOND = 60.0, 1.0
NANO_USD = 1 / NANO

quotas = st.builds(
    Quota,
    requests=st.sampled_from([None, Rate(3, SECOND), Rate(9, MINUTE)]),
    tokens=st.sampled_from([None, Rate(400, SECOND), Rate(900, MINUTE), Rate(5000, 3600.0)]),
    concurrent=st.sampled_from([None, 2, 7]),
    day=st.sampled_from([None, 3_000_000 * NANO_USD, 30_000_000 * NANO_USD]),
    month=st.sampled_from([None, 9_000_000 * NANO_USD]),
)
steps = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0, 12)),  # seconds since the one before
        st.integers(0, 1),  # which of two keys asks
        st.sampled_from([None, 0, 1, 30, 90]),  # max_tokens
        st.integers(0, 140),  # tokens used
        st.integers(0, 2_500_000),  # nanodollars spent
        st.booleans(),  # whether the oldest that is under way ends first
    ),
    max_size=30,
)


class Noted:
    """Notes which budgets are told of, and is to be told of each again."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def passed(self, account: Account, period: str, budget: Budget) -> float:
        """Where half of it is spent."""
        self.told.append((account.id, period))
        return budget.limit / 2


async def nothing_spent(*_: float) -> Mapping[str, tuple[int, int]]:
    """Of anything, before."""
    return {}


@given(steps, quotas, quotas)
def test_most_are_let_in_in_one_step_as_all_others_are(
    events: list[tuple[float, int, int | None, int, int, bool]], of_key: Quota, of_route: Quota
) -> None:
    """Which are let in, what is reserved of whom, what is told to whom, and what is left."""
    asyncio.run(_course(events, of_key, of_route))


async def _course(
    events: list[tuple[float, int, int | None, int, int, bool]], of_key: Quota, of_route: Quota
) -> None:
    configuration, decision = world()
    routes = {"general": msgspec.structs.replace(configuration.routes["general"], quota=of_route)}
    configuration = msgspec.structs.replace(configuration, routes=routes)
    callers, now = [Caller(f"key_{n}", f"app {n}", quota=of_key) for n in (0, 1)], 1000.0
    live, alarm = Live(), Noted()
    limiter = Limiter(
        live,
        spent=nothing_spent,
        clock=lambda: now,
        now=lambda: WALL + now,
        refused=lambda whose, what: None,
        alarm=alarm,
    )
    limiter.declare(configuration, callers)
    await limiter.know()
    keeper = At(lambda: WALL + now)
    same = {
        id: Account(id, id, quota)
        for id, quota in (("key:key_0", of_key), ("key:key_1", of_key), ("route:general", of_route))
        if quota.limits
    }
    under_way: list[tuple[Hold, Hold, int, int]] = []
    told: list[tuple[str, str]] = []
    from_on: dict[tuple[str, str], float] = {}
    for wait, who, most, used, spent, one_ends in events:
        now += wait
        if one_ends and under_way:
            ours, theirs, took, cost = under_way.pop(0)
            ours.settle(took, cost / NANO, now)
            theirs.settle(took, cost / NANO, now)
            for account in theirs.accounts:
                for period, budget in (("day", account.day), ("month", account.month)):
                    of = account.id, period
                    if budget is not None and budget.spent >= from_on.get(of, 0):
                        from_on[of] = budget.limit / 2
                        told.append(of)
            assert alarm.told == told
        request = msgspec.structs.replace(
            asked(**({} if most is None else {"max_tokens": most})), caller=callers[who]
        )
        try:
            hold = limiter.admit(request, decision, configuration)
        except LimitReached:
            hold = None
        asks = tuple(same[id] for id in (f"key:key_{who}", "route:general") if id in same)
        if not asks:
            assert hold is None
            continue
        tokens = nano = 0
        limits = [each.quota.tokens.amount for each in asks if each.quota.tokens is not None]
        if limits:
            tokens = tokens_of(request, decision, configuration, live)
            if most is None:
                tokens = min(tokens, *limits)
        if any(each.has_money for each in asks):
            fares = fares_of("general", configuration)
            nano = nano_of(request, decision, configuration, live, fares)
        full = enter(asks, tokens, nano, now, keeper.now)
        assert (full is None) is (hold is not None)
        if hold is not None:
            assert (hold.tokens, hold.nano) == (tokens, nano)
            assert sorted(hold.lines) == sorted(room_lines(*fewest(asks), now))
            under_way.append((hold, Hold(keeper, asks, tokens, nano, now, 0.0, []), used, spent))
        assert {each.id: _state(each) for each in limiter.accounts() if each.quota.limits} == {
            id: _state(each) for id, each in same.items()
        }


async def test_clients_are_told_of_whom_has_least_left_by_then() -> None:
    """Another key takes of what the route has; of requests the key has the fewest all along."""
    configuration, decision = world()
    of_key = Quota(Rate(50, MINUTE), Rate(1000, MINUTE), day=1.0)
    of_route = Quota(Rate(500, MINUTE), Rate(1200, MINUTE))
    general = msgspec.structs.replace(configuration.routes["general"], quota=of_route)
    configuration = msgspec.structs.replace(configuration, routes={"general": general})
    callers = [Caller(f"key_{n}", f"app {n}", quota=of_key) for n in (0, 1)]
    limiter = Limiter(
        Live(),
        spent=nothing_spent,
        clock=lambda: 1000.0,
        now=lambda: WALL,
        refused=lambda whose, what: None,
        alarm=Noted(),
    )
    limiter.declare(configuration, callers)
    await limiter.know()
    said = []
    for who in (0, 0, 1, 1, 0):
        request = msgspec.structs.replace(asked(max_tokens=90), caller=callers[who])
        hold = limiter.admit(request, decision, configuration)
        assert hold is not None
        said.append([line for line in hold.lines if b"limit-" in line])
    key, route = b"x-ratelimit-limit-tokens: 1000", b"x-ratelimit-limit-tokens: 1200"
    assert [key in lines for lines in said] == [True, True, False, False, False]
    assert [route in lines for lines in said] == [False, False, True, True, True]
    assert all(b"x-ratelimit-limit-requests: 50" in lines for lines in said)


async def test_what_is_taken_just_after_a_rate_was_declared_anew_counts() -> None:
    """Also where who declared it was refused, and asked no account behind the one without room."""
    configuration, decision = world()

    def with_tokens(rate: Rate) -> Snapshot:
        general = msgspec.structs.replace(
            configuration.routes["general"], quota=Quota(tokens=rate, day=1.0)
        )
        return msgspec.structs.replace(configuration, routes={"general": general})

    before, after = with_tokens(Rate(5000, 3600.0)), with_tokens(Rate(1000, MINUTE))
    one, two = Caller("key_1", "one", quota=Quota(concurrent=1)), Caller("key_2", "two")
    now = 1000.0
    limiter = Limiter(
        Live(),
        spent=nothing_spent,
        clock=lambda: now,
        now=lambda: WALL + now,
        refused=lambda whose, what: None,
        alarm=Noted(),
    )
    limiter.declare(before, [one, two])
    await limiter.know()
    request = asked(max_tokens=30)
    requests = {each.name: msgspec.structs.replace(request, caller=each) for each in (one, two)}
    for name in ("one", "two"):
        assert limiter.admit(requests[name], decision, before) is not None
    with pytest.raises(LimitReached, match="at once"):
        limiter.admit(requests["one"], decision, after)
    holds = [limiter.admit(requests["two"], decision, before) for _ in range(2)]
    (of_route,) = [each for each in limiter.accounts() if each.id == "route:general"]
    of_route.roll(now + 1, WALL + now + 1)
    assert of_route.tokens_used == sum(hold.tokens for hold in holds if hold is not None) > 0


def _state(account: Account) -> tuple[object, ...]:
    spent = [None if budget is None else budget.spent for budget in (account.day, account.month)]
    return account.running, account.reserved, account.requests_used, account.tokens_used, *spent
