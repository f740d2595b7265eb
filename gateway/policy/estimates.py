"""What a target, a replica and an answer are like: estimates that decay towards what is declared.

Everything is worked out when something is observed, and read as plain attributes. Time comes in as
`now` (seconds of any steady clock): nothing here reads a clock. What each answer goes through
compares instead of calling `min` and `max`, which take as long as the rest of their line.

Decaying averages. An observation's weight halves every `HALF_LIFE_S` seconds and every
`HALF_LIFE_N` later observations (an exponentially weighted moving average, Brown 1959, with the
weight kept beside the mean so that a prior can be mixed in):

    decay = 2^(-seconds / HALF_LIFE_S - 1 / HALF_LIFE_N);  w <- w decay + 1;  m <- m + (x - m) / w
    estimate = (PRIOR_N prior + w m) / (PRIOR_N + w)

so a target that nobody uses goes back to its prior, and gets another try.

First token. A queue makes it later, differently at each server, so it is a line in the number of
requests in flight at the replica when the attempt started: first token = a + b x queue, by
exponentially weighted least squares, `b` shrunk towards its prior by a ridge (Hoerl and Kennard
1970) and never below a floor, so that equal replicas share the load.

95th percentiles. Kept as a multiple of the expected value, by stochastic approximation (Robbins
and Monro 1951, in Tierney's form for a quantile, 1983, with a constant step since the world moves):

    ratio = observed / expected;  tail <- tail + STEP x tail / TAIL x (0.95 - [ratio <= tail])

and so is the 99th of an answer's tokens, with 0.99, which is what is reserved for it.

Failures. Expected seconds lost before an answer: with F failures and S answers (decaying with
`FAILURE_HALF_LIFE_S`), F / (S + 1) tries fail for each that does not, and each loses the seconds
that it took, but at least `FAILURE_S`, since a try at another target is not free.
"""

from gateway.policy.gates import Gate
from gateway.types.backends import Target
from gateway.types.compositions import Composition

HALF_LIFE_S = 300.0
HALF_LIFE_N = 100.0
PRIOR_N = 2.0
"""Observations that a declared first-token time, tail or output length is worth."""
PRIOR_TOKENS = 200.0
"""Generated tokens that a declared speed is worth."""
TAIL = 2.0
"""Prior 95th percentile over mean: about that of a log-normal with sigma 0.5."""
LONG_TAIL = 2.8
"""Prior 99th percentile over mean: that of the same."""
STEP = 0.2
QUEUE_SHARE_INTERNAL = 0.05
"""Prior share of the first-token time that each request in flight adds at a server of our own."""
QUEUE_SHARE_FLOOR = 0.01
QUEUE_RIDGE = 20.0
FAILURE_HALF_LIFE_S = 30.0
FAILURE_S = 1.0
LOADED = 0.96
"""Prior P(adapter is resident): adapters are made present at start, but nobody has looked yet."""
LOAD_S = 1.0
"""Prior seconds to load an adapter that is not resident: some 100 MB from a local disk."""


def moved(tail: float, within: bool, share: float = 0.95) -> float:
    """A tail, which that share of values is to be within, after one more, which was `within` it or
    not."""
    return tail + STEP * tail / TAIL * (share - within)


class Failures:
    """How much time failing costs before an answer comes; `lost_s` in seconds."""

    __slots__ = ("_answers", "_at", "_failures", "_seconds", "lost_s", "p_failed")

    def __init__(self) -> None:
        self.lost_s = 0.0
        self.p_failed = 0.0
        self._failures = 0.0
        self._answers = 0.0
        self._seconds = FAILURE_S
        self._at = 0.0

    def failed(self, seconds: float, now: float) -> None:
        """One more failure, which took `seconds`."""
        self.fade(now)
        self._failures += 1.0
        self._seconds += (max(seconds, FAILURE_S) - self._seconds) / self._failures
        self._publish()

    def answered(self, now: float) -> None:
        """One more answer; costs nothing while nothing fails."""
        if self._failures:
            self.fade(now)
            self._answers += 1.0
            self._publish()

    def fade(self, now: float) -> None:
        """Let what was seen lose weight up to `now`; forget it when hardly anything is left."""
        if not self._failures:
            self._at = now
            return
        decay = 0.5 ** (max(0.0, now - self._at) / FAILURE_HALF_LIFE_S)
        self._at = now
        self._failures *= decay
        self._answers *= decay
        if self._failures < 0.01:
            self._failures = self._answers = 0.0
            self._seconds = FAILURE_S
        self._publish()

    def _publish(self) -> None:
        self.lost_s = self._failures / (self._answers + 1.0) * self._seconds
        self.p_failed = self._failures / (self._failures + self._answers + 1.0)


