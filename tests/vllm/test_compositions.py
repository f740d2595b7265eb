"""Cascades from a real vLLM to a commercial provider: as right as that at a share of its cost.

Of the provider it is known what it says: it is right but for one note in ten. Of what our own
models say nothing is known before, and no check knows the right answer.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from sqlalchemy import select

from benchmarks import compositions
from benchmarks.compositions import PLAIN
from demo import tasks
from demo.questions import FREIGHT
from demo.run import BASE, CASCADE, COMMERCIAL
from demo.tasks import Example
from gateway.config.load import load
from gateway.standin.__main__ import Config
from gateway.standin.standin import StandIn
from gateway.store import schema
from gateway.types.snapshot import Snapshot
from tests.gateway.support import Served, events_of, serving, text_of
from tests.vllm.conftest import Replica

AT_ONCE = 8
ADAPTED = f"{BASE}+{FREIGHT}"
STATED = 0.35
"""The share of the commercial model's cost that the demo's cascade may take here, where one note in
six goes to a city that the adapter does not know."""


class Outcome(msgspec.Struct):
    """What one request came to: its answer, the header's and body's words, its rows."""

    right: bool
    said: str
    steps: str
    usage: dict[str, Any]
    row: Any
    attempts: Sequence[Any]


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Held-out notes; the last go to cities that no model has seen."""
    return compositions.notes()


def configuration(folder: Path, vllm_url: str, provider_url: str) -> Snapshot:
    """The tree's, with the cascade from the base alone."""
    folder.mkdir()
    env = {"SWITCHBOARD_VLLM_URL": vllm_url, "SWITCHBOARD_COMMERCIAL_URL": provider_url}
    return load(compositions.home(folder), env).snapshot


@asynccontextmanager
async def gateway(
    vllm: Replica, examples: Sequence[Example], folder: Path
) -> AsyncIterator[tuple[Served, StandIn]]:
    """The gateway with every adapter loaded, and the provider behind it."""
    said = msgspec.convert(compositions.provider(examples, capable=True), Config)
    behaviours = {name: model.behaviour() for name, model in said.models.items()}
    async with StandIn(behaviours) as provider:
        snapshot = configuration(folder / "home", vllm.url, provider.url)
        async with serving(snapshot, folder) as served:
            await served.gateway.adapters_present()
            yield served, provider


