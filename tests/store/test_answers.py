"""What is read from the store for those who wait for it."""

import asyncio
import time

import pytest

from gateway.store.adapters import AdapterBook
from gateway.store.answers import Answers
from gateway.store.feedback import FeedbackBook
from gateway.store.reader import Reader
from gateway.store.store import Store
from gateway.store.writer import Writer
from gateway.types.records import Made
from tests.store.world import keep, record


async def test_of_very_many_responses_the_last_are_remembered(
    sqlite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.answers.MADE", 3)
    monkeypatch.setattr("gateway.store.answers.FLUSH_S", 0.01)  # the writer is not started
    keep(sqlite, record(0, endpoint="responses"))
    answers = Answers(
        Reader(sqlite), AdapterBook(sqlite), FeedbackBook(sqlite), Writer(sqlite), time.time
    )
    for n in range(1, 5):
        answers.ended(record(n, endpoint="responses"))
    answers.ended(record(5))  # a chat's answer is nowhere gone on from
    answers.ended(record(6, endpoint="responses", shadow_of="req_1"))
    found = {
        n: await answers.made(f"chatcmpl-{n}", elsewhere=False)  # none was written but the first
        for n in reversed(range(7))  # what is found in the log pushes another out
    }
    answers.stop()
    made = Made("local/qwen+contracts", "http://gpu-1:8000", "key_1", "acme")
    assert found == {0: made, 1: None, 2: made, 3: made, 4: made, 5: None, 6: None}


async def test_who_made_anothers_response_is_looked_for_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.answers.FLUSH_S", 0.01)  # the writer is not started
    keep(store, record(0, endpoint="responses"), record(1), record(2, endpoint="responses"))
    reader = Reader(store)
    looked: list[str] = []

    def counted(completion: str) -> Made | None:
        looked.append(completion)
        return Reader(store).made(completion)

    reader.made = counted  # type: ignore[method-assign]
    answers = Answers(reader, AdapterBook(store), FeedbackBook(store), Writer(store), time.time)
    for _ in range(3):
        assert await answers.made("chatcmpl-2", elsewhere=False) is not None
    assert looked == ["chatcmpl-2"]
    assert await answers.made("chatcmpl-1", elsewhere=False) is not None, "chats are kept as well"
    assert await answers.made("req_000002", elsewhere=False) is None, "nor is a request's id"
    answers.stop()


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
