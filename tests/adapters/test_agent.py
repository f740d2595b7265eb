"""The agent and the gateway's side of it, both as servers on real sockets."""

import asyncio
import hashlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import trustme
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from gateway.adapters.agent import KEY, Agent, AgentClient, AgentError
from gateway.adapters.lending import shelf_router
from gateway.adapters.manifest import File, manifest_of
from gateway.adapters.shelf import Shelf
from gateway.errors import ApiError
from tests.adapters.making import adapter, digest, files, sha256
from tests.adapters.serving import Answer, Site, site
from tests.adapters.serving import Request as Asked
from tests.cli.running import switchboard

ROOT = Path(__file__).parents[2]
SECRET = "the-key-that-all-agents-share"
WAIT_S = 20.0

Scope = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]


@asynccontextmanager
async def served(app: App) -> AsyncIterator[str]:
    """An application on a free port; its URL."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, lifespan="off", log_level="critical", ws="none"
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await server.shutdown()


class Lender:
    """A gateway's shelf behind its router. While `held`, files wait."""

    def __init__(self, shelf: Shelf, key: str | None = SECRET) -> None:
        self.shelf = shelf
        self.asked: list[str] = []
        self.going = asyncio.Event()
        self.going.set()
        self.reached = asyncio.Event()
        self._app = FastAPI()
        self._app.include_router(shelf_router(lambda: [shelf], key))

        @self._app.exception_handler(ApiError)
        async def told(_: Request, error: Exception) -> Response:
            assert isinstance(error, ApiError)
            return JSONResponse(error.body(), error.status)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"].rpartition("/")[2])
        self.reached.set()
        await self.going.wait()
        await self._app(scope, receive, send)


class Both(NamedTuple):
    """A gateway, its agent, and what speaks to the agent."""

    lender: Lender
    shelf: Shelf
    client: AgentClient
    http: httpx.AsyncClient
    url: str
    slept: list[float]
    agent: Agent
    gateway: str


@asynccontextmanager
async def agent_of(
    gateway: str, home: Path, lender: Lender, key: str = SECRET
) -> AsyncIterator[Both]:
    """An agent that asks this gateway."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    shelf = Shelf(home / "adapters")
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http:
        agent = Agent(shelf, gateway, key, http, sleep=sleep)
        try:
            async with served(agent.app()) as url:
                client = AgentClient(url, key, http)
                yield Both(lender, shelf, client, http, url, slept, agent, gateway)
        finally:
            await agent.stop()


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    lender = Lender(Shelf(tmp_path / "gateway"))
    lender.shelf.put(adapter(tmp_path / "support"))
    async with served(lender) as gateway, agent_of(gateway, tmp_path, lender) as found:
        yield found


@contextmanager
def lying(tmp_path: Path) -> Iterator[Site]:
    """A gateway whose every byte a test decides, for the adapter that all of them ask for."""
    with site() as found:
        below = f"/internal/adapters/{digest()}"
        listed = [File(name, len(body), sha256(body)) for name, body in files().items()]
        found.pages[f"{below}/manifest"] = lambda request: Answer(manifest_of(listed))
        for name, body in files().items():
            found.pages[f"{below}/files/{name}"] = lambda request, body=body: (  # type: ignore[misc]
                Answer(body)
            )
        yield found


def content_of(path: str) -> dict[str, bytes]:
    """An adapter's files; none where the directory is gone."""
    return {each.name: each.read_bytes() for each in Path(path).glob("adapter_*")}


def nothing_kept(shelf: Shelf) -> bool:
    return shelf.digests() == () and not list(shelf.root.glob(".incoming-*"))


# ---------------------------------------------------------------- pulling


async def test_what_is_asked_for_is_there_afterwards(both: Both) -> None:
    path = await both.client.ensure(digest())
    assert path == str(both.shelf.root / f"sha256-{digest()}")
    assert content_of(path) == files()
    assert both.shelf.verify(digest()) == both.lender.shelf.entry(digest())
    assert await both.client.present() == {digest()}
    assert both.lender.asked == ["manifest", *files()]


