"""What another configuration would have brought for the requests that were logged.

Reads the log, decides each request again (`gateway.revisions.logged`), and estimates the change
from the probabilities that were logged (`gateway.experiments.estimators`).
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from gateway.experiments.again import COLD, LIMITS, PRICES
from gateway.experiments.estimators import (
    METHODS,
    Floats,
    Influence,
    Interval,
    Logged,
    Method,
    Weights,
    combined,
    exploring,
    influences,
    known_weights,
    summed,
    unsupported,
    weights,
)
from gateway.learn.features import READ, FeatureKind
from gateway.learn.scorer import Scorer
from gateway.revisions.logged import (
    HEADERS,
    OTHER_KIND,
    TEXTS,
    TO_ENCODE,
    UNDECIDED,
    Outcomes,
    Replayer,
    Smaller,
    matching,
)
from gateway.revisions.traffic import LEARNED
from gateway.store.replay import ReplayLog
from gateway.types.routes import Metric, Route
from gateway.types.snapshot import Snapshot

LENGTHS = 5
"""Kinds of requests by their length that the model of outcomes tells apart."""
SAID = 10
"""Answers that something must be known of before their share right counts as measured."""
GAP = 0.01
"""Share of the new policy's choices that the log may know nothing of, before an interval would
promise too much."""
POINT = 0.01
ENOUGH = 30.0
"""Requests of equal weight. Of fewer an estimate beyond what can be, such as a cost below nothing,
says that they are too few; of more it is that bound."""

_MENDS = {
    TEXTS: "`keep: text` on their routes, for those to come",
    HEADERS: "name the route in the request, or let it run",
    LEARNED: "`keep: features` or `keep: text` on their routes, for those to come",
    OTHER_KIND: "those to come are kept as the classifier reads them now",
    TO_ENCODE: "`switchboard replay` encodes them, where the encoder is there",
    UNDECIDED: "nothing: no policy saw them",
    LIMITS: "let the policy run with the limit for a while, or try it on its other parts alone",
    COLD: "let the policy run with `on_cold` for a while, or try it on its other parts alone",
    PRICES: "let it run with the new price for a while",
}


class LeftOut(msgspec.Struct, frozen=True):
    """Requests that cannot be replayed: how many, why ("that …"), and the mend, if there is one."""

    requests: int
    why: str
    mend: str


class Figure(msgspec.Struct, frozen=True):
    """The change of one mean, new minus logged, a request.

    `logged` is that mean as it was; `estimates` has what each method says, with its interval, and
    `change` the doubly robust one. `known` is of how many requests the outcome is known. Where
    `measured` is false both are what decisions expected, at least on one route, and there is no
    interval: nobody has said what was right, or the log knows too little of the choices, or the
    requests are too few for an estimate that could be.
    """

    logged: float
    change: float
    low: float | None
    high: float | None
    measured: bool
    known: int
    estimates: Mapping[Method, Interval] = {}


class Move(msgspec.Struct, frozen=True):
    """Choices that would come to one target, less those that it had: a share of all."""

    target: str
    logged: float
    new: float
    unsupported: float


class Support(msgspec.Struct, frozen=True):
    """How much the log knows of the new policy's choices.

    `effective` requests of equal weight would tell as much. `unsupported` is the share of its
    choices that were never made where it would make them; `cut` weights were over `cap`. To know
    the share right within one point it takes `requests` logged as these were, or, of as many as
    these, that `explore` of them is explored; None where that would not do it.
    """

    effective: float
    unsupported: float
    cap: float
    cut: int
    requests: int | None
    explore: float | None


class RouteReplay(msgspec.Struct, frozen=True):
    """One route's requests: `elsewhere` and `refused` are shares of them. `net` is in dollars, and
    right is a share; `first_token` and `whole` are seconds."""

    route: str
    policy: str
    requests: int
    elsewhere: float
    refused: float
    figures: Mapping[str, Figure]
    support: Support
    targets: tuple[Move, ...]


class Replay(msgspec.Struct, frozen=True):
    """What would have been. `logged` requests were looked at, `requests` of them replayed.

    `declared` are targets that the log has no estimate of, which were taken as they are declared,
    with how many requests could have gone there.
    """

    since: float
    until: float
    logged: int
    requests: int
    left_out: tuple[LeftOut, ...]
    elsewhere: float
    refused: float
    figures: Mapping[str, Figure]
    routes: tuple[RouteReplay, ...]
    declared: Mapping[str, int] = {}


def replay(
    log: ReplayLog,
    new: Snapshot,
    running: Snapshot,
    logged_under: Callable[[str], Snapshot | None],
    since: float,
    until: float,
    *,
    routes: Collection[str] | None = None,
    every: int = 1,
    recognise: Callable[[Sequence[tuple[str, str]]], Sequence[str | None]] | None = None,
    learned: Mapping[str, Scorer] | None = None,
    foretold: Mapping[str, Sequence[float]] | None = None,
    kind: FeatureKind | None = None,
    encodes: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> Replay:
    """What `new` would have brought for the requests from `since` on and before `until`.

    `logged_under` finds the snapshot with a hash, as far as it is known. Of `every` so many
    requests one is taken. `learned` are the versions that routes would go by where their policy
    does, for features of that `kind`; what is `foretold` of a request's candidates takes their
    place. Unless it `encodes`, kept texts are not read where that takes an encoder. `progress` is
    told how many have been read.
    """
    judge = _Judge(running, log.said(since, _metrics(running)))
    replayer = Replayer(
        new, running, logged_under, judge.right, recognise, learned, foretold, kind, encodes=encodes
    )
    by_prompt = bool(learned) and any(policy.learned for policy in new.policies.values())
    texts = recognise is not None and matching(new) != matching(running)
    read = 0
    for batch in log.batches(since, until, routes, every=every, texts=texts, read=READ * by_prompt):
        replayer.add(batch)
        read += len(batch)
        progress(read)
    parts = [
        _estimated(name, outcomes, new, measured=judge.said.get(name, 0) >= SAID)
        for name, outcomes in sorted(replayer.routes().items())
    ]
    return _together(parts, replayer, since, until, read)


class _Judge:
    """Whether an answer was right, by what was said of it; counts what counts, by route."""

    def __init__(
        self, running: Snapshot, said: Mapping[str, Sequence[tuple[str, float, float]]]
    ) -> None:
        self._said = said
        self._metrics: dict[str, Metric | None] = {
            name: route.metric(route.right) for name, route in running.routes.items()
        }
        self.said: dict[str, int] = {}

    def right(self, row: Sequence[Any]) -> float:
        """1 or 0; NaN where nobody has said, or not in time."""
        heard = self._said.get(row[0])
        if heard is None:
            return math.nan
        metric = self._metrics.get(row[1])
        found = math.nan
        for name, value, at in heard:
            if metric is None or name != metric.name:
                continue
            if metric.within_s is not None and at > row[14] + row[13] + metric.within_s:
                continue
            is_right = metric.is_right(value)
            if is_right is not None:
                found = float(is_right)
        if found == found:
            self.said[row[1]] = self.said.get(row[1], 0) + 1
        return found


def _metrics(snapshot: Snapshot) -> set[str]:
    return {route.right for route in snapshot.routes.values() if route.right is not None}


# ---------------------------------------------------------------- one route


class _Part(msgspec.Struct, frozen=True):
    """One route's replay, with what it adds to that of all."""

    told: RouteReplay
    influences: Mapping[str, Mapping[Method, Influence]]
    measured: Mapping[str, bool]


