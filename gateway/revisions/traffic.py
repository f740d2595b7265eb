"""What a change would do to requests that were served: where each would go, at what cost. Pure.

Each logged request is decided twice, under the running snapshot and under the new one, with the
same estimates and the same draw: what differs is the change's doing, and nothing else's. Costs are
the decision's own: its tokens of input, and the target's usual length of an answer. A policy that
goes by learned quality takes the version of the route, and what was kept of the prompt.

What cannot be told: a request is taken to be of the route that it was recognised as, since texts
are not kept; what `match` has become counts for the future only.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from gateway.learn.features import Features
from gateway.learn.scorer import Scorer
from gateway.policy.decide import Decider
from gateway.policy.live import Live
from gateway.types.decisions import Choice, Decision, Question
from gateway.types.requests import Caller, Needs
from gateway.types.snapshot import Snapshot


class Asked(msgspec.Struct, frozen=True):
    """A logged request, as far as it is needed to decide it again. `cost` is what it came to, in
    dollars; `by` how its route was known, `detail` what by; `read` its features, if they or its
    text were kept, else why they cannot be told."""

    route: str
    policy: str
    by: str
    detail: str
    model: str
    needs: Needs
    tenant: str | None
    draw: float
    cost: float
    read: Features | str | None = None


class Move(msgspec.Struct, frozen=True):
    """Requests of one route that would go elsewhere; `new` is empty where they would be refused."""

    route: str
    old: str
    new: str
    requests: int


class Traffic(msgspec.Struct, frozen=True):
    """What a sample of logged requests would do. Dollars are expected ones, of the sample.

    `requests` were logged in all, `sample` of them read, `again` of those decided again;
    `left_out` says why others were not, with how many. `by_prompt` were decided by learned quality,
    before or after; `elsewhere` would go to another target, `refused` to
    none. `logged_usd` is what those decided again really came to.
    """

    requests: int
    sample: int
    again: int
    elsewhere: int
    refused: int
    old_usd: float
    new_usd: float
    logged_usd: float
    moves: tuple[Move, ...] = ()
    left_out: Mapping[str, int] = {}
    live: bool = False
    by_prompt: int = 0

    @property
    def scale(self) -> float:
        """How many requests each one that was decided again stands for."""
        return self.requests / self.sample if self.sample else 0.0


def retold(
    asked: Iterable[Asked],
    old: Snapshot,
    new: Snapshot,
    live: Live | None,
    *,
    requests: int,
    undecided: int = 0,
    learned: Mapping[str, Scorer] | None = None,
) -> Traffic:
    """What `new` would do with requests that `old` serves.

    `requests` were logged in all; `undecided` of the sample had been refused before any decision.
    Without `live` every target is as it was declared. `learned` are the versions that routes go by.
    """
    estimates = live or Live()
    before, after = Decider(old), Decider(new)
    left_out: Counter[str] = Counter()
    moves: Counter[tuple[str, str, str]] = Counter()
    sample, again, old_usd, new_usd, logged = undecided, 0, 0.0, 0.0, 0.0
    by_prompt, versions = 0, learned or {}
    if undecided:
        left_out["were refused before a target was chosen"] = undecided
    for each in asked:
        sample += 1
        first, second = _asked(each, old, old, versions), _asked(each, old, new, versions)
        if isinstance(first, str) or isinstance(second, str):
            left_out[first if isinstance(first, str) else str(second)] += 1
            continue
        was = _front(before.decide(first, estimates, each.draw))
        if was is None:
            left_out["would be refused now too"] += 1
            continue
        becomes = _front(after.decide(second, estimates, each.draw))
        again += 1
        by_prompt += first.qualities is not None or second.qualities is not None
        old_usd += was.cost
        new_usd += becomes.cost if becomes is not None else 0.0
        logged += each.cost
        target = becomes.target if becomes is not None else ""
        if target != was.target:
            moves[each.route, was.target, target] += 1
    return Traffic(
        requests=requests,
        sample=sample,
        again=again,
        elsewhere=sum(count for (_, _, target), count in moves.items() if target),
        refused=sum(count for (_, _, target), count in moves.items() if not target),
        old_usd=old_usd,
        new_usd=new_usd,
        logged_usd=logged,
        moves=tuple(Move(*move, count) for move, count in moves.most_common()),
        left_out=left_out,
        live=live is not None,
        by_prompt=by_prompt,
    )


LEARNED = "go by learned quality, and neither their features nor their texts were kept"


def _front(decision: Decision) -> Choice | None:
    return decision.ranked[0] if decision.ranked else None


def _asked(
    asked: Asked, old: Snapshot, snapshot: Snapshot, learned: Mapping[str, Scorer]
) -> Question | str:
    """The request again, with what the version of its route says of it if its policy goes by that.
    A route without a version goes by its own figures, as when it serves."""
    found = question_again(asked, old, snapshot)
    if isinstance(found, str) or found.only is not None:
        return found
    scorer = learned.get(found.route)
    if scorer is None or not snapshot.policies[found.policy].learned:
        return found
    if asked.read is None or isinstance(asked.read, str):
        return asked.read or LEARNED
    candidates = [each.target for each in snapshot.routes[found.route].candidates]
    qualities = scorer.of(candidates).qualities(asked.read)
    return msgspec.structs.replace(found, qualities=qualities)


def question_again(asked: Asked, old: Snapshot, snapshot: Snapshot) -> Question | str:
    """The request as `snapshot` would have it decided, or why that cannot be told."""
    caller = Caller(tenant=asked.tenant)
    model = snapshot.aliases.get(asked.model, asked.model)
    only = None
    route = asked.route
    if asked.by == "named" and asked.detail not in ("", asked.route):
        # A target was named, by itself or by an alias.
        if model not in snapshot.targets:
            return f"name a target that is not declared any more: {model}"
        only = model
        # Under the default route unless a header named another.
        if asked.route == old.default_route:
            route = snapshot.default_route
    elif asked.by in ("named", "alias") and model != "auto":
        route = model
    elif asked.by == "default":
        route = snapshot.default_route
    found = snapshot.routes.get(route)
    if found is None:
        return f"are of a route that is not there: {route}"
    before = old.routes.get(asked.route)
    policy = found.policy
    if before is not None and asked.policy != before.policy:
        policy = asked.policy  # asked for by its header
    if policy not in snapshot.policies:
        return f"ask for a policy that is not there: {policy}"
    return Question(route, policy, asked.needs, caller, only)
