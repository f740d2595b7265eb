"""Learned routing on a real vLLM: which of two adapters a prompt of a mixed route belongs to.

Tickets and freight notes come to one route, and no rule tells them apart. Each adapter knows its
own work. What the route learns of is an eval run; what it is judged by are prompts that neither the
run nor the adapters' training had.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from demo import tasks
from demo.tasks import Example
from tests.gateway.support import Served, serving_home
from tests.vllm.conftest import Replica
from tests.vllm.support import SEED, home_of, printed

SUPPORT, DISPATCH = "local/tiny+support", "local/tiny+dispatch"
LEARNED_FROM, JUDGED_BY = 60, 30
"""Prompts of each kind."""
FILES = {
    "gateway.yaml": "default_route: desk\n",
    "routes/desk.yaml": "name: desk\nvalue: 0.01 usd\npolicy: learned\nmatch: named\n"
    f"candidates: [{{target: {SUPPORT}, quality: 0.5}}, {{target: {DISPATCH}, quality: 0.5}}]\n",
    "policies/learned.yaml": "name: learned\nquality: learned\n",
    "evals/desk.yaml": "name: desk\nroute: desk\ndata: desk.jsonl\nmax_tokens: 8\n"
    f"temperature: 0\ntargets: [{SUPPORT}, {DISPATCH}]\n",
}


def prompts() -> tuple[list[Example], list[Example]]:
    """Held-out prompts of both kinds, to learn from and to judge by; none is in both.

    The kinds take turns: a gateway that goes by how long its targets take, and so asks now the one
    and then the other, must not be right by when it changes.
    """
    kinds = []
    for task in ("support", "dispatch"):
        sample = {each.prompt: each for each in tasks.sample(task, 600, SEED + 2, "test")}
        kinds.append(list(sample.values())[: LEARNED_FROM + JUDGED_BY])
        assert len(kinds[-1]) == LEARNED_FROM + JUDGED_BY
    mixed = [each for pair in zip(*kinds, strict=True) for each in pair]
    return mixed[: 2 * LEARNED_FROM], mixed[2 * LEARNED_FROM :]


@asynccontextmanager
async def gateway(vllm: Replica, home: Path, known: Sequence[Example]) -> AsyncIterator[Served]:
    """The gateway of files in `home`, both adapters loaded."""
    rows = [{"input": each.prompt, "expected": each.house} for each in known]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    home_of(vllm, home, "support", "dispatch", files={**FILES, "evals/desk.jsonl": lines})
    async with serving_home(home) as served:
        await served.gateway.adapters_present()
        yield served


async def right(served: Served, model: str, asked: Sequence[Example]) -> float:
    """The share of these prompts that are answered as the house wants."""
    limit = asyncio.Semaphore(8)

    async def one(example: Example) -> bool:
        async with limit:
            answer = await served.chat(example.prompt, model=model, max_tokens=8, temperature=0)
        assert answer.status_code == 200, answer.text
        said: str = answer.json()["choices"][0]["message"]["content"]
        return said.strip() == example.house

    return sum(await asyncio.gather(*(one(each) for each in asked))) / len(asked)


async def test_a_prompt_goes_to_the_adapter_that_will_be_right(
    vllm: Replica, tmp_path: Path
) -> None:
    known, new = prompts()
    async with gateway(vllm, tmp_path, known) as served:
        alone = [await right(served, name, new) for name in (SUPPORT, DISPATCH)]
        before = await right(served, "desk", new)
        await printed(served, tmp_path, "eval", "run", "evals/desk.yaml", asks=True)
        (made,) = await printed(served, tmp_path, "train", "--route", "desk")
        async with asyncio.timeout(20):
            while "desk" not in served.gateway.learned.known:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        after = await right(served, "desk", new)
    assert max(alone) < 0.9
    assert made["used"] is True, made
    assert before < 0.95 <= after, (alone, before, after)