async def test_what_is_there_needs_no_gateway(both: Both) -> None:
    path = await both.client.ensure(digest())
    both.lender.asked.clear()
    assert await both.client.ensure(digest()) == path
    assert both.lender.asked == []


async def test_many_who_ask_at_once_wait_for_one_pull(both: Both) -> None:
    both.lender.going.clear()
    waiting = [asyncio.create_task(both.client.ensure(digest())) for _ in range(8)]
    await asyncio.wait_for(both.lender.reached.wait(), WAIT_S)
    both.lender.going.set()
    paths = await asyncio.gather(*waiting)
    assert set(paths) == {str(both.shelf.path(digest()))}
    assert both.lender.asked == ["manifest", *files()]


async def test_who_stops_waiting_ends_no_pull(both: Both) -> None:
    both.lender.going.clear()
    waiting = asyncio.create_task(both.agent.ensure(digest()))
    await asyncio.wait_for(both.lender.reached.wait(), WAIT_S)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    both.lender.going.set()
    await both.client.ensure(digest())
    assert both.lender.asked == ["manifest", *files()]


async def test_what_is_damaged_here_is_pulled_again(both: Both) -> None:
    path = Path(await both.client.ensure(digest()))
    (path / "adapter_config.json").chmod(0o644)
    (path / "adapter_config.json").write_bytes(b"")
    assert await both.client.present() == frozenset()
    listed = (await both.http.get(f"{both.url}/v1/adapters", headers=bearer(SECRET))).json()
    assert "has 0 bytes instead of" in listed["adapters"][0]["problem"]
    assert await both.client.ensure(digest()) == str(path)
    assert both.shelf.verify(digest())


async def test_a_connection_that_breaks_off_is_tried_again(tmp_path: Path) -> None:
    lender = Lender(Shelf(tmp_path / "unused"))
    weights = f"/internal/adapters/{digest()}/files/adapter_model.safetensors"
    body = files()["adapter_model.safetensors"]
    with lying(tmp_path) as gateway:

        def once(request: Asked) -> Answer:
            tried = [each for each in gateway.asked if each.path == weights]
            return Answer(body, cut=100 if len(tried) == 1 else None)

        gateway.pages[weights] = once
        async with agent_of(gateway.url, tmp_path, lender) as both:
            await both.client.ensure(digest())
            assert len(both.slept) == 1
            assert both.shelf.verify(digest())


# ---------------------------------------------------------------- what is refused


async def test_a_file_changed_on_the_gateways_shelf_is_refused(both: Both) -> None:
    weights = both.lender.shelf.path(digest()) / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-4] + b"evil")
    with pytest.raises(AgentError, match=r"502: .*what came is not what has this digest"):
        await both.client.ensure(digest())
    assert nothing_kept(both.shelf)


@pytest.mark.parametrize("how", ["longer", "shorter", "manifest of another", "no manifest", "huge"])
async def test_a_gateway_that_lies_is_refused(how: str, tmp_path: Path) -> None:
    lender = Lender(Shelf(tmp_path / "unused"))
    with lying(tmp_path) as gateway:
        below = f"/internal/adapters/{digest()}"
        config, manifest = f"{below}/files/adapter_config.json", f"{below}/manifest"
        body = files()["adapter_config.json"]
        page, answer = {
            "longer": (config, Answer(body + b" ")),
            "shorter": (config, Answer(body[:-1])),
            "manifest of another": (manifest, Answer(manifest_of([File("a.json", 1, "")]))),
            "no manifest": (manifest, Answer(b"<html>")),
            "huge": (manifest, Answer(b" " * 2_000_000)),
        }[how]
        gateway.pages[page] = lambda request: answer
        async with agent_of(gateway.url, tmp_path, lender) as both:
            with pytest.raises(AgentError, match="502: "):
                await both.client.ensure(digest())
            assert both.slept == []
            assert nothing_kept(both.shelf)