async def ask_all(served: Served, model: str, examples: Sequence[Example]) -> list[Outcome]:
    """Every note, several at a time, with the rows that were written of each."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def ask(example: Example) -> tuple[Example, Any]:
        async with limit:
            answer = await served.chat(example.prompt, model, temperature=0, max_tokens=12)
            assert answer.status_code == 200, answer.text
            return example, answer

    answered = await asyncio.gather(*(ask(example) for example in examples))
    await asyncio.to_thread(served.gateway.writer.flush)
    return [outcome(served, example, answer) for example, answer in answered]


def outcome(served: Served, example: Example, answer: Any) -> Outcome:
    requests, attempts = schema.requests, schema.attempts
    id = answer.headers["x-request-id"]
    with served.gateway.store.engine.connect() as connection:
        row = connection.execute(select(requests).where(requests.c.id == id)).one()
        of_it = select(attempts).where(attempts.c.request_id == id).order_by(attempts.c.n)
        tried = connection.execute(of_it).all()
    said = answer.json()["choices"][0]["message"]["content"]
    steps = answer.headers.get("x-switchboard-steps", "")
    return Outcome(said == example.house, said, steps, answer.json()["usage"], row, tried)


def right(outcomes: Sequence[Outcome]) -> float:
    return sum(each.right for each in outcomes) / len(outcomes)


def cost(outcomes: Sequence[Outcome]) -> float:
    dollars: float = sum(each.row.cost_usd for each in outcomes)
    return dollars


def escalated(outcomes: Sequence[Outcome]) -> float:
    return sum(len(each.attempts) > 1 for each in outcomes) / len(outcomes)


def check_rows(outcomes: Sequence[Outcome], first: str, prices: Mapping[str, Any]) -> None:
    """Attempts, money and usage are those of the steps that were asked, to the token."""
    for each in outcomes:
        tried = [attempt.target for attempt in each.attempts]
        went_on = f"1 {first} escalated, 2 {COMMERCIAL} answered"
        assert (tried, each.steps) in [
            ([first], f"1 {first} passed"),
            ([first, COMMERCIAL], went_on),
        ]
        assert {attempt.outcome for attempt in each.attempts} == {"ok"}
        assert not any(attempt.estimated for attempt in each.attempts)
        for attempt in each.attempts:
            price = prices[attempt.target]
            due = attempt.input_tokens * price.input + attempt.output_tokens * price.output
            assert attempt.cost_usd == pytest.approx(due)
        assert each.row.cost_usd == pytest.approx(sum(a.cost_usd for a in each.attempts))
        tokens = [
            sum(attempt.input_tokens for attempt in each.attempts),
            sum(attempt.output_tokens for attempt in each.attempts),
        ]
        assert [each.row.input_tokens, each.row.output_tokens] == tokens
        assert [each.usage["prompt_tokens"], each.usage["completion_tokens"]] == tokens


async def test_a_cascade_is_as_right_as_the_commercial_model_at_a_share_of_its_cost(
    vllm: Replica, examples: list[Example], tmp_path: Path
) -> None:
    async with gateway(vllm, examples, tmp_path) as (served, _):
        of = {
            name: await ask_all(served, name, examples)
            for name in (COMMERCIAL, CASCADE, PLAIN, ADAPTED, BASE)
        }
        prices = {
            name: t.price for name, t in served.gateway.pipeline.plane.snapshot.targets.items()
        }

    commercial = of[COMMERCIAL]
    assert right(commercial) == 0.9

    # The adapter knows nothing of new cities, is less sure there, and the provider is asked.
    cascade = of[CASCADE]
    assert right(cascade) >= right(commercial)
    assert right(cascade) > right(of[ADAPTED]) + 0.05
    assert cost(cascade) <= STATED * cost(commercial)
    assert 0.05 <= escalated(cascade) <= 0.3
    check_rows(cascade, ADAPTED, prices)

    # Harder: the base without an adapter names the goods in half of the notes, which is no city.
    plain, base = of[PLAIN], of[BASE]
    assert 0.35 <= right(base) <= 0.6
    assert right(plain) > right(base) + 0.2
    assert cost(base) < cost(plain) < 0.7 * cost(commercial)
    check_rows(plain, BASE, prices)
    for alone, composed in zip(base, plain, strict=True):
        assert (len(composed.attempts) == 2) == (alone.said not in tasks.CITIES)


async def test_both_ways_through_a_cascade_stream(
    vllm: Replica, examples: list[Example], tmp_path: Path
) -> None:
    by_city = next(each for each in examples if each.house == each.generic)
    by_goods = next(
        each for n, each in enumerate(examples) if each.house != each.generic and n % 10
    )
    async with gateway(vllm, examples, tmp_path) as (served, _):
        for example, calls in ((by_city, 1), (by_goods, 2)):
            options = {"temperature": 0, "max_tokens": 12}
            whole = (await served.chat(example.prompt, PLAIN, **options)).json()
            events = await served.events(
                example.prompt, PLAIN, stream_options={"include_usage": True}, **options
            )
            assert text_of(events) == example.house
            assert events[-1] == "[DONE]"
            assert events[-2]["usage"] | whole["usage"] == events[-2]["usage"]
            async with openai.AsyncOpenAI(base_url=served.url, api_key="none") as client:
                stream = await client.chat.completions.create(
                    model=PLAIN,
                    messages=[{"role": "user", "content": example.prompt}],
                    stream=True,
                    temperature=0,
                )
                chunks = [chunk async for chunk in stream]
            said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
            assert "".join(said) == example.house
            answer = await served.chat(example.prompt, PLAIN, stream=True, **options)
            assert text_of(events_of(answer.content)) == example.house
            assert len((await served.decision(answer))["attempts"]) == calls
