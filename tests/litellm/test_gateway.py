"""A whole gateway with litellm behind it: what its clients see, and what it keeps."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway.app import Gateway
from gateway.serving import listening
from gateway.standin.behaviour import Behaviour, to_length
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.store import Store
from gateway.types.backends import Backend
from gateway.types.snapshot import Snapshot
from tests.gateway.support import Served, route, serving_client, snapshot, target
from tests.litellm import wire
from tests.litellm.conftest import KEYS, PYTHON
from tests.litellm.provider import Plan, Provider, provider

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 120.0
SPARE_KEY = "sk-spare"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Provider]:
    async with provider() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def spare() -> AsyncIterator[StandIn]:
    """The provider that is asked when Anthropic's fails."""
    words = to_length("the spare one answers", 4)
    async with StandIn(Behaviour(answer=lambda _: words), keys=[SPARE_KEY]) as one:
        yield one


def configuration(upstream: Provider, spare: StandIn) -> Snapshot:
    """Claude and Cohere through litellm, in that order before the spare provider."""
    claude = target("claude/small", "", served="claude/small", replicas=(), priced=False)
    vectors = target("cohere/small", "", served="cohere/small", replicas=(), priced=False)
    plain = snapshot(
        [claude, vectors, target("spare/mini", spare.url)],
        [route("general", "claude/small", "spare/mini"), route("vectors", "cohere/small")],
        keys={"spare": SPARE_KEY},
    )

    def through_litellm(name: str, provider: str, model: str, path: str) -> Backend:
        return Backend(
            name=name,
            kind="litellm",
            replicas=(),
            provider=provider,
            api_key=KEYS[name],
            api_base=upstream.url + path,
            models={"small": model},
        )

    backends = {
        **plain.backends,
        "claude": through_litellm("claude", "anthropic", "claude-haiku-4-5", ""),
        "cohere": through_litellm("cohere", "cohere", "embed-english-v3.0", "/cohere/embed"),
    }
    return msgspec.structs.replace(plain, backends=backends)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    upstream: Provider, spare: StandIn, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    snapshot = configuration(upstream, spare)
    store = Store.open(f"sqlite:///{folder}/switchboard.db")
    gateway = Gateway(snapshot, store, litellm_python=str(PYTHON))
    secret = Keys(store).create("application").secret
    await gateway.start()
    try:
        async with listening(gateway, "127.0.0.1", 0, snapshot.server) as port:
            async with serving_client(gateway, port, secret) as one:
                yield one
    finally:
        await gateway.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def priced(served: Served) -> Served:
    """The gateway once litellm has told its prices."""

    async def known() -> None:
        plane = served.gateway.pipeline.plane
        while not plane.snapshot.targets["claude/small"].priced:
            await asyncio.sleep(0.05)
            plane = served.gateway.pipeline.plane

    await asyncio.wait_for(known(), WAIT_S)
    return served


async def test_before_litellm_has_told_its_prices_what_has_one_is_asked(served: Served) -> None:
    snapshot = served.gateway.pipeline.plane.snapshot
    assert not snapshot.targets["claude/small"].priced
    answer = await served.chat()
    assert answer.headers["x-switchboard-target"] == "spare/mini"
    (out,) = (await served.decision(answer))["decision"]["ruled_out"]
    assert "price is not known" in str(out)


async def test_a_plain_answer_its_cost_and_whose_key_went_where(
    priced: Served, upstream: Provider
) -> None:
    upstream.plays(wire.message([wire.text("hello")]))
    answer = await priced.chat()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert answer.headers["x-switchboard-target"] == "claude/small"
    price = priced.gateway.pipeline.plane.snapshot.targets["claude/small"].price
    cost = 12 * price.input + 2 * price.cached_input + 7 * price.output
    assert cost > 0
    assert float(answer.headers["x-switchboard-cost-usd"]) == pytest.approx(cost, abs=1e-8)
    (seen,) = upstream.seen
    assert seen.headers["x-api-key"] == KEYS["claude"]
    assert priced.key is not None
    assert priced.key not in str(seen.headers) + str(seen.body)


async def test_a_stream_is_metered_though_the_client_did_not_ask(
    priced: Served, upstream: Provider
) -> None:
    upstream.plays(Plan([wire.opening(), *wire.text_block(["he", "llo"]), *wire.closing()]))
    answer = await priced.chat(stream=True)
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert all(chunk["choices"] and not chunk.get("usage") for chunk in chunks)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "hello"
    row = await priced.decision(answer)
    assert (row["outcome"], row["estimated"], row["input_tokens"]) == ("ok", False, 14)
    assert row["cost_usd"] > 0


async def test_tools_go_there_and_calls_come_back(priced: Served, upstream: Provider) -> None:
    upstream.plays(wire.message([wire.tool_use("get_weather", {"city": "Bern"})], "tool_use"))
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    answer = await priced.chat(tools=[tool])
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert upstream.seen[0].body["tools"][0]["name"] == "get_weather"


async def test_an_embedding(priced: Served, upstream: Provider) -> None:
    upstream.plays(wire.cohere_vectors([[0.5, 0.25]]))
    body = {"model": "vectors", "input": "text", "encoding_format": "float"}
    answer = await priced.client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["embedding"] == [0.5, 0.25]


async def test_a_provider_that_fails_is_followed_by_the_next_candidate(
    priced: Served, upstream: Provider
) -> None:
    upstream.plays(wire.anthropic_error(529, "overloaded_error", "Overloaded"))
    answer = await priced.chat()
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-switchboard-target"] == "spare/mini"
    attempts = (await priced.decision(answer))["attempts"]
    assert [(each["target"], each["outcome"]) for each in attempts] == [
        ("claude/small", "error"),
        ("spare/mini", "ok"),
    ]


async def test_a_stream_that_breaks_off_ends_in_one_error_and_is_kept_as_such(
    priced: Served, upstream: Provider
) -> None:
    upstream.plays(Plan([wire.opening(), *wire.text_block(["ha", "lf"])[:-1]], ending="reset"))
    # Named, so that the failure before does not send it elsewhere.
    answer = await priced.chat(model="claude/small", stream=True)
    *chunks, last = events(answer.text)
    assert set(last) == {"error"}
    assert not any("error" in chunk for chunk in chunks)
    assert "[DONE]" not in answer.text
    row = await priced.decision(answer)
    assert row["outcome"] in ("error", "truncated")
    assert row["estimated"]


def events(text: str) -> list[Any]:
    """A stream's events, decoded; `[DONE]` stays a text."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else msgspec.json.decode(line) for line in lines]
