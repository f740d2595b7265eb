"""How many one replica takes at once, learned from how long its answers take. Pure.

For servers that never say that they have too much to do. Three things make time a poor sign by
itself, so each is met by a rule of its own.

**Long answers are not slow servers.** A time is only compared with the usual one of its sort: of
the same target, with about as many tokens read and, where the answer comes as a whole, written. Of
a stream it is the time to its first byte, and to that the same is added on both sides, what streams
take on average after it: who generates for long keeps others waiting for long, too.

    lateness = sum over a window's answers of their times / sum of the usual ones of their sorts
    done     = the latter / seconds of the window

`done` is by Little's law how many would be under way if nobody waited for anybody.

**A slow server is not a full one.** That answers take twice as long at a higher load may be a bad
hour of the provider's, and to give it less would only make it worse. So a bound is tried before it
is believed: with less under way a full server answers as many as before, and one that is merely
slow answers fewer.

    lateness surely > 2, and 0.25 s or more, with not less under way than before, in one window if
    6 times as many are under way as when all was well, else in two, for 100 answers and twice as
    long as answers take:
        try limit <- under way - min(0.3 x under way, 2.6 sqrt(under way)), and see
    under way is not down to that in three times the time that it takes a server that is slow:
        it is full
    else, done fell by more than half of what was taken away:
        it is slow: the bound is gone, and nothing is tried for 30 s, the next time for 60, ...,
        or until three times as many are under way
    else it is full

A full one gets 1.25 x done. Where that is much less than what was tried, it is tried in the same
way, by halves. Whoever comes in the time of a trial may wait in line for twice as long as usual.

**A bound must not outlive its reason.** One that is in use follows the lateness to 1.25, where the
server has always something to do and nobody waits there for long:

    lateness > 1.35:  limit <- limit x 1.25 / lateness
    lateness < 1.15:  limit <- 1.1 x limit, then 1.2, 1.4, 2 x, but not in the minute after a cut
                      to what was too much before it

and where less than 0.7 is left of what was believed last, that is tried as above. One that is not
in use doubles every ten minutes, until it is none.

The time of now beside the usual one is from TCP Vegas (Brakmo and Peterson 1995) and Netflix's
concurrency-limits; the product of what is done and the least time, and to forget that after
minutes, from BBR (Cardwell et al. 2016). Envoy's adaptive concurrency makes room every minute to
see what an idle server takes; here only a trial makes any.
"""

from math import ceil, inf, sqrt

from gateway.admission.usual import FIRST, GENERATION_S, Usual

UNBOUND = inf
CEILING = 4096.0
"""A limit that has grown to this is none."""

Sort = tuple[str, int, int]
"""What is about as much work: the target, and how many times four goes into the tokens read and
written; the last is -1 for a stream, whose first byte does not wait for them."""
SORTS = 256


def alike(target: str, read: int, written: int | None) -> Sort:
    """The sort of an answer of so many tokens; None for a stream's."""
    return target, read.bit_length() // 2, -1 if written is None else written.bit_length() // 2


WINDOW_S = 0.25
ANSWERS_FOR_A_SIGN = 10
ANSWERS_FOR_A_TRIAL = 100
ANSWERS_FOR_A_STEP = 40
SURE = 3.0
"""A part of what is under way is only judged by (SURE / part)^2 answers: their number in a time
varies by its root, and half of the part is what has to be told."""
LATE, LEAST_S = 2.0, 0.25
FEW = 4.0
"""With fewer under way nothing is tried."""
MANY, CALM_S = 6.0, 30.0
LASTING = 2.0
TRIED, TRIED_OF_ONE = 0.3, 2.6
"""The part of n under way that a trial takes away: 2.6 / sqrt(n) makes the line at its end short,
1.3 part n until those have answered that it was taken from, then part (SURE / part)^2."""
DRAINS = 3.0
FULL = 1.25
"""How many are let in for each that a full server works on."""
EARLY, TARDY = 1.15, 1.35
STEPS = (1.1, 1.2, 1.4, 2.0)
USED = 0.85
REMEMBERED_S = 60.0
PAUSE_S, PAUSE_MOST_S = 30.0, 3600.0
NEWS = 0.05


