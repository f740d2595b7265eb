"""Answers of a real vLLM judged: by a person, blindly, and a shadow's by a model.

The person and the model know which queue the house wants of each ticket, and nothing of who said
what. Beside the base with and without its adapter stands a provider that follows the generic
convention, as the base does.
"""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from demo import tasks
from demo.tasks import Example
from gateway.evals import runs
from gateway.standin.behaviour import Asked, Behaviour
from gateway.standin.standin import StandIn
from gateway.store import schema
from tests.gateway.composed import written
from tests.gateway.support import Served, serving_home
from tests.vllm.conftest import Replica
from tests.vllm.support import SEED, home_of, printed

BASE, ADAPTED = "local/tiny", "local/tiny+support"
GENERIC, JUDGE = "outside/generic", "outside/judge"
INPUT_USD, OUTPUT_USD = 1e-6, 5e-6
PRICE = "{input: 1 usd/Mtok, output: 5 usd/Mtok}"
OUTSIDE = """default_route: general
backends:
  outside:
    kind: openai
    url: {url}
    models: {{generic: {{id: generic, price: {price}}}, judge: {{id: judge, price: {price}}}}}
"""
FILES = {
    "routes/general.yaml": "name: general\nvalue: 0.01 usd\npolicy: plain\n"
    "candidates: [{target: outside/generic, quality: 0.5}]\n",
    "routes/support.yaml": "name: support\nvalue: 0.01 usd\npolicy: plain\nmatch: named\n"
    "keep: text\ncandidates: [{target: local/tiny, quality: 0.5}]\n"
    "shadow: {target: local/tiny+support, traffic: 100 %, budget: 5 usd, concurrent: 64}\n",
    "policies/plain.yaml": "name: plain\n",
    "evals/support.yaml": "name: support\nroute: support\ndata: support.jsonl\n"
    "max_tokens: 8\ntemperature: 0.3\nrepetitions: 2\n"
    f"targets: [{BASE}, {ADAPTED}, {GENERIC}]\n",
}
COUNT, ALIKE = 24, 8


@pytest.fixture(scope="module")
def examples() -> Mapping[str, Example]:
    """Held-out tickets by their text: those that the house answers in its own way, and others."""
    sample = {each.prompt: each for each in tasks.sample("support", 400, SEED + 1, "test")}
    alike = [each for each in sample.values() if each.house == each.generic][:ALIKE]
    own = [each for each in sample.values() if each.house != each.generic][: COUNT - ALIKE]
    return {each.prompt: each for each in (*alike, *own)}


def outside(examples: Mapping[str, Example]) -> dict[str, Behaviour]:
    """The provider: a model that answers tickets, and one that judges answers to them."""

    def generic(asked: Asked) -> str:
        return examples[asked.text].generic if asked.text in examples else "here"

    def judge(asked: Asked) -> str:
        parts = dict(re.findall(r"<(\w+)>\n(.*?)\n</\1>", asked.text, re.DOTALL))
        if not parts:
            return "here"
        house = examples[parts["question"]].house
        first, second = (parts[side].strip() == house for side in ("first", "second"))
        return f"Better: {'same' if first == second else 'first' if first else 'second'}"

    return {"generic": Behaviour(answer=generic), "judge": Behaviour(answer=judge)}


@asynccontextmanager
async def gateway(
    vllm: Replica, examples: Mapping[str, Example], home: Path
) -> AsyncIterator[Served]:
    """The gateway of files in `home`, its adapter loaded."""
    rows = [{"input": each.prompt, "expected": each.house} for each in examples.values()]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    async with StandIn(outside(examples)) as provider:
        written_there = {
            **FILES,
            "evals/support.jsonl": lines,
            "gateway.yaml": OUTSIDE.format(url=provider.url, price=PRICE),
        }
        home_of(vllm, home, "support", files=written_there)
        async with serving_home(home) as served:
            await served.gateway.adapters_present()
            yield served


@asynccontextmanager
async def labelling(home: Path) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """`eval label`, ended as its user ends it; a client of its page, and its address."""
    words = ("eval", "label", "support", "--rater", "ann", "--no-open", "--json")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *words),
        cwd=home, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        url = (await process.stderr.readline()).decode().split()[-1]
    headers = {"content-type": "application/json", "origin": url.rsplit("/", 2)[0]}
    try:
        async with httpx.AsyncClient(headers=headers) as client:
            yield client, url
    finally:
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
    told = json.loads(out)
    assert told["done"] == told["pairs"] > 0


def says(shown: dict[str, Any], house: str) -> dict[str, Any]:
    """What a person says of two answers who knows the right one."""
    left, right = (text.strip() == house for text in shown["texts"])
    preferred = "tie" if left == right else "left" if left else "right"
    return {"preferred": preferred, "left": left, "right": right}


