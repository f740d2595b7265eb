"""The limits of all workers together, in Redis.

Each request is let in by one item of a script that all requests of a turn share. What has ended is
gathered for `FLUSH_S` and sent as one numbered item that is sent again, the same, until Redis says
that it has it: nothing is counted twice and nobody waits for it. `ready` is false while Redis is
away or has not been told yet what this worker has under way.

What Redis was not told comes from the store: what was spent before it knew an account, while that
had no budget, or by a worker that stopped while Redis was away. Whenever a worker comes to Redis,
and when a budget is declared, Redis fixes an instant, and that worker reads what had ended before,
a little later, when those rows are surely written; of that, Redis adds what it has not counted.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.errors import CoordinatorAway, SwitchboardError
from gateway.limits import scripts
from gateway.limits.accounts import Account, day_of, month_of

if TYPE_CHECKING:
    from gateway.coordination.coordinator import Coordinator

log = logging.getLogger("switchboard.limits")

Spent = Callable[[float, float, float], Awaitable[Mapping[str, tuple[int, int]]]]
"""Of each account, the nanodollars of requests that ended before the first instant, in the day and
in the month that begin at the other two."""

FLUSH_S = 0.005
BEAT_S = 2.0

SETTLED_S = 1.5
"""How long the rows of requests that have ended may take to the store, and clocks may differ."""

STOP_S = 1.0
"""How long a worker that stops tries to tell what has ended."""

MOST_DUE = 1000
"""Entries of one settling: Redis serves nobody else while it counts them."""

NO_LIMIT = -1


class Due:
    """What Redis is yet to hear of one account."""

    __slots__ = ("ended", "freed", "seconds", "slices")

    def __init__(self) -> None:
        self.ended = 0
        self.freed = 0
        self.slices: dict[int, int] = {}
        self.seconds: dict[int, int] = {}

    @property
    def nothing(self) -> bool:
        """Whether it all came to nothing."""
        return not (self.ended or self.freed or self.slices or self.seconds)


class Usage(msgspec.Struct, frozen=True):
    """What all workers together have used of one account; dollars in nanodollars."""

    requests: int
    tokens: int
    running: int
    reserved: int
    day: int
    month: int


class SharedLimits:
    """One worker's side of the limits in Redis."""

    def __init__(
        self,
        coordinator: "Coordinator",
        *,
        worker: str,
        accounts: Callable[[], Iterable[Account]],
        spent: Spent,
        now: Callable[[], float],
    ) -> None:
        """`worker` is a name that no other worker has had; `now` in Unix seconds."""
        self._coordinator = coordinator
        self._worker = worker
        self._accounts = accounts
        self._spent = spent
        self._now = now
        self._round = 0
        self._number = 0
        self._due: dict[Account, Due] = {}
        self._sent: dict[Account, Due] | None = None
        self._sending = False
        self._timer: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None
        self._seeding: asyncio.Task[None] | None = None
        self._unknown: dict[str, int] = {}
        self._packed: dict[Account, tuple[object, bytes]] = {}
        self._second_ends = 0.0
        self._admit_head = b""
        self._day = self._month = 0
        self.ready = False
        self.alive = 0
        key = coordinator.key
        self._alive = key("limits", "alive")
        self._hash = key("limits", "worker", worker)
        # In the order in which they are served: what has ended makes room for what begins.
        self._hello = coordinator.script(scripts.HELLO)
        self._settle = coordinator.script(scripts.SETTLE)
        self._seed = coordinator.script(scripts.SEED)
        self._claim = coordinator.script(scripts.CLAIM)
        self._admit = coordinator.script(scripts.ADMIT)
        self._beat = coordinator.script(scripts.BEAT)
        self._look = coordinator.script(scripts.LOOK)
        self._admit.unheard = self._let_in_in_vain
        self._head: list[Any] = []

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Says hello as soon as Redis is there."""
        self._coordinator.on_back(self._greet)
        self._coordinator.on_away(self._away)
        self._beating = asyncio.create_task(self._keep_beating())
        if self._coordinator.here:
            self._greet()

    async def stop(self) -> None:
        """Sends what has ended and was not sent yet, as far as Redis is there."""
        for task in (self._beating, self._seeding):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        until = self._now() + STOP_S
        while self.ready and (self._due or self._sent is not None) and self._now() < until:
            self._flush()
            await asyncio.sleep(FLUSH_S)
        self._coordinator.tell("ZREM", self._alive, self._worker)

    @property
    def seeded(self) -> bool:
        """Whether Redis knows, as far as is known here, all that was spent before."""
        return self.ready and not self._unknown

    @property
    def settled(self) -> bool:
        """Whether Redis has been told of all that has ended."""
        return self.ready and self._sent is None and not self._due

    # ------------------------------------------------------------ one request

    async def admit(
        self, accounts: Sequence[Account], tokens: int, nano: int, wall: float
    ) -> list[Any]:
        """Asks whether one more request may come in; the reply is as `scripts.ADMIT` has it.

        Raises CoordinatorAway.
        """
        if wall >= self._second_ends:
            self._new_second(wall)
        args: list[Any] = [self._admit_head, tokens, nano]
        for account in accounts:
            known = self._packed.get(account)
            if known is None or known[0] is not account.quota:
                known = self._packed[account] = (account.quota, self._limits_of(account))
            args.append(known[1])
        asked = self._admit.put(args)
        try:
            reply: list[Any] = await asked
        except asyncio.CancelledError:
            # The client may have gone in the very turn in which Redis has answered.
            if asked.done() and not asked.cancelled() and asked.exception() is None:
                self._let_in_in_vain(args, asked.result())
            raise
        return reply

    def _let_in_in_vain(self, args: Sequence[Any], reply: Sequence[Any]) -> None:
        """The client went away while Redis was asked: what it has let in is given back."""
        if reply[0] != 1:
            return
        _, tokens, nano, *limits = args
        by_limits = {packed: account for account, (_, packed) in self._packed.items()}
        for packed, slice in zip(limits, reply[3::5], strict=True):
            account = by_limits.get(packed)
            if account is not None:
                self.ended(account, nano, slice, tokens, 0, 0.0)

    @property
    def periods(self) -> tuple[float, float]:
        """When the day and the month that were asked about last began."""
        return self._day, self._month

    def began(self, account: Account, nano: int) -> None:
        """A request was let in without Redis: it is to know of it."""
        due = self._of(account)
        due.ended -= 1
        due.freed -= nano

    def ended(
        self, account: Account, nano: int, slice: int | None, back: int, spent: int, wall: float
    ) -> None:
        """A request has ended: what it had reserved, the tokens to give `back` to the slice that
        Redis had put them in, and what it has spent."""
        due = self._of(account)
        due.ended += 1
        due.freed += nano
        if slice is not None and back:
            due.slices[slice] = due.slices.get(slice, 0) + back
        if spent and account.has_money:
            second = int(wall)
            due.seconds[second] = due.seconds.get(second, 0) + spent

    def again(self) -> None:
        """Redis does not know us any more: it lost its memory, or took us for dead."""
        if self.ready:
            self._greet()

    def unknown(self, reply: Sequence[Any]) -> None:
        """Redis has an account whose earlier spending it does not know: key, instant, ..."""
        for key, since in zip(reply[1::2], reply[2::2], strict=True):
            self._to_seed(key.decode(), int(since))

    async def look(self, accounts: Sequence[Account]) -> list[Usage]:
        """What all workers have used; raises CoordinatorAway."""
        wall = self._now()
        asked = []
        for account in accounts:
            quota = account.quota
            args: list[Any] = [
                self._key(account),
                int(quota.requests.per_s) if quota.requests is not None else 0,
                int(quota.tokens.per_s) if quota.tokens is not None else 0,
                int(day_of(wall)[0]),
                int(month_of(wall)[0]),
            ]
            asked.append(self._look.ask(args))
        return [Usage(*reply) for reply in await asyncio.gather(*asked)]

    # ------------------------------------------------------------ settling

    def _of(self, account: Account) -> Due:
        due = self._due.get(account)
        if due is None:
            due = self._due[account] = Due()
        if self._timer is None and self.ready:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
        return due

    def _flush(self) -> None:
        """Sends what is due, unless what was sent before has not been heard yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sending or not self.ready:
            return
        if self._sent is None:
            self._sent = self._taken()
            if self._sent is None:
                return
            self._number += 1
        entries = [self._entry(account, due) for account, due in self._sent.items()]
        try:
            future = self._settle.put([*self._head[1:], self._number, _pack(entries)])
        except CoordinatorAway:
            return
        self._sending = True
        future.add_done_callback(self._heard)

    def _taken(self) -> dict[Account, Due] | None:
        """As much of what is due as goes into one settling."""
        taken: dict[Account, Due] = {}
        entries = 0
        for account, due in list(self._due.items()):
            if entries >= MOST_DUE:
                break
            del self._due[account]
            if due.nothing:
                continue
            if len(due.seconds) > MOST_DUE:
                self._due[account] = rest = Due()
                for second in list(due.seconds)[MOST_DUE:]:
                    rest.seconds[second] = due.seconds.pop(second)
            entries += 1 + len(due.seconds) + len(due.slices)
            taken[account] = due
        return taken or None

    def _entry(self, account: Account, due: Due) -> tuple[Any, ...]:
        rate = account.quota.tokens
        return (
            self._key(account),
            due.ended,
            due.freed,
            rate.per_s if rate is not None else 0,
            list(due.slices.items()) if rate is not None else [],
            [
                (second, nano, int(day_of(second)[0]), int(month_of(second)[0]))
                for second, nano in due.seconds.items()
            ],
        )

    def _heard(self, future: asyncio.Future[Any]) -> None:
        self._sending = False
        if future.cancelled() or future.exception() is not None:
            return  # sent again, under the same number, after the next hello
        if future.result() != 1:
            self.again()
            return
        sent, self._sent = self._sent, None
        for account, due in (sent or {}).items():
            for second, nano in due.seconds.items():
                for budget in (account.day, account.month):
                    if budget is not None and budget.starts <= second:
                        moved = min(nano, budget.own)
                        budget.own -= moved
                        budget.base += moved
        if self._due:
            self._flush()

    # ------------------------------------------------------------ here and away

    def _greet(self) -> None:
        """Tells Redis, in a new round, what this worker has under way."""
        self.ready = False
        self._round += 1
        self._head = [self._alive, self._hash, self._worker, self._round]
        self._second_ends = 0.0
        for known in (self._due, self._sent or {}):
            for due in known.values():
                due.ended = due.freed = 0  # it is all in what follows
        accounts = list(self._accounts())
        parts = [accounts[n : n + MOST_DUE] for n in range(0, len(accounts), MOST_DUE)] or [[]]
        try:
            for part in parts:
                args = list(self._head)
                for account in part:
                    args += (self._key(account), account.running, account.reserved)
                future = self._hello.tell(args)
        except CoordinatorAway:
            return
        round = self._round
        future.add_done_callback(lambda future: self._greeted(future, round))

    def _greeted(self, future: asyncio.Future[Any], round: int) -> None:
        if future.cancelled() or future.exception() is not None or round != self._round:
            return
        if future.result() == 0:
            self._greet()
            return
        self.alive = future.result()
        self.ready = True
        self._flush()
        for account in self._accounts():
            if account.has_money:
                self.bring_up(account)

    def bring_up(self, account: Account) -> None:
        """Has Redis told, soon, what the log says was spent that Redis does not know of."""
        if not self.ready:
            return  # whoever comes to Redis has all of them brought up
        key, since = self._key(account), int(self._now()) + 1

        def heard(future: asyncio.Future[Any]) -> None:
            failed = future.cancelled() or future.exception() is not None
            if not failed and future.result():
                self._to_seed(key, future.result())
            elif self._unknown.get(key) == since:
                del self._unknown[key]

        try:
            self._claim.put([key, since]).add_done_callback(heard)
        except CoordinatorAway:
            return
        self._unknown[key] = since

    def _away(self) -> None:
        self.ready = False
        self._unknown.clear()

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            if not self.ready:
                if self._coordinator.here:
                    self._greet()
                continue
            self._flush()
            try:
                alive = await self._beat.ask(self._head)
            except CoordinatorAway:
                continue
            if alive:
                self.alive = alive
            else:
                self.again()

    # ------------------------------------------------------------ what was spent before

    def _to_seed(self, key: str, since: int) -> None:
        self._unknown[key] = since
        if self._seeding is None or self._seeding.done():
            self._seeding = asyncio.create_task(self._bring())

    async def _bring(self) -> None:
        """Brings what was spent before from the store."""
        while self._unknown:
            since = min(self._unknown.values())
            await asyncio.sleep(max(0.0, since + SETTLED_S - self._now()))
            keys = [key for key, when in self._unknown.items() if when == since]
            day, month = day_of(since)[0], month_of(since)[0]
            try:
                spent = await self._spent(since, day, month)
                for key in keys:
                    account = key.removeprefix(self._coordinator.key("limits", ""))
                    in_day, in_month = spent.get(account, (0, 0))
                    await self._seed.ask([key, since, int(day), in_day, int(month), in_month])
                    if self._unknown.get(key) == since:
                        del self._unknown[key]
            except SwitchboardError as error:
                log.warning("what was spent before is not known yet: %s", error)
                await asyncio.sleep(SETTLED_S)

    # ------------------------------------------------------------ arguments

    def _key(self, account: Account) -> str:
        return self._coordinator.key("limits", account.id)

    def _new_second(self, wall: float) -> None:
        second = int(wall)
        self._second_ends = second + 1
        self._day, self._month = int(day_of(wall)[0]), int(month_of(wall)[0])
        self._admit_head = _pack([*self._head, self._day, self._month, second + 1])

    def _limits_of(self, account: Account) -> bytes:
        quota = account.quota
        requests, tokens = quota.requests, quota.tokens
        return _pack(
            (
                self._key(account),
                requests.amount if requests is not None else NO_LIMIT,
                requests.per_s if requests is not None else 0,
                tokens.amount if tokens is not None else NO_LIMIT,
                tokens.per_s if tokens is not None else 0,
                account.places if quota.concurrent is not None else NO_LIMIT,
                account.day.limit if account.day is not None else NO_LIMIT,
                account.month.limit if account.month is not None else NO_LIMIT,
            )
        )


_pack = msgspec.msgpack.Encoder().encode
