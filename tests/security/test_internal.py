"""Data that a route calls internal never leaves self-hosted targets, with everything on that asks
another target when one fails."""

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest

from gateway.standin.behaviour import Behaviour, Fault, FaultKind, say
from gateway.standin.standin import StandIn
from gateway.types.backends import Timeouts
from gateway.types.policies import Policy
from gateway.types.routes import Shadow
from tests.gateway.support import route, serving, snapshot, target

EAGER = Policy(
    "quality",
    waiting_first_token=10.0,
    waiting_whole=10.0,
    tries=5,
    retries=1,
    backoff_first_s=0.001,
    backoff_most_s=0.002,
    explore=0.5,
    hedge=1.0,
    carry_on=True,
)
QUICK = Timeouts(connect=1, first_byte=0.08, between=0.08, total=0.5)
SECRET = "the merger is called Bluebird"


@pytest.mark.parametrize("models", [("auto", "general"), ("p/m",)], ids=["routed", "named"])
async def test_whatever_fails_nothing_leaves(models: tuple[str, ...], tmp_path: Path) -> None:
    long = Behaviour(answer=say("one two three four five six"))
    async with StandIn(long) as one, StandIn(long) as two, StandIn() as outside:
        # The one outside is the best of all by every figure.
        targets = [
            target("a/m", one.url, internal=True),
            target("b/m", two.url, internal=True),
            target("p/m", outside.url, first_token_s=0.001, tokens_per_s=1e6),
        ]
        made = snapshot(
            targets,
            [route("general", "p/m", "a/m", "b/m", internal=True)],
            policies={"quality": EAGER},
        )
        backends = {
            name: msgspec.structs.replace(each, kind="openai", timeouts=QUICK)
            for name, each in made.backends.items()
        }
        async with serving(msgspec.structs.replace(made, backends=backends), tmp_path) as served:
            for kind, stream, model in itertools.product(FaultKind, (False, True), models):
                one.fault = Fault(kind=kind, after=2, seconds=0.01)
                two.fault = Fault(kind=kind, after=3, reset=True, seconds=0.01)
                both = (served.chat(SECRET, model, stream=stream) for _ in range(2))
                await asyncio.gather(*both)
        assert SECRET.encode() not in b"".join(seen.body for seen in outside.seen)
        assert not outside.seen
        assert bool(one.seen or two.seen) == (model != "p/m")


async def test_a_route_that_is_named_with_a_target_rules_over_it(tmp_path: Path) -> None:
    """What the default route keeps, and where it copies to, is not for it."""
    async with StandIn() as inside, StandIn() as outside:
        made = snapshot(
            [target("a/m", inside.url, internal=True), target("p/m", outside.url)],
            [
                route("general", "p/m", keep="text", shadow=Shadow("p/m", 1.0, 1.0, 8)),
                route("secret", "a/m", internal=True),
            ],
        )
        async with serving(made, tmp_path) as served:
            served.client.headers["x-switchboard-route"] = "secret"
            refused = await served.chat(SECRET, "p/m")
            answer = await served.chat(SECRET, "a/m")
            row = await served.decision(answer)
            await served.gateway.shadows.settled()
        assert not outside.seen
    assert refused.status_code == 422
    assert "p/m: not self-hosted, and the route's data is internal" in refused.text
    assert answer.headers["x-switchboard-route"] == row["route"] == "secret"
    assert answer.headers["x-switchboard-target"] == "a/m"
    assert row["text"] is None
