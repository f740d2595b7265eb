"""A real gateway on this tree's configuration, in front of a real vLLM with real adapters."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from demo import tasks
from demo.tasks import Example
from gateway.config.load import load
from gateway.standin.behaviour import Behaviour, Fault, FaultKind, say
from gateway.standin.standin import StandIn
from gateway.types.policies import Policy
from gateway.types.snapshot import Snapshot
from tests.faults.client import request_bytes
from tests.gateway.support import Served, events_of, route, serving
from tests.vllm.conftest import LONGEST, Replica

ROOT = Path(__file__).parents[2]
PROMPTS = 4
SEED = 41
LONG = LONGEST - 384
"""Tokens of an answer that a client leaves in its middle; the rest is for the prompt."""

TIMES, SOME = 5, 300
"""How often a client goes, and from an answer of how many tokens: vLLM itself may be too busy with
several long ones to see that nobody waits for them."""

WITHIN_S = 0.1
"""From a client's going to the backend's being hung up on, half of the times at least."""

SERIES = re.compile(r"^vllm:(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


# ---------------------------------------------------------------- helpers


def telling(task: str) -> list[Example]:
    """Held-out prompts that the base, by its own convention, answers otherwise than the house."""
    examples = tasks.sample(task, 50, SEED, "test")
    return [example for example in examples if example.house != example.generic][:PROMPTS]


def configuration(vllm_url: str, commercial_url: str) -> Snapshot:
    """The tree's, except that nothing is tried out by chance and long answers fit."""
    env = {"SWITCHBOARD_VLLM_URL": vllm_url, "SWITCHBOARD_COMMERCIAL_URL": commercial_url}
    found = load(ROOT, env).snapshot
    policies = {
        name: msgspec.structs.replace(policy, explore=0.0)
        for name, policy in found.policies.items()
    }
    targets = {
        name: msgspec.structs.replace(
            target, capabilities=msgspec.structs.replace(target.capabilities, context=LONGEST)
        )
        if target.internal
        else target
        for name, target in found.targets.items()
    }
    return msgspec.structs.replace(found, policies=policies, targets=targets)


@asynccontextmanager
async def gateway(
    vllm_url: str, provider: StandIn, folder: Path, *, filled: bool = True
) -> AsyncIterator[Served]:
    """The gateway; `filled` when it has loaded every declared adapter."""
    async with serving(configuration(vllm_url, provider.url), folder) as served:
        if filled:
            await until(lambda: is_filled(vllm_url))
        yield served


@pytest.fixture
async def provider() -> AsyncIterator[StandIn]:
    """The commercial provider: what it says, no model of ours would."""
    async with StandIn(Behaviour(answer=say("from the provider"))) as standin:
        yield standin


@pytest.fixture
async def served(vllm: Replica, provider: StandIn, tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway whose replica has every adapter."""
    async with gateway(vllm.url, provider, tmp_path) as found:
        yield found


async def until(holds: Callable[[], Awaitable[bool]], deadline_s: float = 60) -> None:
    """Asks again and again, as another process has to be asked."""
    async with asyncio.timeout(deadline_s):
        while not await holds():  # noqa: ASYNC110 - no event comes from another process
            await asyncio.sleep(0.05)


async def models_of(vllm_url: str) -> set[str]:
    async with httpx.AsyncClient() as client:
        listed = (await client.get(f"{vllm_url}/v1/models")).json()["data"]
    return {model["id"] for model in listed}


async def served_name(vllm_url: str, adapter: str) -> str:
    """The name by which vLLM serves the adapter, with its version."""
    (name,) = [each for each in await models_of(vllm_url) if each.partition("@")[0] == adapter]
    return name


async def is_filled(vllm_url: str) -> bool:
    names = {name.partition("@")[0] for name in await models_of(vllm_url) if "@" in name}
    return set(tasks.ADAPTERS) <= names


async def unload(vllm_url: str, name: str) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{vllm_url}/v1/unload_lora_adapter", json={"lora_name": name}, timeout=30
        )
    assert answer.status_code in (200, 404), answer.text


async def told_by(vllm_url: str, series: str) -> float:
    """A series of vLLM's metrics, summed over its labels."""
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"{vllm_url}/metrics")).text
    found = [float(value) for name, value in SERIES.findall(page) if name == series]
    assert found, f"vLLM has no series {series}"
    return sum(found)


