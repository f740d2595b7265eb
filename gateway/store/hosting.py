"""Replicas' hours as they are kept, and the bill that they come to."""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from sqlalchemy import func, insert, select, update

from gateway.metering.hosting import HOUR_S, Hour, Idle, Line, Used, bill, weights
from gateway.store.schema import attempts, replica_hours, requests
from gateway.store.store import Store

BilledBy = Literal["adapter", "key"]


class Terms(msgspec.Struct, frozen=True):
    """What a backend's replica costs an hour in dollars, and who pays for idle time."""

    replica_hour: float
    idle: Idle = "ours"


class HostingBook:
    """The hours of a store's replicas.

    Several gateways may watch one replica: the engine's counters are the same for each, so of one
    hour the account is kept that has watched it for longest, and nothing is counted twice.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, hours: Iterable[Hour]) -> None:
        """Keeps each, unless a longer account of it is there."""
        with self._store.change() as connection:
            for hour in hours:
                key = (replica_hours.c.replica == hour.replica) & (
                    replica_hours.c.start == hour.start
                )
                values = {
                    "up_s": hour.up_s,
                    "backend": hour.backend,
                    "content": msgspec.json.encode(hour).decode(),
                }
                there = connection.execute(select(replica_hours.c.up_s).where(key)).first()
                if there is None:
                    connection.execute(
                        insert(replica_hours).values(
                            replica=hour.replica, start=hour.start, **values
                        )
                    )
                elif there.up_s < hour.up_s:
                    connection.execute(update(replica_hours).where(key).values(**values))

    def hours(self, since: float) -> list[Hour]:
        """Every hour that was not over at that instant."""
        query = select(replica_hours.c.content).where(replica_hours.c.start > since - HOUR_S)
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(replica_hours.c.start)).all()
        return [_decode(row.content) for row in rows]

    def bills(self, since: float, by: BilledBy, terms: Mapping[str, Terms]) -> list[list[Line]]:
        """The bill of each replica's hour since then, of the backends that have a price an hour."""
        hours = [hour for hour in self.hours(since) if hour.backend in terms]
        ratio = {
            backend: weights(hour for hour in hours if hour.backend == backend)
            for backend in {hour.backend for hour in hours}
        }
        return [
            bill(
                hour,
                self._used(hour, by),
                replica_hour=terms[hour.backend].replica_hour,
                idle=terms[hour.backend].idle,
                weigh=ratio[hour.backend],
            )
            for hour in hours
        ]

    def _used(self, hour: Hour, by: BilledBy) -> list[Used]:
        """What each target or key had of the replica in that hour, by our own account."""
        group = attempts.c.target if by == "adapter" else requests.c.key_name
        query = (
            select(
                group.label("name"),
                func.sum(attempts.c.input_tokens).label("read"),
                func.sum(attempts.c.cached_tokens).label("cached"),
                func.sum(attempts.c.output_tokens).label("written"),
            )
            .select_from(attempts.join(requests, requests.c.id == attempts.c.request_id))
            .where(
                attempts.c.replica == hour.replica,
                attempts.c.started >= hour.start,
                attempts.c.started < hour.start + HOUR_S,
                requests.c.started >= hour.start - HOUR_S,
                requests.c.started < hour.start + HOUR_S,
            )
            .group_by(group)
        )
        with self._store.read() as connection:
            return [
                Used(str(row.name), float(row.read), float(row.cached), float(row.written))
                for row in connection.execute(query)
            ]


_decode = msgspec.json.Decoder(Hour).decode
