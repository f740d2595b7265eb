"""What tokens of our own servers cost, measured: an hour's price over the hour's tokens. Pure.

Deciding uses a stable price at full batch; this is the bill, which must come to what the hours
cost.

For each replica and hour, from the engine's own counters:

    busy share   time in which requests ran or tokens were counted, over the time that it was up
    work         w . (uncached input, cached input, output tokens)
    of a share   cost x busy share x its work / all work of the engine
    idle         cost x (1 - busy share), a line of its own (`ours`), or spread as the rest is
                 (`shared`)

What the engine counted and we did not send is a line of its own, too. The weights w are what a
token of each kind costs of busy time, by least squares over the looks at the engine, with a ridge
towards PRIOR (Hoerl and Kennard 1970) and none below 0; only their ratios matter.

Money is in whole micro-dollars, shared out by largest remainders (Hamilton's method), so that the
lines are the whole, to the last of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

PRIOR = (1.0, 0.1, 4.0)
"""Relative cost of an uncached input, a cached input and an output token: what providers' prices
have in common."""

RIDGE = 0.05
"""Weight of the prior, relative to what was seen."""

LONGEST_LOOK_S = 10.0
"""A gap between two looks that is longer than this was time without the replica."""

HOUR_S = 3600.0
MICRO = 1_000_000

Idle = Literal["ours", "shared"]

IDLE, OTHERS = "(idle)", "(not through this gateway)"


class Counters(msgspec.Struct, frozen=True):
    """One look at an engine: tokens since its start (in Unix seconds), and `running` requests."""

    started: float
    running: int
    prompt: float
    cached: float
    generated: float


class Hour(msgspec.Struct, frozen=True):
    """One replica in one hour that began at `start`.

    Seconds up and busy, tokens of each kind; `squares` and `products` are the sums that the weights
    are found from: of x x^T (its upper half, by rows) and of x y, with x the tokens of a look in
    thousands and y its busy seconds.
    """

    backend: str
    replica: str
    start: float
    up_s: float = 0.0
    busy_s: float = 0.0
    prompt: float = 0.0
    cached: float = 0.0
    generated: float = 0.0
    squares: tuple[float, ...] = (0.0,) * 6
    products: tuple[float, ...] = (0.0,) * 3

    @property
    def tokens(self) -> tuple[float, float, float]:
        """Uncached input, cached input, output."""
        return max(0.0, self.prompt - self.cached), self.cached, self.generated


class Used(msgspec.Struct, frozen=True):
    """What one group (an adapter's target, a key) had of a replica's hour, by our own account."""

    group: str
    input: float
    cached: float
    output: float


class Line(msgspec.Struct, frozen=True):
    """One line of a bill, in micro-dollars."""

    group: str
    micro_usd: int


def looked(hour: Hour, before: Counters, after: Counters, seconds: float) -> Hour:
    """The hour with one more look, `seconds` after the one before. A restart counts from 0."""
    if not 0.0 < seconds <= LONGEST_LOOK_S:
        return hour
    anew = after.started != before.started or after.prompt < before.prompt
    base = Counters(0.0, 0, 0.0, 0.0, 0.0) if anew else before
    prompt = max(0.0, after.prompt - base.prompt)
    cached = min(prompt, max(0.0, after.cached - base.cached))
    generated = max(0.0, after.generated - base.generated)
    busy = seconds if after.running > 0 or prompt > 0.0 or generated > 0.0 else 0.0
    x = ((prompt - cached) / 1e3, cached / 1e3, generated / 1e3)
    squares = [x[i] * x[j] for i in range(3) for j in range(i, 3)]
    return msgspec.structs.replace(
        hour,
        up_s=hour.up_s + seconds,
        busy_s=hour.busy_s + busy,
        prompt=hour.prompt + prompt,
        cached=hour.cached + cached,
        generated=hour.generated + generated,
        squares=tuple(a + b for a, b in zip(hour.squares, squares, strict=True)),
        products=tuple(a + b * busy for a, b in zip(hour.products, x, strict=True)),
    )


def weights(hours: Iterable[Hour]) -> tuple[float, float, float]:
    """Relative cost of an uncached input, a cached input and an output token; input costs 1, unless
    it was found to cost nothing."""
    square, product = np.zeros((3, 3)), np.zeros(3)
    for hour in hours:
        upper = np.zeros((3, 3))
        upper[np.triu_indices(3)] = hour.squares
        square += upper + upper.T - np.diag(np.diag(upper))
        product += np.array(hour.products)
    if not product.any():
        return PRIOR
    prior = np.array(PRIOR)
    # The prior's ratios at the scale that fits best.
    scale = float(prior @ product) / float(prior @ square @ prior)
    ridge = RIDGE * float(np.trace(square)) / 3.0
    found = _not_below_0(square + ridge * np.eye(3), product + ridge * scale * prior)
    unit = found[0] or float(found.max())
    return tuple(float(each / unit) for each in found) if unit else PRIOR  # type: ignore[return-value]


def _not_below_0(square: "np.ndarray", product: "np.ndarray") -> "np.ndarray":
    """Least squares with no weight below 0: of every set of weights left free, the best one."""
    best, best_value = np.zeros(3), 0.0
    for mask in range(1, 8):
        free = [i for i in range(3) if mask >> i & 1]
        found = np.zeros(3)
        found[free] = np.linalg.solve(square[np.ix_(free, free)], product[free])
        value = float(found @ square @ found - 2.0 * found @ product)
        if (found >= 0.0).all() and value < best_value:
            best, best_value = found, value
    return best


def bill(
    hour: Hour,
    used: Sequence[Used],
    *,
    replica_hour: float,
    idle: Idle,
    weigh: tuple[float, float, float] = PRIOR,
) -> list[Line]:
    """The lines of one replica's hour; they sum up to `replica_hour` (dollars) for the time it was
    up, to the micro-dollar."""
    whole = round(replica_hour * hour.up_s / HOUR_S * MICRO)
    if whole <= 0:
        return []
    work = {
        each.group: _work((each.input - each.cached, each.cached, each.output), weigh)
        for each in used
    }
    ours = sum(work.values())
    # Our own account may be an estimate, and end a look later than the engine's.
    work[OTHERS] = max(0.0, _work(hour.tokens, weigh) - ours)
    total = ours + work[OTHERS]
    busy = min(1.0, hour.busy_s / hour.up_s) if hour.up_s and total > 0.0 else 0.0
    if idle == "shared" and total > 0.0:
        busy = 1.0
    shares = {group: busy * part / total for group, part in work.items() if part > 0.0}
    shares[IDLE] = max(0.0, 1.0 - busy)
    return [Line(group, part) for group, part in shared_out(whole, shares).items() if part]


def _work(tokens: tuple[float, float, float], weigh: tuple[float, float, float]) -> float:
    return sum(max(0.0, each) * weight for each, weight in zip(tokens, weigh, strict=True))


def shared_out(whole: int, shares: Mapping[str, float]) -> dict[str, int]:
    """`whole` in whole parts by shares; what rounding leaves goes to the largest remainders."""
    total = sum(shares.values())
    if total <= 0.0:
        return {}
    exact = {group: whole * share / total for group, share in shares.items()}
    parts = {group: int(each) for group, each in exact.items()}
    left = whole - sum(parts.values())
    order = sorted(exact, key=lambda group: (parts[group] - exact[group], group))
    for group in order[:left]:
        parts[group] += 1
    return parts


def summed(bills: Iterable[Sequence[Line]]) -> dict[str, int]:
    """Micro-dollars of each group over many hours, the dearest first."""
    found: dict[str, int] = {}
    for lines in bills:
        for line in lines:
            found[line.group] = found.get(line.group, 0) + line.micro_usd
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


class HostingMeter:
    """Turns looks at engines into hours. `unsaved` are those that have changed since `saved`."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, Counters]] = {}
        self._hours: dict[tuple[str, float], Hour] = {}
        self._unsaved: set[tuple[str, float]] = set()

    def known(self, hours: Iterable[Hour]) -> None:
        """Goes on from what was kept before this gateway started."""
        for hour in hours:
            self._hours[hour.replica, hour.start] = hour

    def put_back(self, hours: Iterable[Hour]) -> None:
        """They could not be kept: `unsaved` tells them again."""
        for hour in hours:
            key = (hour.replica, hour.start)
            self._hours.setdefault(key, hour)
            self._unsaved.add(key)

    def saw(self, backend: str, replica: str, counters: Counters, now: float) -> None:
        """One look at a replica's engine at `now`, in Unix seconds."""
        before = self._last.get(replica)
        self._last[replica] = (now, counters)
        if before is None:
            return
        at, last = before
        key = (replica, now - now % HOUR_S)
        hour = self._hours.get(key) or Hour(backend, replica, key[1])
        self._hours[key] = looked(hour, last, counters, now - at)
        self._unsaved.add(key)

    def away(self, replica: str) -> None:
        """It takes no part of an hour until it is seen again: another has its GPU meanwhile."""
        self._last.pop(replica, None)

    def unsaved(self, now: float) -> list[Hour]:
        """The hours that have changed; those that are over are forgotten afterwards."""
        found = [self._hours[key] for key in self._unsaved]
        self._unsaved.clear()
        for key in [key for key in self._hours if key[1] < now - 2 * HOUR_S]:
            del self._hours[key]
        return found
