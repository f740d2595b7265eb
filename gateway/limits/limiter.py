"""Lets requests in within the limits of their key, tenant and route, and settles them.

    hold = limiter.admit(request, decision, snapshot)           # raises LimitReached
    ...
    hold.settle(tokens, dollars, now)                           # however the request has ended

In one process the accounts here decide. With a coordinator (`admit_shared`) Redis decides for all
workers at once, and the accounts here mirror what this worker has let in; while Redis is away they
decide, each worker within its share.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from gateway.errors import CoordinatorAway, LimitReached, SwitchboardError
from gateway.limits.accounts import (
    PLENTY,
    Account,
    Budget,
    Hold,
    Refusal,
    What,
    day_of,
    enter,
    month_of,
)
from gateway.limits.alerts import Alarm
from gateway.limits.refusing import Lines, fewest, refused, room_lines, room_lines_of_all
from gateway.limits.reserve import Fares, Plain, fares_of, nano_of, plainly, tokens_of
from gateway.limits.shared import SETTLED_S, SharedLimits, Spent
from gateway.policy.live import Live
from gateway.types.decisions import Decision
from gateway.types.limits import NANO, Quota
from gateway.types.requests import Caller, Request
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard.limits")

KNOWN_S = 10.0
"""How long a start waits for what was spent before."""

NOBODY = "anonymous"
"""Who asks without a key, where that is allowed: all of them together."""

Refused = Callable[[str, str], None]
"""Told of each refusal: whose the limit is (`key`, `tenant`, `route`), and which."""


class Subject(msgspec.Struct):
    """What one caller's requests on one route are subject to, under one snapshot.

    `plain` is of the route's `fares`, where tokens and money are limited. Before `due` no account
    has to be rolled, and while `requests` and `tokens` are the accounts that have the fewest left,
    clients are told `left_lines`, with what is left put in, and `lines`.
    """

    caller: Caller
    snapshot: Snapshot
    accounts: tuple[Account, ...]
    plain: Plain | None
    due: float = 0.0
    requests: Account | None = None
    tokens: Account | None = None
    left_lines: tuple[bytes, bytes] = (b"", b"")
    lines: tuple[bytes, ...] = ()
    fares: Fares = Fares((), None)
    has_tokens: bool = False
    has_money: bool = False
    most_tokens: int = 0

    def told(self, now: float) -> Lines:
        """What clients are told, after the accounts were rolled. Keeps what stays of it."""
        self.due = min(account.due for account in self.accounts)
        self.requests, self.tokens = fewest(self.accounts)
        lines = room_lines(self.requests, self.tokens, now)
        requests, tokens = self.requests.requests, self.tokens.tokens
        if requests is None or tokens is None:
            self.requests = None  # no account is this one: the lines are made each time
        else:
            self.due = min(self.due, requests.written_until, tokens.written_until)
            self.left_lines = (requests.left_line, tokens.left_line)
            self.lines = (
                requests.limit_line,
                requests.reset_line,
                tokens.limit_line,
                tokens.reset_line,
            )
        return lines


class SharedHold(Hold):
    """One of whose end Redis is told; there the tokens of each account are in the slices `remote`,
    None where Redis could not be asked."""

    shared: SharedLimits
    remote: Sequence[int] | None = None

    def settle(self, tokens: int, dollars: float, now: float) -> None:
        """As a hold is, and for all workers."""
        super().settle(tokens, dollars, now)
        back, spent, wall = self.tokens - tokens, round(dollars * NANO), self.keeper.now()
        for n, account in enumerate(self.accounts):
            slice = self.remote[n] if self.remote is not None else None
            self.shared.ended(account, self.nano, slice, back, spent, wall)


class Limiter:
    """The limits of everybody, as far as this worker goes."""

    def __init__(
        self,
        live: Live,
        *,
        spent: Spent,
        clock: Callable[[], float],
        now: Callable[[], float],
        refused: Refused,
        alarm: Alarm,
    ) -> None:
        """`clock` is steady, and requests are settled by it too; `now` gives Unix seconds."""
        self._live = live
        self._spent = spent
        self._clock = clock
        self.now = now
        self._refused = refused
        self._alarm = alarm
        self._accounts: dict[str, Account] = {}
        self._subjects: dict[tuple[str | None, str], Subject] = {}
        self._unknown: dict[Budget, tuple[Account, float]] = {}
        self._loading: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._shared: SharedLimits | None = None
        self._workers = 1
        self.by_share = 0
        self.is_shared = False
        self.on = False

    # ------------------------------------------------------------ who has limits

    def share(self, shared: SharedLimits, workers: int) -> None:
        """Lets Redis decide for all workers, of which there are so many at least."""
        self._shared, self._workers = shared, workers
        self.is_shared = True

    def accounts(self) -> Iterable[Account]:
        """Every account that is known here."""
        return self._accounts.values()

    def declare(self, snapshot: Snapshot, callers: Iterable[Caller]) -> None:
        """Takes the limits that the configuration and the keys declare now."""
        wanted: dict[str, tuple[str, Quota]] = {}
        for caller in list(callers) or [Caller()]:
            for id, who, quota in _whose(caller, snapshot):
                wanted[id] = (who, quota)
        for name, route in snapshot.routes.items():
            if route.quota is not None:
                wanted[f"route:{name}"] = (f"route '{name}'", route.quota)
        for id, (who, quota) in wanted.items():
            self._account(id, who, quota)
        for id, account in self._accounts.items():
            if id not in wanted and account.quota.limits:
                account.declare(Quota())
        for account in self._accounts.values():
            account.look_again()
        self._subjects.clear()
        self.on = any(account.quota.limits for account in self._accounts.values())

    async def know(self) -> None:
        """Back when what was spent before this worker started is known, or the store is late."""
        if self._loading is not None:
            _, late = await asyncio.wait([self._loading], timeout=KNOWN_S)
            if late:
                log.warning("budgets begin before what was spent is known: the store is late")

    def look_up(self) -> None:
        """Redis went away: what all workers have spent is read from the log, to share the rest."""
        if any(account.has_money for account in self._accounts.values()):
            self._looking = asyncio.create_task(self._look_up())

    async def _look_up(self) -> None:
        wall = self.now()
        day, month = day_of(wall)[0], month_of(wall)[0]
        try:
            spent = await self._spent(wall, day, month)
        except SwitchboardError as error:
            log.warning("what was spent is known only as Redis told it last: %s", error)
            return
        for account in self._accounts.values():
            in_day, in_month = spent.get(account.id, (0, 0))
            for budget, starts, least in (
                (account.day, day, in_day),
                (account.month, month, in_month),
            ):
                if budget is not None and budget.starts == starts:
                    budget.base = max(budget.base, least)
            account.book()

    def _subject(self, caller: Caller, route: str, snapshot: Snapshot) -> Subject:
        known = self._subjects.get((caller.key, route))
        if known is not None and known.caller is caller and known.snapshot is snapshot:
            return known
        accounts = [self._account(*each) for each in _whose(caller, snapshot)]
        quota = snapshot.routes[route].quota
        if quota is not None and quota.limits:
            accounts.append(self._account(f"route:{route}", f"route '{route}'", quota))
        rates = [each.quota.tokens.amount for each in accounts if each.quota.tokens is not None]
        fares = fares_of(route, snapshot)
        has_money = any(each.has_money for each in accounts)
        known = self._subjects[(caller.key, route)] = Subject(
            caller,
            snapshot,
            tuple(accounts),
            fares.plain if rates and has_money else None,
            fares=fares,
            has_tokens=bool(rates),
            has_money=has_money,
            most_tokens=min(rates, default=0),
        )
        return known

    def _account(self, id: str, who: str, quota: Quota) -> Account:
        account = self._accounts.get(id)
        if account is None:
            account = self._accounts[id] = Account(id, who, quota)
            self._learn(account)
        elif account.quota != quota:
            account.who = who
            account.declare(quota)
            self._subjects.clear()
            self._learn(account)
        return account

    def _learn(self, account: Account) -> None:
        """What was spent of a budget before it was declared stands in the store, soon."""
        now = self.now()
        account.roll(self._clock(), now)
        news = [each for each in (account.day, account.month) if each and not each.known]
        if not news:
            return
        for budget in news:
            self._unknown.setdefault(budget, (account, now))
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load())
        if self._shared is not None:
            self._shared.bring_up(account)

    async def _load(self) -> None:
        wait = 0.0
        while self._unknown:
            # At the start, before anything is served, every row is there.
            await asyncio.sleep(wait)
            wait = SETTLED_S
            asked, self._unknown = self._unknown, {}
            for since in sorted({since for _, since in asked.values()}):
                these = {budget: each for budget, each in asked.items() if each[1] == since}
                try:
                    spent = await self._spent(since, day_of(since)[0], month_of(since)[0])
                except SwitchboardError as error:
                    log.warning("what was spent before is not known yet: %s", error)
                    self._unknown |= these
                    continue
                for budget, (account, _) in these.items():
                    _learned(account, budget, since, *spent.get(account.id, (0, 0)))

    # ------------------------------------------------------------ one request

    def admit(self, request: Request, decision: Decision, snapshot: Snapshot) -> Hold | None:
        """Lets the request in, with what it may use reserved; None where nothing limits it.

        For where nobody else is to be asked. Raises LimitReached.
        """
        subject = self._subject(request.caller, decision.route, snapshot)
        accounts, plain, now = subject.accounts, subject.plain, self._clock()
        if not accounts:
            return None
        most = plainly(request, decision, plain) if plain is not None else None
        if most is None:
            most = self._most_of_any(subject, request, decision, snapshot)
            return self._admit(subject, *most)
        tokens, nano = most
        due = subject.due
        if now >= due:
            return self._admit(subject, tokens, nano)
        # What follows is `_admit` for most requests, in one step.
        fewest_requests = fewest_tokens = PLENTY
        of_requests = of_tokens = None
        for account in accounts:
            requests_left = account.requests_left - 1
            tokens_left = account.tokens_left - tokens
            places_left = account.places_left - 1
            nano_left = account.nano_left - nano
            if requests_left < 0 or tokens_left < 0 or places_left < 0 or nano_left < 0:
                for before in accounts[: accounts.index(account)]:
                    before.untake(tokens, nano)
                return self._admit(subject, tokens, nano)
            account.requests_left = requests_left
            account.tokens_left = tokens_left
            account.places_left = places_left
            account.nano_left = nano_left
            if requests_left < fewest_requests:
                fewest_requests, of_requests = requests_left, account
            if tokens_left < fewest_tokens:
                fewest_tokens, of_tokens = tokens_left, account
        if of_requests is not subject.requests or of_tokens is not subject.tokens:
            lines = subject.told(now)
        else:
            requests_line, tokens_line = subject.left_lines
            lines = [requests_line % fewest_requests, tokens_line % fewest_tokens, *subject.lines]
        return Hold(self, accounts, tokens, nano, now, due, lines)

    def _admit(self, subject: Subject, tokens: int, nano: int) -> Hold:
        """Lets in what may take so many tokens and nanodollars."""
        now = self._clock()
        lines = self._enter(subject, tokens, nano, now, 1)
        return Hold(self, subject.accounts, tokens, nano, now, subject.due, lines)

    def _enter(self, subject: Subject, tokens: int, nano: int, now: float, workers: int) -> Lines:
        """Takes so many from every account, and says what the client is told; with more `workers`
        than one, within the share that this one has of what is left, as nobody watches the whole.
        """
        full = enter(subject.accounts, tokens, nano, now, self.now, workers)
        if full is not None:
            raise self._over(full, subject.accounts, tokens, nano, now, workers)
        return subject.told(now)

    async def admit_shared(
        self, request: Request, decision: Decision, snapshot: Snapshot
    ) -> Hold | None:
        """The same for all workers together, as long as Redis can be asked."""
        shared = self._shared
        assert shared is not None
        subject = self._subject(request.caller, decision.route, snapshot)
        if not subject.accounts:
            return None
        tokens, nano = self._most(subject, request, decision, snapshot)
        if shared.ready:
            hold = await self._ask(shared, subject.accounts, tokens, nano)
            if hold is not None:
                return hold
        now = self._clock()
        lines = self._enter(subject, tokens, nano, now, self._share_of(shared))
        self.by_share += 1
        for account in subject.accounts:
            shared.began(account, nano)
        return SharedHold(self, subject.accounts, tokens, nano, now, subject.due, lines, shared)

    def _most(
        self, subject: Subject, request: Request, decision: Decision, snapshot: Snapshot
    ) -> tuple[int, int]:
        """The tokens and nanodollars to reserve."""
        plain = subject.plain
        most = plainly(request, decision, plain) if plain is not None else None
        return most or self._most_of_any(subject, request, decision, snapshot)

    def _most_of_any(
        self, subject: Subject, request: Request, decision: Decision, snapshot: Snapshot
    ) -> tuple[int, int]:
        """The same for any request, however little of it is plain."""
        tokens = nano = 0
        if subject.has_tokens:
            tokens = tokens_of(request, decision, snapshot, self._live)
            if request.needs.max_output is None:
                tokens = min(tokens, subject.most_tokens)
        if subject.has_money:
            nano = nano_of(request, decision, snapshot, self._live, subject.fares)
        return tokens, nano

    def _over(
        self,
        account: Account,
        accounts: tuple[Account, ...],
        tokens: int,
        nano: int,
        now: float,
        workers: int,
    ) -> LimitReached:
        """The refusal by one of the accounts."""
        what, wall = account.refusal(tokens, nano, workers), self.now()
        refusal = account.explained(what, tokens, nano, now, wall, workers)
        return self._refuse(refusal, account, accounts, now, wall, None, workers)

    def _share_of(self, shared: SharedLimits) -> int:
        """Among how many workers a limit is shared that nobody watches as a whole."""
        return max(self._workers, shared.alive)

    async def _ask(
        self, shared: SharedLimits, accounts: tuple[Account, ...], tokens: int, nano: int
    ) -> Hold | None:
        """Asks Redis; None where it cannot say."""
        wall = self.now()
        try:
            reply = await shared.admit(accounts, tokens, nano, wall)
        except CoordinatorAway:
            return None
        match reply[0]:
            case 1:
                return self._let_in(shared, accounts, tokens, nano, reply[1:])
            case 0:
                now = self._clock()
                account = accounts[reply[1] - 1]
                account.roll(now, wall)
                refusal = _explained(account, reply, tokens, nano, wall)
                told = _mirrored(accounts, reply[1] - 1, refusal)
                raise self._refuse(refusal, account, accounts, now, wall, told)
            case -1:
                shared.unknown(reply)
            case _:
                shared.again()
        return None

    def _let_in(
        self,
        shared: SharedLimits,
        accounts: tuple[Account, ...],
        tokens: int,
        nano: int,
        told: Sequence[int],
    ) -> Hold:
        now = self._clock()
        day, month = shared.periods
        for n, account in enumerate(accounts):
            if now >= account.due:
                account.roll(now, self.now())
            account.take(tokens, nano)
            if account.has_money:
                _tell(account.day, day, told[5 * n + 3])
                _tell(account.month, month, told[5 * n + 4])
                account.book()
        lines = room_lines_of_all(accounts, now, told)
        return SharedHold(self, accounts, tokens, nano, now, 0.0, lines, shared, told[2::5])

    def _refuse(
        self,
        refusal: Refusal,
        account: Account,
        accounts: tuple[Account, ...],
        now: float,
        wall: float,
        told: Sequence[int] | None,
        workers: int = 1,
    ) -> LimitReached:
        self._refused(account.id.partition(":")[0], refusal.what)
        lines = (
            room_lines(*fewest(accounts), now)
            if told is None
            else room_lines_of_all(accounts, now, told)
        )
        return refused(refusal, account, lines, wall, workers)

    def alert(self, accounts: Sequence[Account]) -> None:
        """Tells of budgets that have come to a share at which somebody is to be told."""
        for account in accounts:
            for what, budget in (("day", account.day), ("month", account.month)):
                if budget is not None and budget.spent >= budget.alert_at:
                    budget.alert_at = self._alarm.passed(account, what, budget)
            account.book()

    # ------------------------------------------------------------ to be looked at

    async def shown(self) -> list[dict[str, Any]]:
        """Each account with its limits and how much of each is used, over all workers if known."""
        accounts = [each for each in self._accounts.values() if each.quota.limits]
        now, wall = self._clock(), self.now()
        for account in accounts:
            account.roll(now, wall)
        rows = [_row(account) for account in accounts]
        if self._shared is None or not self._shared.ready:
            return rows
        try:
            usages = await self._shared.look(accounts)
        except CoordinatorAway:
            return rows
        for row, usage in zip(rows, usages, strict=True):
            row["running"] = usage.running
            for what, used in (
                ("requests", usage.requests),
                ("tokens", usage.tokens),
                ("concurrent", usage.running),
                ("day", usage.day / NANO),
                ("month", usage.month / NANO),
            ):
                if what in row["limits"]:
                    row["limits"][what]["used"] = used
            row["reserved_usd"] = usage.reserved / NANO
        return rows


def _whose(caller: Caller, snapshot: Snapshot) -> list[tuple[str, str, Quota]]:
    """The key's and the tenant's limits: id, whose for people, and what they are."""
    quotas = snapshot.quotas
    found = []
    own = (caller.quota or _NONE).over(quotas.every_key)
    if own.limits:
        found.append((f"key:{caller.key or NOBODY}", f"key '{caller.name}'", own))
    if caller.tenant is not None:
        of_tenant = quotas.tenants.get(caller.tenant, _NONE).over(quotas.every_tenant)
        if of_tenant.limits:
            found.append((f"tenant:{caller.tenant}", f"tenant '{caller.tenant}'", of_tenant))
    return found


_NONE = Quota()


def _learned(account: Account, budget: Budget, since: float, in_day: int, in_month: int) -> None:
    """What had been spent before that instant, unless Redis has told better already."""
    for own, starts, spent in (
        (account.day, day_of(since)[0], in_day),
        (account.month, month_of(since)[0], in_month),
    ):
        if own is budget and not budget.known and budget.starts == starts:
            budget.base += spent
            budget.known = True
    account.book()


def _tell(budget: Budget | None, starts: float, spent: int) -> None:
    """Redis' sum of all workers."""
    if budget is not None and budget.starts == starts:
        budget.base = spent
        budget.known = True


