"""Reads what happened: one record, a list of them, and usage summed up."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    and_,
    case,
    func,
    or_,
    select,
)

from gateway.store.decisions import decoded
from gateway.store.schema import attempts, requests
from gateway.store.store import Store, fields
from gateway.types.compositions import BACKEND
from gateway.types.records import Made

By = Literal["route", "target", "key", "adapter", "policy", "tenant", "composition"]
GROUPS: tuple[By, ...] = get_args(By)

FOLLOWED = 1000
"""Rows that are read at once where a list is followed."""

BEHIND = 5000
"""How far behind a row's number may be: one batch that took longer to be written."""

_LISTED = [
    column for column in requests.columns if column.name not in ("decision", "needs", "features")
]


class Filter(msgspec.Struct, frozen=True):
    """Which requests; None asks nothing. `key` is an id or a name, `status` is `429` or `5xx`.

    `since` and `until` are Unix seconds of a request's start, `until` itself left out.
    """

    route: str | None = None
    target: str | None = None
    key: str | None = None
    status: str | None = None
    outcome: str | None = None
    since: float | None = None
    until: float | None = None


class UsageRow(msgspec.Struct, frozen=True):
    """What one group used. `requests` counts the requests that have to do with it.

    Tokens and dollars are those of all attempts; `estimated` is the share of attempts whose tokens
    the backend did not say. Seconds are exact percentiles (nearest rank) of what was answered
    well: of whole requests, or of attempts where the group is a target or an adapter.
    """

    group: str
    requests: int
    attempts: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float
    estimated: float
    p50_s: float | None
    p95_s: float | None


