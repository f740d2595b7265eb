"""What holds for every test, and the servers that many of them share."""

import gc
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from gateway.store.store import Store
from tests import servers
from tests.store.world import emptied


def pytest_configure() -> None:
    """Lets processes that tests start be interrupted, even where the shell has turned that off.

    What is started in the background inherits an ignored SIGINT, and so do its children. And no
    example of a property fails for its time: on a busy machine any may take long.
    """
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leaves the tests themselves out of the search for garbage; see below."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """Leaves what a file of tests has left behind out of the search for garbage.

    At the end there are so many objects that each full search would hold up every server of this
    process by seconds, as no server that serves alone ever is.
    """
    yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.RealServer]:
    """One PostgreSQL for all tests that want none to themselves."""
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.RealServer]:
    """One Redis for all tests that want none to themselves."""
    with servers.redis() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: servers.RealServer) -> Iterator[Store]:
    """The store of a real PostgreSQL, with nothing in it."""
    opened = Store.open(postgres_server.url)
    emptied(opened)
    yield opened
    opened.close()
