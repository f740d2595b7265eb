"""What a version of learned quality would have changed of the requests that were logged.

They are replayed as the route runs, with the version in the place of whatever its policy went by.
What was learned from a request says nothing of how well it foretells that one: there stands what a
model said that has not seen it.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from gateway.learn.features import FeatureKind
from gateway.learn.scorer import Scorer
from gateway.learn.versions import Replayed
from gateway.revisions.replay import replay
from gateway.revisions.tried import reachable
from gateway.store.replay import ReplayLog
from gateway.types.snapshot import Snapshot

MOST = 20_000
"""Requests that are replayed at most."""


def relearned(
    log: ReplayLog,
    running: Snapshot,
    logged_under: Callable[[str], Snapshot | None],
    route: str,
    version: Scorer,
    kind: FeatureKind,
    foretold: Mapping[str, Sequence[float]],
    since: float,
    until: float,
) -> Replayed | None:
    """What `version`, learned of features of that `kind`, would have changed of a route's requests
    from `since` on and before `until`; None where none can be replayed. `foretold` are, by request,
    P(right) of the route's candidates, below 0 where that is not known. `running` has what is known
    of qualities. Raises StoreError."""
    name = running.routes[route].policy
    by_prompt = msgspec.structs.replace(running.policies[name], learned=True)
    tried = msgspec.structs.replace(running, policies={**running.policies, name: by_prompt})
    told = replay(
        log,
        reachable(tried),
        reachable(running),
        logged_under,
        since,
        until,
        routes=[route],
        every=max(1, -(-log.count(since, until, [route]) // MOST)),
        learned={route: version},
        foretold=foretold,
        kind=kind,
    )
    if not told.requests:
        return None
    net = told.figures["net"]
    return Replayed(
        since,
        told.logged,
        told.requests,
        {each.why: each.requests for each in told.left_out},
        told.elsewhere,
        told.figures["right"].change,
        told.figures["cost"].change,
        net.change,
        net.low if net.measured else None,
        net.high if net.measured else None,
    )
