"""A replica behind its entrance, in simulated time: what comes of a load."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count

import msgspec

from gateway.admission.entrance import Entrance
from gateway.admission.line import Refused
from gateway.admission.pace import UNBOUND, Sort, alike
from gateway.types.backends import Admission

Event = Callable[[], None]


class Work(msgspec.Struct, frozen=True):
    """What one request takes while nobody waits: seconds to its first byte, and in all."""

    sort: Sort
    first_s: float
    whole_s: float


class Outcome(msgspec.Struct, frozen=True):
    """One request: when it came, and how long it took from then; None if it was refused."""

    at: float
    took_s: float | None


class World:
    """`slots` answers are made at once (None: as many as are asked), the rest wait in the server.

    `rate` and `slower` are functions of the time: arrivals a second, and by how much the server
    takes longer than usual. `limits` are the bounds that there were, with when they began.
    """

    def __init__(
        self,
        work: Callable[[random.Random], Work],
        *,
        slots: int | None,
        rate: Callable[[float], float],
        slower: Callable[[float], float] = lambda _: 1.0,
        seed: int = 1,
    ) -> None:
        self.entrance = Entrance(Admission())
        self.slots = slots
        self.outcomes: list[Outcome] = []
        self.limits: list[tuple[float, float]] = [(0.0, UNBOUND)]
        self.now = 0.0
        self._work, self._rate, self._slower = work, rate, slower
        self._draw = random.Random(seed)
        self._events: list[tuple[float, int, Event]] = []
        self._number = count()
        self._inside: deque[tuple[float, float, Work]] = deque()
        self._busy = 0

    def run(self, until: float) -> None:
        """Whoever comes until that instant is served or refused."""
        self._next()
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            if self.now < until or event != self._arrive:
                event()

    def at(self, when: float, event: Event) -> None:
        """It happens then."""
        heapq.heappush(self._events, (when, next(self._number), event))

    def served(self, since: float, until: float) -> list[float]:
        """In order, the times that those took who came in that time and were answered."""
        return sorted(
            each.took_s
            for each in self.outcomes
            if since <= each.at < until and each.took_s is not None
        )

    def goodput(self, since: float, until: float) -> float:
        """As many of them a second."""
        return len(self.served(since, until)) / (until - since)

    def p99(self, since: float, until: float) -> float:
        """Of their times."""
        times = self.served(since, until)
        return times[int(0.99 * len(times))]

    def refused(self, since: float, until: float) -> float:
        """The share of those who came in that time and were not."""
        came = [each for each in self.outcomes if since <= each.at < until]
        return sum(each.took_s is None for each in came) / len(came)

    # ------------------------------------------------------------ events

    def _next(self) -> None:
        self.at(self.now + self._draw.expovariate(self._rate(self.now)), self._arrive)

    def _arrive(self) -> None:
        self._next()
        came, work, ended = self.now, self._work(self._draw), list[bool]()
        if self.entrance.enter():
            self._sent(came, work)
            return

        def tell(refused: Refused | None) -> None:
            ended.append(True)
            if refused is None:
                self._sent(came, work)
            else:
                self.outcomes.append(Outcome(came, None))

        def expire() -> None:
            if not ended:
                assert not isinstance(ticket, Refused)
                self.entrance.give_up(ticket, "expired")
                self.outcomes.append(Outcome(came, None))

        ticket = self.entrance.ask(("key", "normal"), work.whole_s, came, float("inf"), tell)
        if isinstance(ticket, Refused):
            self.outcomes.append(Outcome(came, None))
        else:
            self.at(ticket.until, expire)

    def _sent(self, came: float, work: Work) -> None:
        self._inside.append((self.now, came, work))
        self._begin()

    def _begin(self) -> None:
        while self._inside and (self.slots is None or self._busy < self.slots):
            sent, came, work = self._inside.popleft()
            self._busy += 1
            slower = self._slower(self.now)
            first = self.now + slower * work.first_s
            self.at(first, partial(self._first, sent, work))
            whole = self.now + slower * work.whole_s
            self.at(whole, partial(self._end, sent, came, work, first - sent))

    def _first(self, sent: float, work: Work) -> None:
        if work.first_s < work.whole_s:
            self.entrance.began(work.sort, self.now - sent, self.now)
            self._note()

    def _end(self, sent: float, came: float, work: Work, first_s: float) -> None:
        self._busy -= 1
        self._begin()
        self.outcomes.append(Outcome(came, self.now - came))
        seconds = self.now - sent
        if work.first_s < work.whole_s:
            self.entrance.leave(seconds, self.now, answered=True, first_s=first_s)
        else:
            self.entrance.leave(seconds, self.now, answered=True, sort=work.sort)
        self._note()

    def _note(self) -> None:
        if self.limits[-1][1] != self.entrance.limit:
            self.limits.append((self.now, self.entrance.limit))


# ---------------------------------------------------------------- kinds of work


def equal(seconds: float) -> Callable[[random.Random], Work]:
    """All take the same."""
    return lambda draw: Work(alike("t", 100, 100), seconds, seconds)


def varied(seconds: float, sigma: float) -> Callable[[random.Random], Work]:
    """Log-normal with that mean; nothing tells beforehand."""

    def work(draw: random.Random) -> Work:
        takes = seconds * draw.lognormvariate(-sigma * sigma / 2, sigma)
        return Work(alike("t", 100, 100), takes, takes)

    return work


def answers(draw: random.Random) -> Work:
    """Whole answers, short and long: 10 ms a token, 100 to 3 s before."""
    read, written = draw.choice([10, 500, 8000]), int(draw.lognormvariate(4.5, 1.0)) + 1
    takes = (0.1 + 0.0003 * read + 0.01 * written) * draw.lognormvariate(0.0, 0.3)
    return Work(alike("t", read, written), takes, takes)


def streams(draw: random.Random) -> Work:
    """Whose first byte comes soon, and the last one much later."""
    first = 0.3 * draw.lognormvariate(0.0, 0.5)
    return Work(alike("t", 100, None), first, first + draw.expovariate(0.5))
