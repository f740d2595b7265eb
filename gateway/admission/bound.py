"""How many requests may be under way at one replica, where nobody has declared it. Pure.

There is no bound until there is a sign that one is needed, for a wrong one turns away what could
have been served. Three kinds of servers give three kinds of signs, and the least bound counts.

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

A server that says nothing is heard by how long its answers take (`gateway.admission.pace`).
"""

from gateway.admission.pace import CEILING, UNBOUND, Pace, Sort

FLOOR = 4.0
FIRST = 256.0
CUT = 0.7
COOL_S = 1.0
"""Signs within this time after a cut are taken for the same one, or within an answer's time."""


class Bound:
    """The bound of one replica; `limit` is what counts. A declared one never changes."""

    __slots__ = ("_declared", "_pace", "_quiet_until", "_said", "_told", "limit")

    def __init__(self, declared: int | None) -> None:
        self._declared: int | None = None
        self._quiet_until = float("-inf")
        self._told = False
        self._said: float = UNBOUND
        self._pace = Pace()
        self.limit: float = UNBOUND
        self.declare(declared)

    def declare(self, declared: int | None) -> None:
        """From now on it is this; None leaves it to what the replica says and does."""
        if declared is not None:
            self.limit = float(declared)
        elif self._declared is not None:
            self.limit = self._said = UNBOUND
            self._pace = Pace()
        self._declared = declared

    def busy(self, running: int, hold_s: float, now: float) -> None:
        """One of `running` was told that there are too many, or told nothing in time."""
        if self._declared is None and now >= self._quiet_until:
            self._say(max(FLOOR, CUT * min(self._said, running)))
            self._quiet_until = now + max(COOL_S, hold_s)

    def answered(self, running: int) -> None:
        """One of `running` was answered."""
        said = self._said
        if said != UNBOUND and 0.5 * said <= running and self._declared is None:
            self._grow(said + 1.0 / said)

    def began(self, sort: Sort, first_s: float, running: int, now: float) -> None:
        """The first byte of an answer has come; see `Pace.began`."""
        if self._declared is None and not self._told:
            pace = self._pace
            pace.began(sort, first_s, running, now)
            self.limit = min(self._said, pace.limit)

    def ended(self, rest_s: float) -> None:
        """Its last byte has come, so long after its first."""
        self._pace.ended(rest_s)

    @property
    def patience(self) -> float:
        """For how many times as long as answers take under this bound one should wait in line:
        less than once where they wait at the server too, twice while the bound is on trial."""
        pace = self._pace
        if pace.limit == UNBOUND or pace.limit > self._said:
            return 1.0
        return 2.0 if pace.on_trial else 1.0 / max(1.0, pace.lateness)

    def told(self, running: int, engine_runs: int, waiting: int) -> None:
        """The engine runs so many and has `waiting` in its own line, while `running` of ours are
        under way."""
        if self._declared is not None:
            return
        if not self._told:
            self._told, self._pace = True, Pace()
            self._say(min(self._said, max(FIRST, running)))
        slack = max(2.0, engine_runs / 8.0)
        if waiting > slack:
            self._say(max(FLOOR, min(self._said, running - (waiting - slack))))
        elif 0.75 * self._said <= running:
            self._grow(1.25 * self._said + 1.0)

    def _grow(self, limit: float) -> None:
        self._say(limit if limit < CEILING else UNBOUND)

    def _say(self, limit: float) -> None:
        self._said = limit
        self.limit = min(limit, self._pace.limit)