def _estimated(name: str, outcomes: Outcomes, new: Snapshot, *, measured: bool) -> _Part:
    route = new.routes.get(name)
    bounds = np.quantile(outcomes.tokens, np.arange(1, LENGTHS) / LENGTHS)
    kind = np.searchsorted(bounds, outcomes.tokens, side="left").astype(np.int64)
    logged = Logged(outcomes.taken, outcomes.old, outcomes.new, kind, sure=(0,))
    found = weights(logged)
    expected = {what: _whole(values) for what, values in outcomes.expected.items()}
    failed = outcomes.failed > 0
    right = np.where(failed, 0.0, outcomes.right)
    rows = np.arange(logged.n)
    taken_first = expected["first"][rows, logged.taken]
    taken_total = np.maximum(expected["total"][rows, logged.taken], 1e-9)
    # Of a plain answer only the whole time is known: it is split as the decision expected.
    split = outcomes.total * np.clip(taken_first / taken_total, 0.0, 1.0)
    first = np.where(np.isnan(outcomes.first), split, outcomes.first)
    outcomes_of = {"cost": outcomes.cost, "first_token": first, "whole": outcomes.total}
    foreseen = {"first_token": "first", "whole": "total", "right": "quality"}
    supported = found.unsupported <= GAP
    certain = dict.fromkeys(outcomes_of, supported) | {"right": measured and supported}
    told, means = {}, {}
    for what, sure in certain.items():
        guess = expected[foreseen.get(what, what)]
        seen = right if what == "right" else outcomes_of[what]
        sieve = failed if what == "right" else None
        if sure:
            told[what] = influences(logged, found, seen, guess, sieve)
            means[what] = _mean(seen, known_weights(logged, seen, sieve))
            low, high = _possible(what, means[what])
            possible = low <= told[what]["dr"].estimate <= high
            certain[what] = possible or found.effective >= ENOUGH
        if not certain[what]:
            told[what] = _foreseen(logged, guess)
            means[what] = float(np.mean(np.einsum("nk,nk->n", logged.old, guess)))
    known = {"right": int(np.sum(~np.isnan(right))) if measured else 0}
    terms = _terms(route, new)
    told["net"] = {
        method: summed([(terms[what], told[what][method]) for what in terms]) for method in METHODS
    }
    means["net"] = sum(terms[what] * means[what] for what in terms)
    certain["net"] = all(certain.values())
    q = means["right"]
    # What is known of one answer in five takes five times as many.
    share_known = max(known["right"], 1) / max(logged.n, 1) if measured else 1.0
    return _Part(
        RouteReplay(
            route=name,
            policy=route.policy if route is not None else "",
            requests=logged.n,
            elsewhere=float(np.mean(np.abs(logged.new - logged.old).sum(axis=1))) / 2,
            refused=float(np.mean(logged.new[:, 0])),
            figures={
                what: _figure(
                    what, means[what], told[what], certain[what], known.get(what, logged.n)
                )
                for what in _ORDER
            },
            support=_support(logged, found, math.sqrt(max(q * (1.0 - q), 0.01) / share_known)),
            targets=_moves(outcomes.targets, logged),
        ),
        told,
        certain,
    )