class Window:
    """What the first bytes of some time have said: seconds that they and what usually follows
    `took`, and `usual` ones; of so many of them it is `known` that they `waited`, beside what was
    `due`."""

    __slots__ = (
        "_squares",
        "answers",
        "began",
        "due",
        "known",
        "running",
        "took",
        "usual",
        "waited",
    )

    def __init__(self, began: float) -> None:
        self.began = began
        self.answers = self.known = self.running = 0
        self.took = self.usual = self.waited = self.due = self._squares = 0.0

    def add(self, took_s: float, usual_s: float, running: int, *, known: bool) -> None:
        """One more. If it is not `known` whether it was late, that it is done counts all the same:
        its sort is new, or it was asked for under another bound."""
        self.answers += 1
        self.running += running
        self.took += took_s
        self.usual += usual_s
        if known:
            self.known += 1
            self.due += usual_s
            self.waited += took_s - usual_s
            self._squares += (took_s - usual_s) ** 2

    @property
    def lateness(self) -> float:
        """How many times as long as usual they took."""
        return 1.0 + self.waited / self.due if self.known else 1.0

    @property
    def surely(self) -> float:
        """The least that this may be by chance, at two standard errors."""
        mean = self.waited / self.known
        spread = max(0.0, self._squares / self.known - mean * mean)
        error = sqrt(spread * (1.0 / self.known + 1.0 / FIRST))
        return 1.0 + (mean - 2.0 * error) * self.known / self.due

    @property
    def mean(self) -> float:
        """How many were under way."""
        return self.running / self.answers


class Signs:
    """Windows in a row that were late; `running` is a mean of the last few."""

    __slots__ = ("answers", "done", "running", "seconds", "since", "windows")

    def __init__(self, since: float) -> None:
        self.since = since
        self.windows = self.answers = 0
        self.done = self.running = self.seconds = 0.0

    def add(self, window: Window, done: float, seconds: float) -> None:
        """One more."""
        self.windows += 1
        self.answers += window.answers
        self.running += (window.mean - self.running) * (0.3 if self.running else 1.0)
        self.done += done * seconds
        self.seconds += seconds


