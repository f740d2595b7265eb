"""A kind of work: how it is recognised, who could do it, what makes an answer right."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from gateway.types.experiments import Experiment
from gateway.types.limits import Quota

TENANT = "{key.tenant}"
"""What stands in a candidate's target for the tenant of the caller's key."""


class Candidate(msgspec.Struct, frozen=True):
    """A target that a route may use.

    `target` is a declared name, or a pattern such as `local/qwen+{key.tenant}` that is resolved
    per caller. `quality` is P(right) as declared, worth `quality_n` observations. `system` is a
    system prompt's text of the candidate's own.
    """

    target: str
    quality: float
    quality_n: float = 20.0
    system: str | None = None


class Match(msgspec.Struct, frozen=True):
    """How a route is recognised: headers, keywords, patterns are certain, examples learned."""

    headers: Mapping[str, str] = {}
    keywords: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


Keep = Literal["none", "features", "text"]

Priority = Literal["low", "normal", "high"]
"""Who is served first where there is not enough for all."""


class Shadow(msgspec.Struct, frozen=True):
    """A share of a route's answered requests is copied to `target`, whose answers nobody gets: for
    so many dollars in a day of UTC, and so many of them at a time."""

    target: str
    share: float
    day_usd: float
    concurrent: int = 2


Comparison = Literal["=", ">=", ">", "<=", "<"]


class Metric(msgspec.Struct, frozen=True):
    """What is said of an answer of a route: a boolean is 1 or 0, a score any number.

    `source` says who says it. An answer is right where its value compares with `bound` so;
    None where the metric does not say. What comes later than `within_s` after the answer does not
    count; None is any time.
    """

    name: str
    type: Literal["boolean", "score"]
    source: Literal["feedback", "judge", "check"] = "feedback"
    comparison: Comparison | None = None
    bound: float = 0.0
    within_s: float | None = None

    def is_right(self, value: float) -> bool | None:
        """Whether an answer of this value is right; None where the metric does not say."""
        match self.comparison:
            case "=":
                return value == self.bound
            case ">=":
                return value >= self.bound
            case ">":
                return value > self.bound
            case "<=":
                return value <= self.bound
            case "<":
                return value < self.bound
        return None


class Route(msgspec.Struct, frozen=True):
    """A kind of work. `value` is what one right answer is worth, in dollars.

    `right` names the one of its `metrics` that says whether an answer is right. What was said of
    one loses half its weight in `half_life_s`. `train_every_s` after the last version its quality
    is learned anew, over all routes if `train_over_all`; None leaves that to commands.
    """

    name: str
    description: str
    value: float
    internal: bool
    match: Match
    candidates: tuple[Candidate, ...]
    policy: str
    keep: Keep = "none"
    priority: Priority = "normal"
    quota: Quota | None = None
    experiments: tuple[Experiment, ...] = ()
    shadow: Shadow | None = None
    metrics: tuple[Metric, ...] = ()
    right: str | None = None
    half_life_s: float = 30 * 86_400.0
    train_every_s: float | None = None
    train_over_all: bool = False

    def metric(self, name: str | None) -> Metric | None:
        """The metric of that name, if it is declared."""
        return next((each for each in self.metrics if each.name == name), None)
