"""A thousand swaps under load: nothing lost, nothing cut, nothing mixed, nothing left behind."""

import logging
from pathlib import Path

import pytest

from tests.gateway.swapping import LATER, STREAMS, swapped

KIB = 1 << 10
OBJECTS = 3
"""By which it may grow with a swap; it is 0.2. Whoever keeps each snapshot keeps 35, each decider
114, and each mapping of backends, which are themselves shared, 3.2."""


async def test_a_thousand_swaps_under_load_with_long_streams_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "switchboard")
    report = await swapped(tmp_path, swaps=1000, seconds=28, long_s=30)

    assert report.wrong == []
    assert report.long_streams == STREAMS + LATER
    assert report.requests > 1000
    assert report.snapshots_seen > 100  # however slow the machine is
    assert report.turned_away < 0.2 * report.requests
    assert report.planes_alive == 1
    grown, objects = report.grown()
    assert objects < OBJECTS, report.sizes
    assert grown < 32 * KIB, report.sizes
