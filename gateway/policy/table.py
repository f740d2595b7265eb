"""What the configuration alone fixes of a decision, worked out once per snapshot."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from gateway.policy.estimates import Estimate, Output, Replica
from gateway.policy.weights import Weights, drained, held_back, held_replicas, open_replicas
from gateway.types.backends import Target
from gateway.types.compositions import BACKEND
from gateway.types.decisions import RuledOut
from gateway.types.policies import Policy
from gateway.types.routes import TENANT, Candidate, Route
from gateway.types.snapshot import Quality

Qualities: TypeAlias = Mapping[tuple[str, str], Quality]
"""What is known of P(right), by route and target."""

TOOLS, VISION, AUDIO, JSON_SCHEMA, MEDIA = 1, 2, 4, 8, 16
"""Abilities that a request may need, as bits."""

INFINITE = float("inf")


class Row:
    """One candidate, resolved to its target, as `decide` reads it.

    `lacks` holds the bits of the abilities that the target does not have; `MEDIA` where it may
    fetch from the hosts `media_from` only. Each of `replicas` is
    (url, key in `Live.estimates`, prior estimate, idle server); `output` is a prior too. `held` and
    `held_replicas` are what of it gets but a share of its traffic; drained replicas are left out.
    Each of a composition's `steps` is (how often it is waited for, target, replicas as above);
    `whole_tail` is the prior 95th percentile over the mean of its seconds in all.
    """

    __slots__ = (
        "cached_saving",
        "candidate",
        "composed",
        "context",
        "endpoints",
        "held",
        "held_replicas",
        "input_price",
        "internal",
        "lacks",
        "media_from",
        "output",
        "output_key",
        "output_price",
        "quality",
        "replicas",
        "steps",
        "target",
        "whole_tail",
    )

    def __init__(
        self, route: str, target: Target, candidate: int, quality: float, weights: Weights
    ) -> None:
        """`quality` is P(right) as it is known."""
        self.held = held_back(target, weights)
        self.held_replicas = held_replicas(target, weights)
        can = target.capabilities
        self.target = target.name
        self.candidate = candidate
        self.composed = target.backend == BACKEND
        self.quality = quality
        self.internal = target.internal
        self.endpoints = can.endpoints
        self.context = INFINITE if can.context is None else can.context
        self.lacks = (
            (not can.tools) * TOOLS
            | (not can.vision) * VISION
            | (not can.audio) * AUDIO
            | (not can.json_schema) * JSON_SCHEMA
            | (can.media_from is not None) * MEDIA
        )
        self.media_from = can.media_from
        self.input_price = target.price.input
        self.cached_saving = target.price.input - target.price.cached_input
        self.output_price = target.price.output
        self.output_key = (route, target.name)
        self.output = Output(target)
        self.whole_tail = target.whole_tail
        self.replicas = _at_replicas(target, weights)
        self.steps = tuple(
            (waited, step, _at_replicas(step, weights)) for waited, step in target.steps
        )

    def fetches(self, hosts: Iterable[str]) -> bool:
        """Whether the target may fetch from all of these hosts."""
        return self.media_from is None or all(_among(host, self.media_from) for host in hosts)


AtReplica: TypeAlias = tuple[str, tuple[str, str], Estimate, Replica]
"""(url, key in `Live.estimates`, prior estimate, idle server)."""


def _at_replicas(target: Target, weights: Weights) -> tuple[AtReplica, ...]:
    cold, idle = Estimate(target), Replica()
    urls = open_replicas(target, weights)
    return tuple((url, (target.name, url), cold, idle) for url in urls)


Scored: TypeAlias = tuple[float, float, int, Row, str, float, float, float, float]
"""(-net, total_s, order, row, replica, cost, first_token_s, load_s, others_s): sorts by net, then
time, then as declared. A plain tuple, because it is made for every replica of every candidate."""


class Tenants:
    """A candidate such as `local/qwen+{key.tenant}`: a row for each tenant that it can mean."""

    __slots__ = ("_pattern", "_rows")

    def __init__(
        self,
        route: str,
        candidate: Candidate,
        index: int,
        targets: Mapping[str, Target],
        weights: Weights,
        qualities: Qualities,
    ) -> None:
        before, _, after = candidate.target.partition(TENANT)
        self._pattern = candidate.target
        self._rows = {
            tenant: row_or_not(
                route, target, index, _known(route, target, candidate, qualities), weights
            )
            for name, target in targets.items()
            if (tenant := _between(name, before, after)) is not None
        }

    @property
    def possible(self) -> bool:
        """Whether there is a tenant for whom it is a row."""
        return any(isinstance(each, Row) for each in self._rows.values())

    def resolve(self, tenant: str | None) -> Row | RuledOut:
        """The row of `tenant`, or why there is none."""
        if tenant is None:
            return RuledOut(self._pattern, "fact", "the caller's key has no tenant")
        row = self._rows.get(tenant)
        if row is None:
            name = self._pattern.replace(TENANT, tenant)
            return RuledOut(name, "fact", f"no such target is declared for the tenant {tenant!r}")
        return row


class Candidates:
    """A route's candidates; `rows` is None when one of them depends on the caller."""

    __slots__ = ("_known", "_meant", "_parts", "_weights", "route", "rows")

    def __init__(
        self,
        route: Route,
        targets: Mapping[str, Target],
        weights: Weights,
        qualities: Qualities | None = None,
    ) -> None:
        """`qualities` are what is known beyond what is declared, by route and target."""
        qualities = qualities or {}
        self.route = route
        self._meant = _meant(route, targets)
        self._weights = weights
        self._known = _of_route(route, qualities)
        self._parts = tuple(
            _part(route.name, candidate, index, targets, weights, qualities)
            for index, candidate in enumerate(route.candidates)
        )
        rows = tuple(part for part in self._parts if isinstance(part, Row))
        self.rows = rows if len(rows) == len(self._parts) else None

    @property
    def possible(self) -> bool:
        """Whether there is a request that one of them could be asked for."""
        return any(
            isinstance(part, Row) or (isinstance(part, Tenants) and part.possible)
            for part in self._parts
        )

    def of(
        self,
        route: Route,
        targets: Mapping[str, Target],
        weights: Weights,
        qualities: Qualities,
    ) -> bool:
        """Whether these are the candidates of `route` among `targets` too."""
        same = self.route == route and self._weights == weights
        same = same and self._known == _of_route(route, qualities)
        return same and self._meant == _meant(route, targets)

    def resolve(self, tenant: str | None) -> tuple[list[Row], list[RuledOut]]:
        """The candidates as they are for a caller of `tenant`, and those that are none for it."""
        rows: list[Row] = []
        ruled_out: list[RuledOut] = []
        for part in self._parts:
            found = part.resolve(tenant) if isinstance(part, Tenants) else part
            if isinstance(found, Row):
                rows.append(found)
            else:
                ruled_out.append(found)
        return rows, ruled_out


