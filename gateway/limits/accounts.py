"""What a key, a tenant or a route has used of its limits, and what one request has reserved of it.
Pure: instants are arguments, or are asked of who keeps the accounts.

What is left of each limit is counted down, in one object for all limits of an account: each request
asks every account that it is subject to, and most have room.

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

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from math import ceil, inf
from typing import Literal, Protocol

import msgspec

from gateway.types.limits import NANO, Quota, Rate

SLICES = 30
"""Of a rate's period: a full minute's worth comes free 2 s late at the most."""

DAY_S = 86_400

ROLL_S = 60.0
"""How often an account is brought up to date at least: clocks are set, too."""

WAIT_S = 1.0
"""What is advised where nobody knows how long requests under way will take."""

PLENTY = 1 << 62
"""What is left where nothing is limited: more than is ever taken. A larger limit is taken as this
one, which Redis can be told."""

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
    """What was taken of one rate by slices, before the current one.

    What is left of the rate now is the account's to count; it was `start` when the current slice
    began. `taken` is by place, a slice modulo one more than `SLICES`. `began` is when counting did:
    what was reserved before is not in it. The lines are how it is told to clients until
    `written_until`.
    """

    __slots__ = (
        "at",
        "began",
        "left_line",
        "limit",
        "limit_line",
        "per_s",
        "reset_line",
        "start",
        "step",
        "taken",
        "written_until",
    )

    def __init__(self, rate: Rate) -> None:
        self.limit = self.start = rate.amount
        self.per_s = rate.per_s
        self.step = rate.per_s / SLICES
        self.at = 0
        self.began = inf
        self.taken = [0] * (SLICES + 1)
        self.written_until = 0.0
        self.limit_line = self.left_line = self.reset_line = b""

    @property
    def since(self) -> float:
        """From when on what was taken is in the current slice."""
        return max(self.began, self.at * self.step)

    def roll(self, now: float, left: int) -> int:
        """Forgets the slices that count no longer; what is left then."""
        at = int(now / self.step)
        self.began = min(self.began, now)
        gone = at - self.at
        if gone <= 0:
            return left
        if gone > SLICES:
            self.taken = [0] * (SLICES + 1)
            left = self.limit
        else:
            self.taken[self.at % (SLICES + 1)] = self.start - left
            for slice in range(self.at + 1, at + 1):
                place = slice % (SLICES + 1)
                left += self.taken[place]
                self.taken[place] = 0
        self.at = at
        self.start = left
        self.written_until = 0.0
        return left

    def give_back(self, at: float, count: int) -> int:
        """How much of what was reserved at that instant, in an earlier slice, counts yet."""
        slice = int(at / self.step)
        if at < self.began or slice < self.at - SLICES:
            return 0
        if slice < self.at:
            self.taken[slice % (SLICES + 1)] -= count
            self.start += count
        return count

    def redeclared(self, limit: int, left: int) -> int:
        """Takes another limit; what is left then."""
        more = limit - self.limit
        self.limit = limit
        self.start += more
        self.written_until = 0.0
        return left + more

    def wait_s(self, count: int, now: float, limit: int, left: int) -> float | None:
        """Seconds until so many fit; None if they never do."""
        if count > limit:
            return None
        over = self.limit - left + count - limit
        for slice in range(self.at - SLICES, self.at + 1):
            if over <= 0:
                break
            over -= self.taken[slice % (SLICES + 1)] if slice < self.at else self.start - left
        else:
            slice = self.at + 1
        return max(0.0, (slice + SLICES) * self.step - now)


class Budget:
    """What was spent of one day's or month's money, in nanodollars."""

    __slots__ = ("alert_at", "base", "ends", "known", "limit", "own", "starts")

    def __init__(self, limit: float) -> None:
        """`limit` in dollars."""
        self.limit = _nano(limit)
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
    """One key's, tenant's or route's use of its limits; `id` is the same in every worker.

    `requests_left`, `tokens_left`, `places_left` and `nano_left` are what may be taken now, and
    `quiet_left` the nanodollars that may be spent before somebody may have to be told. `places`,
    and `free` and `quiet` when what was spent was put into the budgets last, are what is left where
    nothing is under way. Tokens that were reserved from `since` on are in the current slice; none
    are after limits were declared and before it is rolled. Nothing is to be rolled before `due`.
    """

    __slots__ = (
        "_day",
        "_month",
        "due",
        "free",
        "id",
        "nano_left",
        "places",
        "places_left",
        "quiet",
        "quiet_left",
        "quota",
        "requests",
        "requests_left",
        "since",
        "tokens",
        "tokens_left",
        "until",
        "who",
    )

    def __init__(self, id: str, who: str, quota: Quota) -> None:
        """`who` is for people: `key 'app'`."""
        self.id = id
        self.who = who
        self.requests_left = self.tokens_left = PLENTY
        self.places = self.places_left = PLENTY
        self.free = self.nano_left = PLENTY
        self.quiet = self.quiet_left = PLENTY
        self.requests: Window | None = None
        self.tokens: Window | None = None
        self._day: Budget | None = None
        self._month: Budget | None = None
        self.declare(quota)

    def declare(self, quota: Quota) -> None:
        """Takes other limits; what was used stays, unless a rate's period is another."""
        self.book()
        running = self.running
        self.quota = quota
        self.places = PLENTY if quota.concurrent is None else min(quota.concurrent, PLENTY)
        self.places_left = self.places - running
        self.requests, self.requests_left = _window(
            self.requests, self.requests_left, quota.requests
        )
        self.tokens, self.tokens_left = _window(self.tokens, self.tokens_left, quota.tokens)
        self._day = _budget(self._day, quota.day)
        self._month = _budget(self._month, quota.month)
        self.due = self.until = 0.0
        self.since = inf
        self.book()

    # ------------------------------------------------------------ to be looked at

    @property
    def running(self) -> int:
        """Requests that are under way."""
        return self.places - self.places_left

    @property
    def unbooked(self) -> int:
        """Nanodollars that were spent and are not in the budgets yet."""
        return self.quiet - self.quiet_left

    @property
    def reserved(self) -> int:
        """Nanodollars that those under way may cost."""
        return self.free - self.nano_left - self.unbooked

    @property
    def requests_used(self) -> int:
        """Requests that count now; 0 where they are not limited."""
        return 0 if self.requests is None else self.requests.limit - self.requests_left

    @property
    def tokens_used(self) -> int:
        """Tokens that count now; 0 where they are not limited."""
        return 0 if self.tokens is None else self.tokens.limit - self.tokens_left

    @property
    def day(self) -> "Budget | None":
        """The day's budget as it is now; `book` what is changed of it."""
        if self.unbooked:
            self.book()
        return self._day

    @property
    def month(self) -> "Budget | None":
        """The month's."""
        if self.unbooked:
            self.book()
        return self._month

    @property
    def has_money(self) -> bool:
        """Whether it has a budget."""
        return self._day is not None or self._month is not None

    # ------------------------------------------------------------ time and money

    def roll(self, now: float, wall: float) -> None:
        """Up to that instant; `now` is of a steady clock, `wall` in Unix seconds.

        Nothing is to be done about it before `due`, an instant of the steady clock.
        """
        due = now + ROLL_S
        window = self.requests
        if window is not None:
            self.requests_left = window.roll(now, self.requests_left)
            due = min(due, (window.at + 1) * window.step)
        window = self.tokens
        if window is not None:
            self.tokens_left = window.roll(now, self.tokens_left)
            due = min(due, (window.at + 1) * window.step)
        self.since = 0.0 if window is None else window.since
        if wall >= self.until:
            self._new_periods(wall)
        self.due = min(due, now + self.until - wall)

    def book(self) -> None:
        """Puts what was spent into the budgets, and counts anew what is left of them."""
        reserved, spent = self.reserved, self.unbooked
        self.free = self.quiet = PLENTY
        for budget in (self._day, self._month):
            if budget is not None:
                budget.own += spent
                self.free = min(self.free, budget.limit - budget.spent)
                if budget.alert_at < inf:
                    self.quiet = min(self.quiet, ceil(budget.alert_at) - 1 - budget.spent)
        self.nano_left = self.free - reserved
        self.quiet_left = self.quiet

    def look_again(self) -> None:
        """Other alerts may be declared: what is spent next asks whether somebody is to be told."""
        for budget in (self._day, self._month):
            if budget is not None:
                budget.alert_at = 0.0
        self.book()

    # ------------------------------------------------------------ one request

    def refusal(self, tokens: int, nano: int, workers: int) -> str:
        """Which limit would be passed by one more request of that many tokens and nanodollars at
        the most, after `roll`; "" if none."""
        if workers != 1:
            return self._refusal_of_share(tokens, nano, workers)
        if self.requests_left < 1:
            return "requests"
        if self.tokens_left < tokens:
            return "tokens"
        if self.places_left < 1:
            return "concurrent"
        if self.nano_left < nano:
            budget, held = self.day, self.reserved + nano
            return "day" if budget is not None and held > budget.room(1) else "month"
        return ""

    def _refusal_of_share(self, tokens: int, nano: int, workers: int) -> str:
        window = self.requests
        if window is not None and self.requests_used >= _part(window.limit, workers):
            return "requests"
        window, used = self.tokens, self.tokens_used
        if window is not None and used + tokens > _part(window.limit, workers):
            # A share that is less than one request still lets one through at a time.
            alone = used == 0 and tokens <= window.limit
            if not alone:
                return "tokens"
        most = self.quota.concurrent
        if most is not None and self.running >= _part(most, workers):
            return "concurrent"
        held = self.reserved + nano
        for what, budget in (("day", self.day), ("month", self.month)):
            if budget is not None and held > budget.room(workers):
                return what
        return ""

    def take(self, tokens: int, nano: int) -> None:
        """Lets one request in, whatever `refusal` says."""
        self.requests_left -= 1
        self.tokens_left -= tokens
        self.places_left -= 1
        self.nano_left -= nano

    def untake(self, tokens: int, nano: int) -> None:
        """As if `take` had not been."""
        self.requests_left += 1
        self.tokens_left += tokens
        self.places_left += 1
        self.nano_left += nano

    def give_back(self, at: float, tokens: int, now: float, wall: Callable[[], float]) -> None:
        """Gives back, to the slice of that instant, what was reserved before `since`; what was used
        beyond it is taken `now`. `wall` is asked where the account is due."""
        if now >= self.due:
            self.roll(now, wall())
        if at >= self.since or tokens < 0:
            self.tokens_left += tokens
        elif self.tokens is not None:
            self.tokens_left += self.tokens.give_back(at, tokens)

    def explained(
        self, what: str, tokens: int, nano: int, now: float, wall: float, workers: int
    ) -> Refusal:
        """More of what `refusal` said."""
        match what:
            case "requests" | "tokens":
                window = self.requests if what == "requests" else self.tokens
                assert window is not None
                asked = 1 if what == "requests" else tokens
                left = self.requests_left if what == "requests" else self.tokens_left
                limit = _part(window.limit, workers)
                wait = window.wait_s(min(asked, limit) if workers > 1 else asked, now, limit, left)
                return Refusal(self.who, what, window.limit, window.limit - left, asked, wait)
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
        self.book()  # what was spent before belongs to those that are over
        day, month = day_of(wall), month_of(wall)
        self.until = day[1]
        if self._day is not None and self._day.starts != day[0]:
            self._day.roll(*day)
        if self._month is not None and self._month.starts != month[0]:
            self._month.roll(*month)
        self.book()


