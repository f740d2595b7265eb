"""How many requests may be under way at one replica, where nobody has declared it. Pure.

There is no bound until there is a sign that one is needed, for a wrong one turns away what could
have been served. Latency is no such sign here: an answer's time is its length, and a provider's
good and bad hours are not of our making. So this is not one of the limits that follow latency (TCP
Vegas, Netflix's concurrency-limits), but one that follows what servers say:

A provider says 429 or 503, or does not answer in time: additive increase, multiplicative decrease,
as TCP does (Chiu and Jain 1989). At most one cut is made in the time of one answer, since what
fails together is one sign:

    busy:     limit <- CUT x under way
    answered: limit <- limit + 1 / limit         where at least half of it is in use

A vLLM engine says how many it runs and how many wait inside it. A short line there keeps it busy; a
long one only makes answers late, and cannot be shared out fairly any more:

    waiting > slack:  limit <- under way - (waiting - slack),  slack = max(2, run by it / 8)
    else:             limit <- 1.25 x limit + 1  where at least three quarters of it are in use

It is asked once a second, so its limit begins at vLLM's own usual one (`--max-num-seqs`).
"""

UNBOUND = float("inf")
FLOOR = 4.0
FIRST = 256.0
CEILING = 4096.0
"""A limit that has grown to this is none."""
CUT = 0.7
COOL_S = 1.0
"""Signs within this time after a cut are taken for the same one, or within an answer's time."""


class Bound:
    """The bound of one replica; `limit` is what counts. A declared one never changes."""

    __slots__ = ("_declared", "_quiet_until", "_told", "limit")

    def __init__(self, declared: int | None) -> None:
        self._declared = declared
        self._quiet_until = float("-inf")
        self._told = False
        self.limit: float = UNBOUND
        self.declare(declared)

    def declare(self, declared: int | None) -> None:
        """From now on it is this; None leaves it to what the replica says."""
        if declared is not None:
            self.limit = float(declared)
        elif self._declared is not None:
            self.limit = UNBOUND
        self._declared = declared

    def busy(self, running: int, hold_s: float, now: float) -> None:
        """One of `running` was told that there are too many, or told nothing in time."""
        if self._declared is None and now >= self._quiet_until:
            self.limit = max(FLOOR, CUT * min(self.limit, running))
            self._quiet_until = now + max(COOL_S, hold_s)

    def answered(self, running: int) -> None:
        """One of `running` was answered."""
        if self._declared is None and 0.5 * self.limit <= running:
            self._grow(self.limit + 1.0 / self.limit)

    def told(self, running: int, engine_runs: int, waiting: int) -> None:
        """The engine runs so many and has `waiting` in its own line, while `running` of ours are
        under way."""
        if self._declared is not None:
            return
        self.limit = min(self.limit, max(FIRST, running)) if not self._told else self.limit
        self._told = True
        slack = max(2.0, engine_runs / 8.0)
        if waiting > slack:
            self.limit = max(FLOOR, min(self.limit, running - (waiting - slack)))
        elif 0.75 * self.limit <= running:
            self._grow(1.25 * self.limit + 1.0)

    def _grow(self, limit: float) -> None:
        self.limit = limit if limit < CEILING else UNBOUND