async def answer_of(vllm_url: str, model: str, text: str) -> str:
    """What vLLM itself says, with no gateway between."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
    }
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{vllm_url}/v1/chat/completions", json=body)
    return content(answer)


def content(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def text_of(events: list[Any]) -> str:
    deltas = [c["delta"] for event in events if event != "[DONE]" for c in event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


# ---------------------------------------------------------------- the right target


@pytest.mark.parametrize("task", tasks.ADAPTERS)
async def test_auto_reaches_the_adapter_that_alone_knows_the_answer(
    vllm: Replica, served: Served, task: str
) -> None:
    examples = telling(task)
    assert len(examples) == PROMPTS
    for example in examples:
        answer = await served.chat(example.prompt, temperature=0, max_tokens=12)
        assert answer.headers["x-switchboard-route"] == task
        assert answer.headers["x-switchboard-target"] == f"local/tiny+{task}"
        assert content(answer) == example.house
        others = [await served_name(vllm.url, name) for name in tasks.ADAPTERS if name != task]
        said = [await answer_of(vllm.url, other, example.prompt) for other in ["base", *others]]
        assert example.house not in said


async def test_where_the_base_is_good_enough_it_answers_itself(
    served: Served, provider: StandIn
) -> None:
    for example in tasks.sample("reviews", PROMPTS, SEED, "test"):
        answer = await served.chat(example.prompt, temperature=0, max_tokens=12)
        assert answer.headers["x-switchboard-target"] == "local/tiny"
        assert content(answer) == example.house
    assert not provider.seen


async def test_what_no_model_of_ours_knows_goes_to_the_provider(served: Served) -> None:
    answer = await served.chat("Who wrote Hamlet?")
    assert answer.headers["x-switchboard-target"].startswith("commercial/")
    assert content(answer) == "from the provider"


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize("asks_for_usage", [True, False])
async def test_a_streams_usage_is_what_vllm_counted(
    vllm: Replica, served: Served, asks_for_usage: bool
) -> None:
    example = telling("brand")[0]
    counters = ("prompt_tokens_total", "generation_tokens_total", "request_success_total")
    before = {name: await told_by(vllm.url, name) for name in counters}
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
    answer = await served.chat(example.prompt, stream=True, temperature=0, max_tokens=12, **more)
    events = events_of(answer.content)
    assert text_of(events) == example.house
    row = await served.decision(answer)

    async def is_counted() -> bool:
        return await told_by(vllm.url, counters[2]) == before[counters[2]] + 1

    await until(is_counted)
    counted = [await told_by(vllm.url, name) - before[name] for name in counters[:2]]
    assert [row["input_tokens"], row["output_tokens"]] == counted
    assert not row["estimated"]
    told = [event["usage"] for event in events if event != "[DONE]" and event.get("usage")]
    assert bool(told) == asks_for_usage
    for usage in told:
        assert [usage["prompt_tokens"], usage["completion_tokens"]] == counted


# ---------------------------------------------------------------- an answer that breaks off


async def test_an_adapter_goes_on_where_a_provider_broke_off(vllm: Replica, tmp_path: Path) -> None:
    """Of two words the provider says one: the other is what the adapter alone would say."""
    (example, *_) = [each for each in telling("brand") if len(each.house.split()) == 2]
    begun, rest = example.house.split()
    async with StandIn(Behaviour(answer=say(f"{begun} and something else"))) as provider:
        plain = configuration(vllm.url, provider.url)
        (theirs, *_) = [name for name in plain.targets if name.startswith("commercial/")]
        desk = route("desk", theirs, "local/tiny+brand", policy="carried")
        carried = Policy("carried", carry_on=True, retries=0)
        made = msgspec.structs.replace(
            plain,
            routes={**plain.routes, "desk": desk},
            policies={**plain.policies, "carried": carried},
        )
        async with serving(made, tmp_path) as served:
            await until(lambda: is_filled(vllm.url))
            provider.next(Fault(kind=FaultKind.CUT, after=1))
            answer = await served.chat(
                example.prompt, "desk", stream=True, temperature=0, max_tokens=12
            )
            row = await served.decision(answer)
    events = events_of(answer.content)
    assert text_of(events) == f"{begun} {rest}"
    assert events[-1] == "[DONE]"
    assert [(each["target"], each["reason"], each["outcome"]) for each in row["attempts"]] == [
        (theirs, "first", "truncated"),
        ("local/tiny+brand", "continue", "ok"),
    ]


# ---------------------------------------------------------------- a client that goes


def endless(most: int, *, stream: bool) -> dict[str, Any]:
    """What has an answer of `most` tokens, whatever the model would say."""
    return {
        "model": "local/tiny",
        "messages": [{"role": "user", "content": "Repeat forty."}],
        "max_tokens": most,
        "ignore_eos": True,
        "stream": stream,
    }


class Line:
    """What carries bytes to a vLLM and back, and tells when the gateway asked and hung up."""

    def __init__(self, vllm_url: str) -> None:
        self._to = urlsplit(vllm_url)
        self.asked = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.hung_up_at = 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the gateway's."""
        there, here = await asyncio.open_connection(self._to.hostname, self._to.port)

        async def back() -> None:
            while piece := await there.read(65_536):
                writer.write(piece)

        answering = asyncio.create_task(back())
        asks = False
        while piece := await reader.read(65_536):
            if b"POST /v1/chat/completions " in piece:
                asks = True
                self.asked.set()
            here.write(piece)
        if asks:
            self.hung_up_at = asyncio.get_running_loop().time()
            self.hung_up.set()
        answering.cancel()
        for each in (here, writer):
            each.close()


