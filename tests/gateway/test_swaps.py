"""A thousand swaps under load: nothing lost, nothing cut, nothing mixed, nothing left behind."""

import asyncio
import gc
import logging
from collections import Counter, deque
from contextlib import closing
from pathlib import Path

import pytest

from gateway.journey import Plane
from gateway.standin.behaviour import Behaviour
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.revisions import Revisions
from gateway.store.store import Store
from tests.gateway.files import write
from tests.gateway.support import serving_home
from tests.gateway.swapping import LATER, STREAMS, size, swapped
from tests.gateway.test_revisions import texts

GROWN = 8 << 10
"""Bytes of the process by which it may grow with a swap; over 4,000 swaps it is 700."""

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
    assert report.planes_alive == 1
    grown, objects = report.grown()
    assert objects < OBJECTS, report.sizes
    assert grown < GROWN, report.sizes


REVISIONS = 200


async def test_revisions_by_the_admin_api_lose_nothing_and_leave_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their whole way: texts, check, store, warming, swap; a provider's place changes with some."""
    caplog.set_level(logging.CRITICAL, "switchboard")
    words = 8
    slow = Behaviour(output_tokens=words, between_tokens_s=2.0, head_first=True)
    models = {"slow": slow, "*": Behaviour(output_tokens=3)}
    async with StandIn(models) as one, StandIn(models) as other:
        for each in (one, other):
            each.seen = deque(maxlen=1)
        write(tmp_path, one.url)
        text = (tmp_path / "gateway.yaml").read_text()
        price = "{input: 1 usd/Mtok, output: 4 usd/Mtok}"
        more = f"      slow: {{id: slow, price: {price}}}\n      mini:"
        slowly = text.replace("      mini:", more)
        (tmp_path / "gateway.yaml").write_text(slowly)
        with closing(Store.open(f"sqlite:///{tmp_path}/switchboard.db")) as store:
            key = Keys(store).create("chief", role="admin").secret
        files = texts(tmp_path)["files"]
        async with serving_home(tmp_path, key) as served:
            stop, statuses = asyncio.Event(), Counter[int]()

            async def go_on() -> None:
                while not stop.is_set():
                    statuses[(await served.chat(model="general")).status_code] += 1
                    await asyncio.sleep(0.02)

            def applied(k: int) -> str:
                place = other.url if k // 10 % 2 else one.url
                return slowly.replace("input: 1 usd", f"input: {1 + k} usd").replace(one.url, place)

            load = [asyncio.create_task(go_on()) for _ in range(3)]
            streams = [
                asyncio.create_task(served.events(model="openai/slow", max_tokens=words))
                for _ in range(8)
            ]
            sizes = []
            for k in range(1, REVISIONS + 1):
                body = {"files": {**files, "gateway.yaml": applied(k)}, "note": str(k)}
                answer = await served.client.post("/admin/revisions", json=body)
                assert (answer.status_code, answer.json()["seq"]) == (200, k + 1), answer.text
                if k % (REVISIONS // 4) == 0:
                    sizes.append(size(k, 0))
            stop.set()
            await asyncio.gather(*load)
            for events in await asyncio.gather(*streams):
                assert events[-1] == "[DONE]"
            gc.collect()
            known = Revisions(served.gateway.store).list(REVISIONS + 1)
            planes = (each for each in gc.get_objects() if isinstance(each, Plane))
            hashes = {each.hash for each in known}  # those of other tests may be there, too
            alive = sum(each.snapshot.hash in hashes for each in planes)
    assert set(statuses) == {200}
    assert known[0].seq == REVISIONS + 1
    assert alive == 1
    swaps = sizes[-1].swaps - sizes[1].swaps
    assert (sizes[-1].objects - sizes[1].objects) / swaps < OBJECTS, sizes
