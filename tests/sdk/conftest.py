"""The API that the SDKs are pointed at, and what they are to find there."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from gateway.standin import Behaviour, Fault, FaultKind, StandIn
from gateway.standin.behaviour import example_of
from gateway.standin.embed import vector

DIMENSIONS = 8
QUESTION = "one two three four"
TEXTS = ["refund my order", "weather in Oslo"]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


class Names(NamedTuple):
    """What clients call the models: one that chats, one that embeds, one that answers 429."""

    chat: str = "chat"
    embed: str = "embed"
    limited: str = "limited"
    unknown: str = "no-such-model"

    def listed(self) -> list[str]:
        """What `/v1/models` must list at least."""
        return [self.chat, self.embed, self.limited]


@pytest.fixture
async def provider() -> AsyncIterator[StandIn]:
    """The provider behind the API: it echoes, embeds by words, and limits one model's rate."""
    models = {
        "chat": Behaviour(),
        "embed": Behaviour(dimensions=DIMENSIONS),
        "limited": Behaviour(fault=Fault(kind=FaultKind.STATUS, status=429, retry_after=1)),
    }
    async with StandIn(models, keys=["sk-right"]) as standin:
        yield standin


@pytest.fixture
async def schema_mock() -> AsyncIterator[StandIn]:
    """The provider that openai-python's own tests are written for: any model, any key, any id."""
    async with StandIn(lenient=True) as standin:
        yield standin


@pytest.fixture
def gateway_url(provider: StandIn) -> str:
    """The base URL that the SDKs are given; `provider` is behind it."""
    return provider.url


@pytest.fixture
def gateway_key() -> str:
    """The key that the SDKs are given; any other must be refused."""
    return "sk-right"


@pytest.fixture
def names() -> Names:
    """The models' names at `gateway_url`."""
    return Names()


@pytest.fixture
def open_gateway_url(schema_mock: StandIn) -> str:
    """The base URL that openai-python's own tests are given; it asks for no key."""
    return schema_mock.url


@pytest.fixture
def given(gateway_url: str, gateway_key: str, names: Names) -> dict[str, Any]:
    """What a check is told about the API."""
    return {
        "url": gateway_url,
        "key": gateway_key,
        **names._asdict(),
        "question": QUESTION,
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": [TOOL],
        "texts": TEXTS,
    }


@pytest.fixture
def expected(names: Names) -> dict[str, Any]:
    """What every SDK must make of it; each reports those parts that it can do."""
    pieces = ["one", " two", " three", " four"]
    parameters = TOOL["function"]["parameters"]  # type: ignore[index]
    return {
        "chat": {"text": QUESTION, "finish": "stop", "usage": [7, 4]},
        "stream": {"pieces": pieces, "finish": "stop", "usage": [7, 4]},
        "stream_async": {"pieces": pieces},
        "tools": {
            "calls": [{"name": "get_weather", "arguments": example_of(parameters, QUESTION)}],
            "finish": "tool_calls",
        },
        "errors": {
            "401": "AuthenticationError 401",
            "404": "NotFoundError 404",
            "429": "RateLimitError 429",
        },
        "embeddings": [pytest.approx(vector(text, DIMENSIONS), abs=1e-6) for text in TEXTS],
        "responses": {"text": QUESTION, "pieces": pieces},
        "model": names.chat,
    }
