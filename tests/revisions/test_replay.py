"""What is told of logged requests under another policy: nothing that cannot be."""

from pathlib import Path

import msgspec

from gateway.cli.replay import doubts
from gateway.policy.decide import Decider
from gateway.policy.live import Live
from gateway.revisions.replay import Replay, replay
from gateway.store.replay import ReplayLog
from gateway.store.store import Store
from gateway.types.backends import Price
from gateway.types.decisions import Question
from gateway.types.policies import Policy
from gateway.types.requests import Caller, Needs, Recognition
from gateway.types.snapshot import Snapshot
from tests.gateway.support import route, snapshot, target
from tests.store.world import AT, attempt, keep, record, url

DEAR = target("openai/big", "http://big", price=Price(1e-6, 1e-6, 4e-5))
CHEAP = target("openai/small", "http://small", price=Price(1e-6, 1e-6, 4e-6))


def served(policy: Policy, hash: str) -> Snapshot:
    made = snapshot([DEAR, CHEAP], [route("general", DEAR.name, CHEAP.name)])
    return msgspec.structs.replace(made, hash=hash, policies={"quality": policy})


def told(folder: Path, draws: list[float]) -> Replay:
    """Requests of which few explored the cheap one, which cost nothing then, under a policy that
    would choose it nearly always."""
    old = served(Policy("quality", price_weight=0.0, explore=0.1), "old")
    new = served(Policy("quality", price_weight=1e6, explore=0.1), "new")
    question = Question("general", "quality", Needs(input_tokens=100, max_output=50), Caller())
    rows = []
    for n, draw in enumerate(draws):
        decision = Decider(old).decide(question, Live(), draw)
        chosen = decision.ranked[0].target
        cost = 0.002 if chosen == DEAR.name else 0.0
        row = record(
            n,
            decision=decision,
            needs=question.needs,
            recognition=Recognition("general", "classifier", 1.0),
            attempts=(attempt(chosen, cost=cost),),
            cost=cost,
        )
        rows.append(row)
    store = Store.open(url(folder))
    try:
        keep(store, *rows)
        return replay(ReplayLog(store), new, old, {"old": old}.get, AT - 60.0, AT + 3600.0)
    finally:
        store.close()


def test_of_too_few_requests_no_cost_below_nothing_is_told(tmp_path: Path) -> None:
    found = told(tmp_path, [0.5, 0.06, 0.5, 0.5, 0.5, 0.5])
    cost = found.figures["cost"]
    assert cost.logged + cost.change >= 0.0
    assert not cost.measured
    assert cost.low is None
    (line,) = doubts(found.routes[0])
    assert "general: too few requests to measure it by" in line


def test_of_enough_requests_what_cannot_be_is_its_bound(tmp_path: Path) -> None:
    found = told(tmp_path, [0.5, 0.06, 0.5, 0.5, 0.5, 0.5] * 60)
    cost = found.figures["cost"]
    assert cost.measured
    assert cost.low is not None
    assert "too few" not in "".join(doubts(found.routes[0]))
    assert 0.0 <= cost.logged + cost.low <= cost.logged + cost.change
