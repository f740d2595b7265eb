"""What was said of answers: by which request, metric and key."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Integer,
    and_,
    case,
    cast,
    delete,
    false,
    func,
    insert,
    not_,
    or_,
    select,
)

from gateway.store.rows import storable
from gateway.store.schema import feedback, requests
from gateway.store.store import Store
from gateway.types.requests import Caller
from gateway.types.routes import Metric

EPISODE = 1000
"""Requests of one episode that one outcome is told of at most."""


AGES = 200
"""Steps of age that what was said is summed up by."""


class Said(msgspec.Struct, frozen=True):
    """One thing said of one request's answer. `at` in Unix seconds."""

    request_id: str
    metric: str
    value: float
    comment: str | None
    correction: str | None
    key: str | None
    at: float

    @property
    def identity(self) -> str:
        """What is said again of the same, by the same key, takes the place of this."""
        return f"{self.request_id}/{self.metric}/{self.key or ''}"


class Answered(msgspec.Struct, frozen=True):
    """A request that something can be said of. `ended` in Unix seconds."""

    id: str
    route: str | None
    target: str | None
    ended: float


class Heard(msgspec.Struct, frozen=True):
    """What was said of `n` answers of a target some `age_s` seconds ago; `total` sums it up."""

    target: str
    age_s: float
    n: int
    right: int
    total: float


class Kept(msgspec.Struct, frozen=True):
    """A chat whose text was kept: its messages as JSON, the answer as it came (a body, or a
    stream's text), whether it was said to be right, and what should have been said instead."""

    id: str
    target: str
    messages: str
    answer: str | None
    started: float
    right: bool | None
    correction: str | None


class Lesson(msgspec.Struct, frozen=True):
    """An answered request whose text or features were kept: `at` in Unix seconds when it began.
    `right` is None where nobody has said; it stands for `stands` requests like it."""

    id: str
    target: str
    decision: str
    cost: float
    features: bytes | None
    text: str | None
    right: bool | None
    at: float
    stands: int = 1


class Lessons(msgspec.Struct, frozen=True):
    """What there is to be learned from. `nothing_kept` were spoken of, and neither their text nor
    features were kept; `young` were not, and may still be."""

    found: list[Lesson]
    nothing_kept: int
    young: int