_ORDER = ("net", "right", "cost", "first_token", "whole")


def _terms(route: Route | None, new: Snapshot) -> dict[str, float]:
    """What each mean is worth, in dollars: as the route and the new policy say."""
    if route is None:
        return {"right": 0.0, "cost": -1.0, "first_token": 0.0, "whole": 0.0}
    policy = new.policies[route.policy]
    return {
        "right": route.value,
        "cost": -1.0,
        "first_token": -policy.waiting_first_token,
        "whole": -policy.waiting_whole,
    }


def _whole(some: Smaller) -> Floats:
    """Where nothing was expected of a target at a request, what usually is."""
    expected = some.astype(np.float64)
    known = ~np.isnan(expected)
    count = known.sum(axis=0)
    usual = np.where(known, expected, 0.0).sum(axis=0) / np.maximum(count, 1)
    found: Floats = np.where(known, expected, usual)
    return found


def _mean(values: Floats, counts: Floats) -> float:
    whole = float(np.sum(counts))
    return float(np.sum(counts * np.nan_to_num(values))) / whole if whole else 0.0


def _foreseen(logged: Logged, expected: Floats) -> Mapping[Method, Influence]:
    """What the decisions expected, in the place of what nobody has said."""
    each = np.einsum("nk,nk->n", logged.new - logged.old, expected)
    mean = float(np.mean(each))
    return {method: Influence(mean, each - mean) for method in METHODS}


