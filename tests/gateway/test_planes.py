"""A new snapshot in the place of one that serves: what is shared, warmed, let go, left alone."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from gateway.classify.encoder import EncoderError
from gateway.standin.behaviour import Behaviour
from gateway.standin.standin import StandIn
from gateway.types.backends import Price
from gateway.types.routes import Match
from gateway.types.snapshot import Server, Snapshot
from tests.gateway.conftest import KEY
from tests.gateway.support import Served, route, serving, snapshot, target

LEARNT = Match(examples=("fix this python function", "why does this crash"))
OTHER = Match(examples=("summarise this clause", "is the lessee liable"))


async def test_what_did_not_change_is_the_same_object_in_the_next_plane(
    provider: StandIn, tmp_path: Path
) -> None:
    def configured(price: float) -> Snapshot:
        cheap = target("openai/mini", provider.url)
        changing = target("openai/other", provider.url, price=Price(output=price))
        routes = [
            route("general", "openai/mini", match=OTHER),
            route("code", "openai/other", match=LEARNT),
        ]
        return snapshot([cheap, changing], routes, keys={"openai": KEY}, hash=f"at {price}")

    async with serving(configured(1e-6), tmp_path) as served:
        planes = served.gateway.planes
        before, read_by = planes.plane, planes._basis and planes._basis.reads
        await served.gateway.swap(configured(2e-6))
        after = planes.plane
        assert planes._basis is not None
        assert planes._basis.reads is read_by, "the examples are the same: nothing is learned again"
        answer = await served.chat("fix this python function")

    assert after.snapshot.hash == "at 2e-06"
    assert after.backends is before.backends
    for part in ("routes", "policies", "backends", "aliases"):
        assert getattr(after.snapshot, part) is getattr(before.snapshot, part)
    old, new = before.snapshot.targets, after.snapshot.targets
    assert new["openai/mini"] is old["openai/mini"]
    assert new["openai/other"].price.output == 2e-6
    assert answer.headers["x-switchboard-target"] == "openai/other"


async def test_a_snapshot_that_cannot_be_built_leaves_everything_as_it_was(served: Served) -> None:
    before = served.gateway.pipeline.plane
    learning = route("general", "openai/mini", match=LEARNT)
    wrong = msgspec.structs.replace(
        before.snapshot,
        hash="wrong",
        routes={"general": learning, "more": route("more", "openai/mini", match=OTHER)},
        server=Server(classifier="embedding", encoder="/no/such/encoder"),
    )

    with pytest.raises(EncoderError):
        await served.gateway.swap(wrong)

    assert served.gateway.pipeline.plane is before
    assert served.gateway.readiness()["snapshot"] == before.snapshot.hash
    assert (await served.chat()).status_code == 200


async def test_a_new_backend_is_connected_to_before_it_serves_and_a_dead_one_only_warned_of(
    served: Served, provider: StandIn
) -> None:
    async with StandIn() as other, StandIn() as dead:
        added = target("other/big", other.url)
        lost = target("lost/big", dead.url)
        await dead.stop()
        keys = {"openai": KEY}
        mini = target("openai/mini", provider.url)
        warnings = await served.gateway.swap(snapshot([mini, added, lost], keys=keys, hash="2"))

        assert other.connections == 1
        assert [warning.partition(" at ")[0] for warning in warnings] == ["lost"]
        assert (await served.chat(model="other/big")).status_code == 200
        assert other.connections == 1


async def test_streams_of_a_removed_backend_end_well_and_then_its_connections_close(
    served: Served, provider: StandIn
) -> None:
    async with StandIn(Behaviour(between_tokens_s=0.05, output_tokens=10)) as slow:
        mini = target("openai/mini", provider.url)
        keys = {"openai": KEY}
        both = snapshot([mini, target("slow/big", slow.url)], keys=keys, hash="both")
        await served.gateway.swap(both)
        streaming = asyncio.create_task(served.events(model="slow/big"))
        await slow.arrived()
        await served.gateway.swap(snapshot([mini], keys=keys, hash="without"))

        events = await streaming
        assert events[-1] == "[DONE]"
        gone = await served.chat(model="slow/big")
        assert gone.status_code == 404
        async with asyncio.timeout(10):  # kept, an idle one stays open for 15 s
            while slow.connections:
                await served.client.get("/health")
