"""A classifier whose encoder's server goes away and comes back."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from gateway.classify.base import Classifier
from gateway.classify.embedding import fit_embedding
from gateway.classify.encoder import Encoder, EncoderError, HttpEncoder, TextRefused
from gateway.classify.standing import StandingClassifier
from tests.classify.servers import embeddings, port_of, vectors

EXAMPLES = [
    ("a short one", "short"),
    ("brief", "short"),
    ("this one is a good deal longer than the others are", "long"),
    ("and so is this one, which goes on and on and on", "long"),
]


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        yield client


def maker(client: httpx.Client, url: str) -> Callable[[], tuple[Encoder, Classifier]]:
    def make() -> tuple[Encoder, Classifier]:
        encoder = HttpEncoder(client, url, "small")
        return encoder, fit_embedding(EXAMPLES, encoder)

    return make


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log tells, each line's first words."""
    return [record.getMessage().partition(",")[0] for record in caplog.records]


AWAY = "the classifier's encoder is away"
BACK = "the classifier's encoder is there again"


def test_it_predicts_as_the_classifier_it_stands_for(client: httpx.Client) -> None:
    with embeddings(vectors) as url:
        _, plain = maker(client, url)()
        standing = StandingClassifier(maker(client, url))
        assert standing.predict("brief") == plain.predict("brief")
        assert (standing.labels, standing.threshold) == (plain.labels, plain.threshold)


def test_it_is_made_without_its_encoder_and_finds_it_later(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with embeddings(vectors) as url:
        pass
    standing = StandingClassifier(maker(client, url))
    standing.look()
    for _ in range(3):
        with pytest.raises(EncoderError, match="away"):
            standing.predict("brief")
    assert said(caplog) == [AWAY]
    assert url in caplog.text
    with embeddings(vectors, port_of(url)):
        standing.look()
        assert standing.predict("brief").label == "short"
    assert said(caplog) == [AWAY, BACK]


def test_each_change_is_logged_once(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with embeddings(vectors) as url:
        standing = StandingClassifier(maker(client, url))
        standing.predict("brief")
    assert said(caplog) == []
    for _ in range(3):
        with pytest.raises(EncoderError):
            standing.predict("brief")
        standing.look()
    assert said(caplog) == [AWAY]
    with embeddings(vectors, port_of(url)):
        standing.look()
        standing.predict("brief")
    with pytest.raises(EncoderError):
        standing.predict("brief")
    assert said(caplog) == [AWAY, BACK, AWAY]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_while_it_is_away_no_prediction_asks_for_it(client: httpx.Client) -> None:
    asked: list[Any] = []

    def fails(body: dict[str, Any]) -> tuple[int, bytes]:
        asked.append(body["input"])
        return 503, b"{}"

    with embeddings(fails) as url:
        standing = StandingClassifier(maker(client, url))
        assert asked == [["dimension"]]
        for _ in range(3):
            with pytest.raises(EncoderError):
                standing.predict("brief")
        assert asked == [["dimension"]]


def test_another_model_that_comes_back_is_fitted_anew(client: httpx.Client) -> None:
    def wider(body: dict[str, Any]) -> tuple[int, bytes]:
        rows = [[1.0, 2.0, float(len(text)), 0.0] for text in body["input"]]
        data = [{"index": at, "embedding": row} for at, row in enumerate(rows)]
        return 200, json.dumps({"data": data}).encode()

    with embeddings(vectors) as url:
        standing = StandingClassifier(maker(client, url))
    with embeddings(wider, port_of(url)):
        with pytest.raises(EncoderError, match="not every vector has 3 numbers"):
            standing.predict("brief")
        standing.look()
        assert standing.predict("brief").label == "short"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_is_refused_says_nothing_of_the_others(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    def choosy(body: dict[str, Any]) -> tuple[int, bytes]:
        return (status, b"{}") if "x" * 100 in body["input"] else vectors(body)

    with embeddings(choosy) as url:
        standing = StandingClassifier(maker(client, url))
        with pytest.raises(TextRefused, match=str(status)):
            standing.predict("x" * 100)
        assert standing.predict("brief").label == "short"
    assert said(caplog) == []
