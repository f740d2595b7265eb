"""Adapters made present at a vLLM replica, and again after it has forgotten them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.backends.vllm import AdapterKeeper
from gateway.policy.live import Live
from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn
from gateway.types import Adapter, Backend, Capabilities, Price, Shaping, Target

NAMES = ("support", "brand")


def target(name: str, url: str) -> Target:
    return Target(
        name=f"local/qwen+{name}",
        backend="local",
        model="qwen",
        adapter=name,
        served=name,
        internal=True,
        price=Price(),
        capabilities=Capabilities(),
        shaping=Shaping(),
        replicas=(url,),
    )


@asynccontextmanager
async def keeping(url: str) -> AsyncIterator[AdapterKeeper]:
    async with httpx.AsyncClient() as client:
        yield AdapterKeeper(
            Backend("local", "vllm", (url,)),
            [Adapter("local", "qwen", name, name, f"/adapters/{name}") for name in NAMES],
            [target(name, url) for name in NAMES],
            Live(),
            client,
            clock=lambda: 0.0,
        )


async def test_what_is_missing_is_loaded_once() -> None:
    async with StandIn(vllm=Vllm()) as vllm, keeping(vllm.origin) as keeper:
        assert vllm.engine is not None
        await keeper.look()
        await keeper.look()
        assert vllm.engine.loads == [(name, f"/adapters/{name}") for name in NAMES]
        state = keeper.states[vllm.origin]
    assert state.reachable
    assert {*NAMES} <= state.loaded


async def test_after_a_restart_the_adapters_are_there_again() -> None:
    async with StandIn(vllm=Vllm()) as vllm, keeping(vllm.origin) as keeper:
        assert vllm.engine is not None
        await keeper.look()
        await vllm.restart()
        assert not vllm.engine.adapters
        await keeper.look()
        assert set(vllm.engine.adapters) == {*NAMES}


async def test_a_replica_that_is_away_is_said_and_looked_at_again() -> None:
    async with StandIn(vllm=Vllm()) as vllm, keeping(vllm.origin) as keeper:
        await vllm.stop()
        await keeper.look()
        assert not keeper.states[vllm.origin].reachable
        assert "ConnectError" in keeper.states[vllm.origin].error
        await vllm.start()
        await keeper.look()
        assert keeper.states[vllm.origin].reachable


async def test_an_adapter_that_cannot_be_loaded_does_not_hold_up_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refuses = {"/adapters/support": (500, "rank 64 is over the maximum")}
    async with StandIn(vllm=Vllm(refuses=refuses)) as vllm, keeping(vllm.origin) as keeper:
        await keeper.look()
        await keeper.look()
        state = keeper.states[vllm.origin]
    assert "brand" in state.loaded
    assert "rank 64" in state.failed["support"]
    assert sum("rank 64" in record.getMessage() for record in caplog.records) == 1


async def test_it_looks_again_and_again() -> None:
    looks: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        looks.put_nowait(seconds)
        await asyncio.sleep(0)

    async with StandIn(vllm=Vllm()) as vllm, httpx.AsyncClient() as client:
        keeper = AdapterKeeper(
            Backend("local", "vllm", (vllm.origin,)),
            [],
            [],
            Live(),
            client,
            sleep=sleep,
            clock=lambda: 0.0,
        )
        task = asyncio.create_task(keeper.run())
        for _ in range(3):
            assert await asyncio.wait_for(looks.get(), 10) <= 1.0
        task.cancel()