async def test_a_person_who_labels_blindly_prefers_the_adapter(
    vllm: Replica, examples: Mapping[str, Example], tmp_path: Path
) -> None:
    async with gateway(vllm, examples, tmp_path) as served:
        ran = await printed(served, tmp_path, "eval", "run", "evals/support.yaml", asks=True)
        async with labelling(tmp_path) as (client, url):
            count = (await client.get(f"{url}state")).json()["count"]
            for n in range(count):
                answer = await client.get(f"{url}pairs/{n}")
                assert not re.search(r"local/|outside/|tiny|generic", answer.text)
                shown = answer.json()
                body = says(shown, examples[shown["input"]].house)
                (await client.post(f"{url}pairs/{n}", json=body)).raise_for_status()
        report = await printed(served, tmp_path, "eval", "report", "support")
    assert {row["answers"] for row in ran["rows"]} == {2 * COUNT}
    _, results = runs.read(runs.found(tmp_path / runs.HOME, "support"))
    truth = {
        name: sum(each.output.strip() == examples[each.input].house for each in rows) / len(rows)
        for name in (BASE, ADAPTED, GENERIC)
        if (rows := [each for each in results if each.target == name])
    }
    assert truth[ADAPTED] > 0.9
    assert max(truth[BASE], truth[GENERIC]) < 0.75

    told = report["labels"]
    # Every repetition counts, though two texts that came again were not shown again.
    assert {each["target"]: each["right"] for each in told["marks"]} == pytest.approx(truth)
    assert {each["cases"] for each in told["marks"]} == {COUNT}
    pairs = {(each["one"], each["other"]): each for each in told["preferences"]}
    against_base, against_generic = pairs[BASE, ADAPTED], pairs[ADAPTED, GENERIC]
    assert max(against_base["wins"], against_generic["losses"]) <= 2
    assert min(against_base["losses"], against_generic["wins"]) > COUNT / 2
    assert max(against_base["p"], against_generic["p"]) < 0.001
    first, *others = told["ranking"]
    assert (first["target"], first["first"], first["last"]) == (ADAPTED, 1, 1)
    assert first["low"] > 0.5 > max(each["high"] for each in others)
    (scorer,) = (each for each in told["scorers"] if each["on"] == "what is right")
    assert (scorer["scorer"], scorer["kappa"]) == ("exact", pytest.approx(1.0))


async def test_a_shadow_s_answers_are_judged_beside_those_that_were_given(
    vllm: Replica, examples: Mapping[str, Example], tmp_path: Path
) -> None:
    limit = asyncio.Semaphore(8)
    async with gateway(vllm, examples, tmp_path) as served:

        async def ask(text: str) -> httpx.Response:
            async with limit:
                return await served.chat(text, "support", temperature=0, max_tokens=8)

        answers = await asyncio.gather(*(ask(text) for text in examples))
        assert {each.headers["x-switchboard-target"] for each in answers} == {BASE}
        await served.gateway.shadows.settled()
        await written(served)
        found = await printed(served, tmp_path, "shadow", "report", "support")
        words = ("shadow", "judge", "support", "--judge", JUDGE, "--rubric", "The right queue.")
        told = await printed(served, tmp_path, *words, asks=True)
        again = await printed(served, tmp_path, *words, asks=True)
        await written(served)
        report = await printed(served, tmp_path, "eval", "report", "shadow-support")
        with served.gateway.store.engine.connect() as connection:
            kept = connection.execute(select(schema.requests)).all()
            ids = {each.id for each in kept if each.shadow_of is None}

    # Each request once, and its copy, with what each cost.
    # What the judge is asked is of the route, too.
    of_judge = [each for each in kept if each.target == JUDGE]
    copies = [each for each in kept if each.shadow_of is not None]
    given = [each for each in kept if each not in copies and each not in of_judge]
    assert {each.route for each in kept} == {"support"}
    assert (len(given), len(copies)) == (COUNT, COUNT)
    assert {each.target for each in copies} == {ADAPTED}
    assert {each.outcome for each in copies} == {"ok"}
    assert {each.shadow_of for each in copies} <= ids
    assert found["answered"]["cost_usd"] == pytest.approx(sum(each.cost_usd for each in given))
    assert found["shadow"]["cost_usd"] == pytest.approx(sum(each.cost_usd for each in copies))
    assert found["shadow"]["failed"] == 0
    by_base = {
        example.prompt: answer.json()["choices"][0]["message"]["content"]
        for example, answer in zip(examples.values(), answers, strict=True)
    }
    by_copy = {each.text: json.loads(each.answer)["choices"][0]["message"]["content"]
               for each in copies}  # fmt: skip
    differ = [text for text in examples if by_base[text] != by_copy[text]]
    assert found["same"] == COUNT - len(differ)

    # The judge is asked of those that differ, in both orders, and prefers what the house wants.
    right = {text: (by_base[text] == e.house, by_copy[text] == e.house)
             for text, e in examples.items()}  # fmt: skip
    (wins,) = told["shadows"]
    assert wins["wins"] == sum(copy and not base for base, copy in right.values()) > COUNT / 2
    assert wins["losses"] == sum(base and not copy for base, copy in right.values())
    assert wins["cases"] == COUNT
    assert wins["sure"]
    assert len(of_judge) == 2 * len(differ) + 2  # and who it is, once each time
    assert {each.outcome for each in of_judge} == {"ok"}
    due = sum(each.input_tokens * INPUT_USD + each.output_tokens * OUTPUT_USD for each in of_judge)
    assert told["judge_usd"] + again["judge_usd"] == pytest.approx(due)
    assert again["shadows"] == told["shadows"]
    assert again["judge_usd"] < told["judge_usd"] / 10
    assert {each["target"] for each in report["standings"]} == {BASE, ADAPTED}
