"""What applications and teams see beyond the wire: routes, keys, tenants, dry runs, records."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.standin.standin import StandIn
from gateway.types.policies import Policy
from gateway.types.routes import Match
from gateway.types.snapshot import Snapshot
from tests.gateway.conftest import KEY
from tests.gateway.support import Served, route, serving, snapshot, target, with_adapters
from tests.transport.peer import forwarding, peer

LEGAL = Match(
    headers={"x-workflow": "legal"},
    keywords=("indemnify",),
    examples=("summarise this clause", "is the lessee liable", "review the contract"),
)
CODE = Match(examples=("fix this python function", "why does this crash", "write a unit test"))


@pytest.fixture
async def two_routes(provider: StandIn, tmp_path: Path) -> Any:
    """Two kinds of work with a target each, and a default."""
    targets = [target(f"openai/{name}", provider.url) for name in ("plain", "legal", "code")]
    routes = [
        route("general", "openai/plain"),
        route("legal", "openai/legal", "openai/plain", match=LEGAL, keep="text"),
        route("code", "openai/code", match=CODE),
    ]
    policies = {"quality": Policy("quality"), "free": Policy("free", value_weight=0.0)}
    configuration = snapshot(
        targets, routes, keys={"openai": KEY}, policies=policies, aliases={"gpt-4o": "auto"}
    )
    async with serving(configuration, tmp_path) as served:
        yield served


def route_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-switchboard-route"])


async def test_a_route_can_be_named_matched_or_learned(two_routes: Served) -> None:
    assert route_of(await two_routes.chat(model="legal")) == "legal"
    assert route_of(await two_routes.chat("they shall indemnify us")) == "legal"
    assert route_of(await two_routes.chat("please fix the python function")) == "code"
    assert route_of(await two_routes.chat("is the lessee liable", "gpt-4o")) == "legal"
    assert route_of(await two_routes.chat("zzz qqq")) == "general"


async def test_headers_choose_route_and_policy(two_routes: Served) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}

    async def ask(**headers: str) -> Any:
        named = {f"x-{name.replace('_', '-')}": value for name, value in headers.items()}
        return await two_routes.client.post("/v1/chat/completions", json=body, headers=named)

    assert route_of(await ask(workflow="legal")) == "legal"
    answer = await ask(switchboard_route="legal", switchboard_policy="free")
    row = await two_routes.decision(answer)
    assert (row["route"], row["policy"]) == ("legal", "free")
    wrong = await ask(switchboard_policy="fre")
    assert wrong.status_code == 400
    assert "did you mean 'free'" in wrong.json()["error"]["message"]


async def test_a_conversation_keeps_its_route_until_the_user_turns(two_routes: Served) -> None:
    async def ask(*turns: str) -> str:
        messages = []
        for turn in turns:
            messages += [
                {"role": "user", "content": turn},
                {"role": "assistant", "content": "ok"},
            ]
        body = {"model": "auto", "messages": messages[:-1]}
        return route_of(await two_routes.client.post("/v1/chat/completions", json=body))

    assert await ask("review the contract") == "legal"
    assert await ask("review the contract", "shorter") == "legal"
    assert await ask("review the contract", "shorter", "fix this python function") == "code"


async def test_a_dry_run_decides_and_sends_nothing(two_routes: Served, provider: StandIn) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "is the lessee liable"}]}
    answer = (await two_routes.client.post("/v1/route", json=body)).json()
    assert answer["recognition"]["route"] == "legal"
    assert answer["recognition"]["by"] == "classifier"
    assert [choice["target"] for choice in answer["decision"]["ranked"]] == [
        "openai/legal",
        "openai/plain",
    ]
    assert all(choice["verdict"] for choice in answer["decision"]["ranked"])
    assert not provider.seen


async def test_text_is_kept_only_where_the_route_says_so(two_routes: Served) -> None:
    kept = await two_routes.decision(await two_routes.chat("is the lessee liable", stream=True))
    assert kept["text"] == "is the lessee liable"
    assert kept["answer"] == "one two three four five"
    other = await two_routes.decision(await two_routes.chat("fix this python function"))
    assert (other["text"], other["answer"]) == (None, None)


async def test_what_was_shaped_is_in_the_decision(provider: StandIn, tmp_path: Path) -> None:
    from gateway.types.backends import Shaping

    shaping = Shaping(
        rename={"max_tokens": "max_completion_tokens"}, drop=frozenset({"temperature"})
    )
    newer = target("openai/mini", provider.url, shaping=shaping)
    async with serving(snapshot([newer], keys={"openai": KEY}), tmp_path) as served:
        row = await served.decision(await served.chat(max_tokens=5, temperature=0.3))
    assert row["attempts"][0]["changed"] == [
        "renamed max_tokens to max_completion_tokens",
        "dropped temperature",
    ]
    sent = (await provider.arrived()).json()
    assert sent["max_completion_tokens"] == 5
    assert "temperature" not in sent


async def test_the_metrics_page_counts(two_routes: Served) -> None:
    await two_routes.chat(model="legal")
    page = (await two_routes.client.get("/metrics")).text
    place = 'switchboard_route="legal",switchboard_target="openai/legal"'
    assert f'switchboard_requests_total{{outcome="ok",{place}}} 1.0' in page
    assert f'gen_ai_client_token_usage_total{{gen_ai_token_type="output",{place}}} 5.0' in page


async def test_a_response_goes_on_where_it_was_made(provider: StandIn, tmp_path: Path) -> None:
    async with StandIn() as other:
        targets = [target("openai/mini", provider.url), target("other/big", other.url)]
        configuration = snapshot(targets, keys={"openai": KEY})
        async with serving(configuration, tmp_path) as served:

            async def respond(model: str, **more: Any) -> Any:
                body = {"model": model, "input": "hello", **more}
                return (await served.client.post("/v1/responses", json=body)).json()

            first = await respond("other/big")
            second = await respond("auto", previous_response_id=first["id"])
            found = await served.client.get(f"/v1/responses/{second['id']}")
    assert second["previous_response_id"] == first["id"]
    assert found.json()["id"] == second["id"]
    assert not provider.seen


def of_two_replicas(first: StandIn, second: StandIn) -> Snapshot:
    urls = (first.url, second.url)
    made = snapshot([target("own/model", first.url, replicas=urls)])
    own = msgspec.structs.replace(made.backends["own"], replicas=urls)
    return msgspec.structs.replace(made, backends={"own": own})


@pytest.mark.parametrize("remembered", [True, False], ids=["remembered", "by the log"])
async def test_a_response_is_kept_by_the_replica_that_made_it(
    remembered: bool, tmp_path: Path
) -> None:
    async with StandIn() as first, StandIn() as second:
        async with serving(of_two_replicas(first, second), tmp_path) as served:
            post, get = served.client.post, served.client.get
            await first.stop()
            body = {"model": "auto", "input": "hello"}
            id = (await post("/v1/responses", json=body)).json()["id"]
            await first.start()
            if not remembered:
                served.gateway._answers._made.clear()
            for _ in range(4):
                more = {**body, "previous_response_id": id}
                assert (await post("/v1/responses", json=more)).status_code == 200
            assert (await get(f"/v1/responses/{id}")).json()["id"] == id
            assert (await served.client.delete(f"/v1/responses/{id}")).json()["deleted"]
    assert not first.seen


async def test_what_was_made_elsewhere_is_looked_for_at_each_replica(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn() as second, httpx.AsyncClient() as client:
        body = {"model": "m", "input": "hello"}
        id = (await client.post(f"{second.url}/responses", json=body)).json()["id"]
        async with serving(of_two_replicas(first, second), tmp_path) as served:
            found = await served.client.get(f"/v1/responses/{id}")
            nowhere = await served.client.get("/v1/responses/resp_none")
            await first.stop()
            still = await served.client.get(f"/v1/responses/{id}")
            unknown = await served.client.get("/v1/responses/resp_none")
            await first.start()
    assert found.json()["id"] == still.json()["id"] == id
    # The one that is away may have it.
    assert (nowhere.status_code, unknown.status_code) == (404, 502)


# ------------------------------------------------------------------ keys


async def test_a_response_is_gone_on_with_by_its_key_and_tenant_alone(
    provider: StandIn, tmp_path: Path
) -> None:
    from gateway.store.keys import Keys

    configuration = snapshot([target("openai/mini", provider.url)], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True, tenant="acme") as served:
        keys = Keys(served.gateway.store)
        others = {
            "colleague": keys.create("colleague", tenant="acme").secret,
            "stranger": keys.create("stranger", tenant="else").secret,
            "nobody's": keys.create("nobody's").secret,
        }
        served.gateway.keyring.refresh()
        post = served.client.post
        first = (await post("/v1/responses", json={"model": "auto", "input": "hello"})).json()
        said = {}
        for remembered in (True, False):  # here, and by the log
            if not remembered:
                served.gateway._answers._made.clear()
            for name, key in others.items():
                head = {"authorization": f"Bearer {key}"}
                more = {"model": "auto", "input": "on", "previous_response_id": first["id"]}
                answer = await post("/v1/responses", json=more, headers=head)
                read = await served.client.get(f"/v1/responses/{first['id']}", headers=head)
                said[name, remembered] = answer.status_code, read.status_code
        error = answer.json()["error"]
    assert {name: codes for (name, _), codes in said.items()} == {
        "colleague": (200, 200), "stranger": (400, 404), "nobody's": (400, 404)
    }  # fmt: skip
    assert all(said[name, True] == said[name, False] for name in others)
    assert error["code"] == "previous_response_not_found"
    assert error["message"] == f"There is no response '{first['id']}'."


@pytest.mark.parametrize("backends", [1, 2])
async def test_a_stored_chat_is_read_and_deleted_by_its_key_and_tenant_alone(
    provider: StandIn, tmp_path: Path, backends: int
) -> None:
    from gateway.store.keys import Keys

    async with StandIn() as other:
        targets = [target("openai/mini", provider.url), target("other/mini", other.url)][:backends]
        configuration = snapshot(targets, keys={"openai": KEY})
        async with serving(configuration, tmp_path, key=True, tenant="acme") as served:
            stranger = Keys(served.gateway.store).create("stranger", tenant="else").secret
            served.gateway.keyring.refresh()
            answer = await served.chat(model="openai/mini", store=True)
            path = f"/v1/chat/completions/{answer.json()['id']}"
            head = {"authorization": f"Bearer {stranger}"}
            theirs = [
                await served.client.get(path, headers=head),
                await served.client.get(f"{path}/messages", headers=head),
                await served.client.delete(path, headers=head),
            ]
            asked = [seen for seen in (*provider.seen, *other.seen) if seen.method != "POST"]
            own = await served.client.get(path)
    assert [each.status_code for each in theirs] == [404, 404, 404]
    assert asked == []
    assert own.status_code == 200, own.text


async def test_a_list_of_everybodys_completions_is_shown_to_no_key(
    provider: StandIn, tmp_path: Path
) -> None:
    configuration = snapshot([target("openai/mini", provider.url)], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True) as served:
        listed = await served.client.get("/v1/chat/completions")
    assert (listed.status_code, listed.json()["error"]["code"]) == (404, "not_found")
    assert not [seen for seen in provider.seen if seen.path.startswith("/v1/chat/completions")]


async def test_with_a_key_in_the_store_every_call_needs_one(
    provider: StandIn, tmp_path: Path
) -> None:
    configuration = snapshot([target("openai/mini", provider.url)], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True) as served:
        assert (await served.chat()).status_code == 200
        for headers in ({"authorization": ""}, {"authorization": "Bearer sb-wrong"}):
            for method, path in (
                ("POST", "/v1/chat/completions"),
                ("GET", "/v1/models"),
                ("POST", "/v1/route"),
                ("GET", "/v1/decisions/x"),
                ("GET", "/v1/responses/x"),
            ):
                answer = await served.client.request(method, path, headers=headers)
                assert answer.status_code == 401, path
                assert answer.json()["error"]["type"] == "authentication_error"
        assert (await served.client.get("/health")).status_code == 200


async def test_a_keys_rights_are_kept_to(provider: StandIn, tmp_path: Path) -> None:
    targets = [target("openai/a", provider.url), target("openai/b", provider.url)]
    routes = [route("general", "openai/a"), route("legal", "openai/b")]
    configuration = snapshot(targets, routes, keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True, routes=["legal"]) as served:
        assert route_of(await served.chat(model="legal")) == "legal"
        refused = [
            await served.chat(model="general"),
            await served.chat(model="openai/a"),
            await served.chat(model="auto"),
        ]
        override = await served.client.post(
            "/v1/chat/completions",
            json={"model": "legal", "messages": []},
            headers={"x-switchboard-policy": "quality"},
        )
        listed = (await served.client.get("/v1/models")).json()["data"]
    assert [answer.status_code for answer in [*refused, override]] == [403] * 4
    assert [model["id"] for model in listed] == ["auto", "legal"]


async def test_one_key_cannot_read_anothers_decisions(provider: StandIn, tmp_path: Path) -> None:
    from gateway.store.keys import Keys

    configuration = snapshot([target("openai/mini", provider.url)], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True) as served:
        id = (await served.chat()).headers["x-switchboard-decision"]
        other = Keys(served.gateway.store).create("other").secret
        served.gateway.keyring.refresh()
        mine = await served.client.get(f"/v1/decisions/{id}")
        theirs = await served.client.get(
            f"/v1/decisions/{id}", headers={"authorization": f"Bearer {other}"}
        )
    assert (mine.status_code, theirs.status_code) == (200, 404)
    assert served.key is not None
    assert served.key not in mine.text


@pytest.mark.parametrize(
    ("tenant", "served_by"), [("acme", "local/qwen+acme"), ("unknown", "local/qwen")]
)
async def test_an_adapter_follows_the_tenant(tmp_path: Path, tenant: str, served_by: str) -> None:
    from gateway.standin.engine import Vllm

    async with StandIn(vllm=Vllm(base="base")) as vllm:
        base = target("local/qwen", vllm.origin, internal=True, served="base")
        routes = [route("general", "local/qwen+{key.tenant}", "local/qwen", internal=True)]
        configuration = with_adapters(snapshot([base], routes), tmp_path, acme=[""])
        async with serving(configuration, tmp_path, key=True, tenant=tenant) as served:
            await served.gateway.adapters_present()
            answer = await served.chat()
    assert answer.headers["x-switchboard-target"] == served_by


async def test_a_backend_behind_a_proxy_is_reached_through_it(
    provider: StandIn, tmp_path: Path
) -> None:
    seen: list[bytes] = []
    plain = snapshot([target("openai/mini", provider.url)], keys={"openai": KEY})
    async with peer(forwarding(seen)) as proxy:
        url = f"http://127.0.0.1:{proxy.origin.port}"
        backend = msgspec.structs.replace(plain.backends["openai"], proxy=url)
        behind = msgspec.structs.replace(plain, backends={"openai": backend})
        async with serving(behind, tmp_path) as served:
            answer = await served.chat()
            assert answer.status_code == 200, answer.text
            assert (await served.events())[-1] == "[DONE]"
    assert seen == [b"POST %b/chat/completions" % provider.url.encode()] * len(seen)
    assert seen