class Pace:
    """The bound of one replica as its answers' times have it.

    limit     what counts
    lateness  how much longer than usual answers took last
    on_trial  whether the limit may be taken back soon
    """

    __slots__ = (
        "_believed",
        "_calm",
        "_judged_at",
        "_pause_s",
        "_quiet_below",
        "_quiet_until",
        "_rest_s",
        "_settled",
        "_signs",
        "_step",
        "_too_many",
        "_too_many_until",
        "_took_s",
        "_untried",
        "_used_at",
        "_usual",
        "_verdict_at",
        "_waited_s",
        "_window",
        "lateness",
        "limit",
        "on_trial",
    )

    def __init__(self) -> None:
        self.limit: float = UNBOUND
        self.lateness = 1.0
        self.on_trial = False
        self._usual: dict[Sort, Usual] = {}
        self._window: Window | None = None
        self._rest_s = self._took_s = self._waited_s = 0.0
        self._calm = 0.0
        self._signs: Signs | None = None
        self._untried = UNBOUND
        self._believed = (0.0, 0.0)  # how many were under way, and what was done then
        self._judged_at = self._verdict_at = 0.0
        self._settled = -inf
        self._step = 0
        self._too_many, self._too_many_until = UNBOUND, -inf
        self._used_at = 0.0
        self._quiet_until, self._quiet_below = -inf, 0.0
        self._pause_s = PAUSE_S

    def began(self, sort: Sort, first_s: float, running: int, now: float) -> None:
        """An answer's first byte has come, after `first_s`; `running` are under way with it."""
        usual = self._usual.get(sort)
        if usual is None:
            usual = self._first_of(sort, now)
        level, bound = usual.level, self.limit < UNBOUND
        usual.saw(first_s, self._waited_s, now, in_use=bound and running >= USED * self.limit)
        if bound and not self._drained(running, now):
            return
        window = self._window
        if window is None:
            self._window = Window(now)  # what is done is counted between two answers
            return
        fresh = not bound or now - first_s >= self._settled
        rest_s = self._rest_s if sort[2] < 0 else 0.0
        usual_s = rest_s + (first_s if level is None else level)
        window.add(first_s + rest_s, usual_s, running, known=fresh and level is not None)
        if window.known >= ANSWERS_FOR_A_SIGN and now - window.began >= WINDOW_S:
            self._look(window, running, now)

    def ended(self, rest_s: float) -> None:
        """A stream's last byte has come, so long after its first."""
        self._rest_s += NEWS * (rest_s - self._rest_s)

    # ------------------------------------------------------------ inside

    def _first_of(self, sort: Sort, now: float) -> Usual:
        if len(self._usual) >= SORTS:
            del self._usual[next(iter(self._usual))]
        usual = self._usual[sort] = Usual(now)
        return usual

    def _drained(self, running: int, now: float) -> bool:
        """Whether answers tell of the bound: once no more are under way than may be, and for as
        long as an answer takes, since what began before that ends then."""
        if running > ceil(self.limit):
            if self.on_trial and now >= self._judged_at:
                self._full(running, self._believed[1], now)
            self._settled, self._window = inf, None
            return False
        if self._settled == inf:
            self._settled = now
        return now >= self._settled + self._took_s

    def _look(self, window: Window, running: int, now: float) -> None:
        seconds, usual_s = now - window.began, window.usual / window.answers
        if seconds < usual_s:  # not the time of one answer yet
            return
        done = window.usual / seconds
        if self.limit == UNBOUND:
            self._watch(window, running, done, now)
        elif window.known < (self._verdict_at if self.on_trial else ANSWERS_FOR_A_STEP):
            return
        elif window.mean < USED * self.limit:
            self._not_in_use(now)
        elif self.on_trial:
            self._judge(window.mean, done, now)
        else:
            self._follow(window, done, now)
        self.lateness, self._waited_s = window.lateness, window.waited / window.known
        self._window = Window(now) if self._settled < inf else None

    def _watch(self, window: Window, running: int, done: float, now: float) -> None:
        """Nothing is bound: whether it should be tried."""
        mean = window.mean
        late = window.surely > LATE and window.waited > LEAST_S * window.known
        late = late and mean >= FEW and running >= 0.9 * mean
        quiet = now < self._quiet_until and mean < self._quiet_below
        if not late or quiet:
            self._signs = None
            if not quiet:
                share = min(1.0, (now - window.began) / CALM_S) if self._calm else 1.0
                self._calm += share * (mean - self._calm)
                if window.lateness < TARDY:
                    self._pause_s = PAUSE_S
            return
        signs = self._signs
        if signs is None:
            signs = self._signs = Signs(window.began)
        signs.add(window, done, now - window.began)
        self._took_s = window.took / window.answers
        lasting = (
            now - signs.since >= LASTING * self._took_s and signs.answers >= ANSWERS_FOR_A_TRIAL
        )
        many = running >= MANY * max(self._calm, 1.0)
        if many or (signs.windows >= 2 and lasting):
            usually = signs.running
            part = min(TRIED, TRIED_OF_ONE / sqrt(usually))
            self._try((1.0 - part) * usually, usually, signs.done / signs.seconds, now)

    def _try(self, limit: float, running: float, done: float, now: float) -> None:
        """Lets less in than are under way, while so many are done."""
        if not self.on_trial:
            self._untried = self.limit
        self.limit, self.on_trial, self._believed = max(1.0, limit), True, (running, done)
        part = max(0.01, 1.0 - self.limit / running)
        self._verdict_at = max(ANSWERS_FOR_A_STEP, (SURE / part) ** 2)
        self._judged_at = now + DRAINS * part * self._took_s
        self._settled, self._signs = inf, None

    def _judge(self, mean: float, done: float, now: float) -> None:
        """Whether it was right to give it less."""
        running, had_done = self._believed
        if done < had_done * (1.0 - 0.5 * (1.0 - mean / running)):
            self._widen(UNBOUND)
            self._quiet_until, self._quiet_below = now + self._pause_s, 3.0 * running
            self._pause_s = min(2.0 * self._pause_s, PAUSE_MOST_S)
        else:
            self._full(mean, max(done, 0.5 * self.limit / FULL), now)

    def _full(self, running: float, done: float, now: float) -> None:
        enough = max(1.0, FULL * done)
        if self.limit > 1.1 * enough:
            self._try(enough, running, done, now)
        else:
            self.on_trial, self._pause_s, self._used_at = False, PAUSE_S, now
            self._believed = (self.limit, done)

    def _not_in_use(self, now: float) -> None:
        """Fewer came by themselves: nothing was learned."""
        if self.on_trial:
            self._widen(self._untried)
        elif now - self._used_at >= GENERATION_S:
            self._used_at = now
            self._widen(2.0 * self.limit)

    def _follow(self, window: Window, done: float, now: float) -> None:
        """A bound that is in use."""
        lateness, self._used_at = window.lateness, now
        if lateness > TARDY:
            self._too_many, self._too_many_until = self.limit, now + REMEMBERED_S
            self._took_s = window.took / window.answers
            limit = max(1.0, self.limit * max(0.5, FULL / lateness))
            if limit < (1.0 - TRIED) * self._believed[0]:
                self._try(limit, window.mean, done, now)
            else:
                self.limit, self._step, self._settled = limit, 0, inf
        elif lateness < EARLY:
            limit = max(self.limit * STEPS[self._step], self.limit + 1.0)
            if now < self._too_many_until:
                limit = min(limit, self._too_many - 1.0)
            if limit > self.limit:
                self._step = min(self._step + 1, len(STEPS) - 1)
                self._believed = (limit, done)
                self._widen(limit)
        else:
            self._step = 0

    def _widen(self, limit: float) -> None:
        self.on_trial = False
        self.limit = limit if limit < CEILING else UNBOUND
        self._settled = -inf
