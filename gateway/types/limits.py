"""Limits and budgets, as declared."""

from collections.abc import Mapping
from typing import Any

import msgspec

NANO = 1_000_000_000
"""Nanodollars in a dollar."""


class Rate(msgspec.Struct, frozen=True, gc=False):
    """At most `amount` in any `per_s` seconds."""

    amount: int
    per_s: float


class Quota(msgspec.Struct, frozen=True, gc=False):
    """The limits and budgets of a key, a tenant or a route; None is no limit. Dollars a day and a
    month, of UTC.

    `lifted` are limits that do not hold though one for everybody is declared.
    """

    requests: Rate | None = None
    tokens: Rate | None = None
    concurrent: int | None = None
    day: float | None = None
    month: float | None = None
    lifted: frozenset[str] = frozenset()

    def over(self, others: "Quota | None") -> "Quota":
        """These limits, and those of `others` where there is none here."""
        if others is None:
            return self
        lifted = self.lifted

        def of(name: str) -> Any:
            own = getattr(self, name)
            return own if own is not None or name in lifted else getattr(others, name)

        return Quota(of("requests"), of("tokens"), of("concurrent"), of("day"), of("month"))

    @property
    def limits(self) -> bool:
        """Whether anything is limited by it."""
        return any(
            each is not None
            for each in (self.requests, self.tokens, self.concurrent, self.day, self.month)
        )


class Alerts(msgspec.Struct, frozen=True):
    """Who is told when a share of a budget is spent: a signed POST to `webhook`."""

    at: tuple[float, ...]
    webhook: str
    secret: str

    def __repr__(self) -> str:
        return f"Alerts({self.at})"


class Quotas(msgspec.Struct, frozen=True):
    """What is declared for keys and tenants; a key may have other limits of its own."""

    every_key: Quota | None = None
    every_tenant: Quota | None = None
    tenants: Mapping[str, Quota] = {}
    alerts: Alerts | None = None
