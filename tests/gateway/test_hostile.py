"""Bodies that mean harm, over a whole gateway: a 4xx in OpenAI's shape, and memory flat."""

import gc
import gzip
import json
import re
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.revisions.running import NothingBefore, gone_back_to
from gateway.standin.standin import StandIn
from gateway.store.audit import AuditBook
from gateway.store.reader import Reader
from gateway.store.revisions import Revisions
from gateway.store.store import Store
from gateway.transport.bodies import MAX_BODY
from gateway.types.routes import Candidate, Metric
from tests.gateway.conftest import KEY
from tests.gateway.support import Served, answering, route, serving, snapshot, target

USER = b'{"model":"auto","messages":[{"role":"user","content":"hello"}]'


def nested(depth: int, *, inside: bytes = b"") -> bytes:
    return b"[" * depth + inside + b"]" * depth


HARMFUL = [
    (USER + b',"x":' + nested(100_000) + b"}", 400, "nested_too_deeply"),
    (USER + b',"x":' + nested(5_000_000) + b"}", 400, "nested_too_deeply"),
    (USER + b',"stream_options":' + b'{"a":' * 100_000, 400, "nested_too_deeply"),
    (b'{"model":"auto","messages":' + nested(900) + b"}", 400, "invalid_type"),
    (b'{"a":' * 100_000, 400, "nested_too_deeply"),
    (USER[:-3] + b'\xed\xa0\x80"}]}', 400, "invalid_utf8"),
    (USER[:-3] + b'\xff"}]}', 400, "invalid_utf8"),
    (USER[:-3] + b'\xc0\xaf"}]}', 400, "invalid_utf8"),
    (USER[:-3] + b'\\ud800"}]}', 400, "invalid_json"),
    (USER[:-3] + b'\\ud800\\u0041"}]}', 400, "invalid_json"),
    (USER + b',"max_tokens":' + b"9" * 10_000 + b"}", 400, "invalid_type"),
    (USER + b',"max_tokens":1e999}', 400, "invalid_type"),
    (USER + b',"n":1e400}', 400, "invalid_type"),
    (USER + b"}\0", 400, "invalid_json"),
    (b"\xef\xbb\xbf" + USER + b"}", 400, "invalid_json"),
    (USER.replace(b"auto", b"a" * 1_000_000) + b"}", 400, "invalid_value"),
    (USER.replace(b"auto", b"a\\u0000b") + b"}", 404, "model_not_found"),
    (b"\0" * 1000, 400, "invalid_json"),
    (USER + b',"temperature":NaN}', 400, "invalid_json"),
    (USER + b',"temperature":-Infinity}', 400, "invalid_json"),
]


async def test_a_body_that_means_harm_is_the_clients_fault(served: Served) -> None:
    for body, status, code in HARMFUL:
        answer = await served.client.post("/v1/chat/completions", content=body)
        assert (answer.status_code, error_of(answer)["code"]) == (status, code), body[:100]
        assert len(answer.content) < 1000
    assert (await served.chat()).status_code == 200


async def test_a_body_that_means_harm_takes_no_more_memory_than_itself(served: Served) -> None:
    """Its client is in the same process: what both hold of it at once, and nothing afterwards."""
    await served.client.post("/v1/chat/completions", content=HARMFUL[0][0])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for body, status, _ in HARMFUL:
            tracemalloc.reset_peak()
            answer = await served.client.post("/v1/chat/completions", content=body)
            _, most = tracemalloc.get_traced_memory()
            assert answer.status_code == status
            assert most - before < 3 * len(body) + 1_000_000, (body[:100], most - before)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1_000_000


async def test_a_body_that_is_too_large_is_not_taken_in(served: Served) -> None:
    limit = served.gateway.pipeline.plane.snapshot.server.max_body

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3 * limit // 65_536):
            yield bytes(65_536)

    tracemalloc.start()
    try:
        answer = await served.client.post("/v1/chat/completions", content=pieces())
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
    assert most < 1.2 * limit


async def test_just_deep_enough_to_be_read_is_no_fault_of_ours(
    provider: StandIn, tmp_path: Path
) -> None:
    mini = target("openai/mini", provider.url)
    general = route("general", candidates=(Candidate("openai/mini", 0.9, system="Be brief."),))
    statuses = []
    async with serving(snapshot([mini], [general], keys={"openai": KEY}), tmp_path) as served:
        for depth in range(900, 1000, 3):
            deep = nested(depth)
            body = b'{"model":"auto","messages":[{"role":"user","content":"hi","x":%b}]}' % deep
            answer = await served.client.post("/v1/chat/completions", content=body)
            statuses.append(answer.status_code)
    assert set(statuses) <= {200, 400}
    assert statuses == sorted(statuses)


@pytest.mark.parametrize("numbers", ['"max_tokens":18446744073709551615', '"max_tokens":-1,"n":-3'])
async def test_absurd_numbers_go_to_the_backend_and_into_the_log(
    served: Served, numbers: str
) -> None:
    body = USER + b"," + numbers.encode() + b"}"
    answer = await served.client.post("/v1/chat/completions", content=body)
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        row = await served.decision(answer)
        assert row["attempts"][0]["cost_usd"] >= 0.0
        assert all(choice["cost"] >= 0.0 for choice in row["decision"]["ranked"])


async def test_a_nul_in_a_text_is_only_text(served: Served) -> None:
    answer = await served.chat("a\0b")
    assert answer.status_code == 200