async def test_what_there_is_no_room_for_is_not_begun(tmp_path: Path) -> None:
    raw = manifest_of([File("adapter_model.safetensors", 2**60, "0" * 64)])
    wanted = hashlib.sha256(raw).hexdigest()
    lender = Lender(Shelf(tmp_path / "unused"))
    with site() as gateway:
        gateway.pages[f"/internal/adapters/{wanted}/manifest"] = lambda request: Answer(raw)
        async with agent_of(gateway.url, tmp_path, lender) as both:
            with pytest.raises(AgentError, match=f"507: .*has {2**60} bytes"):
                await both.client.ensure(wanted)
        assert len(gateway.asked) == 1


async def test_a_disk_that_cannot_be_written_is_told(both: Both) -> None:
    both.shelf.root.parent.joinpath("adapters").write_text("a file in its place")
    with pytest.raises(AgentError, match=r"507: .*cannot be written"):
        await both.client.ensure(digest())


async def test_a_gateway_that_is_away(tmp_path: Path) -> None:
    with site() as gone:
        url = gone.url
    async with agent_of(url, tmp_path, Lender(Shelf(tmp_path / "unused"))) as both:
        answer = await both.http.put(
            f"{both.url}/v1/adapters/{digest()}", headers=bearer(SECRET), timeout=WAIT_S
        )
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "gateway_away"
        assert f"The gateway at {url}" in answer.json()["error"]["message"]
        assert len(both.slept) == 2
        assert nothing_kept(both.shelf)


async def test_a_gateway_that_fails(tmp_path: Path) -> None:
    with site() as gateway:
        gateway.answer = lambda request: Answer(b"", 503)  # type: ignore[method-assign]
        async with agent_of(gateway.url, tmp_path, Lender(Shelf(tmp_path / "unused"))) as both:
            with pytest.raises(AgentError, match=r"502: .*answers 503"):
                await both.client.ensure(digest())
            assert len(both.slept) == 2


async def test_an_adapter_that_the_gateway_does_not_have(both: Both) -> None:
    with pytest.raises(AgentError, match=r"404: The gateway .* does not have it"):
        await both.client.ensure("0" * 64)


async def test_a_gateway_with_another_key(tmp_path: Path) -> None:
    lender = Lender(Shelf(tmp_path / "gateway"), key="another-key-than-the-agents")
    async with served(lender) as gateway, agent_of(gateway, tmp_path, lender) as both:
        with pytest.raises(AgentError, match=r"502: .* refuses this agent's key") as caught:
            await both.client.ensure(digest())
        assert SECRET not in str(caught.value)


async def test_the_gateway_is_not_taken_from_a_request(both: Both) -> None:
    with site() as other:
        answer = await both.http.put(
            f"{both.url}/v1/adapters/{digest()}?gateway={other.url}",
            headers={**bearer(SECRET), "host": "elsewhere", "x-forwarded-host": "elsewhere"},
            json={"gateway": other.url},
        )
        assert answer.status_code == 200
        assert other.asked == []


# ---------------------------------------------------------------- the agent's door


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        {"authorization": "Bearer"},
        bearer(SECRET[:-1]),
        {"authorization": SECRET},
        {"authorization": f"Basic {SECRET}"},
        {"authorization": "Bearer schlüssel"},
    ],
)
async def test_without_the_key_nothing_is_done(headers: dict[str, str], both: Both) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    asked = [("PUT", f"/{digest()}"), ("GET", ""), ("DELETE", f"/{digest()}"), ("PUT", "/none")]
    for method, path in asked:
        answer = await both.http.request(method, f"{both.url}/v1/adapters{path}", headers=encoded)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "wrong_agent_key"
    assert both.lender.asked == []


