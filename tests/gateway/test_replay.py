"""What a new policy would have brought, by the log; and what it brings when it is really served."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from math import sqrt
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import build
from gateway.standin.behaviour import Behaviour
from gateway.standin.standin import StandIn
from gateway.store.feedback import FeedbackBook, Said
from gateway.store.store import Store
from tests.gateway.support import Served, serving_home

GATEWAY = """
default_route: general
backends:
  openai:
    kind: openai
    url: {url}
    api_key: sk-provider
    models:
      big: {{id: big, price: {{input: 1 usd/Mtok, output: 40 usd/Mtok}}}}
      small: {{id: small, price: {{input: 1 usd/Mtok, output: 4 usd/Mtok}}}}
"""
ROUTE = """
name: general
description: A kind of work.
value: 0.01 usd
candidates: [{target: openai/big, quality: 0.9}, {target: openai/small, quality: 0.8}]
policy: balanced
metrics: {accepted: {type: boolean, from: feedback, right_when: true}}
right: accepted
"""
BALANCED = "name: balanced\nweigh: {price: 0}\nexplore: 40 %\n"
FRUGAL = "name: balanced\nexplore: 10 %\n"
RIGHT = {"openai/big": 0.95, "openai/small": 0.7}
REQUESTS = 300


@pytest.fixture
async def provider() -> AsyncIterator[StandIn]:
    models = {"big": Behaviour(output_tokens=60), "small": Behaviour(output_tokens=30)}
    async with StandIn(models) as standin:
        yield standin


def home(folder: Path, url: str, policy: str) -> Path:
    """A configuration with one route of two candidates."""
    for name in ("routes", "policies"):
        (folder / name).mkdir(parents=True)
    (folder / "gateway.yaml").write_text(GATEWAY.format(url=url))
    (folder / "routes/general.yaml").write_text(ROUTE)
    (folder / "policies/balanced.yaml").write_text(policy)
    return folder


async def used(folder: Path, seed: int) -> tuple[list[float], list[float]]:
    """Asks many times, and says of each answer whether it was right: what each cost, and what was
    said."""
    rng = random.Random(seed)
    async with serving_home(folder) as served:
        rows = []
        for _ in range(0, REQUESTS, 20):
            rows += await asyncio.gather(*(one(served, rng.randint(1, 60)) for _ in range(20)))
        costs = [row["cost_usd"] for row in rows]
    store = Store.open(f"sqlite:///{folder}/switchboard.db")
    told = [float(rng.random() < RIGHT[row["target"]]) for row in rows]
    FeedbackBook(store).say(
        [
            Said(row["id"], "accepted", value, None, None, None, row["started"] + 1.0)
            for row, value in zip(rows, told, strict=True)
        ]
    )
    store.close()
    return costs, told


async def one(served: Served, words: int) -> dict[str, Any]:
    answer = await served.chat("word " * words)
    assert answer.status_code == 200, answer.text
    for _ in range(200):
        found = await served.client.get(f"/v1/decisions/{answer.headers['x-switchboard-decision']}")
        if found.status_code == 200:
            row: dict[str, Any] = found.json()
            return row
        await asyncio.sleep(0.02)
    raise AssertionError("the request was not written down")


async def replayed(folder: Path, *words: str) -> str:
    command = ["replay", "--config", str(folder), "--store", f"sqlite:///{folder}/switchboard.db"]
    done = await asyncio.to_thread(CliRunner().invoke, build(), [*command, *words])
    assert done.exit_code == 0, done.output
    return done.stdout


async def test_what_replay_says_is_what_the_policy_then_brings(
    provider: StandIn, tmp_path: Path
) -> None:
    before = home(tmp_path / "before", provider.url, BALANCED)
    costs, right = await used(before, 1)
    frugal = tmp_path / "frugal.yaml"
    frugal.write_text(FRUGAL)
    told = json.loads(await replayed(before, "--policy", str(frugal), "--json"))
    assert (told["logged"], told["requests"], told["left_out"]) == (REQUESTS, REQUESTS, [])
    assert told["figures"]["cost"]["logged"] == pytest.approx(fmean(costs))
    assert told["figures"]["right"]["logged"] == pytest.approx(fmean(right))
    assert told["elsewhere"] == pytest.approx(0.75, abs=1e-6)  # from 20 % to 95 %

    new_costs, new_right = await used(home(tmp_path / "after", provider.url, FRUGAL), 2)
    for what, new, old in (("cost", new_costs, costs), ("right", new_right, right)):
        figure = told["figures"][what]
        assert figure["measured"]
        # What was really seen has its own chance, of who was explored and who was right.
        error = sqrt((variance(new) + variance(old)) / REQUESTS)
        room = (figure["high"] - figure["low"]) / 2 + 4 * error
        change = fmean(new) - fmean(old)
        assert figure["low"] - room <= change <= figure["high"] + room, (what, change, figure)
    assert told["figures"]["cost"]["high"] < 0.0
    assert told["figures"]["right"]["high"] < 0.05

    words = await replayed(before, "--policy", str(frugal))
    assert "It would cost" in words
    assert "points fewer (−" in words
    assert "all replayed" in words

    (before / "policies/balanced.yaml").write_text(FRUGAL)
    command = ["diff", "--config", str(before), "--store", f"sqlite:///{before}/switchboard.db"]
    done = await asyncio.to_thread(CliRunner().invoke, build(), command)
    assert done.exit_code == 2, done.output
    assert f"By what was explored, from {REQUESTS} of the requests:" in done.stdout
    assert "It would cost" in done.stdout


async def test_what_was_never_tried_is_not_called_measured(
    provider: StandIn, tmp_path: Path
) -> None:
    before = home(tmp_path / "before", provider.url, "name: balanced\nweigh: {price: 0}\n")
    async with serving_home(before) as served:
        for _ in range(20):
            await one(served, 5)
    after = home(tmp_path / "after", provider.url, FRUGAL)
    told = json.loads(await replayed(before, "--files", str(after), "--json"))
    assert told["routes"][0]["support"]["unsupported"] == pytest.approx(0.95, abs=1e-6)
    assert told["figures"]["cost"]["low"] is None
    assert not told["figures"]["right"]["measured"]
    words = await replayed(before, "--files", str(after))
    assert "nothing is known of it: openai/small (95 %)" in words
    assert "not measured" in words


async def test_what_is_wrong_with_a_policys_file_is_told_where_it_is(
    provider: StandIn, tmp_path: Path
) -> None:
    before = home(tmp_path / "before", provider.url, BALANCED)
    (before / "policies/idle.yaml").write_text("name: idle\n")
    async with serving_home(before) as served:
        await one(served, 5)
    file = tmp_path / "tried.yaml"

    async def told(text: str) -> str:
        file.write_text(text)
        store = f"sqlite:///{before}/switchboard.db"
        line = ["replay", "--config", str(before), "--store", store, "--policy", str(file)]
        done = await asyncio.to_thread(CliRunner().invoke, build(), line)
        assert done.exit_code == 1, done.output
        return done.stderr

    assert (await told("name: balanced\nexplor: 10 %\n")).startswith(f"{file}:2 explor\n")
    assert await told("name: idle\n") == ("no route has the policy idle; name one with --route\n")
