"""What is declared to be kept for so long only, let go beside serving, by one worker of all."""

import asyncio
import logging
from collections.abc import Callable

from gateway.complaints import Complaint
from gateway.errors import SwitchboardError
from gateway.store.retention import Gone, Horizon, RetentionBook
from gateway.types.snapshot import Retention

log = logging.getLogger("switchboard")

EVERY_S = 600.0
"""How often the store is looked at."""
PAUSE_S = 0.2
"""Between two batches: those who write rows go first."""
LATE_S = 7 * 86_400.0
"""Rows that waited on disk while the store was away are written that late at most; those which
come later still go when the gateway has started again."""


def horizon_of(retention: Retention, now: float, looked: float = 0.0) -> Horizon:
    """What is too old at that instant. Pure."""
    texts, whole = retention.text_s, retention.requests_s
    return Horizon(
        0.0 if texts is None else now - texts, 0.0 if whole is None else now - whole, looked
    )


class Retaining:
    """Lets go of what is old, again and again."""

    def __init__(
        self,
        book: RetentionBook,
        declared: Callable[[], Retention],
        *,
        leads: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        """Nothing is done while this process does not `leads`; `now` is in Unix time."""
        self._book = book
        self._declared = declared
        self._leads = leads
        self._now = now
        self._looked = 0.0

    async def run(self) -> None:
        """Looks for ever."""
        away = Complaint(log, "what is old is kept for now")
        while True:
            try:
                if self._leads():
                    await self.look()
                away.over()
            except SwitchboardError as error:
                away.about(error)
            await asyncio.sleep(EVERY_S)

    async def look(self) -> Gone:
        """Lets everything go that is too old by now. Raises StoreError."""
        horizon = horizon_of(self._declared(), self._now(), self._looked)
        gone, batches = Gone(), self._book.batches(horizon)
        while batch := await asyncio.to_thread(next, batches, None):
            gone += batch
            await asyncio.sleep(PAUSE_S)
        self._looked = max(self._looked, horizon.texts - LATE_S)
        if gone:
            log.info("old by now, and let go: %s", told(gone))
        return gone


def told(gone: Gone) -> str:
    """In words."""
    return (
        f"{gone.requests} requests, {gone.runs} eval runs; of others the texts of {gone.texts}"
        f" requests and {gone.prompts} eval prompts, and {gone.remarks} remarks"
    )
