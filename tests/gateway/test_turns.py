"""Two models on one GPU by sleep mode: nothing is sent to a sleeping server, and nobody is lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends.turns import next_turn, others_lose
from gateway.config.load import load
from gateway.standin.behaviour import Behaviour
from gateway.standin.engine import Card, Engine, Vllm
from gateway.standin.standin import StandIn
from gateway.types.snapshot import Snapshot
from tests.adapters import lora
from tests.config.trees import write
from tests.gateway.support import Served, serving

GATEWAY = """
default_route: general
backends:
  local:
    kind: vllm
    replica_hour: 2 usd
    peak_tokens_per_second: 2000
    turns: {turns}
    models:
      qwen:
        id: qwen
        replicas: [{qwen}]
      coder:
        id: coder
        replicas: [{coder}]
        adapters: {{contracts: {{source: contracts, base_matches: true}}}}
  commercial:
    kind: openai
    url: {commercial}
    models: {{mini: {{id: mini, price: {{input: 1 usd/Mtok, output: 4 usd/Mtok}}}}}}
"""
GENERAL = """
name: general
value: 0.10 usd
candidates:
  - {target: local/coder, quality: 0.9}
  - {target: commercial/mini, quality: 0.8}
policy: plain
"""
TURNS = "{stay: 0.3 s, queue: 32, wait: 10 s, swap: 0.1 s}"


class World(msgspec.Struct):
    """A gateway before two stand-ins for vLLM that share a GPU, and a provider."""

    served: Served
    qwen: StandIn
    coder: StandIn
    commercial: StandIn

    @property
    def engines(self) -> tuple[Engine, Engine]:
        assert self.qwen.engine is not None
        assert self.coder.engine is not None
        return self.qwen.engine, self.coder.engine

    async def ask(self, model: str, **more: Any) -> httpx.Response:
        return await self.served.chat("hello", model, **more)

    async def both(self, *models: str, **more: Any) -> list[int]:
        """The statuses of requests that are sent side by side."""
        done = await asyncio.gather(*(self.ask(model, **more) for model in models))
        return [answer.status_code for answer in done]


def configuration(
    folder: Path,
    qwen: str,
    coder: str,
    commercial: str,
    turns: str = TURNS,
    policy: str = "name: plain\n",
) -> Snapshot:
    lora.write(folder / "home" / "contracts", lora.tensors())
    files = {
        "gateway.yaml": GATEWAY.format(turns=turns, qwen=qwen, coder=coder, commercial=commercial),
        "routes/general.yaml": GENERAL,
        "policies/plain.yaml": policy,
    }
    return load(write(folder / "home", files), {}).snapshot


@asynccontextmanager
async def world(
    folder: Path,
    *,
    turns: str = TURNS,
    policy: str = "name: plain\n",
    behaviour: Behaviour | None = None,
    sleep_mode: bool = True,
    swap_s: float = 0.02,
) -> AsyncIterator[World]:
    card = Card() if sleep_mode else None
    async with contextlib.AsyncExitStack() as stack:
        qwen, coder = [
            await stack.enter_async_context(
                StandIn(behaviour, vllm=Vllm(base=name, card=card, swap_s=swap_s))
            )
            for name in ("qwen", "coder")
        ]
        if sleep_mode:
            async with httpx.AsyncClient() as client:
                await client.post(f"{coder.origin}/sleep?level=1")
        commercial = await stack.enter_async_context(StandIn(Behaviour()))
        snapshot = configuration(folder, qwen.origin, coder.origin, commercial.url, turns, policy)
        served = await stack.enter_async_context(serving(snapshot, folder))
        await served.gateway.fleet.registry.settled()
        made = World(served, qwen, coder, commercial)
        yield made
        if sleep_mode:
            assert [engine.cut for engine in made.engines] == [0, 0]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- decisions


def test_a_model_gives_way_when_it_was_idle_for_a_while_or_its_turn_is_over() -> None:
    waits = {"b": 0.5}
    assert next_turn(None, 0.0, None, waits, 10.0, 2.0) == ("b", 0.0)
    assert next_turn("a", 1.0, 0.5, waits, 10.0, 2.0) == (None, 1.5)
    assert next_turn("a", 3.0, 2.0, waits, 10.0, 2.0) == ("b", 0.0)
    assert next_turn("a", 9.5, 0.5, waits, 10.0, 2.0) == (None, 0.5)
    assert next_turn("a", 4.0, None, waits, 10.0, 2.0) == (None, 6.0)
    assert next_turn("a", 10.0, None, waits, 10.0, 2.0) == ("b", 0.0)
    assert next_turn("a", 99.0, None, {"a": 3.0}, 10.0, 2.0)[0] is None


@given(
    waits=st.dictionaries(st.sampled_from("abc"), st.floats(0, 100), max_size=3),
    awake=st.sampled_from(["a", "b", None]),
    for_s=st.floats(0, 100),
    idle=st.none() | st.floats(0, 100),
)
def test_nobody_starves(
    waits: dict[str, float], awake: str | None, for_s: float, idle: float | None
) -> None:
    turn, again_s = next_turn(awake, for_s, idle, waits, 10.0, 2.0)
    others = {url: waited for url, waited in waits.items() if url != awake}
    if not others:
        assert turn is None
    elif awake is None or for_s >= 10.0 or (idle is not None and idle >= 2.0):
        assert turn is not None
        assert others[turn] == max(others.values())
    else:
        assert turn is None
        assert 0.0 < again_s <= 10.0 - for_s


def test_what_others_lose_grows_with_their_rate_and_the_time_away() -> None:
    assert others_lose(0.0, 10.0, 5.0) == 0.0
    # Away for 15 s: 30 requests, which wait 7.5 s on average, and 5 s for the swap back.
    assert others_lose(2.0, 10.0, 5.0) == pytest.approx(30 * (7.5 + 5.0))


# ---------------------------------------------------------------- declared


def test_a_model_with_servers_of_its_own_is_called_as_it_is_written(tmp_path: Path) -> None:
    made = configuration(tmp_path, "http://gpu:1", "http://gpu:2/v1", "http://provider/v1")
    assert {"local/qwen", "local/coder", "local/coder+contracts"} < made.targets.keys()
    assert made.targets["local/coder"].replicas == ("http://gpu:2",)
    assert [adapter.target for adapter in made.adapters] == ["local/coder+contracts"]
    assert made.backends.keys() == {"local:qwen", "local:coder", "commercial"}
    turns = made.backends["local:qwen"].turns
    assert turns is not None
    assert turns == made.backends["local:coder"].turns
    assert turns.gpus == (("http://gpu:1", "http://gpu:2"),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"        replicas: [Q]\n": ""}, "is served nowhere"),
        ({"[Q]": "[Q, http://gpu:3]"}, "has 1 servers of its own, and others have 2"),
        ({"[C]": "[Q]"}, "serves `qwen` already"),
        ({"[C]": "['dns://gpu:8000']"}, "which server shares which GPU is unknown"),
    ],
)
def test_servers_that_cannot_take_turns_are_told(
    tmp_path: Path, changes: Mapping[str, str], said: str
) -> None:
    text = GATEWAY
    for before, after in changes.items():
        before = before.replace("[Q]", "[{qwen}]").replace("[C]", "[{coder}]")
        assert before in text
        text = text.replace(before, after.replace("Q", "http://gpu:1"))
    text = text.format(
        turns=TURNS, qwen="http://gpu:1", coder="http://gpu:2", commercial="http://provider/v1"
    )
    lora.write(tmp_path / "contracts", lora.tensors())
    files = {
        "gateway.yaml": text,
        "routes/general.yaml": GENERAL,
        "policies/plain.yaml": "name: plain\n",
    }
    with pytest.raises(Exception, match=said) as raised:
        load(write(tmp_path, files), {})
    assert "gateway.yaml:" in str(raised.value)


# ---------------------------------------------------------------- taking turns


async def test_a_sleeping_model_is_woken_and_the_other_put_to_sleep(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert (await w.ask("local/qwen")).status_code == 200
        assert not w.engines[0].swaps
        answer = await w.ask("local/coder")
        assert answer.status_code == 200
        assert answer.headers["x-switchboard-target"] == "local/coder"
        assert [engine.asleep for engine in w.engines] == [True, False]
        assert (await w.ask("local/qwen")).status_code == 200
        assert [engine.asleep for engine in w.engines] == [False, True]


async def test_a_stream_is_never_cut_by_a_swap(tmp_path: Path) -> None:
    slow = Behaviour(between_tokens_s=0.05, output_tokens=20)
    async with world(tmp_path, behaviour=slow) as w:
        stream = asyncio.create_task(w.served.events("hello", "local/qwen"))
        await w.qwen.arrived(path="/v1/chat/completions")
        other = await w.ask("local/coder", max_tokens=1)
        assert other.status_code == 200
        assert (await stream)[-1] == "[DONE]"


async def test_under_load_at_both_every_request_is_answered_and_both_have_turns(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, behaviour=Behaviour(between_tokens_s=0.02, output_tokens=4)) as w:
        statuses: list[int] = []

        async def asks(model: str) -> None:
            for _ in range(40):
                statuses.append((await w.ask(model, max_tokens=4)).status_code)

        await asyncio.gather(*(asks(m) for m in ("local/qwen", "local/coder") for _ in range(3)))
        assert statuses == [200] * 240
        swaps = sum(len(engine.swaps) for engine in w.engines)
    # A swap is two calls, and a turn takes 0.3 s while the other has requests running.
    assert 4 <= swaps <= 120


async def test_an_adapter_of_a_sleeping_model_is_loaded_once_that_is_awake(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        assert not w.engines[1].loads
        answer = await w.ask("local/coder+contracts")
        assert answer.status_code == 200, answer.text
        assert len(w.engines[1].loads) == 1


async def test_too_many_that_wait_are_sent_elsewhere_or_told_when_to_come_back(
    tmp_path: Path,
) -> None:
    slow = Behaviour(first_token_s=1.0)
    turns = "{stay: 0.5 s, queue: 2, wait: 10 s, swap: 0.1 s}"
    async with world(tmp_path, behaviour=slow, turns=turns) as w:
        running = asyncio.create_task(w.ask("local/qwen", max_tokens=1))
        await w.qwen.arrived(path="/v1/chat/completions")
        waiting = [asyncio.create_task(w.ask("local/coder", max_tokens=1)) for _ in range(2)]
        gpu = w.served.gateway.gpus.of(w.coder.origin)
        assert gpu is not None
        await until(lambda: gpu.waiting == 2)
        refused = await w.ask("local/coder", max_tokens=1)
        assert refused.status_code == 503
        assert "2 requests wait at its GPU already" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        # Whoever may go elsewhere does: `auto` has the provider besides.
        assert (await w.ask("auto", max_tokens=1)).headers["x-switchboard-target"] == (
            "commercial/mini"
        )
        done = await asyncio.gather(running, *waiting)
        assert [answer.status_code for answer in done] == [200] * 3


async def test_the_wait_has_an_end(tmp_path: Path) -> None:
    slow = Behaviour(first_token_s=2.0)
    turns = "{stay: 5 s, wait: 0.2 s, swap: 0.1 s}"
    async with world(tmp_path, behaviour=slow, turns=turns) as w:
        running = asyncio.create_task(w.ask("local/qwen", max_tokens=1))
        await w.qwen.arrived(path="/v1/chat/completions")
        late = await w.ask("local/coder", max_tokens=1)
        assert late.status_code == 503
        assert "its turn did not come within 0.2 s" in late.json()["error"]["message"]
        assert (await running).status_code == 200


async def test_a_client_that_goes_away_does_not_hold_the_gpu(tmp_path: Path) -> None:
    slow = Behaviour(first_token_s=0.5)
    async with world(tmp_path, behaviour=slow) as w:
        running = asyncio.create_task(w.ask("local/qwen", max_tokens=1))
        await w.qwen.arrived(path="/v1/chat/completions")
        gone = asyncio.create_task(w.ask("local/coder", max_tokens=1))
        gpu = w.served.gateway.gpus.of(w.coder.origin)
        assert gpu is not None
        await until(lambda: gpu.waiting == 1)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert (await running).status_code == 200
        assert (await w.ask("local/qwen", max_tokens=1)).status_code == 200
        assert gpu.waiting == 0


async def test_one_that_somebody_else_puts_to_sleep_is_woken_for_who_hangs_there(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w, httpx.AsyncClient() as client:
        assert (await w.ask("local/qwen")).status_code == 200
        await client.post(f"{w.qwen.origin}/sleep?level=1")
        assert (await w.ask("local/qwen")).status_code == 200


async def test_where_waking_fails_the_next_candidate_answers(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        card = w.engines[0].vllm.card
        assert card is not None
        foreign = Engine(Vllm(card=None), sleep=asyncio.sleep, now=lambda: 0.0)
        w.engines[0].asleep, card.holder = True, foreign  # somebody else's model has the memory
        failed = await w.ask("local/coder")
        assert failed.status_code == 503
        assert "out of memory" in failed.json()["error"]["message"]
        answer = await w.ask("auto")
        assert answer.headers["x-switchboard-target"] == "commercial/mini"
        w.engines[0].asleep, card.holder = False, None


async def test_servers_without_sleep_mode_are_told_with_the_mend(tmp_path: Path) -> None:
    async with world(tmp_path, sleep_mode=False) as w:
        assert (await w.ask("local/qwen")).status_code == 200
        refused = await w.ask("local/coder")
        assert refused.status_code == 503
        assert "start vLLM with --enable-sleep-mode" in refused.json()["error"]["message"]


# ---------------------------------------------------------------- the objective


async def test_waking_happens_when_it_is_worth_it(tmp_path: Path) -> None:
    """The better model sleeps: a policy that pays for waiting goes elsewhere, another waits."""
    turns = "{stay: 10 s, swap: 5 s}"
    dear = "name: plain\nwaiting: {first_token: 0.01 usd/s}\n"
    async with world(tmp_path, turns=turns, policy=dear) as w:
        answer = await w.ask("auto")
        assert answer.headers["x-switchboard-target"] == "commercial/mini"
        row = await w.served.decision(answer)
        asleep = next(each for each in row["decision"]["ranked"] if each["target"] == "local/coder")
        assert asleep["load_s"] == pytest.approx(5.0, abs=0.1)
        assert not w.engines[1].swaps[1:]
    (tmp_path / "second").mkdir()
    async with world(tmp_path / "second", turns=turns) as w:
        answer = await w.ask("auto")
        assert answer.headers["x-switchboard-target"] == "local/coder"


async def test_a_busy_neighbour_makes_waking_dearer(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        before = w.served.gateway.live.server(w.coder.origin).others_s
        await w.both(*["local/qwen"] * 20)
        gpu = w.served.gateway.gpus.of(w.coder.origin)
        assert gpu is not None
        await gpu.look()
        assert w.served.gateway.live.server(w.coder.origin).others_s > before
        await w.ask("local/coder")
        await gpu.look()
        assert w.served.gateway.live.server(w.coder.origin).others_s == 0.0
