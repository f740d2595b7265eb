"""Compositions through a whole gateway: their steps, answers, rows and money."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from gateway.policy.composed import with_compositions
from gateway.standin.behaviour import Behaviour, Fault, FaultKind, say, table
from gateway.standin.standin import StandIn
from gateway.types.backends import Price
from gateway.types.compositions import Check, Composition, Judge, Step
from gateway.types.routes import Candidate
from gateway.types.snapshot import Snapshot
from tests.gateway.composed import attempts_of, bodies, request_of, written
from tests.gateway.support import (
    Served,
    answering,
    events_of,
    route,
    serving,
    snapshot,
    target,
    text_of,
)

KNOWN = Check("regex", pattern="(billing|shipping)")
CHEAP, DEAR = Price(1e-6, 1e-6, 2e-6), Price(1e-5, 1e-5, 4e-5)

SMALL = Behaviour(answer=table([("parcel", "shipping"), ("refund", "no idea")]))
LARGE = Behaviour(answer=say("billing"))


def cascade(*steps: str, **more: Any) -> Composition:
    checked = tuple(Step(str(n), name, (KNOWN,)) for n, name in enumerate(steps, 1))
    return Composition("queue", "cascade", checked, **more)


def configured(
    small: StandIn, large: StandIn, composition: Composition, *candidates: str, **more: Any
) -> Snapshot:
    """Two targets, a composition of them, and a route whose candidates are these."""
    plain = snapshot(
        [
            target("small/model", small.url, price=CHEAP),
            target("large/model", large.url, price=DEAR),
        ],
        [route("general", *(candidates or ("composed/queue",)), **more)],
    )
    with_it = msgspec.structs.replace(plain, compositions={composition.target: composition})
    return with_compositions(with_it)


@asynccontextmanager
async def serving_two(
    tmp_path: Path,
    composition: Composition | None = None,
    *candidates: str,
    small: Behaviour = SMALL,
    large: Behaviour = LARGE,
    **more: Any,
) -> AsyncIterator[tuple[Served, StandIn, StandIn]]:
    composition = composition or cascade("small/model", "large/model")
    async with StandIn(small) as one, StandIn(large) as two:
        made = configured(one, two, composition, *candidates, **more)
        async with serving(made, tmp_path) as served:
            yield served, one, two


async def test_an_answer_that_passes_costs_the_cheap_step_alone(tmp_path: Path) -> None:
    async with serving_two(tmp_path) as (served, small, large):
        answer = await served.chat("Where is my parcel?")
        await written(served)
        id = answer.headers["x-request-id"]
        row, tried = request_of(served, id), attempts_of(served, id)
        decision = await served.decision(answer)
    assert answer.json()["choices"][0]["message"]["content"] == "shipping"
    assert answer.headers["x-switchboard-target"] == "composed/queue"
    assert answer.headers["x-switchboard-steps"] == "1 small/model passed"
    assert len(small.seen) == 1
    assert not large.seen
    assert [(each.target, each.outcome) for each in tried] == [("small/model", "ok")]
    assert row.target == "composed/queue"
    assert row.cost_usd == pytest.approx(tried[0].cost_usd)
    assert float(answer.headers["x-switchboard-cost-usd"]) == pytest.approx(row.cost_usd, abs=1e-8)
    assert decision["decision"]["steps"] == [
        {"step": "1", "target": "small/model", "came_to": "passed"}
    ]


async def test_one_that_does_not_escalates_and_all_of_it_is_one_request(tmp_path: Path) -> None:
    async with serving_two(tmp_path) as (served, _, _):
        answer = await served.chat("I want a refund")
        await written(served)
        id = answer.headers["x-request-id"]
        row, tried = request_of(served, id), attempts_of(served, id)
    assert answer.json()["choices"][0]["message"]["content"] == "billing"
    assert answer.headers["x-switchboard-steps"] == (
        "1 small/model escalated, 2 large/model answered"
    )
    assert answer.headers["x-switchboard-attempts"] == "2"
    assert [each.target for each in tried] == ["small/model", "large/model"]
    assert row.cost_usd == pytest.approx(sum(each.cost_usd for each in tried))
    for attempt, price in zip(tried, (CHEAP, DEAR), strict=True):
        due = attempt.input_tokens * price.input + attempt.output_tokens * price.output
        assert attempt.cost_usd == pytest.approx(due)
    told = answer.json()["usage"]
    assert told["prompt_tokens"] == sum(each.input_tokens for each in tried) == row.input_tokens
    assert told["completion_tokens"] == sum(e.output_tokens for e in tried) == row.output_tokens


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_streams_of_either_step_are_whole_ones_to_an_sdk(
    tmp_path: Path, wants_usage: bool
) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if wants_usage else {}
    async with serving_two(tmp_path) as (served, small, large):
        async with openai.AsyncOpenAI(base_url=served.url, api_key="none") as client:
            for text, wanted, asked in (("my parcel", "shipping", 1), ("a refund", "billing", 2)):
                stream = await client.chat.completions.create(
                    model="auto",
                    messages=[{"role": "user", "content": text}],
                    stream=True,
                    **options,
                )
                chunks = [chunk async for chunk in stream]
                said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
                ends = [c.choices[0].finish_reason for c in chunks if c.choices]
                assert "".join(said) == wanted
                assert [each for each in ends if each] == ["stop"]
                assert len({chunk.id for chunk in chunks}) == 1
                usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
                assert len(usages) == wants_usage
                if wants_usage:
                    assert not chunks[-1].choices
                    assert usages[0].completion_tokens > 0
                    assert (usages[0].prompt_tokens > 5) is (asked == 2)
    assert not any(body.get("stream") for body in bodies(small))
    assert [body["stream"] for body in bodies(large)] == [True]


async def test_the_last_step_streams_as_it_comes(tmp_path: Path) -> None:
    slow = Behaviour(answer=say("one two three four five"), between_tokens_s=0.05)
    async with serving_two(tmp_path, large=slow) as (served, _, _):
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        pieces = []
        url = "/v1/chat/completions"
        async with served.client.stream("POST", url, json=body) as answer:
            async for piece in answer.aiter_raw():
                pieces.append(piece)
        await written(served)
        row = request_of(served, answer.headers["x-request-id"])
    assert len(pieces) > 3
    assert text_of(events_of(b"".join(pieces))) == "one two three four five"
    assert row.first_token_s < row.total_s


async def test_a_cheap_step_that_fails_escalates(tmp_path: Path) -> None:
    broken = Behaviour(fault=Fault(kind=FaultKind.STATUS, status=500))
    async with serving_two(tmp_path, small=broken) as (served, _, _):
        answer = await served.chat("my parcel")
        await written(served)
        tried = attempts_of(served, answer.headers["x-request-id"])
    assert answer.json()["choices"][0]["message"]["content"] == "billing"
    assert answer.headers["x-switchboard-steps"].startswith("1 small/model failed, 2 large/model")
    assert [each.outcome for each in tried][-1] == "ok"
    assert {each.outcome for each in tried[:-1]} == {"error"}


async def test_where_the_last_step_fails_the_route_s_next_candidate_answers(
    tmp_path: Path,
) -> None:
    broken = Behaviour(fault=Fault(kind=FaultKind.STATUS, status=500))
    candidates = ("composed/queue", "small/model")
    async with serving_two(tmp_path, None, *candidates, large=broken) as (served, _, _):
        answer = await served.chat("a refund")
        alone = await served.chat("a refund", model="composed/queue")
        await written(served)
        row = request_of(served, answer.headers["x-request-id"])
    assert answer.json()["choices"][0]["message"]["content"] == "no idea"
    assert answer.headers["x-switchboard-target"] == "small/model"
    assert row.target == "small/model"
    assert alone.status_code == 502
    assert "composed/queue: step 2, large/model: " in alone.text


async def test_no_step_is_begun_that_could_cost_more_than_is_allowed(tmp_path: Path) -> None:
    bounded = cascade("small/model", "large/model", max_cost=0.002)
    async with serving_two(tmp_path, bounded) as (served, _, large):
        answer = await served.chat("a refund", max_tokens=100)
        assert answer.json()["choices"][0]["message"]["content"] == "no idea"
        assert "2 large/model not asked" in answer.headers["x-switchboard-steps"]
        decision = await served.decision(answer)
        assert "max_cost" in decision["decision"]["steps"][1]["came_to"]
        assert not large.seen
        short = await served.chat("a refund", max_tokens=5)
        assert short.json()["choices"][0]["message"]["content"] == "billing"


async def test_what_it_costs_and_how_often_it_escalates_is_learned(tmp_path: Path) -> None:
    async with serving_two(tmp_path) as (served, _, _):
        live = served.gateway.live
        for _ in range(12):
            await served.chat("my parcel")
        rarely = live.spent["general", "composed/queue"]
        assert rarely.more < 0.1
        assert rarely.mean < 0.5
        for _ in range(30):
            await served.chat("a refund")
        assert rarely.more > 0.6
        assert rarely.mean > 0.5


async def test_it_is_ranked_beside_plain_targets_and_others_answer_what_it_cannot(
    tmp_path: Path,
) -> None:
    async with serving_two(tmp_path, None, "composed/queue", "large/model") as (served, _, _):
        answer = await served.chat("my parcel")
        decision = await served.decision(answer)
        legacy = await served.client.post(
            "/v1/completions", json={"model": "auto", "prompt": "my parcel"}
        )
        named = {
            each: await served.client.post(f"/v1/{each}", json={"model": "composed/queue", **asks})
            for each, asks in (
                ("completions", {"prompt": "my parcel"}),
                ("responses", {"input": "my parcel"}),
                ("embeddings", {"input": "my parcel"}),
            )
        }
    ranked = [each["target"] for each in decision["decision"]["ranked"]]
    assert ranked == ["composed/queue", "large/model"]
    assert legacy.headers["x-switchboard-target"] == "large/model"
    for endpoint, refused in named.items():
        assert refused.status_code == 422
        error = refused.json()["error"]
        assert f"does not serve {endpoint}" in error["message"]
        assert {"message", "type", "param", "code"} <= error.keys()


async def test_a_candidate_s_own_system_prompt_holds_for_each_step(tmp_path: Path) -> None:
    candidates = (Candidate("composed/queue", 0.9, system="Answer with a queue."),)
    async with serving_two(tmp_path, candidates=candidates) as (served, small, large):
        await served.chat("a refund")
    for body in (*bodies(small), *bodies(large)):
        assert body["messages"][0] == {
            "role": "system",
            "content": "Answer with a queue.",
        }


@pytest.mark.parametrize(("least", "target"), [(0.8, "small"), (0.95, "large")])
async def test_how_sure_the_model_was_decides_and_clients_see_nothing_of_it(
    tmp_path: Path, least: float, target: str
) -> None:
    sure = Step("1", "small/model", (Check("log_probability", least=least),))
    composition = Composition("queue", "cascade", (sure, Step("2", "large/model")))
    async with serving_two(tmp_path, composition) as (served, small, _):
        answer = await served.chat("my parcel")
        asked_for = await served.chat("my parcel", logprobs=True)
    assert bodies(small)[0]["logprobs"] is True
    wanted = "shipping" if target == "small" else "billing"
    for each in (answer, asked_for):
        assert each.json()["choices"][0]["message"]["content"] == wanted
    assert not answer.json()["choices"][0].get("logprobs")
    assert asked_for.json()["choices"][0]["logprobs"]["content"]


async def test_self_consistency_asks_again_at_once_and_each_is_an_attempt(tmp_path: Path) -> None:
    said = iter(["4", "it is 4", "five"])
    unsure = Behaviour(answer=lambda asked: next(said))
    agreed = Check("agreement", least=0.6, samples=3, temperature=0.5, alike="number")
    steps = (Step("1", "small/model", (agreed,)), Step("2", "large/model"))
    composition = Composition("queue", "cascade", steps)
    async with serving_two(tmp_path, composition, small=unsure) as (served, small, _):
        answer = await served.chat("2 + 2?", temperature=0, seed=7)
        await written(served)
        row = request_of(served, answer.headers["x-request-id"])
        tried = attempts_of(served, answer.headers["x-request-id"])
    assert answer.json()["choices"][0]["message"]["content"] in ("4", "it is 4")
    assert [body["temperature"] for body in bodies(small)] == [0, 0.5, 0.5]
    assert ["seed" in body for body in bodies(small)] == [True, False, False]
    assert len(tried) == 3
    assert row.cost_usd == pytest.approx(sum(each.cost_usd for each in tried))
    assert answer.json()["usage"]["completion_tokens"] == sum(e.output_tokens for e in tried)


@pytest.mark.parametrize(("mark", "wanted"), [("Mark: 5", "shipping"), ("Mark: 1", "Mark: 1")])
async def test_a_judge_is_asked_with_nothing_of_the_client_s_but_the_question(
    tmp_path: Path, mark: str, wanted: str
) -> None:
    judge = Check("judge", least=4.0, judge=Judge("large/model", "Names the queue."))
    steps = (Step("1", "small/model", (judge,)), Step("2", "large/model"))
    composition = Composition("queue", "cascade", steps)
    by_mark = Behaviour(answer=say(mark))
    async with serving_two(tmp_path, composition, large=by_mark) as (served, _, large):
        answer = await served.chat("my parcel", tools=None, user="me", max_tokens=3)
        decision = await served.decision(answer)
    assert answer.json()["choices"][0]["message"]["content"] == wanted
    judging = bodies(large)[0]
    assert set(judging) == {"model", "messages", "max_tokens", "temperature"}
    assert "my parcel" in judging["messages"][1]["content"]
    assert "shipping" in judging["messages"][1]["content"]
    assert [each["step"] for each in decision["decision"]["steps"]][:2] == ["1", "1.judge"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_no_chat_completion_escalates(tmp_path: Path, stream: bool) -> None:
    odd = b'{"id": "x", "object": "chat.completion", "choices": [{"text": "shipping"}]}'
    head = [b"content-type: application/json"]
    async with StandIn(LARGE) as large, answering(head, odd) as url:
        made = configured(large, large, cascade("small/model", "large/model"))
        targets = dict(made.targets)
        targets["small/model"] = msgspec.structs.replace(targets["small/model"], replicas=(url,))
        backends = dict(made.backends)
        backends["small"] = msgspec.structs.replace(backends["small"], replicas=(url,))
        made = msgspec.structs.replace(made, targets=targets, backends=backends)
        async with serving(made, tmp_path) as served:
            answer = await served.chat("my parcel", stream=stream)
    assert answer.status_code == 200
    assert "1 small/model failed, 2 large/model answered" in answer.headers["x-switchboard-steps"]
    assert "billing" in answer.text