def _possible(what: str, logged: float) -> tuple[float, float]:
    """The least and the greatest change of a mean: none is below nought, no share above 1."""
    if what == "net":
        return -math.inf, math.inf
    return -logged, 1.0 - logged if what == "right" else math.inf


def _figure(
    what: str, logged: float, told: Mapping[Method, Influence], measured: bool, known: int
) -> Figure:
    least, most = _possible(what, logged)
    estimates = {method: _within(told[method].interval(), least, most) for method in METHODS}
    change = estimates["dr"]
    # Of too few requests an interval has no end: that is none, and JSON has no word for it.
    bounded = {
        method: each
        for method, each in estimates.items()
        if math.isfinite(each.low) and math.isfinite(each.high)
    }
    ends = bounded.get("dr") if measured else None
    return Figure(
        logged=logged,
        change=change.estimate,
        low=ends.low if ends is not None else None,
        high=ends.high if ends is not None else None,
        measured=measured,
        known=known,
        estimates=bounded if measured else {},
    )


def _within(found: Interval, least: float, most: float) -> Interval:
    """Cut to what can be; an end that is nowhere stays so."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return msgspec.structs.replace(found, estimate=min(max(found.estimate, least), most))
    low, estimate, high = (
        min(max(value, least), most) for value in (found.low, found.estimate, found.high)
    )
    return Interval(estimate, low, high)


def _support(logged: Logged, found: Weights, spread: float) -> Support:
    need = exploring(logged, found, spread, POINT)
    return Support(
        effective=found.effective,
        unsupported=found.unsupported,
        cap=found.cap,
        cut=found.cut,
        requests=need.requests,
        explore=need.share,
    )


def _moves(targets: Sequence[str], logged: Logged) -> tuple[Move, ...]:
    old, new = logged.old.mean(axis=0), logged.new.mean(axis=0)
    lacking = unsupported(logged).mean(axis=0)
    found = (
        Move(name, float(old[n]), float(new[n]), float(lacking[n]))
        for n, name in enumerate(targets)
        if name and (old[n] > 0.0 or new[n] > 0.0)
    )
    return tuple(sorted(found, key=lambda move: -move.new))


# ---------------------------------------------------------------- all of them


def _together(
    parts: Sequence[_Part], replayer: Replayer, since: float, until: float, read: int
) -> Replay:
    total = sum(part.told.requests for part in parts)

    def mean(values: Iterable[float]) -> float:
        told = zip(parts, values, strict=True)
        return sum(part.told.requests * value for part, value in told) / max(total, 1)

    figures = {}
    for what in _ORDER if parts else ():
        whole = {
            method: combined(
                [(part.told.requests, part.influences[what][method]) for part in parts]
            )
            for method in METHODS
        }
        figures[what] = _figure(
            what,
            mean(part.told.figures[what].logged for part in parts),
            whole,
            all(part.measured[what] for part in parts),
            sum(part.told.figures[what].known for part in parts),
        )
    return Replay(
        since=since,
        until=until,
        logged=read,
        requests=total,
        left_out=tuple(
            LeftOut(count, why, _MENDS.get(why, ""))
            for why, count in replayer.left_out.most_common()
        ),
        elsewhere=mean(part.told.elsewhere for part in parts),
        refused=mean(part.told.refused for part in parts),
        figures=figures,
        routes=tuple(part.told for part in parts),
        declared=dict(replayer.declared),
    )
