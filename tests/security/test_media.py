"""A URL in a request makes no server inside our network fetch what the team did not declare."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.load import load
from gateway.errors import BadRequest
from gateway.http.media import UNREADABLE, host_of
from gateway.http.parse import parse
from gateway.policy.decide import decide
from gateway.policy.live import Live
from gateway.standin.behaviour import Behaviour
from gateway.standin.standin import StandIn
from gateway.types.backends import Capabilities
from gateway.types.requests import Caller, Endpoint, Needs
from tests.gateway.support import route, serving, snapshot, target
from tests.policy import world

METADATA = "http://169.254.169.254/latest/meta-data/"
CLOSED = Capabilities(vision=True, media_from=frozenset())
DECLARED = Capabilities(vision=True, media_from=frozenset({"images.example.com", ".cdn.example"}))


OUTPUT = {"type": "function_call_output", "call_id": "call_1"}


def picture(url: str) -> list[dict[str, Any]]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ('"data:image/png;base64,AAAA"', None),
        ('{"url": "data:image/png;base64,AAAA"}', None),
        ('{"detail": "low", "url": "DATA:image/png;base64,AAAA"}', None),
        ('{"url": null}', None),
        ("null", None),
        ('{"url": "https://Images.Example.com/a.png?x=1"}', "images.example.com"),
        ('"http://images.example.com:8080"', "images.example.com"),
        ('"http://[::1]:80/a"', "::1"),
        ('"https://images.example.com@169.254.169.254/a"', UNREADABLE),
        (r'"https://images.example.com\\@169.254.169.254/a"', UNREADABLE),
        ('"https://images.example.com#@169.254.169.254/a"', "images.example.com"),
        ('"file:///etc/passwd"', UNREADABLE),
        ('" http://169.254.169.254/"', UNREADABLE),
        ('"//169.254.169.254/"', UNREADABLE),
        ('"gs://bucket/a.png"', UNREADABLE),
        ('{"url":"data:,x","url":"http://169.254.169.254/"}', "169.254.169.254"),
        (r'{"url":"data:,x","\u0075rl":"http://169.254.169.254/"}', "169.254.169.254"),
        ("7", UNREADABLE),
    ],
)
def test_the_host_of_what_is_named(written: str, host: str | None) -> None:
    assert host_of(msgspec.Raw(written.encode())) == host


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.CHAT, {"messages": picture(METADATA)}),
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": [{"image_url": METADATA}]}]}),
        (
            Endpoint.CHAT,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "text": "", "image_url": METADATA}],
                    }
                ]
            },
        ),
        (
            Endpoint.CHAT,
            {"messages": [{"role": "tool", "content": [{"video_url": {"url": METADATA}}]}]},
        ),
        (
            Endpoint.RESPONSES,
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_file", "file_url": METADATA}]}
                ]
            },
        ),
        *(
            (Endpoint.CHAT, {"messages": [{"role": "user", "content": [{**part, "text": "x"}]}]})
            for part in (
                {"type": "text", "uuid": "u", "image_url": METADATA},
                {"type": "file", "file": {"file_id": METADATA}},
                {"type": "file", "file": {"file_data": METADATA, "file_id": "file-1"}},
            )
        ),
        *(
            (Endpoint.RESPONSES, {"input": [item]})
            for item in (
                {"role": "user", "content": [{"type": "input_file", "file_data": METADATA}]},
                {"role": "user", "content": [{"type": "input_image", "file_id": METADATA}]},
                {**OUTPUT, "output": [{"type": "input_image", "image_url": METADATA}]},
                {**OUTPUT, "output": [{"type": "input_file", "file_url": METADATA}]},
                {**OUTPUT, "content": "x", "output": [{"image_url": METADATA}]},
                {
                    "type": "computer_call_output",
                    "output": {"type": "computer_screenshot", "image_url": METADATA},
                },
            )
        ),
    ],
)
def test_each_way_to_name_a_url_is_seen(endpoint: Endpoint, body: dict[str, Any]) -> None:
    text = json.dumps({"model": "auto", **body}).encode()
    asked = parse(endpoint, text, id="req_1", headers={}, caller=Caller())
    assert asked.needs.media_hosts == ("169.254.169.254",)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": [{"file": file}]}]})
        for file in (
            None,
            {"file_id": "file-abc"},
            {"file_data": "//uQxAAA/9j+8="},
            {"file_data": "data:application/pdf;base64,AAAA", "filename": "a: b.pdf"},
        )
    ]
    + [
        (Endpoint.RESPONSES, {"input": [item]})
        for item in (
            {"role": "user", "content": [{"type": "input_file", "file_id": "file-abc"}]},
            {**OUTPUT, "output": "see http://169.254.169.254/"},
            {**OUTPUT, "output": [{"type": "input_text", "text": "http://169.254.169.254/"}]},
            {**OUTPUT, "output": None},
            {"type": "shell_call_output", "output": [{"stdout": "x", "outcome": {"type": "exit"}}]},
        )
    ],
)
def test_ids_contents_and_texts_are_no_urls(endpoint: Endpoint, body: dict[str, Any]) -> None:
    text = json.dumps({"model": "auto", **body}).encode()
    asked = parse(endpoint, text, id="req_1", headers={}, caller=Caller())
    assert asked.needs.media_hosts == ()
    assert asked.turns == ()


def test_a_picture_that_a_tool_gave_back_is_one() -> None:
    part = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    text = json.dumps({"input": [{**OUTPUT, "output": [part]}]}).encode()
    asked = parse(Endpoint.RESPONSES, text, id="req_1", headers={}, caller=Caller())
    assert asked.needs.vision


def test_only_targets_that_may_fetch_from_there_are_left() -> None:
    closed = world.target("local/closed", internal=True, capabilities=CLOSED)
    declared = world.target("local/declared", internal=True, capabilities=DECLARED)
    anywhere = world.target("openai/mini", capabilities=Capabilities(vision=True))
    targets = (closed, declared, anywhere)
    whole = world.snapshot([world.route([(each.name, 0.9) for each in targets])], targets)

    def left(*hosts: str) -> set[str]:
        needs = Needs(vision=True, media_hosts=hosts)
        asked = world.question(needs=needs)
        decision = decide(asked, whole, Live(), 0.5)
        return {choice.target for choice in decision.ranked}

    assert left() == {"local/closed", "local/declared", "openai/mini"}
    assert left("images.example.com") == {"local/declared", "openai/mini"}
    assert left("images.example.com", "a.cdn.example") == {"local/declared", "openai/mini"}
    assert left("images.example.com", "169.254.169.254") == {"openai/mini"}
    assert left("cdn.example") == left("evilcdn.example") == {"openai/mini"}
    assert left(UNREADABLE) == {"openai/mini"}


async def test_a_server_of_our_own_is_never_asked_to_fetch(tmp_path: Path) -> None:
    async with StandIn(Behaviour()) as engine:
        url = engine.url.removesuffix("/v1")
        qwen = target("local/qwen", url, internal=True, capabilities=CLOSED)
        whole = snapshot([qwen], [route("scans", "local/qwen", internal=True)])
        async with serving(whole, tmp_path) as served:
            before = sum(seen.path == "/v1/chat/completions" for seen in engine.seen)
            body = {"model": "auto", "messages": picture(METADATA)}
            refused = await served.client.post("/v1/chat/completions", json=body)
            assert refused.status_code == 422
            assert "169.254.169.254" in refused.json()["error"]["message"]
            inline = {"model": "auto", "messages": picture("data:image/png;base64,AAAA")}
            assert (
                await served.client.post("/v1/chat/completions", json=inline)
            ).status_code == 200
            after = sum(seen.path == "/v1/chat/completions" for seen in engine.seen)
            assert after - before == 1


def test_what_is_not_declared_is_fetched_by_nobody_inside(tmp_path: Path) -> None:
    (tmp_path / "routes").mkdir()
    (tmp_path / "policies").mkdir()
    (tmp_path / "gateway.yaml").write_text(
        """
