"""Eval runs as they are learned from, through the store."""

from pathlib import Path

import msgspec
import pytest

from gateway.evals.lessons import answers_of, keep_run, kept_answers
from gateway.learn.kinds import WORDS
from gateway.learn.rows import rows_of
from gateway.store.evaluated import EvalBook, Evaluated
from gateway.store.store import Store
from gateway.types.routes import Keep
from tests.evals.test_compare import a_run, result

RUN = msgspec.structs.replace(a_run(), id="1", suite="sums", route="general")
TARGETS = ("small", "big")
RESULTS = [
    result(case, target, right, input=f"add up {case}", cost_usd=0.001)
    for case in range(60)
    for target, right in (("small", case % 2 == 0), ("big", True))
]


@pytest.mark.parametrize("keep", ["features", "text"])
def test_what_another_host_learns_from_is_what_lies_in_the_directory(
    tmp_path: Path, keep: Keep
) -> None:
    book = EvalBook(Store.open(f"sqlite:///{tmp_path}/x.db"))
    assert keep_run(book, RUN, RESULTS, keep, WORDS)
    assert not keep_run(book, RUN, RESULTS, keep, WORDS)
    found, names, others = kept_answers(book, "general", (), WORDS)
    assert (names, others) == (("sums/1",), 0)
    assert {each.text != "" for each in found} == {keep == "text"}
    there, here = rows_of(found, TARGETS, WORDS), rows_of(answers_of(RUN, RESULTS), TARGETS, WORDS)
    assert there.keys == here.keys
    for name in ("vectors", "plain", "right", "cost", "known"):
        assert (getattr(there, name) == getattr(here, name)).all()
    assert kept_answers(book, "general", {"sums/1"}, WORDS) == ([], (), 0)
    both = rows_of([*answers_of(RUN, RESULTS), *found], TARGETS, WORDS)
    assert len(both.keys) == 60


def test_a_route_that_keeps_nothing_has_nothing_in_the_store(tmp_path: Path) -> None:
    book = EvalBook(Store.open(f"sqlite:///{tmp_path}/x.db"))
    assert not keep_run(book, RUN, RESULTS, "none", WORDS)
    assert not keep_run(book, msgspec.structs.replace(RUN, route=None), RESULTS, "text", WORDS)
    assert book.read("general") == []


def test_features_of_another_kind_are_counted_and_left_out(tmp_path: Path) -> None:
    book = EvalBook(Store.open(f"sqlite:///{tmp_path}/x.db"))
    keep_run(book, RUN, RESULTS, "features", WORDS)
    (name, prompts) = book.read("general")[0]
    old = [msgspec.structs.replace(prompts[0], features=b"\xff"), *prompts[1:]]
    book.add(msgspec.structs.replace(_about(name), hash="old"), old)
    found, _, others = kept_answers(book, "general", (), WORDS)
    assert (len(found), others) == (118, 1)


def _about(name: str) -> Evaluated:
    return Evaluated(name, "general", "", 1.0)