class Replica:
    """One server, whatever target it is used for: requests in flight, and whether it fails.

    `in_line` counts those of others too, as far as the server tells. `lost_s` is what is expected
    to pass before an answer begins: by failing, `wake_s` until a model that sleeps is awake, and
    `queue_s` until a request is sent at all, where others wait at the gateway for the same.
    `others_s` is what those lose whose model is put to sleep for it. It was woken last at
    `ready_at`, an instant of the caller's clock.
    """

    __slots__ = (
        "_told",
        "asleep",
        "failures",
        "in_flight",
        "in_line",
        "lost_s",
        "others_s",
        "queue_s",
        "ready_at",
        "wake_s",
    )

    def __init__(self) -> None:
        self.in_flight = 0
        self.in_line = 0
        self.lost_s = 0.0
        self.asleep = False
        self.wake_s = 0.0
        self.queue_s = 0.0
        self.others_s = 0.0
        self.ready_at = float("-inf")
        self.failures = Failures()
        self._told = 0

    def turn(self, *, asleep: bool, wake_s: float, others_s: float) -> None:
        """Whether its model sleeps, how long a request would wait for it, and what others would
        lose by that."""
        self.asleep, self.wake_s, self.others_s = asleep, wake_s, others_s
        self.publish()

    def queue(self, seconds: float) -> None:
        """How long a request would wait before it is sent; nought while nobody waits."""
        self.queue_s = seconds
        self.publish()

    def publish(self) -> None:
        """After its failures have changed."""
        self.lost_s = self.failures.lost_s + self.wake_s + self.queue_s

    def told(self, requests: int) -> None:
        """The server has so many requests, running or waiting. Ours are among them, give or take
        what is on its way: so the less of two looks is taken for others'."""
        others = max(0, requests - self.in_flight)
        self.in_line = self.in_flight + min(others, self._told)
        self._told = others

    def began(self) -> None:
        """One more of ours."""
        self.in_flight += 1
        self.in_line += 1

    def ended(self) -> None:
        """One less."""
        self.in_flight -= 1
        self.in_line -= 1


