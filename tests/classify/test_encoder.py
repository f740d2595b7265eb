from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.classify.encoder import Encoder, EncoderError, HttpEncoder
from tests.classify.servers import Answer, embeddings, vectors


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        yield client


def test_vectors_come_in_the_order_of_the_texts_and_in_batches(client: httpx.Client) -> None:
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        asked.append(body)
        return vectors(body)

    with embeddings(answer) as url:
        encoder: Encoder = HttpEncoder(client, url + "/", "small", batch=2)
        rows = encoder.encode(["a", "b c", "d e f", "", "ghi"])
    assert rows.tolist() == [[1, 0, 1], [3, 1, 1], [5, 2, 1], [1, 1, 1], [3, 0, 1]]
    assert encoder.dim == 3
    assert [len(body["input"]) for body in asked] == [1, 2, 2, 1]
    assert {body["model"] for body in asked} == {"small"}


def test_the_id_names_server_and_model(client: httpx.Client) -> None:
    with embeddings(vectors) as url:
        one, two = HttpEncoder(client, url, "one"), HttpEncoder(client, url, "two")
    assert one.id != two.id
    assert url in one.id


@pytest.mark.parametrize(
    "answer",
    [
        lambda body: (500, b"{}"),
        lambda body: (200, b"not json"),
        lambda body: (200, b'{"data": [{"index": 0}]}'),
        lambda body: (200, b'{"data": []}'),
        lambda body: (200, b'{"data": [{"index": 1, "embedding": [1.0]}]}'),
    ],
)
def test_an_answer_without_vectors_names_the_url(client: httpx.Client, answer: Answer) -> None:
    with embeddings(answer) as url, pytest.raises(EncoderError, match=f"{url}/embeddings"):
        HttpEncoder(client, url, "small")


def test_vectors_of_changing_length_are_refused(client: httpx.Client) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        if body["input"] == ["dimension"]:
            return 200, b'{"data": [{"index": 0, "embedding": [1.0, 2.0]}]}'
        return 200, b'{"data": [{"index": 0, "embedding": [1.0]}]}'

    with embeddings(answer) as url:
        encoder = HttpEncoder(client, url, "small")
        with pytest.raises(EncoderError, match="not every vector has 2 numbers"):
            encoder.encode(["text"])


def test_a_server_that_is_gone_is_named(client: httpx.Client) -> None:
    with embeddings(vectors) as url:
        encoder = HttpEncoder(client, url, "small")
    with pytest.raises(EncoderError, match="small"):
        encoder.encode(["text"])
