"""Secrets stay where they belong: in no log, row, file, page, error or other peer's request."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import msgspec
import pytest

from gateway.app import Gateway
from gateway.revisions.opening import Home, open_home
from gateway.serving import listening
from gateway.standin.behaviour import LEAKY_HEADERS, Behaviour, Fault, FaultKind
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.store import Store
from tests.cli.running import switchboard
from tests.config.trees import ENV, FILES, GATEWAY, GENERAL, write
from tests.gateway.support import Served, serving_client, serving_home, snapshot, target

PROVIDER_KEY = "sk-provider-5f1c6e0d2a"
TEAM_HEADER = "hdr-secret-77ab10c4"
AGENT_KEY = "agent-secret-90dd21e7"


@pytest.fixture
async def provider() -> AsyncIterator[StandIn]:
    async with StandIn(Behaviour(), keys=[PROVIDER_KEY]) as standin:
        yield standin


@asynccontextmanager
async def started(url: str, folder: Path, **keys: str) -> AsyncIterator[tuple[Served, list[str]]]:
    """A gateway with every kind of secret, and what they are."""
    whole = snapshot([target("openai/mini", url)], keys={"openai": PROVIDER_KEY})
    backend = msgspec.structs.replace(
        whole.backends["openai"], headers={"x-team-secret": TEAM_HEADER}
    )
    whole = msgspec.structs.replace(whole, backends={"openai": backend})
    store = Store.open(f"sqlite:///{folder}/switchboard.db")
    admin = Keys(store).create("chief", role="admin").secret
    plain = Keys(store).create("application").secret
    gateway = Gateway(whole, store, agent_key=AGENT_KEY)
    await gateway.start()
    try:
        async with listening(gateway, "127.0.0.1", 0, whole.server) as port:
            async with serving_client(gateway, port, plain) as served:
                yield served, [PROVIDER_KEY, TEAM_HEADER, AGENT_KEY, admin, plain]
    finally:
        await gateway.stop()


def files_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def everything(answers: list[httpx.Response]) -> bytes:
    return b"\n".join(
        b"%d %b\n%b" % (answer.status_code, str(answer.headers).encode(), answer.content)
        for answer in answers
    )


FAULTS: tuple[Fault | None, ...] = (
    None,
    Fault(kind=FaultKind.STATUS, status=500),
    Fault(kind=FaultKind.STATUS, status=429, retry_after=0.01),
    Fault(kind=FaultKind.MALFORMED_HEAD),
    Fault(kind=FaultKind.CUT_BEFORE_HEAD),
    Fault(kind=FaultKind.CUT, after=2),
    Fault(kind=FaultKind.ERROR_EVENT, after=1),
    Fault(kind=FaultKind.LEAK),
)

STRANGE = (b"[]", b"null", b"{", b'{"model": "auto"}', b"\xff", b'{"model":"auto","messages":7}')


async def test_no_secret_is_in_a_log_an_answer_a_page_or_a_file(
    provider: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = []
    async with started(provider.url, tmp_path) as (served, secrets):
        client, admin = served.client, secrets[3]
        for fault in FAULTS:
            for stream in (False, True):
                provider.next(fault)
                answers.append(await served.chat(f"hello {fault}", stream=stream))
        for body in STRANGE:
            answers.append(await client.post("/v1/chat/completions", content=body))
        for token in ("sb-wrong", admin + "x", "x"):
            headers = {"authorization": f"Bearer {token}"}
            answers.append(await client.get("/v1/models", headers=headers))
        for path in ("/ready", "/metrics", "/health", "/v1/models", "/admin/adapters", "/nowhere"):
            answers.append(await client.get(path))
            answers.append(await client.get(path, headers={"authorization": f"Bearer {admin}"}))
        answers.append(await served.chat("explained"))
        row = await served.decision(answers[-1])
        seen = everything(answers) + repr(row).encode() + caplog.text.encode()
        assert repr(served.gateway.pipeline.plane.snapshot.backends).find(PROVIDER_KEY) < 0
    seen += files_of(tmp_path)
    assert b"hello" not in caplog.text.encode(), "prompts do not belong into logs either"
    for name, secret in zip(("provider", "header", "agent", "admin", "key"), secrets, strict=True):
        assert secret.encode() not in seen, name
    for header, value in LEAKY_HEADERS:
        assert value.encode() not in seen, header


async def test_each_peer_sees_its_own_secrets_only(provider: StandIn, tmp_path: Path) -> None:
    async with started(provider.url, tmp_path) as (served, secrets):
        cookie = {"cookie": "session=1", "x-api-key": secrets[4], "openai-organization": "org-1"}
        await served.client.post(
            "/v1/chat/completions",
            json={"model": "auto", "messages": [{"role": "user", "content": "hi"}]},
            headers=cookie,
        )
        seen = await provider.arrived()
        sent = dict(seen.headers)
        assert sent["authorization"] == f"Bearer {PROVIDER_KEY}"
        assert sent["x-team-secret"] == TEAM_HEADER
        assert not {"cookie", "x-api-key", "openai-organization"} & sent.keys()
        for secret in secrets[2:]:
            assert secret not in repr(sent)


@pytest.fixture(params=[401, 400, 429], ids=str)
def echoing(request: pytest.FixtureRequest) -> Fault:
    """A provider that says our own key in its error, as some do."""
    said = f"Incorrect API key provided: {PROVIDER_KEY}; header {TEAM_HEADER}."
    return Fault(kind=FaultKind.STATUS, status=request.param, message=said)


async def test_a_key_that_a_backend_says_is_not_passed_on(
    provider: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture, echoing: Fault
) -> None:
    caplog.set_level(logging.DEBUG)
    async with started(provider.url, tmp_path) as (served, _):
        answers = []
        for stream in (False, True):
            provider.fault = echoing
            answers.append(await served.chat(stream=stream))
            assert answers[-1].status_code >= 400
        provider.fault = None
        seen = everything(answers) + caplog.text.encode()
    seen += files_of(tmp_path)
    assert PROVIDER_KEY.encode() not in seen
    assert TEAM_HEADER.encode() not in seen


async def test_what_a_variable_holds_is_not_told_where_it_stands_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a refused revision, a start with wrong files, /ready, and the command that checks them."""
    caplog.set_level(logging.DEBUG)
    env = {**ENV, "VAULT": PROVIDER_KEY}
    write(tmp_path)
    home = Home(tmp_path, env)
    with closing(open_home(home, f"sqlite:///{tmp_path}/switchboard.db")[0]) as store:
        admin = Keys(store).create("chief", role="admin").secret
    wrong = {
        "gateway.yaml": GATEWAY.replace("https://api", "${VAULT}").replace("auto}", "'${VAULT}'}"),
        "routes/general.yaml": GENERAL.replace("balanced", "${VAULT}"),
    }
    write(tmp_path, wrong)
    async with serving_home(tmp_path, admin, env) as served:
        refused = await served.client.post("/admin/revisions", json={"files": {**FILES, **wrong}})
        ready = await served.client.get("/ready")
    checked = await asyncio.to_thread(
        switchboard, "validate", "--config", str(tmp_path), env={**env, "COLUMNS": "200"}
    )
    assert refused.status_code == 422
    for told in (refused.text, ready.text, caplog.text, checked.out):
        assert "`${VAULT}` is neither" in told
        assert PROVIDER_KEY not in told