async def test_health_needs_no_key(both: Both) -> None:
    answer = await both.http.get(f"{both.url}/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_what_is_no_digest_leads_nowhere(both: Both) -> None:
    for name in ("x", "0" * 63, "A" * 64, "sha256-" + "0" * 64, "..%2F" + "0" * 61):
        for method in ("PUT", "DELETE"):
            url = f"{both.url}/v1/adapters/{name}"
            answer = await both.http.request(method, url, headers=bearer(SECRET))
            assert answer.status_code == (404 if "%2F" in name else 400)
            assert answer.json()["error"]["message"]
    assert both.lender.asked == []


async def test_an_adapter_is_removed_once(both: Both) -> None:
    path = await both.client.ensure(digest())
    assert content_of(path)
    assert await both.client.remove(digest()) is True
    assert not content_of(path)
    assert await both.client.remove(digest()) is False
    assert await both.client.present() == frozenset()


async def test_other_paths_and_methods_are_told_as_errors(both: Both) -> None:
    for method, path, status in (("GET", "/v1/other", 404), ("POST", "/v1/adapters", 405)):
        answer = await both.http.request(method, f"{both.url}{path}", headers=bearer(SECRET))
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


# ---------------------------------------------------------------- the gateway's door


async def ask(both: Both, path: str, *, key: str = SECRET, at: str = "") -> httpx.Response:
    """What the gateway lends."""
    url = f"{at or both.gateway}/internal/adapters/{path}"
    return await both.http.get(url, headers=bearer(key))


async def test_the_gateway_lends_what_the_manifest_lists(both: Both) -> None:
    answer = await ask(both, f"{digest()}/manifest")
    assert hashlib.sha256(answer.content).hexdigest() == digest()
    for name, body in files().items():
        assert (await ask(both, f"{digest()}/files/{name}")).content == body


async def test_the_gateway_lends_nothing_without_the_key(both: Both) -> None:
    for path in ("manifest", "files/adapter_config.json", "files/other.json"):
        for key in ("-", "wrong", SECRET + "x"):
            answer = await ask(both, f"{digest()}/{path}", key=key)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "wrong_agent_key"


async def test_the_gateway_lends_nothing_else(both: Both) -> None:
    for path, status in (
        (f"{digest()}/files/other.json", 404),
        (f"{digest()}/files/.manifest", 404),
        (f"{digest()}/files/..%2F..%2F.index.json", 404),
        (f"{digest()}/files/%2Fetc%2Fpasswd", 404),
        (f"{'0' * 64}/manifest", 404),
        ("..%2F.index.json/manifest", 404),
        ("x/manifest", 400),
    ):
        assert (await ask(both, path)).status_code == status, path


async def test_the_gateway_lends_from_each_of_its_shelves(both: Both, tmp_path: Path) -> None:
    other = Shelf(tmp_path / "other")
    other.put(adapter(tmp_path / "second", 1))
    app = FastAPI()
    app.include_router(shelf_router(lambda: [both.lender.shelf, other], SECRET))
    async with served(app) as url:
        for seed in (0, 1):
            assert (await ask(both, f"{digest(seed)}/manifest", at=url)).status_code == 200


async def test_a_damaged_adapter_is_not_lent(both: Both) -> None:
    (both.lender.shelf.path(digest()) / "adapter_config.json").unlink()
    answer = await ask(both, f"{digest()}/manifest")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "damaged"


async def test_without_a_key_the_gateway_has_no_such_door(both: Both) -> None:
    async with served(Lender(both.lender.shelf, key=None)) as url:
        for path in ("manifest", "files/adapter_config.json"):
            assert (await ask(both, f"{digest()}/{path}", at=url)).status_code == 404


@pytest.mark.parametrize("key", ["", "short", "x" * 15, "a key with spaces in it", "ü" * 20])
def test_a_key_that_can_be_guessed_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="openssl rand -hex 32"):
        shelf_router(lambda: [], key)
    with pytest.raises(ValueError, match=f"{KEY} must be 16 or more"):
        Agent(Shelf(tmp_path), "http://127.0.0.1:1", key, httpx.AsyncClient())


# ---------------------------------------------------------------- the client


