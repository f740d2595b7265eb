"""Whatever fails on the way: what providers would bill is what the attempts say, to the token."""

import random
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import func, select

from gateway.policy.composed import with_compositions
from gateway.standin import ledger
from gateway.standin.behaviour import Asked, Behaviour, Fault, FaultKind, Reply, ToolCall
from gateway.standin.standin import StandIn
from gateway.store import schema
from gateway.types.compositions import Check, Composition, Judge, Step
from gateway.types.policies import Policy
from tests.gateway.composed import attempts_of, request_of, written
from tests.gateway.support import route, serving, snapshot, target

JUDGE = Judge("c/model", "Right.")
CHECKS = (
    Check("regex", pattern=".*o.*"),
    Check("agreement", least=0.6, samples=3, temperature=0.7),
    Check("judge", least=3.0, judge=JUDGE),
)
COMPOSITIONS = (
    Composition(
        "cascade", "cascade", (Step("1", "a/model", CHECKS), Step("2", "b/model", CHECKS[:1]),
                               Step("3", "c/model"))
    ),
    Composition("bounded", "cascade", (Step("1", "a/model", CHECKS), Step("2", "c/model")),
                max_cost=0.0015),
    Composition("voted", "best_of", (Step("1", "a/model"), Step("2", "b/model")), samples=2,
                temperature=0.7),
    Composition("judged", "best_of", (Step("1", "a/model"), Step("2", "b/model")), judge=JUDGE),
    Composition("chain", "chain", (Step("draft", "a/model"),
                                   Step("check", "b/model", prompt="{draft} of {input}?"),
                                   Step("last", "c/model", prompt="{check}: {draft}"))),
)  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_requests_and_faults(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def answer(asked: Asked) -> str | Reply:
        if "Mark: N" in str(asked.body["messages"][0]):
            return f"Mark: {chance.randint(1, 5)}"
        if chance.random() < 0.1:
            return Reply(tool_calls=(ToolCall("look"),))
        return " ".join(chance.choices(["no", "yes", "it is", "perhaps"], k=chance.randint(1, 3)))

    files = [tmp_path / f"{name}.jsonl" for name in "abc"]
    providers = [StandIn(Behaviour(answer=answer), ledger=file) for file in files]
    async with providers[0], providers[1], providers[2]:
        targets = [
            target(f"{name}/model", provider.url)
            for name, provider in zip("abc", providers, strict=True)
        ]
        plain = snapshot(
            targets,
            [route("general", "b/model")],
            policies={"quality": Policy("quality", breaking=None, backoff_first_s=0.001)},
        )
        compositions = {each.target: each for each in COMPOSITIONS}
        made = with_compositions(msgspec.structs.replace(plain, compositions=compositions))
        async with serving(made, tmp_path) as served:
            ids = []
            for n in range(50):
                for provider in providers:
                    status = chance.choice([429, 500, 400])
                    broken = chance.random() < 0.2
                    provider.fault = Fault(kind=FaultKind.STATUS, status=status) if broken else None
                asked = await served.chat(
                    f"question {n}",
                    model=chance.choice(COMPOSITIONS).target,
                    stream=chance.random() < 0.5,
                    max_tokens=chance.choice([20, 60]),
                )
                ids.append(asked.headers["x-request-id"])
            await written(served)
            for id in ids:
                row, tried = request_of(served, id), attempts_of(served, id)
                assert row.cost_usd == pytest.approx(sum(each.cost_usd for each in tried))
                if row.model == "composed/bounded":
                    assert row.cost_usd <= 0.0015
                if row.outcome == "ok":
                    assert row.output_tokens == sum(each.output_tokens for each in tried)
            c = schema.attempts.c
            sums = select(c.target, func.sum(c.input_tokens), func.sum(c.output_tokens))
            with served.gateway.store.engine.connect() as connection:
                booked = {row[0]: row[1:] for row in connection.execute(sums.group_by(c.target))}
            for replica in served.gateway.live.replicas.values():
                assert replica.in_flight == 0
    for name, file in zip("abc", files, strict=True):
        calls = ledger.read(file)
        assert len(calls) > 10
        due = (sum(call.prompt for call in calls), sum(call.output for call in calls))
        assert booked[f"{name}/model"] == due
