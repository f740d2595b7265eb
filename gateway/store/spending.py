"""What keys, tenants and routes have spent, by the log, and which alerts were told."""

from collections.abc import Mapping

from sqlalchemy import Column, case, func, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from gateway.store.schema import budget_alerts, requests
from gateway.store.store import Store, StoreError
from gateway.types.limits import NANO

LONGEST_S = 86_400.0
"""Requests that end in a month began at most this long before it."""


class SpendingBook:
    """Spending by the store's rows."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def before(self, until: float, day: float, month: float) -> Mapping[str, tuple[int, int]]:
        """Of `key:ID`, `tenant:NAME` and `route:NAME`, the nanodollars of the requests that ended
        before `until`, in the day and in the month that begin at these instants.

        Raises StoreError.
        """
        ended = requests.c.started + requests.c.total_s
        in_day = func.sum(case((ended >= day, requests.c.cost_usd), else_=0.0))
        in_month = func.sum(requests.c.cost_usd)
        names: tuple[tuple[str, Column[str | None]], ...] = (
            ("key", requests.c.key),
            ("tenant", requests.c.tenant),
            ("route", requests.c.route),
        )
        columns = [column for _, column in names]
        query = (
            select(*columns, in_day.label("in_day"), in_month.label("in_month"))
            .where(requests.c.started >= month - LONGEST_S, ended >= month, ended < until)
            .where(requests.c.cost_usd > 0, requests.c.shadow_of.is_(None))
            .group_by(*columns)
        )
        try:
            with self._store.read() as connection:
                rows = connection.execute(query).all()
        except SQLAlchemyError as error:
            raise StoreError(f"spending cannot be read: {error}") from error
        found: dict[str, tuple[int, int]] = {}
        for row in rows:
            for (kind, _), name in zip(names, row[:3], strict=True):
                if name is None and kind != "key":
                    continue
                id = f"{kind}:{name if name is not None else 'anonymous'}"
                before = found.get(id, (0, 0))
                found[id] = (
                    before[0] + round(row.in_day * NANO),
                    before[1] + round(row.in_month * NANO),
                )
        return found

    def claim_alert(
        self, account: str, period: str, starts: float, share: float, now: float
    ) -> bool:
        """Whether nobody has told of that share of that period yet; from now on somebody has.

        Raises StoreError.
        """
        values = {
            "account": account,
            "period": period,
            "starts": starts,
            "share": share,
            "claimed": now,
        }
        try:
            with self._store.change() as connection:
                connection.execute(insert(budget_alerts).values(**values))
        except StoreError as error:
            if isinstance(error.__cause__, IntegrityError):
                return False
            raise
        return True