NUL = "a\0b"
NAMES = [
    ("/admin/weights", {"subject": NUL, "share": 0.5}, "subject"),
    ("/admin/weights", {"subject": "openai", "share": 0.5, "why": NUL, "force": True}, "why"),
    ("/admin/keys", {"name": NUL}, "name"),
    ("/admin/keys", {"name": "k", "routes": [NUL]}, "routes"),
    ("/admin/keys", {"name": "k", "tenant": NUL}, "tenant"),
    ("/admin/revisions", {"files": {}, "environment": NUL}, "environment"),
    ("/admin/rollback", {"to": NUL}, "to"),
    ("/admin/rollback", {"note": NUL}, "note"),
    ("/admin/experiments/stop/x", {"why": NUL}, "why"),
    ("/admin/adapters/pin/x", {"replica": NUL}, "replica"),
    ("/v1/feedback", {"request": NUL, "metric": "judged", "value": 1}, "request"),
    ("/v1/feedback", {"completion": NUL, "metric": "judged", "value": 1}, "completion"),
    ("/v1/feedback", {"ref": NUL, "metric": "judged", "value": 1}, "ref"),
    ("/v1/responses", {"input": "x", "previous_response_id": NUL}, "previous_response_id"),
]
ADDRESSES = [
    "/v1/decisions/req_%00",
    "/v1/responses/resp_%00",
    "/admin/adapters/a%00b",
    "/admin/revisions/%00",
    "/v1/models?after=%00",
]


async def test_no_name_has_a_nul_whatever_the_store(
    provider: StandIn, tmp_path: Path, postgres: Store
) -> None:
    mini = target("openai/mini", provider.url)
    configuration = snapshot([mini], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True, store=postgres, role="admin") as served:
        for path, body, field in NAMES:
            answer = await served.client.post(path, json=body)
            assert answer.status_code == 400, (path, body, answer.text)
            assert error_of(answer)["param"].startswith(field)
            assert re.search(r"NUL|\\x00", error_of(answer)["message"])
        for path in ADDRESSES:
            answer = await served.client.get(path)
            assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_url"), path


async def test_a_nul_in_what_is_only_told_loses_no_row(
    provider: StandIn, tmp_path: Path, postgres: Store
) -> None:
    mini = target("openai/mini", provider.url)
    judged = Metric("judged", "score", comparison=">=", bound=4.0)
    general = route("general", "openai/mini", keep="text", metrics=(judged,), right="judged")
    configuration = snapshot([mini], [general], keys={"openai": KEY})
    async with serving(configuration, tmp_path, store=postgres) as served:
        told: dict[str, Any] = {"user": NUL, "metadata": {NUL: NUL}}
        answer = await served.chat(NUL, **told)
        assert answer.status_code == 200
        unknown = await served.chat(model=NUL)
        assert unknown.status_code == 404
        said = {"request": answer.headers["x-request-id"], "metric": "judged", "value": 5}
        said |= {"comment": NUL, "correction": NUL}
        assert (await served.client.post("/v1/feedback", json=said)).status_code == 200
        row = await served.decision(answer)
        lost = served.gateway.writer.unstorable
        models = [each["model"] for each in Reader(postgres).recent()]
    assert row["text"] == "a\ufffdb"
    assert [each["comment"] for each in row["feedback"]] == ["a\ufffdb"]
    assert models == ["auto", "a\ufffdb"]
    assert lost == 0


def test_the_audit_log_keeps_whatever_was_tried(postgres: Store) -> None:
    book = AuditBook(postgres)
    book.add("drain", NUL, name=NUL, source="store", error=NUL)
    (entry,) = book.list()
    assert (entry.subject, entry.name) == ("a\ufffdb", "a\ufffdb")
    assert entry.detail == {"error": NUL}


async def test_a_number_that_no_database_holds_is_no_revision(
    provider: StandIn, tmp_path: Path
) -> None:
    # SQLite's driver raises for it; PostgreSQL compares it.
    mini = target("openai/mini", provider.url)
    configuration = snapshot([mini], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True, role="admin") as served:
        for which in (2**63, 10**30, -(10**30)):
            with pytest.raises(NothingBefore, match=f"there is no revision {which}"):
                gone_back_to(Revisions(served.gateway.store), which, 1)
        asked = {"name": "k", "expires_in": 10**30}
        answer = await served.client.post("/admin/keys", json=asked)
        share = b'{"subject":"openai","share":NaN,"force":true}'
        headers = {"content-type": "application/json"}
        given = await served.client.post("/admin/weights", content=share, headers=headers)
    assert (answer.status_code, error_of(answer)["param"]) == (400, "expires_in")
    assert (given.status_code, error_of(given)["param"]) == (400, "share")


@pytest.mark.parametrize("kind", ["plain", "stream"])
async def test_a_backends_nested_answer_is_relayed(tmp_path: Path, kind: str) -> None:
    deep = b'{"id":"1","choices":[],"x":' + nested(50_000) + b"}"
    end = b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    body = deep if kind == "plain" else b"data: " + deep + b"\n\n" + end + b"data: [DONE]\n\n"
    head = [b"content-type: " + (b"application/json" if kind == "plain" else b"text/event-stream")]
    async with answering(head, body) as url:
        async with serving(snapshot([target("openai/mini", url)]), tmp_path) as served:
            answer = await served.chat(stream=kind == "stream")
    assert (answer.status_code, answer.content) == (200, body)


async def test_a_bomb_for_an_answer_is_a_bad_gateway(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(300_000_000), 9)
    head = [b"content-type: application/json", b"content-encoding: gzip"]
    async with answering(head, bomb) as url:
        async with serving(snapshot([target("openai/mini", url)]), tmp_path) as served:
            tracemalloc.start()
            answer = await served.chat()
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert answer.status_code == 502
    assert most < 1.1 * MAX_BODY
    assert "unpacks to more than" in error_of(answer)["message"]


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return error
