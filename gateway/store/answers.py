"""What is read from the store for those who wait for it, beside the event loop."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from gateway.errors import Overloaded
from gateway.store.adapters import AdapterBook
from gateway.store.feedback import Answered, FeedbackBook, Said
from gateway.store.reader import Reader
from gateway.store.store import StoreError
from gateway.store.writer import Writer
from gateway.types.records import Made, Record
from gateway.types.requests import Caller, Endpoint

log = logging.getLogger("switchboard")

T = TypeVar("T")

ANSWER_S = 3.0
"""How long a client waits for what is read from the store."""

MADE_S = 10.0
"""… and a request that goes on with a response, for who made that: without it the request fails."""

FLUSH_S = 2.0
"""How long it waits for a row that is being written."""

MADE = 10_000
"""Responses whose makers are remembered: what continues one of them waits for no store, and goes on
while it is away."""

LATER, LATER_S = 3, 0.3
"""How often, and how many seconds apart, a row is looked for that another worker may be writing."""


class Answers:
    """The store's answers, rows that have just ended among them. Each call raises Overloaded where
    the store is away, or says nothing in time."""

    def __init__(
        self,
        reader: Reader,
        book: AdapterBook,
        feedback: FeedbackBook,
        writer: Writer,
        now: Callable[[], float],
    ) -> None:
        self._reader = reader
        self._book = book
        self._feedback = feedback
        self._writer = writer
        self._now = now
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="store-reader")
        self._made: dict[str, Made] = {}

    def stop(self) -> None:
        """Nobody waits any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def ended(self, record: Record) -> None:
        """A request has ended here: who made its response is known from now on."""
        id, caller = record.completion_id, record.caller
        if (
            id is None
            or record.endpoint != Endpoint.RESPONSES.value
            or record.shadow_of is not None
        ):
            return
        self._remember(id, Made(record.target, record.replica, caller.key, caller.tenant))

    async def made(self, completion: str, *, elsewhere: bool) -> Made | None:
        """Who made a completion: of responses that ended here it is remembered, and of all others
        from when it was looked for first, as by `find`."""
        known = self._made.get(completion)
        if known is not None:
            return known
        look = functools.partial(self._reader.made, completion)
        found = await self._asked(look, patience_s=MADE_S)
        if found is None:
            await self._written()
            found = await self._found(look, elsewhere=elsewhere, patience_s=MADE_S)
        if found is not None:
            self._remember(completion, found)
        return found

    def _remember(self, completion: str, made: Made) -> None:
        if len(self._made) >= MADE:
            del self._made[next(iter(self._made))]
        self._made[completion] = made

    async def find(self, id: str, *, elsewhere: bool) -> dict[str, Any] | None:
        """The row of a request, decision or completion.

        What ended at another worker, where there are some `elsewhere`, is written half a second
        later.
        """
        await self._written()
        row = await self._found(functools.partial(self._reader.find, id), elsewhere=elsewhere)
        if row is not None:
            row["feedback"] = await self._asked(self._feedback.of, row["id"])
        return row

    async def answered(
        self, by: str, name: str, caller: Caller, *, elsewhere: bool
    ) -> list[Answered]:
        """The caller's requests that feedback means, looked for as by `find`."""
        await self._written()
        look = functools.partial(self._feedback.answered, by, name, caller)
        return await self._found(look, elsewhere=elsewhere)

    async def say(self, said: list[Said]) -> None:
        """Keeps feedback."""
        await self._asked(self._feedback.say, said)

    async def used(self) -> dict[str, dict[str, Any]]:
        """What each target used in the last hour."""
        await self._written()
        used = await self._asked(self._book.use, self._now() - 3600)
        return {target: msgspec.structs.asdict(use) for target, use in used.items()}

    async def changes(self, target: str) -> list[dict[str, Any]]:
        """An adapter's last revisions, the newest first."""
        changes = await self._asked(self._book.history, target)
        return [msgspec.to_builtins(change) for change in changes]

    async def _written(self) -> None:
        """Back when what has ended is written, or that takes too long.

        It holds no thread: those are few, and many may wait.
        """
        if self._writer.away:
            return
        loop, written = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # nobody waits where the loop is closed
                loop.call_soon_threadsafe(written.set)

        self._writer.flush_then(tell)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(written.wait(), FLUSH_S)

    async def _found(
        self, look: Callable[[], T], *, elsewhere: bool, patience_s: float = ANSWER_S
    ) -> T:
        """What is found, or nothing after another worker has had time to write it."""
        found = await self._asked(look, patience_s=patience_s)
        for _ in range(LATER if elsewhere else 0):
            if found:
                break
            await asyncio.sleep(LATER_S)
            found = await self._asked(look, patience_s=patience_s)
        return found

    async def _asked(self, call: Callable[..., T], *args: Any, patience_s: float = ANSWER_S) -> T:
        """In threads of its own: one that says nothing holds up no other."""
        away = Overloaded("The log cannot be read now.", code="store_away", retry_after=5)
        if self._writer.away:
            raise away
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(patience_s):
                return await loop.run_in_executor(self._threads, functools.partial(call, *args))
        except (StoreError, TimeoutError) as error:
            log.warning(
                "the log cannot be read: %s", str(error) or f"no answer in {patience_s:g} s"
            )
            raise away from error