async def test_an_agent_that_is_away() -> None:
    with site() as gone:
        url = gone.url
    async with httpx.AsyncClient(trust_env=False) as http:
        client = AgentClient(url, SECRET, http)
        for ask in (client.ensure, client.remove):
            with pytest.raises(AgentError, match=f"{url}: cannot be reached: .*running there"):
                await ask(digest())
        with pytest.raises(AgentError, match="cannot be reached"):
            await client.present()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(b"<html>"), "answers what no agent does"),
        (Answer(b'{"path": "/etc"}'), "lies at '/etc'"),
        (Answer(b'{"path": "sha256-%s"}' % digest().encode()), "lies at 'sha256-"),
        (Answer(b"wrong", 500), "500: wrong"),
        (Answer(b"", 302, {"location": "/x"}), "302"),
    ],
)
async def test_something_else_than_an_agent(answer: Answer, said: str) -> None:
    with site() as other:
        other.pages[f"/v1/adapters/{digest()}"] = lambda request: answer
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(AgentError, match=said):
                await AgentClient(other.url, SECRET, http).ensure(digest())
    assert len(other.asked) == 1


# ---------------------------------------------------------------- the command

COMMAND = [sys.executable, "-c", "from gateway.cli import main; main()", "agent"]


@pytest.mark.parametrize(
    ("words", "env", "code", "said"),
    [
        ([], {}, 1, "SWITCHBOARD_AGENT_KEY is not set; make a key with: openssl rand -hex 32"),
        ([], {KEY: ""}, 1, "SWITCHBOARD_AGENT_KEY is not set"),
        ([], {KEY: "short"}, 1, "must be 16 or more"),
        (["--listen", "8081"], {KEY: SECRET}, 2, "is not HOST:PORT"),
        (["--listen", "h:99999"], {KEY: SECRET}, 2, "is not HOST:PORT"),
        (["--gateway", "gateway:8080"], {KEY: SECRET}, 2, "is no gateway's URL"),
        (["--gateway", "http://u:p@gateway"], {KEY: SECRET}, 2, "is no gateway's URL"),
        (["--tls-cert", "x.pem"], {KEY: SECRET}, 2, "go together"),
    ],
)
def test_what_the_command_does_not_take(
    words: list[str], env: dict[str, str], code: int, said: str, tmp_path: Path
) -> None:
    usual = ["agent", "--dir", str(tmp_path / "adapters"), "--gateway", "http://127.0.0.1:1"]
    ran = switchboard(*usual, *words, env=env)
    assert ran.code == code
    assert said in " ".join(ran.said.replace("│", " ").split())
    assert SECRET not in ran.said


@asynccontextmanager
async def process(home: Path, gateway: str, *words: str) -> AsyncIterator[tuple[str, Any]]:
    """`switchboard agent` as a process: its URL, and the process."""
    command = [*COMMAND, "--dir", "adapters", "--gateway", gateway, "--listen", "127.0.0.1:0"]
    env = {**os.environ, KEY: SECRET, "PYTHONPATH": str(ROOT)}
    running = await asyncio.create_subprocess_exec(
        *command, *words, cwd=home, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert running.stderr is not None
        line = (await asyncio.wait_for(running.stderr.readline(), WAIT_S)).decode()
        assert " serves http" in line, line + (await running.stderr.read()).decode()
        yield line.split(" serves ")[1].partition(",")[0], running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def test_the_command_serves_until_it_is_told_to_end(both: Both, tmp_path: Path) -> None:
    left = tmp_path / "adapters" / ".incoming-old"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    async with process(tmp_path, both.gateway) as (url, running):
        assert not left.exists()
        client = AgentClient(url, SECRET, both.http)
        path = await client.ensure(digest())
        assert path == str(tmp_path / "adapters" / f"sha256-{digest()}")
        running.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(running.communicate(), WAIT_S)
        assert running.returncode == -signal.SIGTERM
        assert b"pulled sha256:" in err
        assert SECRET.encode() not in out + err


async def test_the_command_serves_https(both: Both, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    words = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    async with process(tmp_path, both.gateway, *words) as (url, _):
        async with httpx.AsyncClient(verify=trusted, trust_env=False) as http:
            assert url.startswith("https://")
            assert await AgentClient(url, SECRET, http).ensure(digest())