default_route: general
backends:
  local:
    kind: vllm
    replicas: [http://gpu-1:8000]
    replica_hour: 1 usd
    peak_tokens_per_second: 1000
    models:
      plain: {id: a}
      open: {id: b, capabilities: {media_from: [Images.example.com, .cdn.example]}}
  claude: {kind: litellm, provider: anthropic, models: {haiku: {id: h}}}
  openai:
    kind: openai
    url: https://api.openai.com/v1
    models: {mini: {id: m, price: {input: 1 usd/Mtok, output: 1 usd/Mtok}}}
"""
    )
    (tmp_path / "policies/p.yaml").write_text("name: p\n")
    (tmp_path / "routes/general.yaml").write_text(
        "name: general\nvalue: 1 usd\npolicy: p\n"
        "candidates: [{target: local/plain, quality: 0.9}]\n"
    )
    targets = load(tmp_path, {}).snapshot.targets
    assert targets["local/plain"].capabilities.media_from == frozenset()
    declared = targets["local/open"].capabilities.media_from
    assert declared == frozenset({"images.example.com", ".cdn.example"})
    assert targets["claude/haiku"].capabilities.media_from == frozenset()
    assert targets["openai/mini"].capabilities.media_from is None


def test_where_vllm_fetches_its_cache_from_is_not_a_clients_to_say() -> None:
    there = {"kv_transfer_params": {"remote_host": "169.254.169.254", "remote_port": 80}}
    body = {"model": "auto", "messages": [], **there}
    with pytest.raises(BadRequest) as caught:
        parse(Endpoint.CHAT, json.dumps(body).encode(), id="r", headers={}, caller=Caller())
    assert caught.value.param == "kv_transfer_params"