class Estimate:
    """What one target is like at one replica.

    Published, in seconds: `first_s` to the first token with nothing in flight, `queue_s` more for
    each request in flight, `wait_s` expected on top (adapter load, failures), `token_s` for each
    generated token. `tail` is the 95th percentile of the first token over its mean, without
    `wait_p95_s`, which is what to add to it for load and failures. `loaded` is P(resident), and
    `load_s` the part of `wait_s` that is expected of loading. `barred` says why the replica is out
    of this target's choice; it was loaded last at `loaded_at`, an instant of the caller's clock.
    `spare` is P(loading it here makes a copy that nobody needs). There is a `gate` while something
    that has failed keeps requests away, or may soon.
    """

    __slots__ = (
        "_at",
        "_cov",
        "_first",
        "_load_s",
        "_prior_first",
        "_prior_queue",
        "_prior_tail",
        "_prior_token",
        "_queue",
        "_tail",
        "_tokens",
        "_tokens_s",
        "_var",
        "_weight",
        "barred",
        "failures",
        "first_s",
        "gate",
        "load_s",
        "loaded",
        "loaded_at",
        "queue_s",
        "spare",
        "tail",
        "token_s",
        "wait_p95_s",
        "wait_s",
    )

    def __init__(self, target: Target) -> None:
        self._load_s = 0.0 if target.adapter is None else LOAD_S
        self.loaded = 1.0 if target.adapter is None else LOADED
        self.loaded_at = float("-inf")
        self.barred = ""
        self.gate: Gate | None = None
        self.spare = 0.0
        self.failures = Failures()
        self._at = 0.0
        self._weight = self._queue = self._first = self._var = self._cov = 0.0
        self._tokens = self._tokens_s = 0.0
        self._tail = target.first_tail
        self.first_s = self.queue_s = self.wait_s = self.wait_p95_s = self.token_s = 0.0
        self.load_s = 0.0
        self.tail = TAIL
        self.declare(target)
        self._publish_wait()

    def declare(self, target: Target) -> None:
        """Take the priors that `target` declares; what was seen stays."""
        self._prior_first = target.first_token_s
        self._prior_queue = target.first_token_s * (
            QUEUE_SHARE_INTERNAL if target.internal else QUEUE_SHARE_FLOOR
        )
        self._prior_token = 1.0 / max(target.tokens_per_s, 1e-9)
        self._prior_tail = target.first_tail
        self._publish()

    @property
    def weight(self) -> float:
        """Observations behind the estimate, each worth less as it ages, without the prior."""
        return self._weight

    @property
    def one_load_s(self) -> float:
        """Seconds that a load takes where one is needed."""
        return self._load_s

    def saw_first_token(self, seconds: float, queue: int, now: float) -> None:
        """One first token after `seconds`, with `queue` requests in flight when it was asked."""
        self._decay(now, 1.0)
        expected = self.first_s + self.queue_s * queue
        self._tail = moved(self._tail, seconds <= self._tail * expected)
        weight = self._weight = self._weight + 1.0
        off_queue = queue - self._queue
        off_first = seconds - self._first
        self._queue += off_queue / weight
        self._first += off_first / weight
        self._var += off_queue * (queue - self._queue)
        self._cov += off_queue * (seconds - self._first)
        self._publish()

    def saw_tokens(self, tokens: float, seconds: float, now: float) -> None:
        """`tokens` more tokens in the `seconds` after the first, of a request already counted."""
        self._decay(now, 0.0)
        self._tokens += tokens
        self._tokens_s += seconds
        self._publish_speed()

    def told(self, loaded: float, load_s: float | None, spare: float) -> None:
        """Somebody knows: P(resident) is `loaded`, and loading takes `load_s` if given."""
        self.loaded = loaded
        self.spare = spare
        if load_s is not None:
            self._load_s = load_s
        self._publish_wait()

    def failed(self, seconds: float, now: float) -> None:
        """An attempt failed after `seconds`."""
        self.failures.failed(seconds, now)
        self._publish_wait()

    def answered(self, now: float) -> None:
        """An attempt was answered: so the adapter is resident now."""
        self.failures.answered(now)
        if self.loaded != 1.0 or self.wait_s:
            self.loaded = 1.0
            self._publish_wait()

    def fade(self, now: float) -> None:
        """Let what was seen lose weight up to `now`."""
        if self._weight > 1e-3 or self._tokens > 1e-3:
            self._decay(now, 0.0)
            self._publish()
        if self.failures.lost_s:
            self.failures.fade(now)
            self._publish_wait()

    def _decay(self, now: float, observations: float) -> None:
        elapsed = now - self._at
        if not elapsed and not observations:
            return  # the tokens of an answer are seen in the moment in which its first one is
        if elapsed < 0.0:
            elapsed = 0.0
        decay = 0.5 ** (elapsed / HALF_LIFE_S + observations / HALF_LIFE_N)
        self._at = now
        self._weight *= decay
        self._var *= decay
        self._cov *= decay
        self._tokens *= decay
        self._tokens_s *= decay

    def _publish(self) -> None:
        weight = self._weight
        slope = (self._cov + QUEUE_RIDGE * self._prior_queue) / (self._var + QUEUE_RIDGE)
        level, least = self._first - slope * self._queue, 0.1 * self._first
        if level < least:
            level = least
        self.first_s = (PRIOR_N * self._prior_first + weight * level) / (PRIOR_N + weight)
        floor = QUEUE_SHARE_FLOOR * self.first_s
        self.queue_s = slope if slope > floor else floor
        tail = (PRIOR_N * self._prior_tail + weight * self._tail) / (PRIOR_N + weight)
        self.tail = tail if tail > 1.0 else 1.0
        self._publish_speed()

    def _publish_speed(self) -> None:
        self.token_s = (PRIOR_TOKENS * self._prior_token + self._tokens_s) / (
            PRIOR_TOKENS + self._tokens
        )

    def _publish_wait(self) -> None:
        missing = 1.0 - self.loaded
        self.load_s = missing * self._load_s
        self.wait_s = self.load_s + self.failures.lost_s
        self.wait_p95_s = (self._load_s if missing > 0.05 else 0.0) + (
            max(FAILURE_S, self.failures.lost_s) if self.failures.p_failed > 0.05 else 0.0
        )


