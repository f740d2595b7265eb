"""Adapters kept at a vLLM replica: loaded once, again after a restart, barred where that fails."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest

from gateway.adapters.engine import Engine as Told
from gateway.adapters.keeper import (
    FORGET_S,
    LONGEST_RETRY_S,
    RETRY_S,
    AdapterKeeper,
    Loadable,
    LoadFailed,
)
from gateway.policy.live import Live
from gateway.standin.engine import Engine, Vllm
from gateway.standin.standin import StandIn
from gateway.types.backends import Backend, Capabilities, Price, Shaping, Target
from tests.adapters.serving import Answer, Request, site

NAMES = ("support@v1", "brand@v1")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class World(msgspec.Struct):
    """A keeper in front of a stand-in for vLLM."""

    vllm: StandIn
    keeper: AdapterKeeper
    live: Live
    clock: Clock

    @property
    def engine(self) -> Engine:
        assert self.vllm.engine is not None
        return self.vllm.engine

    @property
    def url(self) -> str:
        return self.vllm.origin

    def serve(self, *names: str, present: tuple[str, ...] = NAMES) -> None:
        self.keeper.serve(
            Backend("local", "vllm", (self.url,)),
            [loadable(name, self.url) for name in names],
            [name for name in present if name in names],
        )


def target(served: str, url: str) -> Target:
    adapter = served.partition("@")[0]
    return Target(
        name=f"local/qwen+{adapter}",
        backend="local",
        model="qwen",
        adapter=adapter,
        served=served,
        internal=True,
        price=Price(),
        capabilities=Capabilities(),
        shaping=Shaping(),
        replicas=(url,),
    )


def loadable(served: str, url: str) -> Loadable:
    adapter = served.partition("@")[0]
    return Loadable(served, f"/adapters/{served}", adapter, targets=(target(served, url),))


@asynccontextmanager
async def keeping(vllm: Vllm | None = None, *names: str) -> AsyncIterator[World]:
    live, clock = Live(), Clock()
    async with StandIn(vllm=vllm or Vllm()) as standin, httpx.AsyncClient() as client:
        backend = Backend("local", "vllm", (standin.origin,))
        world = World(standin, AdapterKeeper(backend, live, client, clock=clock), live, clock)
        world.serve(*(names or NAMES))
        yield world


async def test_what_is_to_be_present_is_loaded_once() -> None:
    async with keeping() as world:
        await world.keeper.look()
        await world.keeper.look()
        assert sorted(world.engine.loads) == sorted((name, f"/adapters/{name}") for name in NAMES)
        state = world.keeper.states[world.url]
    assert state.reachable
    assert state.loaded == {*NAMES}


async def test_after_a_restart_the_adapters_are_there_again() -> None:
    async with keeping() as world:
        await world.keeper.look()
        await world.vllm.restart()
        assert not world.engine.adapters
        await world.keeper.look()
        assert set(world.engine.adapters) == {*NAMES}


async def test_a_replica_that_is_away_is_said_and_looked_at_again() -> None:
    async with keeping() as world:
        await world.vllm.stop()
        await world.keeper.look()
        assert not world.keeper.states[world.url].reachable
        assert "ConnectError" in world.keeper.states[world.url].error
        await world.vllm.start()
        await world.keeper.look()
        assert world.keeper.states[world.url].reachable


async def test_what_is_asked_for_is_loaded_then() -> None:
    async with keeping() as world:
        world.serve(*NAMES, present=())
        await world.keeper.look()
        assert world.engine.loads == []
        await world.keeper.ensure(world.url, "brand@v1")
        assert world.engine.loads == [("brand@v1", "/adapters/brand@v1")]
        assert (world.url, "brand@v1") in world.keeper.ready
        assert world.live.estimates["local/qwen+brand", world.url].loaded == 1.0


async def test_many_that_wait_for_one_adapter_load_it_once() -> None:
    async with keeping() as world:
        world.serve(*NAMES, present=())
        waiting = [world.keeper.ensure(world.url, "brand@v1") for _ in range(50)]
        await asyncio.gather(*waiting)
        assert len(world.engine.loads) == 1


async def test_one_that_goes_away_does_not_stop_the_load_for_others() -> None:
    async with keeping(Vllm(load_s=0.05)) as world:
        world.serve(*NAMES, present=())
        first = asyncio.create_task(world.keeper.ensure(world.url, "brand@v1"))
        second = asyncio.create_task(world.keeper.ensure(world.url, "brand@v1"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(second, 10)
        assert len(world.engine.loads) == 1


Refusal = tuple[int, str]


@pytest.mark.parametrize("refusal", [(500, "rank 64 is over the maximum"), (404, "no such path")])
async def test_a_replica_that_cannot_load_it_is_barred_for_that_adapter_alone(
    refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    async with keeping(Vllm(refuses={"/adapters/support@v1": refusal})) as world:
        await world.keeper.look()
        await world.keeper.look()
        state = world.keeper.states[world.url]
        assert state.loaded == {"brand@v1"}
        assert refusal[1] in state.failed["support@v1"]
        with pytest.raises(LoadFailed, match=refusal[1]):
            await world.keeper.ensure(world.url, "support@v1")
        estimates = world.live.estimates
        assert refusal[1] in estimates["local/qwen+support", world.url].barred
        assert not estimates["local/qwen+brand", world.url].barred
    assert sum(refusal[1] in record.getMessage() for record in caplog.records) == 1


async def test_what_failed_is_tried_again_later_and_let_in_again() -> None:
    async with keeping(Vllm(refuses={"/adapters/support@v1": (500, "no")})) as world:
        await world.keeper.look()
        world.engine.refuses.clear()
        await world.keeper.look()
        assert "support@v1" not in world.engine.adapters
        world.clock.now += 3600.0
        await world.keeper.look()
        assert "support@v1" in world.engine.adapters
        assert not world.live.estimates["local/qwen+support", world.url].barred
        assert world.keeper.states[world.url].failed == {}


async def test_the_pause_before_it_is_tried_again_doubles_and_has_an_end() -> None:
    async with keeping(Vllm(refuses={"/adapters/support@v1": (500, "no")})) as world:
        await world.keeper.look()
        for pause_s in (RETRY_S, 2 * RETRY_S, 4 * RETRY_S, *[LONGEST_RETRY_S] * 20):
            world.clock.now += pause_s
            await world.keeper.look()
        world.engine.refuses.clear()
        world.clock.now += LONGEST_RETRY_S - 1.0
        await world.keeper.look()
        assert "support@v1" not in world.engine.adapters
        world.clock.now += 1.0
        await world.keeper.look()
        assert "support@v1" in world.engine.adapters


async def test_a_replica_that_says_loaded_and_is_not_has_lied() -> None:
    async with keeping() as world:
        world.engine.forgets.add("support@v1")
        with pytest.raises(LoadFailed, match="does not list it"):
            await world.keeper.ensure(world.url, "support@v1")
        assert (world.url, "support@v1") not in world.keeper.ready


async def test_what_another_loaded_already_is_taken_as_it_is() -> None:
    async with keeping(Vllm(adapters={"brand@v1": "/adapters/brand@v1"})) as world:
        estimate = world.live.estimates["local/qwen+brand", world.url]
        expected_s = estimate.one_load_s
        await world.keeper.ensure(world.url, "brand@v1")
        assert world.engine.loads == []
        assert (world.url, "brand@v1") in world.keeper.ready
        assert estimate.one_load_s == expected_s, "no load is so quick: it was none"


async def test_what_was_loaded_since_the_list_was_asked_for_is_not_taken_for_gone() -> None:
    """Two look at one replica at a time; the first waits for its metrics with an old list."""
    with site() as server:
        backend = Backend("local", "vllm", (server.url,))
        listed: list[str] = []
        asked, go_on = threading.Event(), threading.Event()

        def metrics(_: Request) -> Answer:
            asked.set()
            go_on.wait(10)
            return Answer(b"vllm:num_requests_running 0")

        server.pages["/v1/models"] = lambda _: Answer(
            json.dumps({"data": [{"id": name} for name in listed]}).encode()
        )
        server.pages["/metrics"] = metrics
        server.pages["/v1/load_lora_adapter"] = lambda _: Answer()
        async with httpx.AsyncClient() as client:
            keeper = AdapterKeeper(backend, Live(), client, clock=lambda: 0.0)
            keeper.serve(backend, [loadable(NAMES[0], server.url)], ())
            look = asyncio.create_task(keeper.look())
            await asyncio.to_thread(asked.wait, 10)
            listed.append(NAMES[0])
            await keeper.ensure(server.url, NAMES[0])
            go_on.set()
            await look
    assert (server.url, NAMES[0]) in keeper.ready


async def test_a_replica_whose_refusal_is_nonsense_is_only_late() -> None:
    with site() as server:
        backend = Backend("local", "vllm", (server.url,))
        server.pages["/v1/models"] = lambda _: Answer(b'{"data":[]}')
        server.pages["/v1/load_lora_adapter"] = lambda _: Answer(b"[" * 100_000, 500)
        async with httpx.AsyncClient() as client:
            keeper = AdapterKeeper(backend, Live(), client, clock=lambda: 0.0)
            keeper.serve(backend, [loadable(NAMES[0], server.url)], ())
            await keeper.bring((server.url,), NAMES[:1])
            late = keeper.late((server.url,), NAMES[:1])
    assert late[NAMES[0]].startswith("500: [[[")


async def test_of_what_there_is_no_room_for_nothing_is_late() -> None:
    async with keeping() as world:
        backend = Backend("local", "vllm", (world.url,), slots=1)
        world.keeper.serve(backend, [loadable(name, world.url) for name in NAMES], ())
        await world.keeper.bring((world.url,), NAMES)
        assert len(world.engine.loads) == 1
        assert world.keeper.late((world.url,), NAMES) == {}


async def test_what_is_not_wanted_any_more_is_unloaded_a_while_later() -> None:
    async with keeping() as world:
        await world.keeper.look()
        world.serve("support@v2", "brand@v1", present=("support@v2", "brand@v1"))
        await world.keeper.look()
        assert set(world.engine.adapters) == {*NAMES, "support@v2"}
        world.clock.now += FORGET_S
        await world.keeper.look()
        assert set(world.engine.adapters) == {"brand@v1", "support@v2"}
        world.serve("brand@v1")  # nor is any version of the other one
        await world.keeper.look()
        world.clock.now += FORGET_S
        await world.keeper.look()
        assert set(world.engine.adapters) == {"brand@v1"}


async def test_what_is_not_ours_is_left_alone() -> None:
    async with keeping(Vllm(adapters={"theirs": "/x", "other@v1": "/y"})) as world:
        await world.keeper.look()
        world.clock.now += FORGET_S
        await world.keeper.look()
        assert {"theirs", "other@v1"} <= set(world.engine.adapters)


async def test_a_probe_wants_an_answer_under_the_adapters_own_name() -> None:
    async with keeping() as world:
        await world.keeper.look()
        await world.keeper.probe(world.url, "brand@v1")
        with pytest.raises(LoadFailed, match="404"):
            await world.keeper.probe(world.url, "brand@v2")


async def test_replicas_come_and_go() -> None:
    async with keeping() as world, StandIn(vllm=Vllm()) as other:
        await world.keeper.look()
        loadables = [loadable(name, other.origin) for name in NAMES]
        world.keeper.serve(Backend("local", "vllm", (other.origin,)), loadables, NAMES)
        await world.keeper.look()
        assert other.engine is not None
        assert set(other.engine.adapters) == {*NAMES}
        assert set(world.keeper.states) == {other.origin}
        assert {url for url, _ in world.keeper.ready} == {other.origin}


async def test_it_looks_again_and_again_and_nobody_waits_for_a_slow_one() -> None:
    looks: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        looks.put_nowait(seconds)
        await asyncio.sleep(0)

    async with StandIn(vllm=Vllm()) as vllm, httpx.AsyncClient() as client:
        backend = Backend("local", "vllm", (vllm.origin,))
        keeper = AdapterKeeper(backend, Live(), client, sleep=sleep, clock=lambda: 0.0)
        task = asyncio.create_task(keeper.run())
        for _ in range(3):
            assert await asyncio.wait_for(looks.get(), 10) <= 1.0
        task.cancel()


@pytest.mark.parametrize(
    "models", [b'{"data":[{"id":"\xff"}]}', b'{"data":', b"[" * 100_000, b'{"data":[{"id":1}]}']
)
async def test_a_list_of_models_that_cannot_be_read_is_said_and_it_is_looked_at_again(
    models: bytes,
) -> None:
    with site() as server:
        backend = Backend("local", "vllm", (server.url,))
        async with httpx.AsyncClient() as client:
            keeper = AdapterKeeper(backend, Live(), client, clock=lambda: 0.0)
            keeper.serve(backend, [loadable(NAMES[0], server.url)], ())
            server.pages["/v1/models"] = lambda _: Answer(models)
            server.pages["/v1/load_lora_adapter"] = lambda _: Answer()
            await keeper.look()
            assert "list of models cannot be read" in keeper.states[server.url].error
            with pytest.raises(LoadFailed, match="list of models cannot be read"):
                await keeper.ensure(server.url, NAMES[0])
            server.pages["/v1/models"] = lambda _: Answer(b'{"data":[]}')
            server.pages["/metrics"] = lambda _: Answer(b"vllm:num_requests_running NaN")
            await keeper.look()
    assert keeper.states[server.url].reachable
    assert keeper.engines[server.url] == Told()


@pytest.mark.parametrize("body", [b'"yes"', b"\xff", b"{}"])
async def test_a_probe_answered_with_nonsense_has_failed(body: bytes) -> None:
    with site() as server:
        backend = Backend("local", "vllm", (server.url,))
        async with httpx.AsyncClient() as client:
            keeper = AdapterKeeper(backend, Live(), client, clock=lambda: 0.0)
            server.pages["/v1/completions"] = lambda _: Answer(body)
            with pytest.raises(LoadFailed):
                await keeper.probe(server.url, NAMES[0])


async def test_a_replica_may_leave_while_it_is_looked_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with StandIn(vllm=Vllm()) as vllm, httpx.AsyncClient() as client:

        def leave(*_: object) -> None:
            elsewhere = Backend("local", "vllm", ("http://127.0.0.1:9",))
            keeper.serve(elsewhere, [loadable(NAMES[0], vllm.origin)], NAMES[:1], NAMES[:1])

        backend = Backend("local", "vllm", (vllm.origin,))
        keeper = AdapterKeeper(backend, Live(), client, clock=lambda: 0.0, told=leave)
        keeper.serve(backend, [loadable(NAMES[0], vllm.origin)], NAMES[:1], NAMES[:1])
        await keeper.look()
        assert vllm.engine is not None
        assert vllm.engine.loads == []
    assert set(keeper.states) == {"http://127.0.0.1:9"}
    assert caplog.records == []


async def test_a_turn_that_goes_wrong_is_told_and_the_next_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wrong(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of it")

    async with StandIn(vllm=Vllm()) as vllm, httpx.AsyncClient() as client:
        backend = Backend("local", "vllm", (vllm.origin,))
        keeper = AdapterKeeper(
            backend, Live(), client, sleep=lambda _: asyncio.sleep(0), clock=Clock(), told=wrong
        )
        task = asyncio.create_task(keeper.run())
        await asyncio.wait_for(vllm.arrived(3, path="/v1/models"), 10)
        task.cancel()
    assert f"local at {vllm.origin} could not be looked after" in caplog.text
    assert "nobody thought of it" in caplog.text
