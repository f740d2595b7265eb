"""How most requests are let in, in one step, is how any is."""

import asyncio
from collections.abc import Mapping

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LimitReached
from gateway.limits.accounts import NANO, Account, Budget, Hold, enter
from gateway.limits.limiter import Limiter
from gateway.limits.refusing import room_lines
from gateway.limits.reserve import fares_of, nano_of, tokens_of
from gateway.policy.live import Live
from gateway.types.limits import Quota, Rate
from gateway.types.requests import Caller
from tests.limits.held import At
from tests.limits.test_reserve import asked, world

WALL = 1_764_000_000.0
MINUTE, SECOND = 60.0, 1.0
NANO_USD = 1 / NANO

quotas = st.builds(
    Quota,
    requests=st.sampled_from([None, Rate(3, SECOND), Rate(9, MINUTE)]),
    tokens=st.sampled_from([None, Rate(400, MINUTE), Rate(900, MINUTE), Rate(5000, 3600.0)]),
    concurrent=st.sampled_from([None, 2, 7]),
    day=st.sampled_from([None, 3_000_000 * NANO_USD, 30_000_000 * NANO_USD]),
    month=st.sampled_from([None, 9_000_000 * NANO_USD]),
)
steps = st.lists(
    st.tuples(
        st.floats(0, 12),  # seconds since the one before
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
    events: list[tuple[float, int | None, int, int, bool]], of_key: Quota, of_route: Quota
) -> None:
    """Which are let in, what is reserved of whom, what is told, and what is left at the end."""
    asyncio.run(_course(events, of_key, of_route))


async def _course(
    events: list[tuple[float, int | None, int, int, bool]], of_key: Quota, of_route: Quota
) -> None:
    configuration, decision = world()
    routes = {"general": msgspec.structs.replace(configuration.routes["general"], quota=of_route)}
    configuration = msgspec.structs.replace(configuration, routes=routes)
    caller, now = Caller("key_1", "app", quota=of_key), 1000.0
    live, alarm = Live(), Noted()
    limiter = Limiter(
        live,
        spent=nothing_spent,
        clock=lambda: now,
        now=lambda: WALL + now,
        refused=lambda whose, what: None,
        alarm=alarm,
    )
    limiter.declare(configuration, [caller])
    await limiter.know()
    keeper = At(lambda: now, lambda: WALL + now)
    same = tuple(
        Account(id, id, quota)
        for id, quota in (("key:key_1", of_key), ("route:general", of_route))
        if quota.limits
    )
    under_way: list[tuple[Hold, Hold, int, int]] = []
    for wait, most, used, spent, one_ends in events:
        now += wait
        if one_ends and under_way:
            ours, theirs, took, cost = under_way.pop(0)
            ours.settle(took, cost / NANO)
            theirs.settle(took, cost / NANO)
        request = msgspec.structs.replace(
            asked(**({} if most is None else {"max_tokens": most})), caller=caller
        )
        try:
            hold = limiter.admit(request, decision, configuration)
        except LimitReached:
            hold = None
        if not same:
            assert hold is None
            continue
        tokens = nano = 0
        limits = [each.quota.tokens.amount for each in same if each.quota.tokens is not None]
        if limits:
            tokens = tokens_of(request, decision, configuration, live)
            if most is None:
                tokens = min(tokens, *limits)
        if any(each.has_money for each in same):
            fares = fares_of("general", configuration)
            nano = nano_of(request, decision, configuration, live, fares)
        full = enter(same, tokens, nano, now, keeper.now)
        assert (full is None) is (hold is not None)
        if hold is not None:
            assert (hold.tokens, hold.nano) == (tokens, nano)
            assert sorted(hold.lines) == sorted(room_lines(same, now))
            under_way.append((hold, Hold(keeper, same, tokens, nano, now, None, []), used, spent))
        assert [_state(each) for each in limiter.accounts() if each.quota.limits] == [
            _state(each) for each in same
        ]


def _state(account: Account) -> tuple[object, ...]:
    spent = [None if budget is None else budget.spent for budget in (account.day, account.month)]
    return account.running, account.reserved, account.requests_used, account.tokens_used, *spent
