"""Logged requests decided again as arrays: the same as by `decide`, one by one."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from gateway.policy.decide import Decider
from gateway.policy.live import Live
from gateway.revisions.logged import REFUSED, Outcomes, Replayer
from gateway.store.decisions import encoded
from gateway.types import (
    Caller,
    Candidate,
    Capabilities,
    Decision,
    Limits,
    Needs,
    Policy,
    Price,
    Question,
    Snapshot,
)
from tests.gateway.support import route, snapshot, target


def row(
    n: int, question: Question, decision: Decision, by: str = "classifier", **changes: Any
) -> tuple[Any, ...]:
    """As the log has it."""
    plain = {
        "id": f"req_{n}",
        "route": question.route,
        "policy": question.policy,
        "by": by,
        "detail": question.only or "",
        "model": question.only or "auto",
        "tenant": question.caller.tenant,
        "snapshot": decision.snapshot,
        "decision": encoded(decision),
        "needs": msgspec.json.encode(question.needs).decode(),
        "outcome": "ok",
        "cost": 0.001,
        "first": None,
        "total": 1.0,
        "started": float(n),
    }
    return tuple((plain | changes).values())


def replayed(new: Snapshot, old: Snapshot, rows: Sequence[tuple[Any, ...]]) -> Replayer:
    replayer = Replayer(new, old, {old.hash: old}.get, lambda _: float("nan"))
    for start in range(0, len(rows), 37):
        replayer.add(rows[start : start + 37])
    return replayer


def world(rng: random.Random) -> Snapshot:
    """Some targets, some with two replicas, some that take less; a route of them all."""
    targets = [
        target(
            f"b{n}/m",
            f"http://b{n}-0",
            replicas=tuple(f"http://b{n}-{each}" for each in range(rng.choice([1, 1, 2]))),
            price=Price(rng.choice([0.0, 1e-6, 5e-6]), 0.0, rng.choice([1e-6, 1e-5])),
            first_token_s=rng.choice([0.1, 0.5, 2.0]),
            tokens_per_s=rng.choice([20.0, 100.0]),
            capabilities=Capabilities(
                context=rng.choice([None, 1000, 4000]), tools=rng.random() < 0.8
            ),
        )
        for n in range(rng.randint(1, 5))
    ]
    candidates = tuple(Candidate(each.name, rng.choice([0.6, 0.8, 0.9])) for each in targets)
    plain = route("general", value=rng.choice([0.001, 0.01]))
    general = msgspec.structs.replace(plain, candidates=candidates)
    return snapshot(targets, [general], policies={"quality": policy(rng)})


def policy(rng: random.Random) -> Policy:
    return Policy(
        "quality",
        waiting_first_token=rng.choice([0.0, 0.001]),
        waiting_whole=rng.choice([0.0, 0.0005]),
        limits=Limits(
            cost=rng.choice([None, None, 0.001, 0.003]), quality=rng.choice([None, None, 0.7])
        ),
        if_none_fits=rng.choice(["best", "refuse"]),
        switch_margin=rng.choice([0.0, 0.0, 0.2]),
        explore=rng.choice([0.0, 0.1, 0.5]),
        price_weight=rng.choice([1.0, 1.0, 0.0]),
    )


def live(rng: random.Random, world: Snapshot) -> Live:
    """Estimates as traffic makes them: queues, loads, lengths, and replicas that fail."""
    found = Live()
    for each in world.targets.values():
        for url in each.replicas:
            if rng.random() < 0.3:
                continue
            estimate = found.estimate(each, url)
            estimate.saw_first_token(rng.uniform(0.1, 3.0), 0, 0.0)
            if rng.random() < 0.3:
                estimate.failed(2.0, 0.0)
            if rng.random() < 0.3:
                found.resident(each, url, rng.random(), 2.0, rng.random())
            for _ in range(rng.choice([0, 0, 3])):
                found.started(each, url, "general", 0.0)
    return found


@pytest.mark.parametrize("seed", range(150))
def test_it_is_what_decide_would_have_answered(seed: int) -> None:
    rng = random.Random(seed)
    old = world(rng)
    new = msgspec.structs.replace(old, hash="new", policies={"quality": policy(rng)})
    before, after = Decider(old), Decider(new)
    was, becomes = live(rng, old), Live()
    becomes.estimates, becomes.replicas = was.estimates, was.replicas
    rows, wanted = [], []
    for n in range(60):
        needs = Needs(
            input_tokens=rng.choice([10, 500, 1500]),
            max_output=rng.choice([None, None, 50]),
            tools=rng.random() < 0.2,
        )
        only = rng.choice([None] * 9 + list(old.targets))
        question = Question("general", "quality", needs, Caller(), only)
        if rng.random() < 0.1:
            each = rng.choice(list(old.targets.values()))
            was.estimate(each, each.replicas[0]).saw_first_token(rng.uniform(0.1, 3.0), 0, 0.0)
        draw = rng.random()
        decision = before.decide(question, was, draw)
        was.chose(question, decision)
        again = after.decide(question, becomes, draw)
        if not decision.ranked:
            continue
        becomes.chose(question, again)
        rows.append(row(n, question, decision, "named" if only else "classifier"))
        wanted.append(again)
    if not rows:
        return
    found = replayed(new, old, rows)
    assert not found.left_out
    outcomes = found.routes()["general"]
    got = by_place(outcomes)
    for n, decision in enumerate(wanted):
        right = {REFUSED: 1.0} if not decision.ranked else {}
        for choice in decision.ranked:
            right[choice.target] = right.get(choice.target, 0.0) + choice.propensity
        assert got[n] == pytest.approx({name: p for name, p in right.items() if p}), n


def by_place(outcomes: Outcomes) -> list[dict[str, float]]:
    """Each request's new probabilities, in the order in which they were logged."""
    order = sorted(range(len(outcomes.taken)), key=lambda n: outcomes.place[n])
    return [
        {name: p for name, p in zip(outcomes.targets, outcomes.new[n], strict=True) if p}
        for n in order
    ]
