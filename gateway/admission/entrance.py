"""The entrance to one replica: whom to let in now, who waits, and who is told to come back. Pure.

A request that finds room and nobody waiting is let in: one counter goes up, and down when it has
ended. Any other is stamped (`gateway.admission.line`), and refused at once where waiting makes no
sense: it would be let in later than it may wait, or as many wait as may and all of them are served
before it. Else it waits. Where it makes the line too long, in places or in time, the one that would
be served last goes, so that a key cannot keep others out by filling it.

How long one would wait, with `ahead` before it, is told from how long answers take (`hold_s`, a
decaying mean) and how many are under way:

    wait = (ahead + 1) x hold_s / limit
"""

from collections.abc import Callable

from gateway.admission.bound import Bound
from gateway.admission.line import Flow, Line, Refused, Ticket
from gateway.admission.pace import Sort
from gateway.types.backends import Admission

NEWS = 0.05
"""Weight of the newest answer in how long answers take."""

WAIT_LEAST_S, WAIT_MOST_S = 0.05, 10.0
"""Where nobody has declared it, one may wait for as long as an answer takes, within these: nothing
then takes much longer than twice as long as usual. Where a server is known to have a line of its
own, what one waits in that is no part of it."""


class Entrance:
    """The entrance to one replica.

    running   requests under way
    limit     how many may be
    hold_s    seconds that one is under way, on average
    refused   how many were not let in, by reason
    admitted  how many had to wait and were let in; `waited_s` together
    """

    __slots__ = (
        "_bound",
        "_line",
        "_terms",
        "_waits",
        "admitted",
        "hold_s",
        "limit",
        "refused",
        "running",
        "waited_s",
    )

    def __init__(self, terms: Admission, waits: Callable[[float], None] = lambda _: None) -> None:
        """`waits` hears how long a newcomer would wait, whenever the line has changed."""
        self._terms = terms
        self._bound = Bound(terms.concurrent)
        self._line = Line()
        self._waits = waits
        self.running = 0
        self.limit = self._bound.limit
        self.hold_s = 0.0
        self.refused: dict[str, int] = {}
        self.admitted = 0
        self.waited_s = 0.0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    @property
    def wait_s(self) -> float:
        """How long one may wait."""
        if self._terms.wait is not None:
            return self._terms.wait
        patience = self._bound.patience
        return min(max(patience * self.hold_s, WAIT_LEAST_S), max(1.0, patience) * WAIT_MOST_S)

    @property
    def drain_s(self) -> float:
        """How long a newcomer that is served last would wait, while anybody waits."""
        return self._expected_s(len(self._line)) if self._line else 0.0

    # ------------------------------------------------------------ in and out

    def enter(self) -> bool:
        """Lets one in if there is room and nobody waits; then `leave` has to follow."""
        if self.running < self.limit and not self._line:
            self.running += 1
            return True
        return False

    def ask(
        self,
        flow: Flow,
        cost: float,
        now: float,
        patience_s: float,
        tell: Callable[[Refused | None], None],
    ) -> Ticket | Refused:
        """For one that `enter` did not let in: its place in the line, or why there is none.

        It takes `cost` seconds of the backend, as expected, and can wait for `patience_s`. `tell`
        hears later what came of it; told None it is in, and `leave` has to follow.
        """
        if not self.hold_s:
            self.hold_s = cost
        stamp, before = self._line.stamp(flow, max(cost, 1e-3))
        may_s = min(self.wait_s, patience_s)
        if self._expected_s(self._line.ahead(stamp)) > may_s:
            return self._refuse("wait")
        if len(self._line) >= self._terms.queue:
            last = self._line.last()
            if last is None or last.stamp <= stamp:
                return self._refuse("full")
            self._displace(last)
        ticket = Ticket(flow, stamp, before, now, now + may_s, tell)
        self._line.join(ticket)
        while (last := self._line.last()) is not None and last is not ticket:
            if now + self._expected_s(len(self._line) - 1) <= last.until:
                break
            self._displace(last)
        self._admit(now)
        self._published()
        return ticket

    def began(self, sort: Sort, first_s: float, now: float) -> None:
        """The first byte of a stream has come, after `first_s` in which one of its `sort` waits
        for nothing else."""
        self._bound.began(sort, first_s, self.running, now)
        self.limit = self._bound.limit

    def leave(
        self,
        seconds: float,
        now: float,
        *,
        answered: bool,
        sort: Sort | None = None,
        first_s: float | None = None,
    ) -> None:
        """One that was let in has ended after `seconds`; who waits may be next.

        `sort` is of an answer that came as a whole; a stream's first byte came after `first_s`.
        """
        running = self.running
        self.running = running - 1
        self.hold_s += NEWS * (seconds - self.hold_s) if self.hold_s else seconds
        if answered:
            bound = self._bound
            bound.answered(running)
            if sort is not None:
                bound.began(sort, seconds, running, now)
            elif first_s is not None:
                bound.ended(seconds - first_s)
            self.limit = bound.limit
        if self._line:
            self._admit(now)
            self._published()

    def back_out(self, now: float) -> None:
        """One that was let in has sent nothing."""
        self.running -= 1
        if self._line:
            self._admit(now)
            self._published()

    def give_up(self, ticket: Ticket, reason: str | None = None) -> Refused | None:
        """It waits no longer: its client has gone, or for a `reason` that is counted."""
        if self._line.leave(ticket):
            self._published()
        return self._refuse(reason) if reason is not None else None

    # ------------------------------------------------------------ how many

    def declare(self, terms: Admission, now: float) -> None:
        """From now on on these terms; who waits already goes on waiting."""
        self._terms = terms
        self._bound.declare(terms.concurrent)
        self._rebound(now)

    def busy(self, now: float) -> None:
        """The replica said that it has too much to do, or nothing in time."""
        self._bound.busy(self.running, self.hold_s, now)
        self.limit = self._bound.limit

    def told(self, runs: int, waiting: int, now: float) -> None:
        """The replica's engine runs so many, and has so many in a line of its own."""
        self._bound.told(self.running, runs, waiting)
        self._rebound(now)

    def _rebound(self, now: float) -> None:
        self.limit = self._bound.limit
        if self._line:
            self._admit(now)
            self._published()

    # ------------------------------------------------------------ inside

    def _admit(self, now: float) -> None:
        while self._line and self.running < self.limit:
            ticket = self._line.take()
            self.running += 1
            self.admitted += 1
            self.waited_s += now - ticket.since
            ticket.tell(None)

    def _expected_s(self, ahead: int) -> float:
        places = max(1.0, min(self.limit, float(self.running)))
        return (ahead + 1) * self.hold_s / places

    def _displace(self, ticket: Ticket) -> None:
        self._line.leave(ticket)
        ticket.tell(self._refuse("displaced"))

    def _refuse(self, reason: str) -> Refused:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return Refused(reason, self._expected_s(len(self._line)))

    def _published(self) -> None:
        self._waits(self.drain_s)
