"""What a key, a tenant or a route has used of its limits. Pure: instants are arguments.

Rates. Time is cut into slices of a `SLICES`-th of the rate's period. What is taken is counted in
the slice that it is taken in, and counts until `SLICES` further slices have begun and ended. So in
no period, wherever it begins, is more taken than the limit; a place comes free at most one slice
later than a whole period after it was taken. What was reserved too much is given back to the slice
that it was taken in; what was used beyond the reservation is taken from the slice of then.

Money. In nanodollars, as whole numbers, so that giving back is exact. A day and a month are UTC's.
A request is reserved at the most that it may cost, and fits if

    spent + reserved + its own most <= limit

and what it did cost is counted to the day and month that it ends in. A budget is `base`, what was
spent as far as the store or Redis has told, and `own`, what was spent here and is not in it. From
`alert_at` on somebody is to be told.

Shares. With `workers` that cannot ask each other, each has `limit / workers` of a rate and of
requests at once, and of a budget that share of what was left when they last could; a rate or a
concurrency lets each have one at a time at least.
"""

from datetime import UTC, datetime
from math import inf
from typing import Literal

import msgspec

from gateway.types.limits import Quota, Rate

SLICES = 30
"""Of a rate's period: a full minute's worth comes free 2 s late at the most."""

NANO = 1_000_000_000
"""Nanodollars in a dollar."""

DAY_S = 86_400

ROLL_S = 60.0
"""How often an account is brought up to date at least: clocks are set, too."""

WAIT_S = 1.0
"""What is advised where nobody knows how long requests under way will take."""

What = Literal["requests", "tokens", "concurrent", "day", "month"]
"""The kinds of limit."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not let in: which limit, how much of it there is, and the seconds after
    which the same request would be let in if nothing else came; None if never."""

    account: str
    what: What
    limit: float
    used: float
    asked: float
    wait_s: float | None


class Window:
    """What was taken of one rate, by slices; `total` is what counts now.

    `taken` is by place, a slice modulo one more than `SLICES`; `place` is the one of now. `written`
    is how many whole seconds it was to be free again last, and how that is told.
    """

    __slots__ = ("at", "limit", "per_s", "place", "step", "taken", "total", "written")

    def __init__(self, rate: Rate) -> None:
        self.limit = rate.amount
        self.per_s = rate.per_s
        self.step = rate.per_s / SLICES
        self.total = 0
        self.at = 0
        self.place = 0
        self.taken = [0] * (SLICES + 1)
        self.written = (-1, b"")

    def roll(self, now: float) -> None:
        """Forgets the slices that count no longer."""
        at = int(now / self.step)
        gone = at - self.at
        if gone <= 0:
            return
        if gone > SLICES:
            self.taken = [0] * (SLICES + 1)
            self.total = 0
        else:
            for slice in range(self.at + 1, at + 1):
                place = slice % (SLICES + 1)
                self.total -= self.taken[place]
                self.taken[place] = 0
        self.at = at
        self.place = at % (SLICES + 1)

    def take(self, count: int) -> int:
        """Counts that many now, after `roll`; the slice that they are counted in."""
        self.taken[self.place] += count
        self.total += count
        return self.at

    def settle(self, slice: int, reserved: int, used: int) -> None:
        """The reservation of that slice has come to `used`; after `roll`."""
        back = reserved - used
        if back < 0:
            self.take(-back)
        elif slice >= self.at - SLICES:
            self.taken[slice % (SLICES + 1)] -= back
            self.total -= back

    def wait_s(self, count: int, now: float, limit: int) -> float | None:
        """Seconds until so many fit; None if they never do."""
        if count > limit:
            return None
        over = self.total + count - limit
        for slice in range(self.at - SLICES, self.at + 1):
            if over <= 0:
                break
            over -= self.taken[slice % (SLICES + 1)]
        else:
            slice = self.at + 1
        return max(0.0, (slice + SLICES) * self.step - now)


class Budget:
    """What was spent of one day's or month's money, in nanodollars."""

    __slots__ = ("alert_at", "base", "ends", "known", "limit", "own", "starts")

    def __init__(self, limit: float) -> None:
        """`limit` in dollars."""
        self.limit = round(limit * NANO)
        self.base = self.own = 0
        self.starts = self.ends = 0.0
        self.known = False
        self.alert_at = 0.0

    def roll(self, starts: float, ends: float) -> None:
        """Begins anew with a period."""
        if self.starts:
            self.known = True  # nothing was spent before it began
        self.starts, self.ends = starts, ends
        self.base = self.own = 0
        self.alert_at = 0.0

    @property
    def spent(self) -> int:
        """As far as is known here."""
        return self.base + self.own

    def room(self, workers: int) -> int:
        """What may be spent or reserved here yet."""
        return (self.limit - self.base) // workers - self.own


