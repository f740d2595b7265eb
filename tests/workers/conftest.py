from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.standin.behaviour import Behaviour, to_length
from gateway.standin.standin import StandIn
from gateway.store.store import Store
from tests.gateway.files import write
from tests.servers import RealServer
from tests.store.world import emptied
from tests.workers.support import shared


@pytest.fixture
async def provider() -> AsyncIterator[StandIn]:
    """A provider that says five words."""
    words = to_length("one two three four five", 5)
    async with StandIn(Behaviour(answer=lambda _: words)) as standin:
        yield standin


@pytest.fixture
def database(postgres_server: RealServer) -> str:
    """The URL of an empty store."""
    store = Store.open(postgres_server.url)
    emptied(store)
    store.close()
    return postgres_server.url


@pytest.fixture
def home(tmp_path: Path, provider: StandIn, database: str, redis_server: RealServer) -> Path:
    """A configuration for several workers, with an empty store."""
    write(tmp_path, provider.url, shared(database, redis_server.url))
    return tmp_path
