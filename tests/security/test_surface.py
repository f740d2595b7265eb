"""What is closed by default stays closed, whoever asks."""

import warnings
from itertools import product
from pathlib import Path

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.types.snapshot import Server
from tests.browser import browser
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


# ---------------------------------------------------------------- pages in a browser, and no key

HERE = "127.0.0.1:8080"


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"sec-fetch-site": "cross-site"}, "a web page from elsewhere"),
        ({"origin": "https://evil.example", "content-type": "text/plain"}, "a web page from"),
        ({"origin": "null"}, "a web page from elsewhere"),
        ({"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-site"}, "a web page from"),
        ({"host": "evil.example:8080"}, "'evil.example:8080' is no name of this machine"),
        ({"host": "evil.example", "origin": "http://evil.example"}, "'evil.example' is no name"),
        ({"host": "localhost.evil.example"}, "is no name of this machine"),
        ({"host": "127.0.0.1.evil.example"}, "is no name of this machine"),
        ({"host": "192.168.1.5:8080"}, "is no name of this machine"),
        ({"host": HERE}, None),
        ({"host": HERE, "origin": f"http://{HERE}", "sec-fetch-site": "same-origin"}, None),
        ({"host": "[::1]:8080"}, None),
        ({"host": "LocalHost"}, None),
        ({"host": "app.localhost:8080", "content-type": "application/x-www-form-urlencoded"}, None),
        ({"host": "host.docker.internal:8080", "sec-fetch-site": "none"}, None),
    ],
)
async def test_without_a_key_no_page_from_elsewhere_is_answered(
    headers: dict[str, str], why: str | None, tmp_path: Path
) -> None:
    """With one they could not send it, and whoever can may come from anywhere."""
    body = b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}]}'
    async with StandIn() as provider:
        whole = snapshot([target("openai/mini", provider.url)])
        async with serving(whole, tmp_path) as served:
            send = served.client.build_request
            asked = send("POST", "/v1/chat/completions", headers=headers, content=body)
            for request in (asked, send("GET", "/v1/models", headers=headers)):
                answer = await served.client.send(request)
                assert answer.status_code == (200 if why is None else 403)
                if why is not None:
                    error = answer.json()["error"]
                    assert error["code"] == "foreign_request"
                    assert why in error["message"]
            assert (await served.client.get("/health", headers=headers)).status_code == 200
            assert bool(provider.seen) == (why is None)
            key = bearer(Keys(served.gateway.store).create("app").secret)
            served.gateway.keyring.refresh()
            answer = await served.client.get("/v1/models", headers={**headers, **key})
            assert answer.status_code == 200


async def test_a_browser_says_where_a_page_is_from(tmp_path: Path) -> None:
    """What a page may send without being asked whether it may: a text, of a simple request."""
    async with StandIn() as provider, browser() as page:
        whole = snapshot([target("openai/mini", provider.url)])
        async with serving(whole, tmp_path) as served:
            url = f"{served.url}/chat/completions"
            body = '{"model": "auto", "messages": [{"role": "user", "content": "hi"}]}'
            sent = f"fetch('{url}', {{method: 'POST', mode: 'no-cors', body: '{body}'}})"
            for origin in (provider.origin, provider.origin.replace("127.0.0.1", "localhost")):
                await page.goes_to(f"{origin}/v1/models")
                assert await page.value(f"{sent}.then(answer => answer.type)") == "opaque"
            assert "/v1/chat/completions" not in {seen.path for seen in provider.seen}
            await page.goes_to(f"{served.url}/models")
            assert await page.value(f"{sent}.then(answer => answer.status)") == 200