class FeedbackBook:
    """The store's feedback. Every call raises StoreError where the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def answered(self, by: str, name: str, caller: Caller) -> list[Answered]:
        """The requests that are meant, of those that `caller`'s key or tenant made.

        `by` is `request`, `decision`, `completion`, `ref` or `episode`. An episode means all of its
        requests, the latest `EPISODE` at most; anything else the last that it fits.
        """
        c = requests.c
        column = {"completion": c.completion_id, "ref": c.ref, "episode": c.episode}.get(by, c.id)
        if by == "decision":
            name = f"req_{name.removeprefix('dec_')}"
        query = (
            select(c.id, c.route, c.target, c.started, c.total_s)
            .where(column == name, c.shadow_of.is_(None), *_own(caller))
            .order_by(c.seq.desc())
            .limit(EPISODE if by == "episode" else 1)
        )
        with self._store.read() as connection:
            rows = connection.execute(query).all()
        return [Answered(row.id, row.route, row.target, row.started + row.total_s) for row in rows]

    def say(self, said: Sequence[Said]) -> None:
        """Keeps it, in the place of what the same key has said of the same before."""
        rows = [_row(each) for each in said]
        with self._store.change() as connection:
            connection.execute(
                delete(feedback).where(feedback.c.identity.in_([row["identity"] for row in rows]))
            )
            connection.execute(insert(feedback), rows)

    def version(self) -> int:
        """Another whenever something is said."""
        with self._store.read() as connection:
            return int(connection.scalar(select(func.max(feedback.c.seq))) or 0)

    def tallies(self, route: str, metric: Metric, now: float, oldest_s: float) -> list[Heard]:
        """What a route's metric has said of each target since `oldest_s` ago, by age."""
        c, of = feedback.c, requests.c
        step = oldest_s / AGES
        age = cast((now - c.at) / step, Integer)
        query = (
            select(
                func.coalesce(of.target, "").label("target"),
                age.label("age"),
                func.count().label("n"),
                func.sum(case((_is_right(metric), 1), else_=0)).label("right"),
                func.sum(c.value).label("total"),
            )
            .select_from(feedback.join(requests, of.id == c.request_id))
            .where(of.route == route, c.metric == metric.name, c.at >= now - oldest_s)
            .where(*_in_time(metric))
            .group_by(of.target, age)
        )
        with self._store.read() as connection:
            rows = connection.execute(query).all()
        return [
            Heard(row.target, row.age * step, int(row.n), int(row.right or 0), float(row.total))
            for row in rows
        ]

    def outcomes(
        self, route: str, metric: Metric, limit: int
    ) -> dict[str, list[tuple[float, bool]]]:
        """By target, when the last `limit` of a route's answers were spoken of, and whether they
        were right; the oldest first."""
        c, of = feedback.c, requests.c
        query = (
            select(func.coalesce(of.target, ""), c.at, case((_is_right(metric), 1), else_=0))
            .select_from(feedback.join(requests, of.id == c.request_id))
            .where(of.route == route, c.metric == metric.name, *_in_time(metric))
            .order_by(c.seq.desc())
            .limit(limit)
        )
        found: dict[str, list[tuple[float, bool]]] = {}
        with self._store.read() as connection:
            for target, at, right in connection.execute(query).all()[::-1]:
                found.setdefault(target, []).append((at, bool(right)))
        return found

    def spoken_of(
        self,
        route: str,
        metric: Metric,
        since: float,
        tenant: str | None,
        *,
        all_tenants: bool,
        silent: bool = False,
    ) -> list[Kept]:
        """A route's chats whose text was kept and of which something was said, or `silent` ones,
        too, the oldest first; a tenant's, those of none, or all of them. The last correction of
        each counts."""
        c, of = feedback.c, requests.c
        asked = [of.route == route, of.messages.is_not(None), of.started >= since]
        asked += [of.shadow_of.is_(None), of.outcome == "ok"]
        if silent:  # an eval's own questions are the route's, too, and name their targets
            named = and_(of.recognised_by == "named", not_(_of_route()))
            asked.append(or_(c.request_id.is_not(None), of.recognised_by.is_(None), not_(named)))
        said = and_(of.id == c.request_id, *_in_time(metric))
        if not all_tenants:
            asked.append(of.tenant == tenant if tenant is not None else of.tenant.is_(None))
        right = case((c.metric == metric.name, case((_is_right(metric), 1), else_=0)))
        query = (
            select(of.id, of.target, of.messages, of.answer, of.started, right, c.correction)
            .select_from(requests.join(feedback, said, isouter=silent))
            .where(*asked)
            .order_by(of.seq, c.seq)
        )
        found: dict[str, Kept] = {}
        with self._store.read() as connection:
            for id, target, messages, answer, started, was_right, correction in connection.execute(
                query
            ):
                before = found.get(id)
                known = None if before is None else before.right
                found[id] = Kept(
                    id,
                    target or "",
                    messages,
                    answer,
                    started,
                    known if was_right is None else bool(was_right),
                    correction or (None if before is None else before.correction),
                )
        return list(found.values())

    def lessons(
        self, route: str, metric: Metric, since: float, now: float, limit: int, characters: int
    ) -> Lessons:
        """A route's answered requests from `since` on: the last `limit` at most that were spoken
        of, and, of those since the first of these that were not, as many, evenly taken. Of texts
        the first `characters`. What was said last of each counts."""
        c, of = feedback.c, requests.c
        asked = [of.route == route, of.started >= since, of.outcome == "ok", of.shadow_of.is_(None)]
        asked += [of.decision.is_not(None), or_(of.recognised_by != "named", _of_route())]
        kept = or_(of.features.is_not(None), of.text.is_not(None))
        names = (
            of.id, func.coalesce(of.target, ""), of.decision, of.cost_usd, of.features,
            func.substr(of.text, 1, characters),
        )  # fmt: skip
        said = and_(of.id == c.request_id, c.metric == metric.name, *_in_time(metric))
        spoken = (
            select(*names, case((_is_right(metric), 1), else_=0), of.started)
            .select_from(requests.join(feedback, said))
            .where(*asked)
        )
        silent = [*asked, ~select(c.seq).where(said).exists()]
        with self._store.read() as connection:
            found: dict[str, Lesson] = {}
            query = spoken.where(kept).order_by(of.seq.desc(), c.seq.desc()).limit(limit)
            for id, target, decision, cost, features, text, right, at in connection.execute(query):
                lesson = Lesson(id, target, decision, cost, features, text, bool(right), at)
                found.setdefault(id, lesson)
            nothing = select(func.count()).select_from(spoken.where(~kept).subquery())
            nothing_kept = int(connection.scalar(nothing) or 0)
            if len(found) >= limit:
                silent.append(of.started >= min(each.at for each in found.values()))
            silent.append(kept)
            late = of.started + of.total_s + (metric.within_s or 0.0)
            counts = select(func.count()).select_from(requests)
            young = int(connection.scalar(counts.where(*silent, late > now)) or 0)
            silent.append(late <= now)
            count = int(connection.scalar(counts.where(*silent)) or 0)
            every = max(1, -(-count // limit))
            query = select(*names, of.started).where(*silent, of.seq % every == 0)
            lessons = list(found.values())[::-1]
            for id, target, decision, cost, features, text, at in connection.execute(query):
                lessons.append(Lesson(id, target, decision, cost, features, text, None, at, every))
        return Lessons(lessons, nothing_kept, young)

    def of(self, request_id: str) -> list[dict[str, Any]]:
        """What was said of a request, the oldest first."""
        names = ("metric", "value", "comment", "correction", "key", "at")
        query = (
            select(*(feedback.c[name] for name in names))
            .where(feedback.c.request_id == request_id)
            .order_by(feedback.c.seq)
        )
        with self._store.read() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]


def _of_route() -> ColumnElement[bool]:
    """Of what was named: that it was the route, and not a target."""
    detail = requests.c.recognised_detail
    return or_(detail.is_(None), detail.in_(("", requests.c.route)))


def _is_right(metric: Metric) -> ColumnElement[bool]:
    value, bound = feedback.c.value, metric.bound
    match metric.comparison:
        case ">=":
            return value >= bound
        case ">":
            return value > bound
        case "<=":
            return value <= bound
        case "<":
            return value < bound
        case "=":
            return value == bound
    return false()


def _in_time(metric: Metric) -> list[ColumnElement[bool]]:
    if metric.within_s is None:
        return []
    return [feedback.c.at - requests.c.started - requests.c.total_s <= metric.within_s]


def _own(caller: Caller) -> list[ColumnElement[bool]]:
    """What a key may speak of: its own requests and its tenant's; without any key, all."""
    if caller.key is None:
        return []
    mine = requests.c.key == caller.key
    return [mine if caller.tenant is None else or_(mine, requests.c.tenant == caller.tenant)]


def _row(said: Said) -> dict[str, Any]:
    row = msgspec.structs.asdict(said) | {"identity": said.identity}
    for name in ("comment", "correction"):
        if row[name] is not None:
            row[name] = storable(row[name])
    return row
