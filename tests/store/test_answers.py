"""What is read from the store for those who wait for it."""

import asyncio
import time

from gateway.store.adapters import AdapterBook
from gateway.store.answers import Answers
from gateway.store.feedback import FeedbackBook
from gateway.store.reader import Reader
from gateway.store.store import Store
from gateway.store.writer import Writer
from tests.store.world import keep, record


async def test_many_who_wait_for_what_is_being_written_are_all_answered(store: Store) -> None:
    """The writer is as one that gets no time: what it was given stays in its queue."""
    keep(store, record(7))
    writer = Writer(store)
    writer.put(record(8))
    answers = Answers(Reader(store), AdapterBook(store), FeedbackBook(store), writer, time.time)
    try:
        ids = ["req_000007", "req_000008"] * 20
        found = await asyncio.gather(*(answers.find(id, elsewhere=False) for id in ids))
    finally:
        answers.stop()
        writer.start()
        writer.stop()

    assert [row and row["id"] for row in found] == ["req_000007", None] * 20
