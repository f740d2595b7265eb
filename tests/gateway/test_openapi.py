"""Our own description, and whatever can be made of it sent to us: no 5xx, no other shape."""

import asyncio
import re
import sys
from pathlib import Path

import httpx
import pytest

from gateway.standin.behaviour import Behaviour
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from tests.gateway.support import Served, serving, snapshot, target

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


async def test_what_is_described_is_what_there_is(served: Served) -> None:
    described = (await served.client.get("/openapi.json")).json()
    assert described["openapi"].startswith("3.1")
    for path, calls in described["paths"].items():
        for method, call in calls.items():
            assert call["responses"]["default"]["content"]["application/json"], (method, path)
    for path in described["paths"]:
        there = await served.client.request("PATCH", path.replace("{", "").replace("}", ""))
        assert there.status_code == 405, path


async def test_the_admin_api_is_described_to_those_who_may_use_it(tmp_path: Path) -> None:
    async with StandIn(Behaviour()) as provider:
        configuration = snapshot([target("openai/mini", provider.url)])
        async with serving(configuration, tmp_path, key=True) as served:
            plain = (await served.client.get("/openapi.json")).json()["paths"]
            secret = Keys(served.gateway.store).create("reader", role="read").secret
            served.gateway.keyring.refresh()
            reader = {"authorization": f"Bearer {secret}"}
            whole = (await served.client.get("/openapi.json", headers=reader)).json()["paths"]
            none = await served.client.get("/openapi.json", headers={"authorization": ""})
    assert none.status_code == 401
    assert not [path for path in plain if path.startswith("/admin")]
    assert "/admin/adapters" in whole
    assert "/v1/chat/completions" in plain


PARTS = ("/v1/", "/(admin|health|ready|metrics)")


@pytest.mark.parametrize("part", PARTS)
async def test_whatever_is_made_of_it_is_answered_as_described(tmp_path: Path, part: str) -> None:
    async with StandIn(Behaviour(), lenient=True) as provider:
        configuration = snapshot([target("openai/mini", provider.url)])
        async with serving(configuration, tmp_path, key=True, role="admin") as served:
            assert served.key is not None
            command = (
                *(str(Path(sys.executable).with_name("schemathesis")), "run"),
                f"http://127.0.0.1:{served.port}/openapi.json",
                *("--include-path-regex", f"^{part}"),
                *("--checks", ",".join(CHECKS)),
                *("--max-examples", "10", "--seed", "7", "--workers", "1"),
                *("--phases", "examples,coverage,fuzzing", "--mode", "all"),
                *("--generation-database", "none", "--no-color", "--max-time", "8"),
                *("--header", f"Authorization: Bearer {served.key}"),
            )
            running = await asyncio.create_subprocess_exec(
                *command,
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said, _ = await asyncio.wait_for(running.communicate(), 240)
            paths = (await served.client.get("/openapi.json")).json()["paths"]
            alive: httpx.Response = await served.client.get("/health")
    assert running.returncode == 0, said.decode()[-6000:]
    assert all(sum(re.match(each, path) is not None for each in PARTS) == 1 for path in paths)
    operations = sum(len(calls) for path, calls in paths.items() if re.match(part, path))
    assert re.findall(r"Tested: (\d+)", said.decode()) == [str(operations)], "none is left out"
    assert alive.status_code == 200