class Reader:
    """Queries on an open store. Every call opens its own connection; any thread may call."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._sqlite = store.engine.dialect.name == "sqlite"

    def find(self, id: str) -> dict[str, Any] | None:
        """The record with that request, decision or completion id, with decision and attempts.

        Of several with one completion id it is the last.
        """
        ids = [id, f"req_{id[4:]}"] if id.startswith("dec_") else [id]
        query = (
            select(requests)
            .where(or_(requests.c.id.in_(ids), requests.c.completion_id == id))
            .order_by(requests.c.seq.desc())
            .limit(1)
        )
        with self.store.read() as connection:
            row = connection.execute(query).first()
            return None if row is None else _whole(connection, row)

    def made(self, completion: str) -> Made | None:
        """Who made a completion, by its own id: the last of several."""
        query = (
            select(requests.c.target, requests.c.replica, requests.c.key, requests.c.tenant)
            .where(
                requests.c.completion_id == completion,
                requests.c.shadow_of.is_(None),
            )
            .order_by(requests.c.seq.desc())
            .limit(1)
        )
        with self.store.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else Made(*row)

    def has_route(self, route: str) -> bool:
        """Whether any request was of that route."""
        query = select(requests.c.seq).where(requests.c.route == route).limit(1)
        with self.store.read() as connection:
            return connection.execute(query).first() is not None

    def recent(
        self,
        only: Filter | None = None,
        *,
        limit: int | None = 50,
        among: Collection[int] | None = None,
    ) -> list[dict[str, Any]]:
        """The last `limit` requests that pass, the oldest first, without decision and attempts;
        of those with the numbers `among`, if given."""
        query = select(*_LISTED).where(*_conditions(only or Filter()))
        if among is not None:
            query = query.where(requests.c.seq.in_(among))
        with self.store.read() as connection:
            rows = connection.execute(query.order_by(requests.c.seq.desc()).limit(limit)).all()
        return [fields(row) for row in rows][::-1]

    def numbers(self, only: Filter, last: int) -> set[int]:
        """The `seq` of those that pass above `last`, the next `FOLLOWED` at most, and of those that
        are not far behind it: so a list is followed. Numbers are given before rows are there for
        others to see, so a lower one may come after a higher one."""
        query = (
            select(requests.c.seq)
            .where(*_conditions(only), requests.c.seq > last - BEHIND)
            .order_by(requests.c.seq)
            .limit(BEHIND + FOLLOWED)
        )
        with self.store.read() as connection:
            return set(connection.scalars(query))

    def sample(
        self, since: float, limit: int, *, read: int = 0
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many requests there are from `since` on, and at most `limit` of them, evenly taken,
        with what a decision needs to be made again: `draw` is None where there was none. With
        `read` also what was kept of each prompt: features, and the first so many characters."""
        c = requests.c
        names = (
            "route", "policy", "recognised_by", "recognised_detail", "model", "tenant", "needs",
            "cost_usd", "decision",
        )  # fmt: skip
        recent = and_(c.started >= since, c.shadow_of.is_(None))
        with self.store.read() as connection:
            count = int(connection.scalar(select(func.count()).where(recent)) or 0)
            every = -(-count // limit) if limit else 1
            columns: list[ColumnElement[Any]] = [c[name] for name in names]
            if read:
                columns += [c.features, func.substr(c.text, 1, read).label("text")]
            query = select(*columns).where(recent, c.seq % max(1, every) == 0)
            rows = [fields(row) for row in connection.execute(query.limit(limit))]
        for row in rows:
            row["needs"] = msgspec.json.decode(row["needs"])
            decision = row.pop("decision")
            row["draw"] = None if decision is None else msgspec.json.decode(decision)["draw"]
        return count, rows

    def ended(
        self,
        since: float,
        *,
        until: float | None = None,
        snapshot: str | None = None,
        limit: int,
    ) -> list[tuple[str, str, float | None, float]]:
        """Route, outcome, seconds to the first token and in all of the latest `limit` requests that
        began in that time; with a `snapshot` of those that it decided, or nothing did."""
        c = requests.c
        asked = [c.started >= since, c.shadow_of.is_(None)]
        if until is not None:
            asked.append(c.started < until)
        if snapshot is not None:
            asked.append(or_(c.snapshot == snapshot, c.snapshot.is_(None)))
        query = select(func.coalesce(c.route, ""), c.outcome, c.first_token_s, c.total_s)
        query = query.where(*asked).order_by(c.seq.desc()).limit(limit)
        with self.store.read() as connection:
            return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]

    def last_seq(self) -> int:
        """The `seq` of the newest row, 0 where there is none."""
        with self.store.read() as connection:
            return int(connection.scalar(select(func.max(requests.c.seq))) or 0)

    def usage(self, by: By, since: float) -> list[UsageRow]:
        """What each group used from `since` (Unix seconds) on, the dearest first."""
        recent = requests.c.started >= since
        joined = requests.outerjoin(attempts, attempts.c.request_id == requests.c.id)
        of_attempts = by in ("target", "adapter")
        group = self._group(by)
        sums = (
            select(
                group.label("name"),
                func.count(requests.c.id.distinct()).label("requests"),
                func.count(attempts.c.n).label("attempts"),
                *(
                    func.coalesce(func.sum(attempts.c[name]), 0).label(name)
                    for name in ("input_tokens", "cached_tokens", "output_tokens", "cost_usd")
                ),
                func.coalesce(func.sum(case((attempts.c.estimated, 1), else_=0)), 0).label(
                    "estimated"
                ),
            )
            .select_from(joined)
            .where(recent)
            .group_by(group)
        )
        timed = attempts if of_attempts else requests
        source: FromClause = joined if of_attempts else requests
        times = (
            select(group.label("name"), timed.c.total_s.label("seconds"))
            .select_from(source)
            .where(recent, timed.c.outcome == "ok")
        )
        with self.store.read() as connection:
            percentiles = {
                row.name: (row.p50, row.p95) for row in connection.execute(_percentiles(times))
            }
            rows = connection.execute(sums).all()
        found = [_usage_row(row, percentiles.get(row.name, (None, None))) for row in rows]
        return sorted(found, key=lambda row: (-row.cost_usd, -row.requests, row.group))

    def _group(self, by: By) -> ColumnElement[str]:
        if by == "target":
            return func.coalesce(attempts.c.target, "")
        if by == "adapter":
            find = func.instr if self._sqlite else func.strpos
            target = func.coalesce(attempts.c.target, "")
            plus = find(target, "+")
            return case((plus > 0, func.substr(target, plus + 1)), else_="")
        if by == "composition":
            is_one = requests.c.target.startswith(f"{BACKEND}/")
            return case((is_one, requests.c.target), else_="")
        column = requests.c.key_name if by == "key" else requests.c[by]
        return func.coalesce(column, "")


