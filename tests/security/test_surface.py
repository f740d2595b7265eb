"""What is closed by default stays closed, whoever asks."""

import warnings
from itertools import product
from pathlib import Path

import httpx
import msgspec
from fastapi import FastAPI

from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.types.snapshot import Server
from tests.gateway.support import Served, serving, snapshot, target


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def get(served: Served, path: str, token: str | None) -> httpx.Response:
    headers = bearer(token) if token is not None else {"authorization": ""}
    return await served.client.get(path, headers=headers)


async def test_the_inside_is_shown_to_keys_that_may_look(tmp_path: Path) -> None:
    async with StandIn() as provider:
        whole = snapshot([target("openai/mini", provider.url)])
        async with serving(whole, tmp_path, key=True) as served:
            looker = Keys(served.gateway.store).create("prometheus", role="read").secret
            served.gateway.keyring.refresh()
            for token, status in ((None, 401), ("sb-wrong", 401), (served.key, 403), (looker, 200)):
                assert (await get(served, "/metrics", token)).status_code == status
                ready = await get(served, "/ready", token)
                assert ready.status_code == 200
                assert ("snapshot" in ready.json()) == (status == 200)
            opened = msgspec.structs.replace(whole, server=Server(open_metrics=True))
            await served.gateway.swap(opened)
            assert (await get(served, "/metrics", None)).status_code == 200


async def test_no_admin_route_answers_without_its_role(tmp_path: Path) -> None:
    async with StandIn() as provider:
        whole = snapshot([target("openai/mini", provider.url)])
        async with serving(whole, tmp_path, key=True) as served:
            control = served.gateway.asgi.control
            assert isinstance(control, FastAPI)
            with warnings.catch_warnings(action="ignore"):  # ids that it makes up may clash
                paths = control.openapi()["paths"].items()
            admin = [(m, path) for path, ways in paths for m in ways if path.startswith("/admin")]
            assert len(admin) >= 3
            for method, path in admin:
                concrete = path.replace("{command}", "promote").replace("{name}", "local/x+y")
                strangers = ((None, 401), ("sb-wrong", 401), (served.key, 403))
                for (token, status), body in product(strangers, (b'{"version": "v1"}', b"{")):
                    headers = bearer(token) if token is not None else {"authorization": ""}
                    headers["content-type"] = "application/json"
                    answer = await served.client.request(
                        method, concrete, headers=headers, content=body
                    )
                    assert answer.status_code == status, (method, path, answer.text)
            assert [each.name for each in Keys(served.gateway.store).list()] == ["test"]
