"""Turning requests away unread while the event loop itself cannot keep up.

One loop serves everybody. When more comes than it has time for, each request waits for the loop's
turn, before anybody can look at it; what then helps is to answer some at once, with bytes that are
ready, and to spend the time on the others. How many is found by feedback: a timer that goes off
late says how late the loop is, and the share that is turned away grows until that is near its
target, and shrinks after it (an integral controller, bounded on both sides).

A loop may also be late because other programs have the cores. With few requests open there is no
queue that turning one away would shorten, so none is.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable

TICK_S = 0.1
LATE_S = 0.1
"""A loop that is this late has as much to do as it can: none is turned away below it."""
GAIN = 0.1
"""Growth of the share in a tick in which the loop is twice as late as that, or later."""
RELEASE = 0.02
"""Its decline in a tick at most."""
MOST = 0.95
FEW = 100
"""Fewer open requests than this are no queue that makes the loop late: one takes less than a
millisecond of it, unless it is very large, so that all of them are done within `LATE_S`."""
TICKS = 5
"""The least of so many ticks counts: a queue makes each of them late, while a long step or a core
that others took for a moment makes one late and not the next (as CoDel tells a standing queue from
a burst; Nichols and Jacobson 2012)."""


class Pressure:
    """How late the loop is, and what share of requests is turned away for it.

    late_s  seconds, the least of the last ticks
    share   of those that come while many are open; 0 while the loop keeps up
    shed    requests turned away so far
    """

    __slots__ = ("_draw", "_ticks", "late_s", "share", "shed")

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        """`draw` is uniform in [0, 1)."""
        self._draw = draw
        self._ticks = deque([0.0] * TICKS, TICKS)
        self.late_s = 0.0
        self.share = 0.0
        self.shed = 0

    def saw(self, late_s: float) -> None:
        """A tick came this late."""
        self._ticks.append(late_s)
        self.late_s = min(self._ticks)
        over = (self.late_s - LATE_S) / LATE_S
        self.share += min(GAIN, GAIN * over) if over > 0.0 else -RELEASE
        self.share = min(max(self.share, 0.0), MOST)

    def sheds(self, already: int) -> bool:
        """Whether one that comes while `already` requests are open is turned away."""
        if already < FEW or self._draw() >= self.share:
            return False
        self.shed += 1
        return True

    async def watch(
        self,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Looks at the loop for ever."""
        while True:
            began = clock()
            await sleep(TICK_S)
            self.saw(max(0.0, clock() - began - TICK_S))
