"""Who waits, in the order in which they will be served: weighted fair shares by flow. Pure.

Self-clocked fair queueing (Golestani 1994). A flow is a key with a priority. A request of it that
takes `cost` (seconds of a backend, as expected) is stamped when it joins with the virtual time at
which it would be done if every flow had its share of the backend all the time:

    F = max(V, F of the flow's last) + cost / weight

and the least F is served first; V is the stamp of the one served last. Of two flows that always
have someone waiting neither gets ahead of its share by more than one request of each:

    |W_i / w_i - W_j / w_j|  <=  cost_i / w_i + cost_j / w_j

So a key that sends a thousand at once waits behind its own, and a low priority is served less often
but never starves.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator

import msgspec

from gateway.types.routes import Priority

WEIGHTS: dict[Priority, float] = {"low": 0.25, "normal": 1.0, "high": 4.0}
"""A key gets four times as much of a backend on a `high` route as on a `normal` one, and a quarter
on a `low` one, where all of them want more than there is."""

Flow = tuple[str, Priority]

_KEEP = 64


class Refused(msgspec.Struct, frozen=True):
    """Why one is not let in, and after how many seconds it may be otherwise.

    full       as many wait as may, and none of them would be served after this one
    wait       it would wait for longer than it may
    displaced  it waited, and others that are served earlier needed its place, or its time
    """

    reason: str
    retry_after: float


class Ticket:
    """One that waits. `tell` hears once what came of it: None when it is let in, or why not."""

    __slots__ = ("before", "flow", "since", "stamp", "tell", "until")

    def __init__(
        self,
        flow: Flow,
        stamp: float,
        before: float,
        since: float,
        until: float,
        tell: Callable[[Refused | None], None],
    ) -> None:
        """`before` is the flow's last stamp before this one; it waits `until` then at most."""
        self.flow = flow
        self.stamp = stamp
        self.before = before
        self.since = since
        self.until = until
        self.tell = tell


class Line:
    """The waiting line of one replica. It has no bound of its own."""

    __slots__ = ("_last", "_virtual", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[Ticket] = []
        self._last: dict[Flow, float] = {}
        self._virtual = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._waiting)

    def stamp(self, flow: Flow, cost: float) -> tuple[float, float]:
        """What a request of that cost would be stamped with if it joined now, and the stamp that it
        builds on."""
        before = max(self._virtual, self._last.get(flow, 0.0))
        return before + cost / WEIGHTS[flow[1]], before

    def ahead(self, stamp: float) -> int:
        """How many would be served before one with that stamp."""
        return bisect_right(self._waiting, stamp, key=_stamp)

    def join(self, ticket: Ticket) -> None:
        """It waits from now on."""
        self._waiting.insert(self.ahead(ticket.stamp), ticket)
        self._last[ticket.flow] = ticket.stamp
        if len(self._last) > 2 * len(self._waiting) + _KEEP:
            # Whose share is used up by now is as if it had never been here.
            self._last = {f: last for f, last in self._last.items() if last > self._virtual}

    def last(self) -> Ticket | None:
        """The one that would be served last."""
        return self._waiting[-1] if self._waiting else None

    def take(self) -> Ticket:
        """The next one's turn. Raises IndexError when nobody waits."""
        ticket = self._waiting.pop(0)
        self._virtual = ticket.stamp
        self._rest()
        return ticket

    def leave(self, ticket: Ticket) -> bool:
        """It does not wait any more, and is not served; false if it did not wait."""
        at = bisect_right(self._waiting, ticket.stamp, key=_stamp)
        while at and self._waiting[at - 1].stamp == ticket.stamp:
            at -= 1
            if self._waiting[at] is ticket:
                del self._waiting[at]
                if self._last.get(ticket.flow) == ticket.stamp:
                    self._last[ticket.flow] = ticket.before
                self._rest()
                return True
        return False

    def _rest(self) -> None:
        """Where nobody waits, nobody has had more than its share."""
        if not self._waiting:
            self._last.clear()
            self._virtual = 0.0


def _stamp(ticket: Ticket) -> float:
    return ticket.stamp