class Account:
    """One key's, tenant's or route's use of its limits; `id` is the same in every worker."""

    __slots__ = (
        "day",
        "due",
        "id",
        "month",
        "most",
        "quota",
        "requests",
        "reserved",
        "running",
        "tokens",
        "until",
        "who",
    )

    def __init__(self, id: str, who: str, quota: Quota) -> None:
        """`who` is for people: `key 'app'`."""
        self.id = id
        self.who = who
        self.running = 0
        self.reserved = 0
        self.due = self.until = 0.0
        self.requests: Window | None = None
        self.tokens: Window | None = None
        self.day: Budget | None = None
        self.month: Budget | None = None
        self.declare(quota)

    def declare(self, quota: Quota) -> None:
        """Takes other limits; what was used stays, unless a rate's period is another."""
        self.quota = quota
        self.most = inf if quota.concurrent is None else quota.concurrent
        self.requests = _window(self.requests, quota.requests)
        self.tokens = _window(self.tokens, quota.tokens)
        self.day = _budget(self.day, quota.day)
        self.month = _budget(self.month, quota.month)
        self.due = self.until = 0.0

    @property
    def has_money(self) -> bool:
        """Whether it has a budget."""
        return self.day is not None or self.month is not None

    def roll(self, now: float, wall: float) -> None:
        """Up to that instant; `now` is of a steady clock, `wall` in Unix seconds.

        Nothing is to be done about it before `due`, an instant of the steady clock.
        """
        self.due = now + ROLL_S
        for window in (self.requests, self.tokens):
            if window is not None:
                window.roll(now)
                self.due = min(self.due, (window.at + 1) * window.step)
        if wall >= self.until:
            self._new_periods(wall)
        self.due = min(self.due, now + self.until - wall)

    def refusal(self, tokens: int, nano: int, workers: int) -> str:
        """Which limit would be passed by one more request of that many tokens and nanodollars at
        the most, after `roll`; "" if none."""
        if workers != 1:
            return self._refusal_of_share(tokens, nano, workers)
        window = self.requests
        if window is not None and window.total >= window.limit:
            return "requests"
        window = self.tokens
        if window is not None and window.total + tokens > window.limit:
            return "tokens"
        most = self.quota.concurrent
        if most is not None and self.running >= most:
            return "concurrent"
        budget = self.day
        if budget is not None and self.reserved + nano + budget.base + budget.own > budget.limit:
            return "day"
        budget = self.month
        if budget is not None and self.reserved + nano + budget.base + budget.own > budget.limit:
            return "month"
        return ""

    def _refusal_of_share(self, tokens: int, nano: int, workers: int) -> str:
        window = self.requests
        if window is not None and window.total >= _part(window.limit, workers):
            return "requests"
        window = self.tokens
        if window is not None and window.total + tokens > _part(window.limit, workers):
            # A share that is less than one request still lets one through at a time.
            alone = window.total == 0 and tokens <= window.limit
            if not alone:
                return "tokens"
        most = self.quota.concurrent
        if most is not None and self.running >= _part(most, workers):
            return "concurrent"
        held = self.reserved + nano
        if self.day is not None and held > self.day.room(workers):
            return "day"
        if self.month is not None and held > self.month.room(workers):
            return "month"
        return ""

    def take(self, tokens: int, nano: int) -> int:
        """Lets one request in; the slice that its tokens are reserved in."""
        self.running += 1
        self.reserved += nano
        window = self.requests
        if window is not None:
            window.taken[window.place] += 1
            window.total += 1
        window = self.tokens
        if window is None:
            return 0
        window.taken[window.place] += tokens
        window.total += tokens
        return window.at

    def enter(self, tokens: int, nano: int) -> int:
        """`take` where `refusal` says nothing, in one step; -1 where it does."""
        requests, window = self.requests, self.tokens
        if requests is not None and requests.total >= requests.limit:
            return -1
        if window is not None and window.total + tokens > window.limit:
            return -1
        running = self.running
        if running >= self.most:
            return -1
        reserved = self.reserved + nano
        budget = self.day
        if budget is not None and reserved + budget.base + budget.own > budget.limit:
            return -1
        budget = self.month
        if budget is not None and reserved + budget.base + budget.own > budget.limit:
            return -1
        self.running = running + 1
        self.reserved = reserved
        if requests is not None:
            requests.taken[requests.place] += 1
            requests.total += 1
        if window is None:
            return 0
        window.taken[window.place] += tokens
        window.total += tokens
        return window.at

    def leave(self, slice: int, tokens: int, nano: int) -> None:
        """One that `enter` let in just now is not let in after all."""
        self.running -= 1
        self.reserved -= nano
        if self.requests is not None:
            self.requests.taken[self.requests.place] -= 1
            self.requests.total -= 1
        if self.tokens is not None:
            self.tokens.settle(slice, tokens, 0)

    def settle(self, slice: int, tokens: int, used: int, nano: int, spent: int) -> bool:
        """A request that had reserved `tokens` and `nano` used and spent these; after `roll`.

        Whether a budget has come to its `alert_at`.
        """
        self.running -= 1
        self.reserved -= nano
        window = self.tokens
        if window is not None:
            back = tokens - used
            if back < 0:
                window.taken[window.place] -= back
                window.total -= back
            elif slice >= window.at - SLICES:
                window.taken[slice % (SLICES + 1)] -= back
                window.total -= back
        alert = False
        if spent:
            budget = self.day
            if budget is not None:
                budget.own += spent
                alert = budget.base + budget.own >= budget.alert_at
            budget = self.month
            if budget is not None:
                budget.own += spent
                alert = alert or budget.base + budget.own >= budget.alert_at
        return alert

    def explained(
        self, what: str, tokens: int, nano: int, now: float, wall: float, workers: int
    ) -> Refusal:
        """More of what `refusal` said."""
        match what:
            case "requests" | "tokens":
                window = self.requests if what == "requests" else self.tokens
                assert window is not None
                asked = 1 if what == "requests" else tokens
                limit = _part(window.limit, workers)
                wait = window.wait_s(min(asked, limit) if workers > 1 else asked, now, limit)
                return Refusal(self.who, what, window.limit, window.total, asked, wait)
            case "concurrent":
                most = self.quota.concurrent or 0
                return Refusal(self.who, "concurrent", most, self.running, 1, WAIT_S)
            case "day" | "month":
                held = self._budget(what).spent + self.reserved
                return self.over_budget(what, held, nano, wall)
        raise ValueError(what)

    def over_budget(self, what: What, held: int, nano: int, wall: float) -> Refusal:
        """A request that may cost `nano` is too much beside the `held` of a day or a month."""
        budget = self._budget(what)
        wait: float | None = budget.ends - wall
        if nano > budget.limit:
            wait = None
        elif budget.spent + nano <= budget.limit:
            wait = WAIT_S
        return Refusal(self.who, what, budget.limit / NANO, held / NANO, nano / NANO, wait)

    def _budget(self, what: What) -> Budget:
        budget = self.day if what == "day" else self.month
        assert budget is not None
        return budget

    def _new_periods(self, wall: float) -> None:
        day, month = day_of(wall), month_of(wall)
        self.until = day[1]
        if self.day is not None and self.day.starts != day[0]:
            self.day.roll(*day)
        if self.month is not None and self.month.starts != month[0]:
            self.month.roll(*month)


def day_of(wall: float) -> tuple[float, float]:
    """UTC's day around an instant: when it begins, and when the next one does."""
    start = wall // DAY_S * DAY_S
    return start, start + DAY_S


def month_of(wall: float) -> tuple[float, float]:
    """UTC's month around an instant: when it begins, and when the next one does."""
    first = datetime.fromtimestamp(wall, UTC).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first.timestamp(), after.timestamp()


def _part(limit: int, workers: int) -> int:
    return limit if workers == 1 else max(1, limit // workers)


def _window(before: Window | None, rate: Rate | None) -> Window | None:
    if rate is None:
        return None
    if before is None or before.per_s != rate.per_s:
        return Window(rate)
    before.limit = rate.amount
    return before


def _budget(before: Budget | None, limit: float | None) -> Budget | None:
    if limit is None:
        return None
    if before is None:
        return Budget(limit)
    before.limit = round(limit * NANO)
    before.alert_at = 0.0
    return before