class Output:
    """How many tokens one target generates on one route: `mean`, `p95` and `p99`."""

    __slots__ = ("_at", "_long_tail", "_mean", "_prior", "_tail", "_weight", "mean", "p95", "p99")

    def __init__(self, target: Target) -> None:
        self._at = self._weight = self._mean = 0.0
        self._tail = TAIL
        self._long_tail = LONG_TAIL
        self.mean = self.p95 = self.p99 = 0.0
        self.declare(target)

    def declare(self, target: Target) -> None:
        """Take the prior that `target` declares; what was seen stays."""
        self._prior = target.output_tokens
        self._publish()

    def saw(self, tokens: int, now: float) -> None:
        """One answer of `tokens` generated tokens."""
        self._decay(now, 1.0)
        self._tail = moved(self._tail, tokens <= self._tail * self.mean)
        self._long_tail = moved(self._long_tail, tokens <= self._long_tail * self.mean, 0.99)
        self._weight += 1.0
        self._mean += (tokens - self._mean) / self._weight
        self._publish()

    def fade(self, now: float) -> None:
        """Let what was seen lose weight up to `now`."""
        if self._weight > 1e-3:
            self._decay(now, 0.0)
            self._publish()

    def _decay(self, now: float, observations: float) -> None:
        elapsed = now - self._at
        if elapsed < 0.0:
            elapsed = 0.0
        self._weight *= 0.5 ** (elapsed / HALF_LIFE_S + observations / HALF_LIFE_N)
        self._at = now

    def _publish(self) -> None:
        weight = self._weight
        self.mean = (PRIOR_N * self._prior + weight * self._mean) / (PRIOR_N + weight)
        tail = (PRIOR_N * TAIL + weight * self._tail) / (PRIOR_N + weight)
        self.p95 = self.mean * tail if tail > 1.0 else self.mean
        tail = (PRIOR_N * LONG_TAIL + weight * self._long_tail) / (PRIOR_N + weight)
        self.p99 = self.mean * tail if tail > 1.0 else self.mean


class Spent:
    """What requests to a composition cost on a route, as a multiple (`mean`) of what was expected
    of them; the share of them that asked more than the first step (`more`); and the 95th percentile
    of the seconds that they took in all, over those expected (`tail`). `of` is the composition as
    it is declared, with the prior of that share.

    `seen` counts them, each worth less as it ages.
    """

    __slots__ = (
        "_at",
        "_dollars",
        "_expected",
        "_more",
        "_prior_tail",
        "_tail",
        "mean",
        "more",
        "of",
        "seen",
        "tail",
    )

    def __init__(self, of: Composition, tail: float = TAIL) -> None:
        """`tail` is what is to be expected of its steps."""
        self._at = self._dollars = self._expected = self._more = self.seen = 0.0
        self.of = of
        self.mean, self.more = 1.0, of.escalates
        self.tail = self._tail = self._prior_tail = tail

    def lasted(self, seconds: float, expected: float) -> None:
        """The request that was seen last took so long in all where `expected` was."""
        self._tail = moved(self._tail, seconds <= self._tail * expected)
        mean = (PRIOR_N * self._prior_tail + self.seen * self._tail) / (PRIOR_N + self.seen)
        self.tail = max(1.0, mean)

    def saw(self, dollars: float, expected: float, *, more: bool, now: float) -> None:
        """One request that cost so much where `expected` was."""
        decay = 0.5 ** (max(0.0, now - self._at) / HALF_LIFE_S + 1.0 / HALF_LIFE_N)
        self._at = now
        self._dollars = self._dollars * decay + dollars
        self._expected = self._expected * decay + expected
        self._more = self._more * decay + more
        self.seen = self.seen * decay + 1.0
        # PRIOR_N requests of this size that cost what was expected stand against the first seen.
        prior = PRIOR_N * expected
        if self._expected + prior > 0.0:
            self.mean = (self._dollars + prior) / (self._expected + prior)
        self.more = (self._more + PRIOR_N * self.of.escalates) / (self.seen + PRIOR_N)


class Share:
    """What share of a target's input tokens its provider served from its cache; prior none."""

    __slots__ = ("_at", "_cached", "_input", "mean")

    def __init__(self) -> None:
        self._at = self._cached = self._input = 0.0
        self.mean = 0.0

    def saw(self, cached: int, tokens: int, now: float) -> None:
        """One request whose `tokens` of input were `cached` in part."""
        decay = 0.5 ** (max(0.0, now - self._at) / HALF_LIFE_S + 1.0 / HALF_LIFE_N)
        self._at = now
        self._cached = self._cached * decay + cached
        self._input = self._input * decay + tokens
        # PRIOR_N requests of this size without any cached token stand against the first ones seen.
        self.mean = self._cached / (self._input + PRIOR_N * max(tokens, 1))
