"""What has become of each experiment, as revisions; and what its requests came to."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import and_, func, insert, select

from gateway.experiments.planning import Logged
from gateway.experiments.progress import Ended, Scored
from gateway.store.schema import experiment_states as states
from gateway.store.schema import feedback, requests
from gateway.store.store import Store
from gateway.types.experiments import Experiment, Standing
from gateway.types.records import NONE_ANSWERED, WRONG_REQUEST
from gateway.types.routes import Metric, Route
from gateway.types.snapshot import Snapshot

SAYS_NOTHING = ("refused", "abandoned")
"""Outcomes that say nothing of an arm."""


class ExperimentBook:
    """The experiments of a store. The last revision of each is the truth."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def version(self) -> int:
        """Grows with every change, by whomever."""
        with self._store.read() as connection:
            return connection.execute(select(func.max(states.c.seq))).scalar() or 0

    def current(self) -> dict[str, Standing]:
        """How each stands."""
        last = select(func.max(states.c.seq)).group_by(states.c.experiment)
        with self._store.read() as connection:
            rows = connection.execute(select(states).where(states.c.seq.in_(last))).all()
        return {str(row.experiment): msgspec.json.decode(row.state, type=Standing) for row in rows}

    def save(self, experiment: str, standing: Standing, author: str) -> None:
        """From now on that is how it stands. Raises StoreError."""
        state = msgspec.json.encode(standing).decode()
        with self._store.change_alone() as connection:
            connection.execute(
                insert(states).values(
                    experiment=experiment, state=state, author=author, saved=self._now()
                )
            )

    def ended(
        self, experiment: Experiment, since: float, after: int, limit: int
    ) -> Sequence[Ended]:
        """Its requests from `since` on, those with numbers after `after`, in order."""
        c = requests.c
        query = (
            select(
                c.seq, c.started, c.arm, c.unit, c.arm_share, c.status, c.outcome, c.error,
                c.target, c.cost_usd, c.first_token_s, c.total_s,
            )
            .where(c.experiment == experiment.name, c.started >= since, c.seq > after)
            .order_by(c.seq)
            .limit(limit)
        )  # fmt: skip
        with self._store.read() as connection:
            return [_ended(experiment, row) for row in connection.execute(query)]

    def scored(
        self,
        experiment: Experiment,
        route: Route,
        snapshot: Snapshot,
        since: float,
        after: int,
        limit: int,
    ) -> Sequence[Scored]:
        """Outcomes of them by the metric that is asked about, or that makes an answer right."""
        metric = metric_of(experiment, route)
        if metric is None:
            return []
        r, f = requests.c, feedback.c
        late = () if metric.within_s is None else (f.at <= r.started + r.total_s + metric.within_s,)
        query = (
            select(
                f.seq, f.value, r.arm, r.unit, r.arm_share, r.cost_usd, r.first_token_s, r.total_s
            )
            .select_from(feedback.join(requests, f.request_id == r.id))
            .where(
                and_(
                    r.experiment == experiment.name,
                    r.started >= since,
                    f.metric == metric.name,
                    f.seq > after,
                    *late,
                )
            )
            .order_by(f.seq)
            .limit(limit)
        )
        with self._store.read() as connection:
            return [_scored(route, snapshot, metric, row) for row in connection.execute(query)]

    def logged(self, experiment: Experiment, route: Route, since: float, until: float) -> Logged:
        """What the log says of a route's traffic from `since` on, for a plan."""
        r, f = requests.c, feedback.c
        mine = (r.route == route.name, r.started >= since, r.shadow_of.is_(None))
        metric = metric_of(experiment, route)
        with self._store.read() as connection:
            count, keys, first = connection.execute(
                select(func.count(), func.count(r.key.distinct()), func.min(r.started)).where(*mine)
            ).one()
            values: Sequence[float] = ()
            if metric is not None:
                joined = feedback.join(requests, f.request_id == r.id)
                query = select(f.value).select_from(joined).where(*mine, f.metric == metric.name)
                values = [
                    float(bool(metric.is_right(value))) for value in connection.scalars(query)
                ]
        return Logged(
            days=0.0 if first is None else (until - max(first, since)) / 86400.0,
            requests=count,
            keys=keys,
            scored=len(values),
            mean=sum(values) / len(values) if values else None,
        )


def metric_of(experiment: Experiment, route: Route) -> Metric | None:
    """The metric that an experiment goes by."""
    return route.metric(experiment.asked.metric if experiment.asked is not None else route.right)


def _ended(experiment: Experiment, row: Any) -> Ended:
    wanted = experiment.arms.get(row.arm, "")
    answered = str(row.target or "").partition("@")[0]
    mine = answered == wanted.partition("@")[0]
    # Told in the backend's own words, and not because all that were asked have failed.
    wrong = (
        row.outcome == "error"
        and row.status in WRONG_REQUEST
        and not row.error.startswith(NONE_ANSWERED)
    )
    return Ended(
        seq=row.seq,
        started=row.started,
        arm=row.arm,
        unit=row.unit or "",
        failed=row.outcome != "ok" or not mine,
        counts=row.outcome not in SAYS_NOTHING and not wrong,
        cost=row.cost_usd,
        first_token_s=row.first_token_s,
        total_s=row.total_s,
        share=row.arm_share,
    )


def _scored(route: Route, snapshot: Snapshot, metric: Metric, row: Any) -> Scored:
    score = float(bool(metric.is_right(row.value)))
    policy = snapshot.policies[route.policy]
    waited = policy.waiting_first_token * (row.first_token_s or 0.0)
    waited += policy.waiting_whole * row.total_s
    reward = policy.value_weight * route.value * score - policy.price_weight * row.cost_usd - waited
    return Scored(row.seq, row.arm, row.unit or "", row.arm_share, score, reward)
