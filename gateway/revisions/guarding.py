"""Watches a revision that was applied under a guard, and goes back from one that does worse.

What happened is read from the store, so that whichever process looks sees all of the traffic; of
several that find it worse one goes back, and the others notice.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.errors import SwitchboardError
from gateway.revisions.guard import Ended, Judgement, Limits, judged, seen
from gateway.revisions.running import Running
from gateway.store.reader import Reader
from gateway.store.revisions import Moved, Revision

log = logging.getLogger("switchboard")

LOOK_EVERY_S = 1.0
BEFORE_S = 600.0
"""Requests of that long before the change are compared with, or of the guard's own time if that is
longer."""
MOST = 5000
"""Requests that are read on each side, the latest."""

Flush = Callable[[], Awaitable[object]]
"""Writes the rows that are waiting to be written."""

Noted = Callable[..., Awaitable[None]]
"""Writes into the audit log what the gateway did by itself: the action, its subject, details."""


class Guarding:
    """Looks after the revision that runs, as long as its guard lasts."""

    def __init__(
        self,
        running: Running,
        reader: Reader,
        flush: Flush,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        noted: Noted,
    ) -> None:
        self._running = running
        self._reader = reader
        self._flush = flush
        self._now = now
        self._sleep = sleep
        self._noted = noted
        self.so_far = ""

    def told(self) -> dict[str, Any] | None:
        """What `/ready` says of the guard that lasts now."""
        revision = self._running.revision
        if revision is None or not _open(revision):
            return None
        assert revision.guard is not None
        return {
            "revision": revision.seq,
            "until": revision.saved + revision.guard.window,
            "so_far": self.so_far,
        }

    async def run(self) -> None:
        """Looks again and again."""
        guarded: Revision | None = None
        while True:
            revision = self._running.revision
            if guarded is not None and (revision is None or revision.seq != guarded.seq):
                await self._left(guarded)
                guarded = None
            if revision is not None and _open(revision):
                guarded = revision
                try:
                    await self.look(revision)
                except Exception:
                    log.exception("the guard of revision %d could not look", revision.seq)
            await self._sleep(LOOK_EVERY_S)

    async def look(self, revision: Revision) -> Judgement:
        """Judges once; goes back, or ends the guard, if it is time to."""
        guard = revision.guard
        assert guard is not None
        await self._flush()
        judgement = await asyncio.to_thread(self._judged, revision)
        self.so_far = judgement.why
        if judgement.worse:
            await self._go_back(revision, judgement.why)
        elif self._now() >= revision.saved + guard.window:
            if await self._end(revision, f"kept: {judgement.why}"):
                await self._noted("guard kept", _name(revision), why=judgement.why)
            log.info("revision %d is kept: %s", revision.seq, judgement.why)
        return judgement

    def _judged(self, revision: Revision) -> Judgement:
        guard = revision.guard
        assert guard is not None
        since = revision.saved - max(BEFORE_S, guard.window)
        before = self._reader.ended(since, until=revision.saved, limit=MOST)
        after = self._reader.ended(revision.saved, snapshot=revision.hash, limit=MOST)
        return judged(
            seen(Ended(*row) for row in before),
            seen(Ended(*row) for row in after),
            Limits(guard.errors, guard.latency),
        )

    async def _go_back(self, revision: Revision, why: str) -> None:
        said = f"revision {revision.seq} was rolled back by its guard: {why}"
        log.warning("%s", said)
        try:
            back = await self._running.roll_back(
                None, "guard", kind="guard", note=said, of=revision.seq
            )
        except Moved:
            return  # another process, or a person, was first
        except SwitchboardError as error:
            log.error("revision %d serves on: %s", revision.seq, error)
            if await self._end(revision, f"worse, but there is no going back: {error}; {why}"):
                await self._noted(
                    "guard rollback", _name(revision), outcome="failed", why=why, error=str(error)
                )
            return
        to = back.revision.restores
        await self._noted("guard rollback", _name(revision), why=why, to=f"revision {to}")
        await self._end(revision, f"rolled back: {why}", anew=True)

    async def _left(self, revision: Revision) -> None:
        """Another revision came while the guard lasted; unless its end is written already."""
        came = self._running.revision
        if came is not None and came.kind == "guard":
            await self._end(revision, f"rolled back: {came.note}")
        else:
            await self._end(revision, f"not ended: revision {self._running.seq} came")

    async def _end(self, revision: Revision, verdict: str, *, anew: bool = False) -> bool:
        """Whether it was not at its end already."""
        book = self._running.book
        ended = await asyncio.to_thread(book.end_guard, revision.seq, verdict, anew=anew)
        self._running.guard_ended(revision.seq, verdict)
        return ended


def _name(revision: Revision) -> str:
    return f"revision {revision.seq}"


def _open(revision: Revision) -> bool:
    return revision.guard is not None and not revision.verdict