class Terms:
    """One policy as `decide` reads it; a limit that is not set is infinite."""

    __slots__ = (
        "explore",
        "first",
        "margin",
        "max_cost",
        "max_first",
        "max_whole",
        "min_quality",
        "on_cold",
        "price",
        "refuse",
        "timed",
        "value",
        "whole",
    )

    def __init__(self, policy: Policy) -> None:
        limits = policy.limits
        self.value = policy.value_weight
        self.price = policy.price_weight
        self.first = policy.waiting_first_token
        self.whole = policy.waiting_whole
        self.max_cost = INFINITE if limits.cost is None else limits.cost
        self.min_quality = -INFINITE if limits.quality is None else limits.quality
        self.max_first = INFINITE if limits.first_token_p95 is None else limits.first_token_p95
        self.max_whole = INFINITE if limits.whole_p95 is None else limits.whole_p95
        self.timed = limits.first_token_p95 is not None or limits.whole_p95 is not None
        self.margin = policy.switch_margin
        self.explore = policy.explore
        self.on_cold = policy.on_cold
        self.refuse = policy.if_none_fits == "refuse"


def row_or_not(
    route: str, target: Target, candidate: int, quality: float, weights: Weights
) -> Row | RuledOut:
    """The row of a target, or why it can never be one."""
    if not target.replicas:
        return RuledOut(target.name, "away", "its backend has no replica")
    if away := drained(target, weights):
        return RuledOut(target.name, "away", away)
    if target.missing:
        return RuledOut(target.name, "away", target.missing)
    if not target.priced:
        # Not free: nobody knows what it costs.
        return RuledOut(
            target.name, "fact", "its price is not known; declare one, or wait for litellm's"
        )
    return Row(route, target, candidate, quality, weights)


def _among(host: str, declared: frozenset[str]) -> bool:
    """Whether a host is declared, by itself or by a name that it is below."""
    if host in declared:
        return True
    return any(name.startswith(".") and host.endswith(name) for name in declared)


def _part(
    route: str,
    candidate: Candidate,
    index: int,
    targets: Mapping[str, Target],
    weights: Weights,
    qualities: Qualities,
) -> Row | Tenants | RuledOut:
    if TENANT in candidate.target:
        return Tenants(route, candidate, index, targets, weights, qualities)
    target = targets.get(candidate.target)
    if target is None:
        return RuledOut(candidate.target, "fact", "no such target is declared")
    quality = _known(route, target, candidate, qualities)
    return row_or_not(route, target, index, quality, weights)


def _known(route: str, target: Target, candidate: Candidate, qualities: Qualities) -> float:
    """P(right) of a candidate: what was seen of it, or what is declared."""
    known = qualities.get((route, target.name))
    return candidate.quality if known is None else known.mean


def _of_route(route: Route, qualities: Qualities) -> dict[str, float]:
    return {target: known.mean for (name, target), known in qualities.items() if name == route.name}


def _meant(route: Route, targets: Mapping[str, Target]) -> list[Target | None]:
    """Every target that the route's candidates can mean."""
    meant: list[Target | None] = []
    for candidate in route.candidates:
        before, tenant, after = candidate.target.partition(TENANT)
        if tenant:
            meant += [t for name, t in targets.items() if _between(name, before, after)]
        else:
            meant.append(targets.get(candidate.target))
    return meant


def _between(name: str, before: str, after: str) -> str | None:
    """What stands for the tenant in `name`, if it is one short name and nothing more."""
    if len(name) <= len(before) + len(after):
        return None
    if not (name.startswith(before) and name.endswith(after)):
        return None
    middle = name[len(before) : len(name) - len(after)]
    return None if "/" in middle or "+" in middle else middle
