"""Eval runs in the store, in either database."""

import msgspec

from gateway.store.evaluated import EvalBook, Evaluated, Prompt
from gateway.store.store import Store

RUN = Evaluated("sums/1", "general", "a", 5.0)
TEXT = Prompt("d1", "add \0 up", None, (("small", 1.0, 0.001), ("big", 0.5, 0.002)))
FEATURES = Prompt("d2", None, b"\x01\x00", (("small", 0.0, 0.001),))


def test_a_run_is_kept_once_and_taken_again_where_it_has_changed(store: Store) -> None:
    book = EvalBook(store)
    assert book.read("general") == []
    assert book.add(RUN, [TEXT, FEATURES])
    assert not book.add(RUN, [FEATURES])
    whole = msgspec.structs.replace(TEXT, text="add \ufffd up")
    assert book.read("general") == [("sums/1", [whole, FEATURES])]
    assert book.add(msgspec.structs.replace(RUN, hash="b"), [FEATURES])
    assert book.add(msgspec.structs.replace(RUN, run="sums/0", at=1.0), [TEXT])
    assert [(run, len(prompts)) for run, prompts in book.read("general")] == [
        ("sums/0", 1),
        ("sums/1", 1),
    ]
    assert book.read("other") == []