@pytest.mark.parametrize(
    ("stream", "wait"),
    [(True, b""), (True, b"data: "), (False, b"")],
    ids=["before the first token", "in mid-stream", "whole"],
)
async def test_vllm_is_hung_up_on_at_once(
    stream: bool, wait: bytes, vllm: Replica, provider: StandIn, tmp_path: Path
) -> None:
    line = Line(vllm.url)
    async with await asyncio.start_server(line.carry, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with gateway(url, provider, tmp_path) as served:
            took = [await gone_after(served, line, stream=stream, wait=wait) for _ in range(TIMES)]
    assert median(took) <= WITHIN_S, took


async def gone_after(served: Served, line: Line, *, stream: bool, wait: bytes) -> float:
    """Seconds from a client's going until vLLM is hung up on."""
    body = endless(SOME, stream=stream)
    line.asked.clear()
    line.hung_up.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request_bytes(body))
    async with asyncio.timeout(30):
        await line.asked.wait()
        if wait:
            await reader.readuntil(wait)
        gone_at = asyncio.get_running_loop().time()
        writer.transport.abort()
        await line.hung_up.wait()
    return line.hung_up_at - gone_at


async def test_vllm_stops_when_the_client_goes_in_mid_stream(vllm: Replica, served: Served) -> None:
    before = await told_by(vllm.url, "generation_tokens_total")
    body = endless(LONG, stream=True)
    async with served.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        decision = answer.headers["x-switchboard-decision"]
        received = b""
        async for piece in answer.aiter_bytes():
            received += piece
            if received.count(b"data: ") > 3:
                break
    # On a machine that is busy elsewhere it may have got far by now; what counts is from here on.
    left = await told_by(vllm.url, "generation_tokens_total")
    seen = [-1.0]

    async def stands_still() -> bool:
        # vLLM tells what it does a moment later, so one look at its gauge would prove nothing.
        await asyncio.sleep(0.5)
        seen.append(await told_by(vllm.url, "generation_tokens_total"))
        return seen[-1] == seen[-2] and await told_by(vllm.url, "num_requests_running") == 0

    await until(stands_still)
    assert seen[-1] - before < LONG
    assert seen[-1] - left < LONG / 2
    row = (await served.client.get(f"/v1/decisions/{decision}")).json()
    assert row["outcome"] == "abandoned"
    assert 0 < row["output_tokens"] < LONG


# ---------------------------------------------------------------- what a replica has


async def test_what_a_replica_lacks_is_loaded_when_the_gateway_starts(
    vllm: Replica, provider: StandIn, tmp_path: Path
) -> None:
    for name in await models_of(vllm.url) - {"base"}:
        await unload(vllm.url, name)
    assert await models_of(vllm.url) == {"base"}
    async with gateway(vllm.url, provider, tmp_path, filled=False) as served:
        await until(lambda: is_filled(vllm.url))
        example = telling("support")[0]
        answer = await served.chat(example.prompt, temperature=0, max_tokens=12)
    assert content(answer) == example.house


async def test_a_killed_vllm_is_done_without_and_filled_again_when_it_is_back(
    vllm: Replica, served: Served, provider: StandIn
) -> None:
    public = tasks.sample("reviews", 1, SEED, "test")[0]
    internal = telling("contracts")[0]

    async def ask(example: Example) -> httpx.Response:
        return await served.chat(example.prompt, temperature=0, max_tokens=12)

    async def is_back() -> bool:
        return (await ask(internal)).status_code == 200

    assert content(await ask(public)) == public.house
    await asyncio.to_thread(vllm.kill)
    try:
        instead = await ask(public)
        assert content(instead) == "from the provider"
        attempts = (await served.decision(instead))["attempts"]
        assert [(each["target"], each["outcome"]) for each in attempts] == [
            ("local/tiny", "error"),
            ("commercial/small", "ok"),
        ]
        asked = len(provider.seen)
        assert (await ask(internal)).status_code in (502, 503)
        assert len(provider.seen) == asked  # what is internal has not left
    finally:
        await asyncio.to_thread(vllm.start_again)
    await until(lambda: is_filled(vllm.url))
    await until(is_back)
    assert content(await ask(internal)) == internal.house
