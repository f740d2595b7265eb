"""One real experiment: two versions of an adapter, the better one found and promoted.

The first version is the demo's support adapter at four fifths of its strength, as an early state of
its training would be; the second is the whole of it. What the gateway is told of each answer is
whether it was the queue that the house wants.
"""

import asyncio
import shutil
from pathlib import Path

from demo import tasks, vllm_server
from gateway.types.experiments import Experiment
from tests.cli.running import switchboard
from tests.gateway.support import Served, serving_home
from tests.vllm.conftest import Replica
from tests.vllm.support import SEED

GATEWAY = """
default_route: general
backends:
  local:
    kind: vllm
    replicas: [{url}]
    replica_hour: 0.40 usd
    peak_tokens_per_second: 2000
    adapter_store: {adapters}
    models:
      tiny:
        id: base
        config: {config}
        adapters:
          support: {{source: support}}
          desk:
            versions: {{v1: {{mix: {{support: 0.8}}}}, v2: support}}
"""
GENERAL = """
name: general
value: 0.01 usd
candidates: [{target: local/tiny, quality: 0.6}]
policy: plain
"""
SUPPORT = """\
name: support
value: 0.02 usd
data: internal
match: named
candidates: [{target: local/tiny+desk, quality: 0.7}]
policy: plain
metrics: {right: {type: boolean, from: feedback, right_when: true, within: 48 h}}
right: right
experiments:
  desk-v2:
    arms: {v1: local/tiny+desk@v1, v2: local/tiny+desk@v2}
    traffic: 100 %
    stick_to: user
    question: {arm: v2, metric: right, better_than: v1}
    guards: {errors: 2 %}
    when_answered: promote
"""
MOST = 600


def write(home: Path, url: str) -> None:
    for folder in ("routes", "policies"):
        (home / folder).mkdir()
    shutil.copytree(vllm_server.ADAPTERS, home / "adapters")
    text = GATEWAY.format(
        url=url,
        adapters=home / "adapters",
        config=vllm_server.BASE / "config.json",
    )
    (home / "gateway.yaml").write_text(text)
    (home / "routes/general.yaml").write_text(GENERAL)
    (home / "routes/support.yaml").write_text(SUPPORT)
    (home / "policies/plain.yaml").write_text("name: plain\n")


async def test_of_two_versions_the_better_is_found_and_promoted(
    vllm: Replica, tmp_path: Path
) -> None:
    write(tmp_path, vllm.url)
    examples = tasks.sample("support", MOST, SEED, "test")
    limit = asyncio.Semaphore(8)

    async def one(served: Served, n: int) -> str:
        """Asks as a user of its own, and says whether the answer was right."""
        example = examples[n]
        async with limit:
            answer = await served.chat(
                example.prompt, "support", temperature=0, max_tokens=4, user=f"ticket {n}"
            )
            assert answer.status_code == 200, answer.text
            said = {
                "decision": answer.headers["x-switchboard-decision"],
                "metric": "right",
                "value": answer.json()["choices"][0]["message"]["content"] == example.house,
            }
            told = await served.client.post("/v1/feedback", json=said)
            assert told.status_code == 200, told.text
        return answer.headers["x-switchboard-target"]

    async with serving_home(tmp_path) as served:
        await served.gateway.adapters_present()
        asked = 0
        while _winner(served) is None and asked < MOST - 40:
            await asyncio.gather(*(one(served, n) for n in range(asked, asked + 20)))
            asked += 20
            await served.gateway.watching.look()
        after = await asyncio.gather(*(one(served, n) for n in range(asked, asked + 20)))
        ran = await asyncio.to_thread(
            switchboard, "experiment", "show", "desk-v2", "--config", str(tmp_path), home=tmp_path
        )
        revision = served.gateway.running.revision

    assert _winner(served) == "v2", ran.out
    assert set(after) == {"local/tiny+desk@v2"}
    assert revision is not None
    assert revision.author == "experiment desk-v2"
    assert revision.note == "95 % sure: v2 is better than v1 in right"
    assert "v2 is promoted" in ran.out
    assert asked >= 20


def _winner(served: Served) -> str | None:
    experiment: Experiment
    (experiment,) = served.gateway.pipeline.plane.snapshot.routes["support"].experiments
    return experiment.winner
