"""The API that the SDKs are pointed at, and what they are to find there."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.standin import Behaviour, Fault, FaultKind, StandIn
from gateway.standin.behaviour import example_of
from gateway.standin.embed import vector
from tests.gateway.support import Served, serving, snapshot, target

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


NAMES_OF_OPENAIS_TESTS = ("gpt-6-astra", "gpt-3.5-turbo-instruct", "text-embedding-3-small")


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
async def gateway(provider: StandIn, tmp_path: Path) -> AsyncIterator[Served]:
    """The gateway, which wants a key of its own, in front of `provider`."""
    names = ("provider/chat", "provider/embed", "provider/limited")
    targets = [target(name, provider.url) for name in names]
    configuration = snapshot(targets, keys={"provider": "sk-right"})
    async with serving(configuration, tmp_path, key=True) as served:
        yield served


@pytest.fixture
def gateway_url(gateway: Served) -> str:
    """The base URL that the SDKs are given."""
    return gateway.url


@pytest.fixture
def gateway_key(gateway: Served) -> str:
    """The key that the SDKs are given; any other must be refused."""
    assert gateway.key is not None
    return gateway.key


@pytest.fixture
def names() -> Names:
    """The models' names at `gateway_url`."""
    return Names("provider/chat", "provider/embed", "provider/limited")


@pytest.fixture
async def open_gateway_url(schema_mock: StandIn, tmp_path: Path) -> AsyncIterator[str]:
    """The base URL that openai-python's own tests are given; it asks for no key."""
    aliases = dict.fromkeys(NAMES_OF_OPENAIS_TESTS, "mock/any")
    configuration = snapshot([target("mock/any", schema_mock.url)], aliases=aliases)
    async with serving(configuration, tmp_path) as served:
        yield served.url


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