def _explained(
    account: Account, reply: Sequence[Any], tokens: int, nano: int, wall: float
) -> Refusal:
    """Redis' refusal: account, what, used, milliseconds to wait, spent in the day, in the month."""
    what: What = reply[2].decode()
    used, wait_s = reply[3], reply[4] / 1000
    match what:
        case "requests" | "tokens":
            window = account.requests if what == "requests" else account.tokens
            limit = window.limit if window is not None else 0
            asked = 1 if what == "requests" else tokens
            return Refusal(
                account.who, what, limit, used, asked, wait_s if asked <= limit else None
            )
        case "concurrent":
            most = account.quota.concurrent or 0
            return Refusal(account.who, what, most, used, 1, 1.0)
        case _:
            for budget, spent in ((account.day, reply[5]), (account.month, reply[6])):
                if budget is not None:
                    budget.base = spent
            account.book()
            return account.over_budget(what, used, nano, wall)


def _mirrored(accounts: Sequence[Account], place: int, refusal: Refusal) -> list[int]:
    """Totals as Redis would tell them, by what this worker has let in, but for the refusal's."""
    told: list[int] = []
    for account in accounts:
        told += (account.requests_used, account.tokens_used, 0, 0, 0)
    if refusal.what in ("requests", "tokens"):
        told[5 * place + (refusal.what == "tokens")] = round(refusal.used)
    return told


def _row(account: Account) -> dict[str, Any]:
    quota = account.quota
    limits: dict[str, dict[str, Any]] = {}
    for what, rate, used in (
        ("requests", quota.requests, account.requests_used),
        ("tokens", quota.tokens, account.tokens_used),
    ):
        if rate is not None:
            limits[what] = {"limit": rate.amount, "per_s": rate.per_s, "used": used}
    if quota.concurrent is not None:
        limits["concurrent"] = {"limit": quota.concurrent, "used": account.running}
    for what, budget in (("day", account.day), ("month", account.month)):
        if budget is not None:
            limits[what] = {
                "limit": budget.limit / NANO,
                "used": budget.spent / NANO,
                "ends": budget.ends,
            }
    return {
        "account": account.id,
        "who": account.who,
        "running": account.running,
        "reserved_usd": account.reserved / NANO,
        "limits": limits,
    }
