from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from gateway.store.store import Store
from tests.store.world import url


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    """A new store in `tmp_path`."""
    opened = Store.open(url(tmp_path), busy_s=0.05)
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each database in turn: what holds of one holds of the other."""
    return cast(Store, request.getfixturevalue(request.param))
