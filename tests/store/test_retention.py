"""What was kept for long enough goes, and nothing else, in either database."""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import func, select

from gateway.retention import LATE_S, Retaining
from gateway.store import retention, schema
from gateway.store.evaluated import EvalBook, Evaluated, Prompt
from gateway.store.feedback import FeedbackBook, Said
from gateway.store.reader import Reader
from gateway.store.retention import Gone, Horizon, RetentionBook
from gateway.store.store import Store, StoreAway
from gateway.types.snapshot import Retention
from tests.store.world import AT, keep, record, url

TEXTS = {"text": "a clause", "answer": "an answer", "messages": "[]"}


def kept(store: Store) -> None:
    """Six requests with text, a second apart; each second one was spoken of; and two eval runs."""
    keep(store, *(record(n, features=b"\x01", **TEXTS) for n in range(6)))
    said = [Said(f"req_{n:06}", "accepted", 1.0, "well", "so", "k", AT + n) for n in (0, 2, 4)]
    FeedbackBook(store).say(said)
    for run, at in (("a/1", AT), ("a/2", AT + 5.0)):
        prompts = [Prompt(f"d{n}", "add up", b"\x01", (("small", 1.0, 0.001),)) for n in range(3)]
        EvalBook(store).add(Evaluated(run, "general", run, at), prompts)


def all_of(book: RetentionBook, horizon: Horizon) -> Gone:
    return sum(book.batches(horizon), Gone())


def count(store: Store, table: str) -> int:
    with store.read() as connection:
        return (
            connection.scalar(select(func.count()).select_from(schema.metadata.tables[table])) or 0
        )


def test_old_texts_are_erased_and_the_rest_is_kept(store: Store) -> None:
    kept(store)
    book, horizon = RetentionBook(store), Horizon(texts=AT + 3.0)
    before = [Reader(store).find(f"req_{n:06}") for n in range(6)]
    assert book.due(horizon) == Gone(texts=3, remarks=2, prompts=3)
    assert not book.due(Horizon())
    assert all_of(book, horizon) == Gone(texts=3, remarks=2, prompts=3)
    assert not book.due(horizon)
    after = [Reader(store).find(f"req_{n:06}") for n in range(6)]
    nothing = dict.fromkeys(TEXTS, None)
    assert after[3:] == before[3:]
    assert after[:3] == [{**(row or {}), **nothing} for row in before[:3]]
    with store.read() as connection:
        remarks = connection.execute(
            select(schema.feedback.c.comment, schema.feedback.c.correction, schema.feedback.c.value)
        ).all()
    assert sorted(map(tuple, remarks), key=str) == sorted(
        [(None, None, 1.0), (None, None, 1.0), ("well", "so", 1.0)], key=str
    )
    runs = dict(EvalBook(store).read("general"))
    assert [each.text for each in runs["a/1"] + runs["a/2"]] == [None] * 3 + ["add up"] * 3
    assert {each.features for each in runs["a/1"]} == {b"\x01"}


def test_old_requests_go_with_all_that_hangs_on_them(store: Store) -> None:
    kept(store)
    book, horizon = RetentionBook(store), Horizon(requests=AT + 3.0)
    assert all_of(book, horizon) == Gone(requests=3, runs=1)
    tables = ("requests", "attempts", "feedback", "eval_runs", "eval_prompts")
    assert [count(store, table) for table in tables] == [3, 3, 1, 1, 3]
    assert Reader(store).find("req_000002") is None
    last = Reader(store).find("req_000005")
    assert last is not None
    assert last["text"] == "a clause"


def test_it_goes_in_small_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    kept(store)
    steps = list(RetentionBook(store).batches(Horizon(texts=AT + 9.0, requests=AT + 3.0)))
    assert [step.requests for step in steps if step.requests] == [2, 1]
    assert [step.texts for step in steps if step.texts] == [2, 1]
    assert count(store, "requests") == 3


def test_what_was_looked_at_is_not_read_again(store: Store) -> None:
    kept(store)
    looked = Horizon(texts=AT + 3.0, looked=AT + 1.5)
    assert all_of(RetentionBook(store), looked) == Gone(texts=1, remarks=1, prompts=3)


def test_what_is_erased_is_nowhere_in_the_file(tmp_path: Path) -> None:
    secret = "the name of my first dog"
    store = Store.open(url(tmp_path))
    keep(store, *(record(n, **{**TEXTS, "text": f"{n} {secret}" * 30}) for n in range(50)))
    all_of(RetentionBook(store), Horizon(texts=AT + 99.0))
    store.close()
    with sqlite3.connect(tmp_path / "switchboard.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    files = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert files
    assert not any(secret.encode() in each for each in files)


async def test_one_of_all_lets_go_of_what_is_declared(
    sqlite: Store, caplog: pytest.LogCaptureFixture
) -> None:
    kept(sqlite)
    declared, leads = Retention(), [False]
    looked: list[Horizon] = []

    class Looks(RetentionBook):
        def batches(self, horizon: Horizon) -> Iterator[Gone]:
            looked.append(horizon)
            return super().batches(horizon)

    retaining = Retaining(
        Looks(sqlite), lambda: declared, leads=lambda: leads[0], now=lambda: AT + 100.0
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(retaining.run(), 0.2)
    assert not looked  # another does it
    assert not await retaining.look()  # nothing is declared
    declared, leads[0] = Retention(text_s=97.5), True
    caplog.set_level(logging.INFO, "switchboard")
    assert await retaining.look() == Gone(texts=3, remarks=2, prompts=3)
    assert "the texts of 3 requests" in caplog.text
    assert not await retaining.look()
    assert looked[-1] == Horizon(AT + 2.5, 0.0, AT + 2.5 - LATE_S)


async def test_a_store_that_is_away_is_complained_of_once(
    sqlite: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(RetentionBook):
        def batches(self, horizon: Horizon) -> Iterator[Gone]:
            raise StoreAway("the store is away")

    monkeypatch.setattr("gateway.retention.EVERY_S", 0.01)
    retaining = Retaining(
        Away(sqlite), lambda: Retention(text_s=1.0), leads=lambda: True, now=lambda: AT
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(retaining.run(), 0.3)
    assert caplog.text.count("what is old is kept for now: the store is away") == 1


def test_what_went_is_added_up() -> None:
    assert Gone(1, 2) + Gone(texts=3) == Gone(1, 2, 3)
    assert not Gone()
    assert msgspec.structs.astuple(Gone(remarks=1)) == (0, 0, 0, 1, 0)