def enter(
    accounts: Sequence[Account],
    tokens: int,
    nano: int,
    now: float,
    wall: Callable[[], float],
    workers: int = 1,
) -> Account | None:
    """Lets one request in at all of the accounts, or at none: then the first without room for it.

    It may take that many tokens and nanodollars. `wall` is asked where an account is due.
    """
    for account in accounts:
        if now >= account.due:
            account.roll(now, wall())
        if account.refusal(tokens, nano, workers):
            return account
    for account in accounts:
        account.take(tokens, nano)
    return None


class Keeper(Protocol):
    """Who keeps the accounts: the time of day, and whom it tells."""

    @property
    def now(self) -> Callable[[], float]: ...

    def alert(self, accounts: Sequence[Account]) -> None: ...


class Hold(msgspec.Struct, gc=False):
    """What one request has reserved; settled once, however it ends.

    That was `at` an instant of a steady clock; none of the accounts is to be rolled before `due`.
    `lines` tell the client what is left.
    """

    keeper: Keeper
    accounts: tuple[Account, ...]
    tokens: int
    nano: int
    at: float
    due: float
    lines: list[bytes]

    def settle(self, tokens: int, dollars: float, now: float) -> None:
        """The request has ended `now`; it took so many tokens, and cost so much in all.

        Somebody is alerted where a budget has come to a share that is to be told.
        """
        at, back, spent = self.at, self.tokens - tokens, round(dollars * NANO)
        freed, alert = self.nano - spent, False
        if now >= self.due:
            for account in self.accounts:
                if now >= account.due:
                    account.roll(now, self.keeper.now())
        for account in self.accounts:
            if at >= account.since:
                account.tokens_left += back
            else:
                account.give_back(at, back, now, self.keeper.now)
            account.places_left += 1
            account.nano_left += freed
            account.quiet_left = quiet_left = account.quiet_left - spent
            if quiet_left < 0:
                alert = True
        if alert:
            self.keeper.alert(self.accounts)


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


def _nano(dollars: float) -> int:
    """A budget in nanodollars."""
    return round(min(dollars * NANO, PLENTY))


def _window(before: Window | None, left: int, rate: Rate | None) -> tuple[Window | None, int]:
    """The window of a rate that may be another, and what is left of it."""
    if rate is None:
        return None, PLENTY
    if before is None or before.per_s != rate.per_s:
        return Window(rate), rate.amount
    return before, before.redeclared(rate.amount, left)


def _budget(before: Budget | None, limit: float | None) -> Budget | None:
    if limit is None:
        return None
    if before is None:
        return Budget(limit)
    before.limit = _nano(limit)
    before.alert_at = 0.0
    return before
