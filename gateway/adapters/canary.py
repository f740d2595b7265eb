"""A canary: who gets it, and whether it goes on. Pure.

Sticky: a caller's bucket is a hash of who they are, so a user or conversation sees one version for
as long as the share only grows.

    bucket = BLAKE2b(adapter, key) / 2^64;  the canary's if bucket < share

Whether it goes on is judged by what the live version did in the same time:

- errors: with e errors in n requests each, the posterior of each rate is Beta(e + 1/2, n - e + 1/2)
  (Jeffreys 1946). The canary goes back when P(its rate is higher by more than MARGIN) is at least
  SURE, and may step up when that is at most 1 - SURE. The difference of the two is taken as normal
  with the Betas' means and variances.
- time: the logs of the seconds are compared by Welch's t (1947): it goes back when its geometric
  mean is surely more than SLOWER times the live one's.
- quality, where it is measured: the same test as for time, on scores of 0..1, by MARGIN.
"""

import math
from hashlib import blake2b
from statistics import NormalDist

import msgspec

from gateway.types.backends import Canary, Target
from gateway.types.requests import Request
from gateway.types.snapshot import Snapshot

MARGIN = 0.01
"""How much higher an error rate, or lower a quality, is let pass."""
SLOWER = 1.25
SURE = 0.95
ENOUGH = 50
"""Requests that a share must have served before it steps up."""
SOONEST_S = 60.0
"""The least time at one share."""
FEWEST = 8
"""Requests before anything is said against a canary."""


class Seen(msgspec.Struct, frozen=True):
    """What one version did: requests, failed ones, and sums over the answered ones.

    `log_s` and `log_s2` are the sums of ln(seconds) and of its square; `scored` of those have a
    quality, `score` and `score2` are its sums.
    """

    requests: int = 0
    errors: int = 0
    timed: int = 0
    log_s: float = 0.0
    log_s2: float = 0.0
    scored: int = 0
    score: float = 0.0
    score2: float = 0.0


class Judgement(msgspec.Struct, frozen=True):
    """`go` is None while it is too early to tell. `why` is a sentence for people."""

    go: bool | None
    why: str


def is_canarys(adapter: str, key: str, share: float) -> bool:
    """Whether who is called `key` gets the canary of `adapter` at that share."""
    digest = blake2b(f"{adapter}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def version_for(snapshot: Snapshot, target: Target, canary: Canary, request: Request) -> Target:
    """The live version, or the canary for those whose turn it is."""
    mine = is_canarys(target.name, _who(request), canary.share)
    return snapshot.targets[canary.target] if mine else target


def _who(request: Request) -> str:
    """The end user if the application tells, else the conversation: what began it."""
    for name in ("safety_identifier", "user"):
        if name in request.fields:
            return f"{request.caller.key} {bytes(request.fields[name]).decode(errors='replace')}"
    return f"{request.caller.key} {request.turns[-1] if request.turns else request.id}"


def judged(canary: Seen, live: Seen, seconds: float) -> Judgement:
    """Whether a canary that has had its share for `seconds` goes back, up, or on as it is."""
    if canary.requests < FEWEST:
        return Judgement(None, f"{canary.requests} requests so far, too few to tell")
    worse = _p_worse(canary, live)
    if worse >= SURE:
        return Judgement(
            False,
            f"{_rate(canary)} of its requests failed, {_rate(live)} of the live version's",
        )
    slow = _surely_over(
        _moments(canary.timed, canary.log_s, canary.log_s2),
        _moments(live.timed, live.log_s, live.log_s2),
        math.log(SLOWER),
    )
    if slow is not None and slow >= SURE:
        return Judgement(
            False,
            f"an answer takes {_typical(canary):.3g} s, {_typical(live):.3g} s by the live version",
        )
    poor = _surely_over(
        _moments(live.scored, live.score, live.score2),
        _moments(canary.scored, canary.score, canary.score2),
        MARGIN,
    )
    if poor is not None and poor >= SURE:
        return Judgement(
            False,
            f"its quality is {canary.score / canary.scored:.3f}, the live version's "
            f"{live.score / live.scored:.3f}",
        )
    if canary.requests < ENOUGH:
        return Judgement(None, f"{canary.requests} of {ENOUGH} requests")
    if seconds < SOONEST_S:
        return Judgement(None, f"{seconds:.0f} of {SOONEST_S:.0f} s")
    if worse > 1.0 - SURE and canary.errors:
        return Judgement(
            None, f"{_rate(canary)} of its requests failed, {_rate(live)} of the live version's"
        )
    return Judgement(True, f"{canary.requests} requests, {_rate(canary)} failed")


def _p_worse(canary: Seen, live: Seen) -> float:
    """P(the canary's error rate is above the live one's by more than MARGIN)."""
    mean_c, var_c = _beta(canary)
    mean_l, var_l = _beta(live)
    return NormalDist().cdf((mean_c - mean_l - MARGIN) / math.sqrt(var_c + var_l))


def _beta(seen: Seen) -> tuple[float, float]:
    a, b = seen.errors + 0.5, seen.requests - seen.errors + 0.5
    total = a + b
    return a / total, a * b / (total * total * (total + 1.0))


def _moments(n: int, total: float, squares: float) -> tuple[int, float, float] | None:
    """Number, mean and variance of a sample; None for one too small to have a variance."""
    if n < FEWEST:
        return None
    mean = total / n
    return n, mean, max(0.0, (squares - n * mean * mean) / (n - 1))


def _surely_over(
    first: tuple[int, float, float] | None, second: tuple[int, float, float] | None, by: float
) -> float | None:
    """P(the first mean is above the second by more than `by`), by Welch's t taken as normal."""
    if first is None or second is None:
        return None
    (n, mean, var), (m, other, var_other) = first, second
    spread = math.sqrt(var / n + var_other / m)
    distance = mean - other - by
    if spread == 0.0:
        return float(distance > 0.0)
    return NormalDist().cdf(distance / spread)


def _rate(seen: Seen) -> str:
    return f"{100.0 * seen.errors / max(seen.requests, 1):.3g} %"


def _typical(seen: Seen) -> float:
    return math.exp(seen.log_s / max(seen.timed, 1))
