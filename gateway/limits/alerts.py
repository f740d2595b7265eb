"""Tells a team when a share of a budget is spent, or an experiment has ended: a signed POST to the
URL that it declared.

    POST webhook
    x-switchboard-signature: t=1764028800,v1=HMAC-SHA256 in hex, of `1764028800.` and the body

Each share of each period is told once over all workers: whoever notices first claims it in the
store, and tries again while that is away. Answers other than 2xx are tried again; a redirect is not
followed, for only the URL that was declared is ever spoken to.
"""

import asyncio
import hmac
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

import httpx
import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from gateway.errors import SwitchboardError
from gateway.limits.accounts import Account, Budget
from gateway.types.limits import NANO, Alerts

log = logging.getLogger("switchboard.limits")

TRIES = 8
TIMEOUT_S = 10.0

CLAIM_TRIES = 64
"""A store that is away is asked again for about an hour."""

Claim = Callable[[str, str, float, float], Awaitable[bool]]
"""Account, period, when it began, share: whether nobody has told of it yet."""


class Alarm(Protocol):
    """Who is told that a budget has come to its `alert_at`."""

    def passed(self, account: Account, period: str, budget: Budget) -> float:
        """What of the budget must be spent, in nanodollars, until it is to be told again."""
        ...


class Undelivered(SwitchboardError):
    """The webhook did not take it."""


class BudgetAlerts:
    """The alerts of one gateway. `alerts` may be replaced; None tells nobody."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        claim: Claim,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.alerts: Alerts | None = None
        self.delivered = self.failed = 0
        self._http = http
        self._claim = claim
        self._now = now
        self._sleep = sleep
        self._claiming = asyncio.Semaphore(1)  # a store that is away holds up a thread for each
        self._noticed: set[tuple[str, str, float, float]] = set()
        self._under_way: set[asyncio.Task[None]] = set()

    def passed(self, account: Account, period: str, budget: Budget) -> float:
        """Tells of every declared share that is spent and was not told of; the next one's worth."""
        alerts = self.alerts
        if alerts is None:
            return math.inf
        for share in alerts.at:
            worth = share * budget.limit
            if budget.spent < worth:
                return worth
            occasion = (account.id, period, budget.starts, share)
            if occasion not in self._noticed:
                self._noticed.add(occasion)
                self._begin(alerts, occasion, self._message(account, period, budget, share))
        return math.inf

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tells of something else, once; whoever calls sees to it that no other worker does."""
        if self.alerts is not None:
            body = msgspec.json.encode({**event, "at": _instant(self._now())})
            self._beside(self._deliver(self.alerts, body, str(event["event"])))

    async def stop(self) -> None:
        """Gives up what is not delivered yet."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _message(self, account: Account, period: str, budget: Budget, share: float) -> bytes:
        now = self._now()
        told: dict[str, Any] = {
            "event": "budget.share_spent",
            "account": account.id,
            "who": account.who,
            "period": period,
            "starts": _instant(budget.starts),
            "ends": _instant(budget.ends),
            "share": share,
            "spent_usd": budget.spent / NANO,
            "limit_usd": budget.limit / NANO,
            "at": _instant(now),
        }
        return msgspec.json.encode(told)

    def _begin(self, alerts: Alerts, occasion: tuple[str, str, float, float], body: bytes) -> None:
        account, period = occasion[:2]
        about = f"the {period}'s budget of {account}"
        self._beside(self._deliver(alerts, body, about, partial(self._claim, *occasion)))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _deliver(
        self,
        alerts: Alerts,
        body: bytes,
        about: str,
        claim: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        try:
            if claim is not None and not await self._claimed(claim, about):
                return
            await self._tries(TRIES, Undelivered, httpx.HTTPError)(self._post, alerts, body)
        except (SwitchboardError, httpx.HTTPError) as error:
            self.failed += 1
            # Neither the URL, which may have a secret in it, nor what httpx says of it.
            said = str(error) if isinstance(error, SwitchboardError) else type(error).__name__
            log.error("nobody could be told of %s: %s", about, said)
            return
        self.delivered += 1
        log.info("told of %s", about)

    async def _claimed(self, claim: Callable[[], Awaitable[bool]], about: str) -> bool:
        """Whether it is ours to tell. Raises StoreError where that is not known in the end."""
        doubtful = False

        async def tried() -> bool:
            nonlocal doubtful
            async with self._claiming:
                try:
                    return await claim()
                except SwitchboardError as error:
                    if not doubtful:
                        log.warning("who tells of %s is not known yet: %s", about, error)
                    doubtful = True
                    raise

        ours: bool = await self._tries(CLAIM_TRIES, SwitchboardError)(tried)
        if doubtful and not ours:
            # It may be our own claim, of which the store did not say that it was written.
            log.warning(
                "%s was claimed while the store was away: it may be that nobody tells", about
            )
        return ours

    def _tries(self, most: int, *errors: type[Exception]) -> AsyncRetrying:
        return AsyncRetrying(
            stop=stop_after_attempt(most),
            wait=wait_exponential_jitter(initial=1, max=60),
            retry=retry_if_exception_type(errors),
            sleep=self._sleep,
            reraise=True,
        )

    async def _post(self, alerts: Alerts, body: bytes) -> None:
        headers = {
            "content-type": "application/json",
            "x-switchboard-signature": signature(alerts.secret, body, self._now()),
        }
        answer = await self._http.post(
            alerts.webhook,
            content=body,
            headers=headers,
            timeout=TIMEOUT_S,
            follow_redirects=False,
        )
        if not answer.is_success:
            raise Undelivered(f"the webhook answered {answer.status_code}")


def signature(secret: str, body: bytes, now: float) -> str:
    """`t=…,v1=…`: the time is signed too, so that a receiver can refuse what is old."""
    at = int(now)
    digest = hmac.new(secret.encode(), b"%d." % at + body, sha256).hexdigest()
    return f"t={at},v1={digest}"


def _instant(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
