"""Compositions wherever a target is: as arms, as shadows, in evals, within limits and time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.policy.composed import with_compositions
from gateway.policy.words import verdicts
from gateway.standin.behaviour import Behaviour, Fault, FaultKind, say, table
from gateway.standin.standin import StandIn
from gateway.store.reader import Reader
from gateway.store.shadows import ShadowBook
from gateway.types.backends import Price
from gateway.types.compositions import Check, Composition, Step
from gateway.types.decisions import Decision
from gateway.types.experiments import Experiment
from gateway.types.limits import Quota, Rate
from gateway.types.policies import Policy
from gateway.types.routes import Shadow
from gateway.types.snapshot import Snapshot
from tests.evals import test_running as evals
from tests.gateway.composed import attempts_of, bodies, latest, request_of, written
from tests.gateway.support import route, serving, snapshot, target, text_of
from tests.limits.shared import until

CHEAP, DEAR = Price(1e-6, 1e-6, 2e-6), Price(1e-5, 1e-5, 4e-5)
QUEUE = Composition(
    "queue",
    "cascade",
    (
        Step("1", "small/model", (Check("regex", pattern="(billing|shipping)"),)),
        Step("2", "large/model"),
    ),
)


@pytest.fixture
async def providers() -> AsyncIterator[tuple[StandIn, StandIn]]:
    small = Behaviour(answer=table([("parcel", "shipping"), ("refund", "no idea")]))
    async with StandIn(small) as one, StandIn(Behaviour(answer=say("billing"))) as two:
        yield one, two


def configured(
    providers: tuple[StandIn, StandIn],
    *candidates: str,
    policy: Policy | None = None,
    small_inside: bool = False,
    large_inside: bool = False,
    composition: Composition = QUEUE,
    **more: Any,
) -> Snapshot:
    small, large = providers
    plain = snapshot(
        [
            target("small/model", small.url, price=CHEAP, internal=small_inside),
            target("large/model", large.url, price=DEAR, internal=large_inside),
        ],
        [route("general", *(candidates or ("composed/queue",)), **more)],
        policies={"quality": policy or Policy("quality")},
    )
    made = msgspec.structs.replace(plain, compositions={"composed/queue": composition})
    return with_compositions(made)


async def test_an_experiment_s_arm(providers: tuple[StandIn, StandIn], tmp_path: Path) -> None:
    trial = Experiment(
        "cascade-vs-large",
        {"cascade": "composed/queue", "large": "large/model"},
        {"cascade": 0.5, "large": 0.5},
        1.0,
    )
    async with serving(configured(providers, "large/model", experiments=(trial,)), tmp_path) as on:
        answers = [await on.chat("my parcel", user=f"user {n}") for n in range(24)]
        await written(on)
        rows = [request_of(on, answer.headers["x-request-id"]) for answer in answers]
    assert Counter(row.target for row in rows).keys() == {"composed/queue", "large/model"}
    assert all((row.arm == "cascade") == (row.target == "composed/queue") for row in rows)


async def test_a_shadow_and_not_of_itself(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    every = Shadow("composed/queue", 1.0, 1.0, 8)
    made = configured(providers, "large/model", shadow=every, keep="text")
    async with serving(made, tmp_path) as served:
        answer = await served.chat("my parcel")
        await served.chat("my parcel", model="composed/queue")
        await served.gateway.shadows.settled()
        await written(served)
        pairs = list(ShadowBook(served.gateway.store).pairs("general", 0.0))
    assert answer.headers["x-switchboard-target"] == "large/model"
    (pair,) = pairs
    assert (pair.target, pair.shadow_target) == ("large/model", "composed/queue")
    assert pair.shadow_outcome == "ok"


async def test_a_suite_asks_it_and_what_it_finds_feeds_the_route(tmp_path: Path) -> None:
    knows = evals.knows(*evals.CAPITALS)
    cheap = Behaviour(answer=table([("Italy", "Rome"), ("", "I do not know")]))
    async with StandIn(knows) as good, StandIn(cheap) as half:
        evals.tree(tmp_path, (good, half))
        gateway = tmp_path / "gateway.yaml"
        gateway.write_text(
            gateway.read_text() + "compositions:\n  both:\n    kind: cascade\n"
            "    steps: [half/m, good/m]\n    checks: [{kind: regex, pattern: '[A-Z][a-z]+'}]\n"
        )
        told = await evals.run(tmp_path, "--targets", "half/m,composed/both,good/m")
    rows = {row["target"]: row for row in told["rows"]}
    assert rows["composed/both"]["right"] == rows["good/m"]["right"] == 4
    assert rows["half/m"]["right"] == 1


async def test_usage_by_composition_and_by_the_targets_of_its_steps(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    async with serving(configured(providers), tmp_path) as served:
        for text in ("my parcel", "a refund"):
            await served.chat(text)
        await served.chat("my parcel", model="large/model")
        await written(served)
        reader = Reader(served.gateway.store)
        whole = {row.group: row for row in reader.usage("composition", 0.0)}
        parts = {row.group: row for row in reader.usage("target", 0.0)}
    assert (whole["composed/queue"].requests, whole["composed/queue"].attempts) == (2, 3)
    assert (whole[""].requests, whole[""].attempts) == (1, 1)
    assert parts["small/model"].attempts == 2
    assert parts["large/model"].attempts == 2
    assert sum(row.cost_usd for row in whole.values()) == pytest.approx(
        sum(row.cost_usd for row in parts.values())
    )


async def test_limits_reserve_what_all_steps_may_use_and_settle_what_they_did(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    quota = Quota(tokens=Rate(500, 60.0))
    async with serving(configured(providers), tmp_path, key=True, quota=quota) as served:
        plain = await served.chat("a refund", model="large/model", max_tokens=300)
        assert plain.status_code == 200
        refused = await served.chat("a refund", max_tokens=300)
        assert refused.status_code == 429
        assert "more than the whole limit" in refused.json()["error"]["message"]
        answer = await served.chat("a refund", max_tokens=200)
        assert answer.status_code == 200
        used = plain.json()["usage"]["total_tokens"] + answer.json()["usage"]["total_tokens"]
        after = await served.chat("my parcel", max_tokens=20)
    left = int(after.headers["x-ratelimit-remaining-tokens"])
    assert left == pytest.approx(500 - used - 2 * 25, abs=30)


async def test_a_budget_is_not_overrun_by_steps(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    budget = Quota(day=0.01)
    async with serving(configured(providers), tmp_path, key=True, quota=budget) as served:
        answers = await asyncio.gather(*(served.chat("a refund", max_tokens=10) for _ in range(40)))
        assert {answer.status_code for answer in answers} == {200, 429}
        await written(served)
        spent = sum(row.cost_usd for row in Reader(served.gateway.store).usage("route", 0.0))
    assert 0.0 < spent <= 0.01


async def test_internal_data_never_leaves_by_a_step(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    """Though the composition's target said otherwise: each step is held to it when it is asked."""
    made = configured(providers, internal=True, small_inside=True)
    wrongly = msgspec.structs.replace(made.targets["composed/queue"], internal=True)
    assert not made.targets["composed/queue"].internal
    async with serving(made, tmp_path) as served:
        refused = await served.chat("a refund")
        assert "not self-hosted" in refused.json()["error"]["message"]
        lying = {**made.targets, "composed/queue": wrongly}
        plane = served.gateway.planes.plane
        forced = msgspec.structs.replace(
            plane,
            snapshot=msgspec.structs.replace(plane.snapshot, targets=lying),
            decider=type(plane.decider)(msgspec.structs.replace(plane.snapshot, targets=lying)),
        )
        served.gateway.pipeline.plane = forced
        answer = await served.chat("a refund")
        assert answer.status_code == 502
    assert not providers[1].seen
    both = configured(providers, internal=True, small_inside=True, large_inside=True)
    assert both.targets["composed/queue"].internal


