"""Logged requests decided again as arrays: the same as by `decide`, one by one."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from gateway.experiments.again import LIMITS
from gateway.policy.decide import Decider
from gateway.policy.live import Live
from gateway.revisions.logged import REFUSED, TEXTS, Outcomes, Replayer
from gateway.revisions.reading import Reading
from gateway.store.decisions import encoded
from gateway.types.backends import Capabilities, Price
from gateway.types.decisions import Decision, Question
from gateway.types.policies import Limits, Policy
from gateway.types.requests import Caller, Needs
from gateway.types.routes import Candidate, Match
from gateway.types.snapshot import Snapshot
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
        "messages": None,
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


def timed(rng: random.Random, limits: Limits) -> Limits:
    return msgspec.structs.replace(
        limits,
        first_token_p95=rng.choice([None, 1.0, 3.0]),
        whole_p95=rng.choice([None, 6.0]),
    )


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
    found, wanted = decided_twice(rng, old, new)
    assert not found.left_out
    if not wanted:
        return
    got = by_place(found.routes()["general"])
    assert sorted(got) == list(range(len(wanted)))
    for n, decision in enumerate(wanted):
        assert got[n] == pytest.approx(shares(decision)), n


@pytest.mark.parametrize("seed", range(60))
def test_of_limits_of_time_only_that_is_told_which_the_log_knows(seed: int) -> None:
    """Whoever stays the best is kept without a margin, since one who is left out may have been the
    one before."""
    rng = random.Random(1000 + seed)
    plain = world(rng)
    policies = []
    for _ in range(2):
        made = policy(rng)
        limits = timed(rng, made.limits)
        policies.append(msgspec.structs.replace(made, limits=limits, switch_margin=0.0))
    old = msgspec.structs.replace(plain, policies={"quality": policies[0]})
    if seed % 3 == 0:
        same = msgspec.structs.replace(policies[1], limits=policies[0].limits)
        policies[1] = same
    new = msgspec.structs.replace(plain, hash="new", policies={"quality": policies[1]})
    found, wanted = decided_twice(rng, old, new)
    if policies[0].limits == policies[1].limits:
        assert not found.left_out
    assert set(found.left_out) <= {LIMITS}
    for n, probabilities in by_place(found.routes()["general"]).items() if found.routes() else ():
        assert probabilities == pytest.approx(shares(wanted[n])), n


def decided_twice(
    rng: random.Random, old: Snapshot, new: Snapshot
) -> tuple[Replayer, list[Decision]]:
    """Requests decided under `old` and logged, then replayed under `new`; and what `decide` answers
    under `new`, in the same moment."""
    before, after = Decider(old), Decider(new)
    was, becomes = live(rng, old), Live()
    becomes.estimates, becomes.replicas = was.estimates, was.replicas
    rows: list[tuple[Any, ...]] = []
    wanted: list[Decision] = []
    for _ in range(60):
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
        rows.append(row(len(rows), question, decision, "named" if only else "classifier"))
        wanted.append(again)
    return replayed(new, old, rows), wanted


def shares(decision: Decision) -> dict[str, float]:
    """How likely each target is to be chosen."""
    if not decision.ranked:
        return {REFUSED: 1.0}
    found: dict[str, float] = {}
    for choice in decision.ranked:
        found[choice.target] = found.get(choice.target, 0.0) + choice.propensity
    return {name: p for name, p in found.items() if p}


def test_what_match_would_make_of_them_is_told_where_texts_are_kept() -> None:
    targets = [target("b0/m", "http://b0"), target("b1/m", "http://b1")]
    general, legal = route("general", "b0/m"), route("legal", "b1/m")
    old = snapshot(targets, [general, legal])
    changed = msgspec.structs.replace(legal, match=Match(keywords=("lease",)))
    new = msgspec.structs.replace(old, hash="new", routes={"general": general, "legal": changed})
    question = Question("general", "quality", Needs(input_tokens=10), Caller())
    decision = Decider(old).decide(question, Live(), 0.5)
    said = [{"role": "user", "content": "Is the lease void?"}]
    rows = [
        row(0, question, decision, "default", messages=msgspec.json.encode(said).decode()),
        row(1, question, decision, "default"),
        row(2, question, decision, "named"),
        row(3, question, decision, "header", detail="x-switchboard-route"),
    ]
    replayer = Replayer(new, old, {old.hash: old}.get, lambda _: float("nan"), Reading(new, None))
    replayer.add(rows)
    assert dict(replayer.left_out) == {TEXTS: 1}
    assert by_place(replayer.routes()["general"]) == {
        0: {"b1/m": 1.0},
        2: {"b0/m": 1.0},
        3: {"b0/m": 1.0},
    }


def by_place(outcomes: Outcomes) -> dict[int, dict[str, float]]:
    """Each request's new probabilities, by its place in the log."""
    return {
        int(place): {name: p for name, p in zip(outcomes.targets, new, strict=True) if p}
        for place, new in zip(outcomes.place, outcomes.new, strict=True)
    }
