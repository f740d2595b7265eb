from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.store.store import Store
from tests.store.world import url


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(url(tmp_path), busy_s=0.05)
    yield opened
    opened.close()