async def test_one_deadline_is_for_all_steps(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    hangs = Behaviour(answer=say("billing"), first_token_s=60.0)
    async with StandIn(hangs) as never:
        made = configured((providers[0], never), policy=Policy("quality", retries=0, total_s=0.5))
        async with serving(made, tmp_path) as served:
            answer = await served.chat("a refund")
            await written(served)
            tried = attempts_of(served, latest(served).id)
            await until(lambda: not never.running)
    assert answer.status_code == 504
    assert [each.target for each in tried] == ["small/model", "large/model"]
    assert tried[1].outcome == "abandoned"


async def test_a_stream_of_the_last_step_that_breaks_ends_with_an_error_and_is_kept(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    cut = Behaviour(answer=say("one two three"), fault=Fault(kind=FaultKind.CUT, after=2))
    async with StandIn(cut) as breaking:
        async with serving(configured((providers[0], breaking)), tmp_path) as served:
            events = await served.events("a refund", stream_options={"include_usage": True})
            await written(served)
            row = latest(served)
            tried = attempts_of(served, row.id)
    assert "error" in events[-1]
    assert row.outcome == "truncated"
    assert row.target == "composed/queue"
    assert row.cost_usd == pytest.approx(sum(each.cost_usd for each in tried))
    assert row.output_tokens == sum(each.output_tokens for each in tried)


async def test_a_last_step_that_breaks_off_is_gone_on_with_at_another_replica(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    cut = Behaviour(answer=say("one two three four"), fault=Fault(kind=FaultKind.CUT, after=2))
    whole = Behaviour(answer=say("one two three four"), goes_on=True)
    async with StandIn(cut) as breaking, StandIn(whole) as steady:
        made = configured((providers[0], breaking), policy=Policy("quality", carry_on=True))
        both = (breaking.url, steady.url)
        targets = dict(made.targets)
        large = targets["large/model"]
        targets["large/model"] = msgspec.structs.replace(large, replicas=both)
        backends = dict(made.backends)
        backends["large"] = msgspec.structs.replace(backends["large"], replicas=both)
        made = msgspec.structs.replace(made, targets=targets, backends=backends)
        async with serving(made, tmp_path) as served:
            events = await served.events("a refund", stream_options={"include_usage": True})
            await written(served)
            row = latest(served)
    assert text_of(events) == "one two three four"
    usage = next(each["usage"] for each in events if each != "[DONE]" and each.get("usage"))
    assert row.target == "composed/queue"
    assert usage["completion_tokens"] == row.output_tokens
    assert usage["prompt_tokens"] == row.input_tokens


async def test_a_composition_goes_on_with_nothing_that_another_began(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    cut = Behaviour(answer=say("one two three"), fault=Fault(kind=FaultKind.CUT, after=2))
    async with StandIn(cut) as breaking:
        candidates = ("large/model", "composed/queue")
        policy = Policy("quality", carry_on=True)
        made = configured((providers[0], breaking), *candidates, policy=policy)
        async with serving(made, tmp_path) as served:
            events = await served.events("a refund")
    assert "error" in events[-1]
    assert not providers[0].seen


async def test_when_the_client_goes_in_a_stream_the_step_is_cancelled(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    slow = Behaviour(answer=say("one two three"), between_tokens_s=60.0)
    async with StandIn(slow) as steady:
        async with serving(configured((providers[0], steady)), tmp_path) as served:
            body = {"model": "auto", "stream": True}
            body |= {"messages": [{"role": "user", "content": "a refund"}]}
            url = "/v1/chat/completions"
            async with served.client.stream("POST", url, json=body) as answer:
                async for _ in answer.aiter_raw():
                    break
            await until(lambda: not steady.running)
            await until(lambda: not served.gateway.live.replicas["composed:queue"].in_flight)
            await written(served)
            row = latest(served)
            tried = attempts_of(served, row.id)
    assert row.outcome == "abandoned"
    assert [each.outcome for each in tried] == ["ok", "abandoned"]
    assert row.cost_usd == pytest.approx(sum(each.cost_usd for each in tried))


@pytest.mark.parametrize(("slow", "value"), [("composition", 0.3), ("plain", 0.1)])
async def test_of_two_that_are_asked_the_sooner_answers_and_the_row_says_who(
    tmp_path: Path, slow: str, value: float
) -> None:
    """The first candidate hangs; a second is asked beside it, and the first is cancelled. Its value
    is such that the first is chosen, but the second worth its price once that is late."""
    hangs, quick = Behaviour(first_token_s=60.0), Behaviour(answer=say("shipping"))
    order = ("composed/queue", "large/model")
    first = hangs if slow == "composition" else quick
    second = quick if slow == "composition" else hangs
    policy = Policy("quality", hedge=1.0, waiting_whole=1.0, waiting_first_token=1.0)
    async with StandIn(first) as small, StandIn(second) as large:
        candidates = order if slow == "composition" else order[::-1]
        plain = configured((small, large), *candidates, policy=policy)
        fast = {
            name: msgspec.structs.replace(each, first_token_s=0.02, tokens_per_s=1e5)
            for name, each in plain.targets.items()
            if not name.startswith("composed/")
        }
        made = with_compositions(msgspec.structs.replace(plain, targets=fast))
        dear = msgspec.structs.replace(made.routes["general"], value=value)
        made = msgspec.structs.replace(made, routes={"general": dear})
        async with serving(made, tmp_path) as served:
            answer = await served.chat("my parcel", max_tokens=5)
            await until(lambda: not small.running and not large.running)
            live = served.gateway.live
            await until(lambda: not any(each.in_flight for each in live.replicas.values()))
            await written(served)
            row = latest(served)
            tried = attempts_of(served, row.id)
    won = "large/model" if slow == "composition" else "composed/queue"
    assert answer.headers["x-switchboard-target"] == row.target == won
    assert sorted(each.outcome for each in tried) == ["abandoned", "ok"]
    assert next(each for each in tried if each.outcome == "abandoned").error == "another was sooner"


async def test_a_breaker_of_a_step_s_target_leaves_it_out_and_the_next_is_asked(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    broken = Behaviour(fault=Fault(kind=FaultKind.STATUS, status=500))
    policy = Policy("quality", retries=0)
    async with StandIn(broken) as down:
        made = configured((down, providers[1]), policy=policy)
        async with serving(made, tmp_path) as served:
            for _ in range(8):
                answer = await served.chat("my parcel")
                assert answer.json()["choices"][0]["message"]["content"] == "billing"
            gate = served.gateway.live.estimates["small/model", down.url].gate
    assert gate is not None
    composed = served.gateway.live.estimates["composed/queue", "composed:queue"]
    assert composed.failures.lost_s == 0.0


async def test_what_is_learned_stands_in_the_decision(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    made = configured(providers, "composed/queue", "large/model")
    async with serving(made, tmp_path) as served:
        begun = await served.decision(await served.chat("my parcel"))
        for _ in range(6):
            await served.chat("my parcel")
        ended = await served.decision(await served.chat("my parcel"))
    first, later = (msgspec.convert(each["decision"], Decision) for each in (begun, ended))
    assert "asks a further step in 50 %, as declared" in verdicts(first, made)[0]
    assert 0.05 < later.ranked[0].further < 0.2
    said = verdicts(later, made)[0]
    assert "asks a further step in 1" in said
    assert "declared" not in said
    assert later.ranked[0].cost < first.ranked[0].cost
    assert len(bodies(providers[0])) == 8
