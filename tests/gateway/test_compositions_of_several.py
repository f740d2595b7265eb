"""The best of several answers and chains, through a whole gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.policy.composed import with_compositions
from gateway.standin.behaviour import Asked, Behaviour, Fault, FaultKind, say
from gateway.standin.standin import StandIn
from gateway.types.compositions import Composition, Judge, Step
from tests.gateway.composed import attempts_of, bodies, latest, request_of, written
from tests.gateway.support import Served, events_of, route, serving, snapshot, target, text_of
from tests.limits.shared import until

THREE = Composition(
    "three", "best_of", (Step("a", "a/model"), Step("b", "b/model"), Step("c", "c/model"))
)
CHAIN = Composition(
    "reviewed",
    "chain",
    (
        Step("draft", "a/model"),
        Step("check", "b/model", prompt="Q: {input} A: {draft}. Errors?", max_tokens=40),
        Step("rewrite", "c/model", prompt="Rewrite {draft} by {check}"),
    ),
)
BROKEN = Behaviour(fault=Fault(kind=FaultKind.STATUS, status=500))


@asynccontextmanager
async def serving_three(
    tmp_path: Path, composition: Composition, *behaviours: Behaviour, fallback: bool = False
) -> AsyncIterator[tuple[Served, list[StandIn]]]:
    providers = [StandIn(behaviour) for behaviour in behaviours]
    async with providers[0], providers[1], providers[2]:
        targets = [
            target(f"{name}/model", provider.url)
            for name, provider in zip("abc", providers, strict=True)
        ]
        candidates = (composition.target, *(["a/model"] if fallback else []))
        plain = snapshot(targets, [route("general", *candidates)])
        made = msgspec.structs.replace(plain, compositions={composition.target: composition})
        async with serving(with_compositions(made), tmp_path) as served:
            yield served, providers


def saying(*texts: str) -> list[Behaviour]:
    return [Behaviour(answer=say(text)) for text in texts]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_most_of_three_targets_say_is_given(tmp_path: Path, stream: bool) -> None:
    async with serving_three(tmp_path, THREE, *saying("no", "Yes.", "yes")) as (served, _):
        answer = await served.chat("Is it?", stream=stream)
        await written(served)
        row = request_of(served, answer.headers["x-request-id"])
        tried = attempts_of(served, answer.headers["x-request-id"])
    if stream:
        events = events_of(answer.content)
        assert events[-1] == "[DONE]"
        assert text_of(events) == "Yes."
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "Yes."
    assert answer.headers["x-switchboard-steps"] == (
        "a a/model answered, b b/model chosen, c c/model answered"
    )
    assert sorted(each.target for each in tried) == ["a/model", "b/model", "c/model"]
    assert row.cost_usd == pytest.approx(sum(each.cost_usd for each in tried))
    assert row.output_tokens == sum(each.output_tokens for each in tried)
    assert row.target == "composed/three"


async def test_they_are_asked_at_the_same_time(tmp_path: Path) -> None:
    slow = [Behaviour(answer=say("yes"), first_token_s=0.3) for _ in range(3)]
    async with serving_three(tmp_path, THREE, *slow) as (served, providers):
        asking = asyncio.create_task(served.chat("Is it?"))
        await until(lambda: sum(provider.running for provider in providers) == 3)
        answer = await asking
    assert answer.status_code == 200


async def test_samples_of_one_target_and_a_judge(tmp_path: Path) -> None:
    judged = Composition(
        "three", "best_of", (Step("1", "a/model"),), samples=3, temperature=0.9,
        judge=Judge("b/model", "Right."),
    )  # fmt: skip
    texts = iter(["first", "second", "third"])

    def marks(asked: Asked) -> str:
        return "Mark: 5" if "second" in asked.text else "Mark: 2"

    behaviours = [Behaviour(answer=lambda asked: next(texts)), Behaviour(answer=marks), BROKEN]
    async with serving_three(tmp_path, judged, *behaviours) as (served, providers):
        answer = await served.chat("Which?")
        await written(served)
        tried = attempts_of(served, answer.headers["x-request-id"])
    assert answer.json()["choices"][0]["message"]["content"] == "second"
    assert [body["temperature"] for body in bodies(providers[0])] == [0.9] * 3
    assert len(tried) == 6


async def test_one_that_answers_is_enough_and_none_is_a_failure(tmp_path: Path) -> None:
    some = [BROKEN, *saying("yes"), BROKEN]
    async with serving_three(tmp_path, THREE, *some) as (served, _):
        answer = await served.chat("Is it?")
        assert answer.json()["choices"][0]["message"]["content"] == "yes"
        assert "a a/model failed, b b/model chosen" in answer.headers["x-switchboard-steps"]


async def test_where_none_answers_the_route_s_next_candidate_does(tmp_path: Path) -> None:
    two_down = [*saying("plain"), BROKEN, BROKEN]
    composition = msgspec.structs.replace(THREE, steps=THREE.steps[1:])
    async with serving_three(tmp_path, composition, *two_down, fallback=True) as (served, _):
        answer = await served.chat("Is it?")
    assert answer.json()["choices"][0]["message"]["content"] == "plain"
    assert answer.headers["x-switchboard-target"] == "a/model"


async def test_when_the_client_goes_every_sample_is_cancelled(tmp_path: Path) -> None:
    slow = [Behaviour(answer=say("yes"), first_token_s=60.0) for _ in range(3)]
    async with serving_three(tmp_path, THREE, *slow) as (served, providers):
        asking = asyncio.create_task(served.chat("Is it?"))
        await until(lambda: sum(provider.running for provider in providers) == 3)
        asking.cancel()
        await until(lambda: not any(provider.running for provider in providers))
        await until(lambda: not served.gateway.live.replicas["composed:three"].in_flight)
        await written(served)
        row = latest(served)
        tried = attempts_of(served, row.id)
    assert row.outcome == "abandoned"
    assert [each.outcome for each in tried] == ["abandoned"] * 3
    assert row.target == "composed/three"
    assert row.cost_usd == pytest.approx(sum(each.cost_usd for each in tried))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chain_tells_each_step_what_was_said_and_the_last_answers(
    tmp_path: Path, stream: bool
) -> None:
    texts = saying("a draft", "too long", "one two three four")
    stop = ["no more"]
    async with serving_three(tmp_path, CHAIN, *texts) as (served, providers):
        answer = await served.chat("Why?", stream=stream, stop=stop, max_tokens=9)
        await written(served)
        row = request_of(served, answer.headers["x-request-id"])
        tried = attempts_of(served, answer.headers["x-request-id"])
    asked = [body for provider in providers for body in bodies(provider)]
    assert [body["messages"][-1]["content"] for body in asked] == [
        "Why?",
        "Q: Why? A: a draft. Errors?",
        "Rewrite a draft by too long",
    ]
    assert ["stop" in body for body in asked] == [True, False, True]
    assert [body["max_tokens"] for body in asked] == [9, 40, 9]
    assert [body.get("stream", False) for body in asked] == [False, False, stream]
    assert [each.target for each in tried] == ["a/model", "b/model", "c/model"]
    assert row.input_tokens == sum(each.input_tokens for each in tried)
    if stream:
        assert text_of(events_of(answer.content)) == "one two three four"
        assert row.first_token_s is not None
    else:
        assert answer.json()["usage"]["prompt_tokens"] == row.input_tokens


@pytest.mark.parametrize("down", [0, 1, 2])
async def test_a_chain_whose_step_fails_falls_back_and_what_was_used_is_billed(
    tmp_path: Path, down: int
) -> None:
    texts = saying("a draft", "too long", "the end")
    texts[down] = BROKEN
    spare = Composition("reviewed", "chain", CHAIN.steps)
    async with serving_three(tmp_path, spare, *texts, fallback=down > 0) as (served, _):
        answer = await served.chat("Why?")
        await written(served)
        row = request_of(served, answer.headers["x-request-id"])
        tried = attempts_of(served, answer.headers["x-request-id"])
    assert row.cost_usd == pytest.approx(sum(each.cost_usd for each in tried))
    if down:
        assert answer.json()["choices"][0]["message"]["content"] == "a draft"
        assert row.target == "a/model"
        assert len([each for each in tried if each.outcome == "ok"]) == down + 1
    else:
        assert answer.status_code == 502
        assert row.target == "composed/reviewed"
