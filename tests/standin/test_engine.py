import asyncio
from typing import Any

import pytest

from gateway.standin import Behaviour, Reply, StandIn, Vllm, say, table
from tests.standin.client import HELLO, get, open_raw, post

CHAT = {"messages": HELLO["messages"]}


async def load(standin: StandIn, name: str, path: str = "/adapters/x", **more: Any) -> Any:
    body = {"lora_name": name, "lora_path": path, **more}
    return await post(standin, body, "load_lora_adapter")


async def test_management_endpoints() -> None:
    async with StandIn(vllm=Vllm(version="0.32.0")) as standin:
        health = await get(standin, "/health")
        version = (await get(standin, "/version")).json()
        load_now = (await get(standin, "/load")).json()
        unknown = await get(standin, "/nothing")
        embeddings = await post(standin, {"model": "base", "input": "x"}, "embeddings")
    assert (health.status_code, health.content) == (200, b"")
    assert version == {"version": "0.32.0"}
    assert load_now == {"server_load": 0}
    for missing in (unknown, embeddings):
        assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("repeat", [True, False])
async def test_an_adapter_is_loaded_listed_used_and_unloaded(repeat: bool) -> None:
    models = {"base": Behaviour(answer=say("plain")), "law@v1": Behaviour(answer=say("legal"))}
    async with StandIn(models, vllm=Vllm(base="base"), repeat=repeat) as standin:
        before = await post(standin, {**CHAT, "model": "law@v1"})
        loaded = await load(standin, "law@v1", "/adapters/law")
        listed = (await get(standin, "/v1/models")).json()["data"]
        law = (await post(standin, {**CHAT, "model": "law@v1"})).json()
        base = (await post(standin, {**CHAT, "model": "base"})).json()
        unloaded = await post(standin, {"lora_name": "law@v1"}, "unload_lora_adapter")
        after = await post(standin, {**CHAT, "model": "law@v1"})
    assert before.status_code == after.status_code == 404
    said = after.json()["error"]
    assert (said["type"], said["param"], said["code"]) == ("NotFoundError", "model", 404)
    assert loaded.status_code == unloaded.status_code == 200
    assert loaded.text == "Success: LoRA adapter 'law@v1' added successfully."
    assert loaded.headers["content-type"].startswith("text/plain")
    assert [(m["id"], m["parent"], m["root"]) for m in listed] == [
        ("base", None, "base"),
        ("law@v1", "base", "/adapters/law"),
    ]
    assert law["choices"][0]["message"]["content"] == "legal"
    assert base["choices"][0]["message"]["content"] == "plain"
    assert standin.engine is not None
    assert standin.engine.loads == [("law@v1", "/adapters/law")]


async def test_a_version_behaves_as_its_adapter_where_nothing_is_said_of_it() -> None:
    models = {name: Behaviour(answer=say(name)) for name in ("base", "law", "law@v2")}
    async with StandIn(models, vllm=Vllm(base="base")) as standin:
        said = {}
        for name in ("law@v1", "law@v2", "brand@v1"):
            await load(standin, name)
            answer = (await post(standin, {**CHAT, "model": name})).json()
            said[name] = answer["choices"][0]["message"]["content"]
    assert said == {"law@v1": "law", "law@v2": "law@v2", "brand@v1": "base"}


async def test_how_sure_an_answer_is_can_be_said_of_each() -> None:
    rows: list[tuple[str, Reply | str]] = [("far", Reply("Perth", logprob=-1.5)), ("", "Oslo")]
    async with StandIn({"base": Behaviour(answer=table(rows))}, vllm=Vllm(base="base")) as standin:
        found = []
        for text in ("far", "near"):
            messages = [{"role": "user", "content": text}]
            answer = await post(standin, {"messages": messages, "logprobs": True})
            found.append(answer.json()["choices"][0]["logprobs"]["content"][0]["logprob"])
    assert found == [-1.5, -0.125]


async def test_a_missing_model_is_answered_by_the_base() -> None:
    async with StandIn(vllm=Vllm(base="base")) as standin:
        answer = await post(standin, CHAT)
    assert answer.status_code == 200
    assert answer.json()["model"] == "base"


async def test_loads_that_vllm_refuses() -> None:
    refuses = {"/gone": (404, "No adapter found for /gone"), "/big": (500, "rank 64 is too large")}
    async with StandIn(vllm=Vllm(adapters={"a": "/a"}, refuses=refuses)) as standin:
        again = await load(standin, "a")
        in_place = await load(standin, "a", load_inplace=True)
        gone, big = await load(standin, "b", "/gone"), await load(standin, "c", "/big")
        unnamed = await post(standin, {"lora_name": "x"}, "load_lora_adapter")
        unknown = await post(standin, {"lora_name": "x"}, "unload_lora_adapter")
    found = [again, in_place, gone, big, unnamed, unknown]
    assert [answer.status_code for answer in found] == [400, 200, 404, 500, 400, 404]
    assert again.json()["error"]["type"] == "InvalidUserInput"
    assert "already been loaded" in again.json()["error"]["message"]
    assert big.json()["error"]["type"] == "InternalServerError"
    assert unknown.json()["error"]["type"] == "NotFoundError"


async def test_an_adapter_is_there_only_when_its_load_is_over() -> None:
    over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if seconds == 7:
            await over.wait()

    async with StandIn(vllm=Vllm(load_s=7), sleep=sleep) as standin:
        loading = asyncio.create_task(load(standin, "a"))
        await standin.arrived()
        assert (await post(standin, {**CHAT, "model": "a"})).status_code == 404
        over.set()
        assert (await loading).status_code == 200
        assert (await post(standin, {**CHAT, "model": "a"})).status_code == 200


async def test_a_restart_forgets_what_was_loaded_and_keeps_the_port() -> None:
    async with StandIn(vllm=Vllm(adapters={"static": "/s"})) as standin:
        await load(standin, "a")
        await post(standin, CHAT)
        port = standin.port
        await standin.restart()
        listed = (await get(standin, "/v1/models")).json()["data"]
        metrics = (await get(standin, "/metrics")).text
    assert standin.port == port
    assert [model["id"] for model in listed] == ["base", "static"]
    assert 'vllm:generation_tokens_total{engine="0",model_name="base"} 0.0' in metrics


async def test_load_and_metrics_tell_what_runs_and_what_waits() -> None:
    behaviour = Behaviour(between_tokens_s=30)
    async with StandIn(behaviour, vllm=Vllm(), slots=1) as standin:
        reader, first = await open_raw(standin, {**CHAT, "stream": True})
        await reader.readuntil(b"one")
        _, second = await open_raw(standin, {**CHAT, "stream": True})
        await asyncio.wait_for(standin.until(lambda: standin.waiting == 1), 5)
        load_now = (await get(standin, "/load")).json()
        metrics = (await get(standin, "/metrics")).text
        first.close()
        second.close()
    assert load_now == {"server_load": 1}
    assert 'vllm:num_requests_running{engine="0",model_name="base"} 1.0' in metrics
    assert 'vllm:num_requests_waiting{engine="0",model_name="base"} 1.0' in metrics


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
async def test_vllms_key_guards_only_v1(path: str) -> None:
    async with StandIn(vllm=Vllm(), keys=["k"]) as standin:
        answer = await get(standin, path)
    assert answer.status_code == (200 if path == "/health" else 401)
