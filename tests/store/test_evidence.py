"""How targets did on known cases, kept by route, target, metric and source."""

import pytest

from gateway.store.evidence import Evidence, EvidenceBook
from gateway.store.store import Store
from gateway.types.routes import Metric
from tests.store.world import AT


def found(n: float, right: float, source: str = "eval:clauses/1", at: float = AT) -> Evidence:
    return Evidence("contracts", "local/qwen", "accepted", source, n, right, at)


def test_what_a_source_says_again_takes_the_place_of_what_it_said(store: Store) -> None:
    book = EvidenceBook(store)
    book.add([found(20, 15), found(30, 29, "eval:clauses/2", AT + 1)])
    book.add([found(40, 33, at=AT + 2)])
    book.add([])
    assert book.read() == [found(30, 29, "eval:clauses/2", AT + 1), found(40, 33, at=AT + 2)]


@pytest.mark.parametrize(
    ("comparison", "bound", "right", "wrong"),
    [("=", 1.0, 1.0, 0.0), (">=", 4, 4, 3.9), (">", 4, 4.1, 4), ("<=", 2, 2, 3), ("<", 2, 1, 2)],
)
def test_a_metric_says_when_an_answer_is_right(
    comparison: object, bound: float, right: float, wrong: float
) -> None:
    metric = Metric("m", "score", comparison=comparison, bound=bound)  # type: ignore[arg-type]
    assert (metric.is_right(right), metric.is_right(wrong)) == (True, False)
    assert Metric("m", "score").is_right(right) is None
