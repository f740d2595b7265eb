"""Encoders turn texts into vectors: a local BERT (bert.py), or a server with OpenAI's API."""

from collections.abc import Sequence
from typing import Protocol

import httpx
import msgspec
import numpy as np

from gateway.classify.softmax import Floats
from gateway.errors import SwitchboardError, said

_REFUSED = frozenset({400, 413, 422})


class EncoderError(SwitchboardError):
    """The encoder's files cannot be used, or its server did not give vectors."""


class TextRefused(EncoderError):
    """The encoder's server is there, but does not take these texts (one is too long, perhaps)."""


class Encoder(Protocol):
    """`encode` gives one row of float32 a text, [n, dim], and may be called from any thread.

    `id` changes whenever the vectors would: fits are cached under it. `depth` are the columns that
    tell best how hard a text is, rather than what it is about.
    """

    @property
    def dim(self) -> int: ...

    @property
    def id(self) -> str: ...

    @property
    def depth(self) -> slice: ...

    def encode(self, texts: Sequence[str]) -> Floats: ...


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Item]


class HttpEncoder:
    """Any server with OpenAI's `POST {base_url}/embeddings`, asked in batches.

    `client` carries timeouts and headers and stays the caller's to close. `dim` is learned by one
    request when the encoder is made. Every failure is an EncoderError that names the URL; status
    400, 413 and 422 are TextRefused.
    """

    def __init__(self, client: httpx.Client, base_url: str, model: str, batch: int = 64) -> None:
        self._client = client
        self._url = f"{base_url.rstrip('/')}/embeddings"
        self._model = model
        self._batch = batch
        self.dim = len(self._ask(["dimension"])[0])
        self.id = f"{self._url} {model} {self.dim}"
        self.depth = slice(0, self.dim)

    def encode(self, texts: Sequence[str]) -> Floats:
        """One request for each batch of texts."""
        rows = [
            row
            for at in range(0, len(texts), self._batch)
            for row in self._ask(texts[at : at + self._batch])
        ]
        if any(len(row) != self.dim for row in rows):
            raise EncoderError(f"{self._url}: not every vector has {self.dim} numbers")
        return np.array(rows, np.float32).reshape(len(texts), self.dim)

    def _ask(self, texts: Sequence[str]) -> list[list[float]]:
        # An empty text is refused by many servers; a blank one means the same.
        body = {"model": self._model, "input": [text or " " for text in texts]}
        try:
            response = self._client.post(self._url, json=body).raise_for_status()
            answer = msgspec.json.decode(response.content, type=_Answer)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            kind = TextRefused if _refuses(error) else EncoderError
            raise kind(
                f"{self._url}: no vectors from model '{self._model}': {said(error)}"
            ) from error
        items = sorted(answer.data, key=lambda item: item.index)
        if [item.index for item in items] != list(range(len(texts))):
            raise EncoderError(f"{self._url}: {len(items)} vectors for {len(texts)} texts")
        return [item.embedding for item in items]


def _refuses(error: Exception) -> bool:
    """Whether another text may well be taken."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in _REFUSED
