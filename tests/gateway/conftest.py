"""Fixtures: one provider, and a gateway in front of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.standin.behaviour import Behaviour, to_length
from gateway.standin.standin import StandIn
from tests.gateway.support import Served, serving, snapshot, target

KEY = "sk-provider-secret"


@pytest.fixture
async def provider() -> AsyncIterator[StandIn]:
    """A provider that says five words, whatever it is asked."""
    words = to_length("one two three four five", 5)
    async with StandIn(Behaviour(answer=lambda _: words), keys=[KEY]) as standin:
        yield standin


@pytest.fixture
async def served(provider: StandIn, tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway without keys, whose only target is `openai/mini` at the provider."""
    mini = target("openai/mini", provider.url)
    async with serving(snapshot([mini], keys={"openai": KEY}), tmp_path) as gateway:
        yield gateway