def _conditions(only: Filter) -> list[ColumnElement[bool]]:
    c = requests.c
    asked = [
        column == value
        for column, value in ((c.route, only.route), (c.target, only.target))
        if value is not None
    ]
    if only.outcome is not None:
        asked.append(c.outcome == only.outcome)
    if only.key is not None:
        asked.append(or_(c.key == only.key, c.key_name == only.key))
    if only.status is not None:
        low, high = status_range(only.status)
        asked.append(c.status.between(low, high))
    if only.since is not None:
        asked.append(c.started >= only.since)
    if only.until is not None:
        asked.append(c.started < only.until)
    return asked


def status_range(text: str) -> tuple[int, int]:
    """The statuses that `429` or `5xx` means. Raises ValueError for another text."""
    if len(text) == 3 and text[0] in "12345" and text[1:].lower() == "xx":
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    if text.isascii() and text.isdigit():
        return int(text), int(text)
    raise ValueError(f"'{text}' is no status; write one such as 429, or a class such as 5xx")


def _percentiles(times: Select[Any]) -> Select[Any]:
    """Nearest rank: the smallest value that at least p of the group do not exceed."""
    seen = times.subquery()
    ranked = select(
        seen.c.name,
        seen.c.seconds,
        func.row_number().over(partition_by=seen.c.name, order_by=seen.c.seconds).label("rank"),
        func.count().over(partition_by=seen.c.name).label("size"),
    ).subquery()
    rank, size = ranked.c.rank, ranked.c.size
    return select(
        ranked.c.name,
        func.min(case((rank * 2 >= size, ranked.c.seconds))).label("p50"),
        func.min(case((rank * 100 >= size * 95, ranked.c.seconds))).label("p95"),
    ).group_by(ranked.c.name)


def _usage_row(row: "Row[Any]", seconds: tuple[float | None, float | None]) -> UsageRow:
    return UsageRow(
        group=row.name,
        requests=row.requests,
        attempts=row.attempts,
        input_tokens=row.input_tokens,
        cached_tokens=row.cached_tokens,
        output_tokens=row.output_tokens,
        cost_usd=float(row.cost_usd),
        estimated=row.estimated / row.attempts if row.attempts else 0.0,
        p50_s=seconds[0],
        p95_s=seconds[1],
    )


def _whole(connection: Connection, row: "Row[Any]") -> dict[str, Any]:
    """A row as JSON-ready values: flat, but `needs`, `recognition`, `decision` and `attempts`."""
    record = fields(row)
    record["needs"] = msgspec.json.decode(record["needs"])
    record["recognition"] = _recognition(record)
    if record["decision"] is not None:
        decision = decoded(
            record["decision"], record["route"], record["policy"], record["snapshot"]
        )
        record["decision"] = msgspec.to_builtins(decision)
    query = select(attempts).where(attempts.c.request_id == row.id).order_by(attempts.c.n)
    record["attempts"] = [
        {**fields(tried), "changed": msgspec.json.decode(tried.changed)}
        for tried in connection.execute(query)
    ]
    return record


def _recognition(record: Mapping[str, Any]) -> dict[str, Any] | None:
    if record["recognised_by"] is None:
        return None
    return {
        "route": record["route"],
        "by": record["recognised_by"],
        "confidence": record["confidence"],
        "detail": record["recognised_detail"],
    }
