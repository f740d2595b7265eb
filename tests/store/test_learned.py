"""Versions of what was learned, and what is learned from, in either database."""

from typing import Any

import msgspec

from gateway.store.feedback import FeedbackBook, Said
from gateway.store.learned import MODELS, Kept, LearnedBook
from gateway.store.store import Store
from gateway.types.routes import Metric
from tests.store.world import AT, keep, record


def kept(version: str, *, used: bool = True, kind: str = "words") -> Kept:
    return Kept("general", version, kind, AT, "ann", used, "{}")


def test_the_last_that_is_used_counts_and_may_be_gone_back_to(store: Store) -> None:
    book = LearnedBook(store)
    assert (book.last_seq(), book.current(), book.model("general", "a")) == (0, {}, None)
    first = book.save(kept("a"), b"one")
    book.save(kept("b", used=False), b"two")
    assert book.current() == {"general": first}
    other = book.save(kept("c", kind="others"), b"three")
    assert book.last_seq() > first.seq
    assert book.current() == {"general": other}
    back = book.save(kept("b"), None)
    assert book.current() == {"general": back}
    assert book.model("general", "b") == b"two"
    assert [each.version for each in book.history("general")] == ["a", "b", "c", "b"]
    assert book.history("other") == []


def test_models_that_are_old_and_not_used_are_let_go(store: Store) -> None:
    book = LearnedBook(store)
    book.save(kept("used"), b"used")
    for n in range(MODELS + 2):
        book.save(kept(f"v{n}", used=False), b"x")
    assert book.model("general", "used") == b"used"
    assert book.model("general", "v1") is None
    assert book.model("general", "v2") == b"x"
    assert len(book.history("general")) == MODELS + 3


METRIC = Metric("accepted", "boolean", comparison="=", bound=1.0, within_s=100.0)


def said(n: int, value: float, **more: Any) -> Said:
    plain = Said(f"req_{n:06}", "accepted", value, None, None, "key_1", AT + n + 2)
    return msgspec.structs.replace(plain, **more)


def test_what_can_be_learned_from_is_read(store: Store) -> None:
    keep(store, *(record(n, features=b"\x01") for n in range(6)))
    keep(store, record(6, text="a clause"), record(7), record(8, shadow_of="req_1"))
    book = FeedbackBook(store)
    late = {"key": "key_2", "at": AT + 500.0}
    book.say([said(0, 1.0), said(1, 1.0, key="a"), said(2, 1.0, **late), said(7, 1.0)])
    book.say([said(1, 0.0, key="b"), said(6, 1.0), said(3, 1.0, metric="other")])

    told = book.lessons("contracts", METRIC, 0.0, AT + 1000.0, 10, 3)
    assert (told.nothing_kept, told.young) == (1, 0)
    by_id = {each.id: each for each in told.found}
    assert {n: by_id[f"req_{n:06}"].right for n in (0, 1, 6)} == {0: True, 1: False, 6: True}
    assert by_id["req_000006"].text == "a c"
    assert {id for id, each in by_id.items() if each.right is None} == {
        f"req_{n:06}" for n in (2, 3, 4, 5)
    }
    few = book.lessons("contracts", METRIC, 0.0, AT + 1000.0, 2, 3)
    assert [each.id for each in few.found if each.right is not None] == ["req_000001", "req_000006"]
    assert {each.stands for each in few.found if each.right is None} == {2}
    assert book.lessons("contracts", METRIC, 0.0, AT + 6.0, 10, 3).young == 4
    assert book.lessons("contracts", METRIC, AT + 5.5, AT + 1000.0, 10, 3).found[0].at == AT + 6
