"""Whether a new revision does worse than what ran before it. Pure.

Two things are compared, requests that began under the new revision against those shortly before:

- failures: the share of requests that were not answered well, whoever is to blame (abandoned ones
  aside). With e failures in n requests, each share's posterior is Beta(e + 1/2, n - e + 1/2)
  (Jeffreys 1946); the difference of the two is taken as normal with the Betas' moments.
- latency: the logs of the seconds to the first token, and to the end, of what was answered. They
  are compared route by route, so that another mix of routes is no difference; the routes' mean
  differences are weighed by the new revision's requests. exp of it is the ratio of the geometric
  means.

It is worse when the difference is above the stated limit with a probability of SURE, and there are
FEWEST requests at least. Since it is looked at all the time, SURE is high: a false alarm costs a
rollback, which can be set right, but is a nuisance.
"""

import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist

import msgspec

SURE = 0.99
FEWEST = 20
"""Requests under the new revision before anything is said against it."""
ENOUGH_OF_ROUTE = 8
"""Answered requests that a route needs on both sides to be compared."""


class Limits(msgspec.Struct, frozen=True):
    """What may be worse: `errors` by so much of all requests, `latency` by such a share of it."""

    errors: float
    latency: float


class Seconds(msgspec.Struct, frozen=True):
    """Seconds as sums of their logs and of the squares of these."""

    n: int = 0
    log_s: float = 0.0
    log_s2: float = 0.0

    def with_(self, seconds: float) -> "Seconds":
        """One more."""
        logged = math.log(max(seconds, 1e-6))
        return Seconds(self.n + 1, self.log_s + logged, self.log_s2 + logged * logged)

    @property
    def mean(self) -> float:
        """The mean of the logs."""
        return self.log_s / self.n

    @property
    def variance(self) -> float:
        """That of the mean of the logs."""
        spread = max(0.0, (self.log_s2 - self.n * self.mean**2) / (self.n - 1))
        return spread / self.n


class Seen(msgspec.Struct, frozen=True):
    """What requests came to: how many, how many failed, and how long those answered took, by
    route."""

    requests: int = 0
    failed: int = 0
    first_token: Mapping[str, Seconds] = {}
    whole: Mapping[str, Seconds] = {}


class Ended(msgspec.Struct, frozen=True):
    """One logged request, as far as it counts here."""

    route: str
    outcome: str
    first_token_s: float | None
    total_s: float


class Judgement(msgspec.Struct, frozen=True):
    """`worse` says that it is; `why` is a sentence for people either way."""

    worse: bool
    why: str


def seen(ended: Iterable[Ended]) -> Seen:
    """Requests summed up; those whose client went away say nothing."""
    requests = failed = 0
    first: dict[str, Seconds] = {}
    whole: dict[str, Seconds] = {}
    for each in ended:
        if each.outcome == "abandoned":
            continue
        requests += 1
        if each.outcome != "ok":
            failed += 1
            continue
        whole[each.route] = whole.get(each.route, Seconds()).with_(each.total_s)
        if each.first_token_s is not None:
            first[each.route] = first.get(each.route, Seconds()).with_(each.first_token_s)
    return Seen(requests, failed, first, whole)


def judged(before: Seen, after: Seen, limits: Limits) -> Judgement:
    """Whether `after` is worse than `before` by more than the limits."""
    if after.requests < FEWEST:
        return Judgement(False, f"{after.requests} requests, too few to tell ({FEWEST} at least)")
    if _errors_worse(before, after, limits.errors):
        return Judgement(
            True,
            f"{_share(after)} of its requests failed, {_share(before)} before "
            f"(allowed: {100 * limits.errors:.3g} points more)",
        )
    for what, old, new in (
        ("first token", before.first_token, after.first_token),
        ("whole answer", before.whole, after.whole),
    ):
        found = _slower(old, new)
        if found is None:
            continue
        mean, spread = found
        if NormalDist().cdf((mean - math.log1p(limits.latency)) / spread) >= SURE:
            return Judgement(
                True,
                f"the {what} takes {100 * math.expm1(mean):.0f} % longer than before "
                f"(allowed: {100 * limits.latency:.3g} %)",
            )
    return Judgement(
        False,
        f"{after.requests} requests, {_share(after)} failed, {_share(before)} before",
    )


def _errors_worse(before: Seen, after: Seen, limit: float) -> bool:
    mean, variance = _beta(after)
    # Without anything before, none is taken to have failed.
    other, other_variance = _beta(before) if before.requests else (0.0, 0.0)
    distance = mean - other - limit
    return NormalDist().cdf(distance / math.sqrt(variance + other_variance)) >= SURE


def _beta(what: Seen) -> tuple[float, float]:
    a, b = what.failed + 0.5, what.requests - what.failed + 0.5
    total = a + b
    return a / total, a * b / (total * total * (total + 1.0))


def _slower(
    before: Mapping[str, Seconds], after: Mapping[str, Seconds]
) -> tuple[float, float] | None:
    """The mean difference of the logs over routes, and its standard deviation."""
    routes = [
        (before[route], new)
        for route, new in after.items()
        if new.n >= ENOUGH_OF_ROUTE and route in before and before[route].n >= ENOUGH_OF_ROUTE
    ]
    total = sum(new.n for _, new in routes)
    if not total:
        return None
    mean = sum(new.n / total * (new.mean - old.mean) for old, new in routes)
    variance = sum((new.n / total) ** 2 * (new.variance + old.variance) for old, new in routes)
    return mean, math.sqrt(variance) or 1e-9


def _share(what: Seen) -> str:
    return f"{100.0 * what.failed / what.requests:.3g} %" if what.requests else "none"
