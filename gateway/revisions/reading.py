"""Kept texts recognised again, as another configuration would have it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.classify.declared import declared
from gateway.classify.recognise import Recogniser
from gateway.classify.rules import read_of
from gateway.errors import SwitchboardError
from gateway.types.requests import Caller, Endpoint, Needs, Request
from gateway.types.snapshot import Snapshot

TURNS = 6
"""How many of the user's turns are read, the last ones: as many as of a request that is served."""

_CHAT = msgspec.json.Decoder(list[dict[str, Any]])


class Reading:
    """The routes of kept chats under one snapshot; its classifier is fitted when it is first
    needed."""

    def __init__(self, snapshot: Snapshot, cache: Path | None) -> None:
        self._snapshot, self._cache = snapshot, cache
        self._recogniser: Recogniser | None = None

    def __call__(self, asked: Sequence[tuple[str, str]]) -> list[str | None]:
        """The route of each (model, messages as JSON); None where it would be refused.

        Raises EncoderError where the classifier's encoder cannot be used here.
        """
        if self._recogniser is None:
            classifier = declared(self._snapshot, self._cache).classifier
            self._recogniser = Recogniser(self._snapshot, classifier)
        return asyncio.run(self._all(self._recogniser, asked))

    async def _all(
        self, recogniser: Recogniser, asked: Sequence[tuple[str, str]]
    ) -> list[str | None]:
        found: list[str | None] = []
        for model, messages in asked:
            try:
                told = await recogniser.recognise(_request(model, messages))
                found.append(told.recognition.route)
            except (SwitchboardError, msgspec.DecodeError):
                found.append(None)
        return found


def _request(model: str, messages: str) -> Request:
    """A request as far as recognising reads it."""
    texts = [
        text
        for each in _CHAT.decode(messages)
        if each.get("role") == "user"
        for text in _texts(each)
    ]
    return Request(
        id="",
        endpoint=Endpoint.CHAT,
        model=model,
        stream=False,
        fields={},
        headers={},
        caller=Caller(),
        needs=Needs(),
        turns=tuple(map(read_of, texts[: -TURNS - 1 : -1])),
    )


def _texts(message: dict[str, Any]) -> list[str]:
    """A turn's text, its parts joined as the edge joins them."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    told = [part["text"] for part in parts if isinstance(part, dict) and "text" in part]
    return ["\n".join(told)] if told else []
