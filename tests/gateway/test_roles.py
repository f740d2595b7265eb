"""Keys' roles at the admin API, and what the audit log says of it."""

import re
import warnings
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from gateway.http.gate import REFUSALS_A_MINUTE
from gateway.standin.standin import StandIn
from gateway.store.audit import AuditBook, Entry
from gateway.store.keys import Keys
from gateway.types.requests import ROLES, Caller, Role
from tests.gateway.conftest import KEY
from tests.gateway.files import write
from tests.gateway.support import Served, serving, serving_home, snapshot, target


class Way(msgspec.Struct, frozen=True):
    """One way in of the admin API. `may` are the roles that it opens to, `then` is the status that
    they get, `noted` the command's action and subject in the audit log: none where it only looks.
    """

    method: str
    path: str
    may: str
    noted: tuple[str, str] | None = None
    body: dict[str, Any] = {}
    then: int = 200

    @property
    def tried(self) -> tuple[str, str]:
        """What the audit log calls it where it is refused."""
        return self.noted or (f"{self.method} {self.path}", "")


LOOKS = "read operate apply admin"
OPERATES = "operate apply admin"
APPLIES = "apply admin"
WAYS = (
    Way("GET", "/admin/adapters", LOOKS),
    Way("GET", "/admin/adapters/gone", LOOKS, then=404),
    Way("GET", "/admin/limits", LOOKS),
    Way("GET", "/admin/experiments", LOOKS),
    Way("GET", "/admin/weights", LOOKS),
    Way("GET", "/admin/revisions", LOOKS),
    Way("POST", "/admin/adapters/promote/gone", OPERATES, ("adapters promote", "gone"), then=404),
    Way("POST", "/admin/adapters/load/gone", OPERATES, ("adapters load", "gone"), then=404),
    Way("POST", "/admin/experiments/stop/gone", OPERATES, ("experiment stop", "gone"), then=404),
    Way("POST", "/admin/weights", OPERATES, ("weight", "openai"),
        {"subject": "openai", "share": 0.5}),
    Way("POST", "/admin/weights", OPERATES, ("drain", "openai"),
        {"subject": "openai", "share": 0, "force": True}),
    Way("POST", "/admin/rollback", OPERATES, ("rollback", "1 back"), then=404),
    Way("GET", "/admin/revisions/1", APPLIES),
    Way("GET", "/admin/revisions/gone", APPLIES, then=404),
    Way("POST", "/admin/revisions", APPLIES, ("apply", "")),
    Way("POST", "/admin/diff", APPLIES),
    Way("GET", "/admin/keys", "admin"),
    Way("POST", "/admin/keys", "admin", ("keys create", "app"), {"name": "app"}),
    Way("DELETE", "/admin/keys/app", "admin", ("keys revoke", "app")),
    Way("DELETE", "/admin/keys/gone", "admin", ("keys revoke", "gone"), then=409),
)  # fmt: skip


def test_every_way_in_is_tried_with_every_role(served: Served) -> None:
    control = served.gateway.asgi.control
    assert isinstance(control, FastAPI)
    with warnings.catch_warnings(action="ignore"):  # ids that it makes up may clash
        paths = control.openapi()["paths"].items()
    declared = {
        (method.upper(), re.sub("{.*?}", "gone", path.replace("{command}", "promote")))
        for path, methods in paths
        for method in methods
        if path.startswith("/admin/")
    }
    assert declared <= {(way.method, way.path) for way in WAYS}


def test_each_role_may_what_those_before_it_may() -> None:
    allowed = {
        role: [needed for needed in ROLES if Caller(role=role).may(needed)] for role in ROLES
    }

    assert allowed == {
        "read": ["read"],
        "operate": ["read", "operate"],
        "apply": ["read", "operate", "apply"],
        "admin": ["read", "operate", "apply", "admin"],
    }
    assert not any(Caller().may(role) for role in ROLES)


@pytest.mark.parametrize(
    ("role", "looking", "commanding"),
    [(None, 403, 403), ("read", 200, 403), ("operate", 200, 404), ("admin", 200, 404)],
)
async def test_a_route_opens_to_its_role(
    provider: StandIn, tmp_path: Path, role: Role | None, looking: int, commanding: int
) -> None:
    configuration = snapshot([target("openai/mini", provider.url)], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True, role=role) as served:
        looked = await served.client.get("/admin/adapters")
        tried = await served.client.post("/admin/adapters/pin/nobody", json={})
        asked = await served.chat()

    assert (looked.status_code, tried.status_code, asked.status_code) == (looking, commanding, 200)
    if commanding == 403:
        error = tried.json()["error"]
        assert error["code"] == "role_needed"
        assert "`switchboard keys create --name NAME --role operate`" in error["message"]


@pytest.mark.parametrize("role", [None, *ROLES])
async def test_a_role_opens_what_is_said_of_it_and_nothing_else(
    provider: StandIn, tmp_path: Path, role: Role | None
) -> None:
    write(tmp_path, provider.url)
    async with serving_home(tmp_path) as served:
        secret = Keys(served.gateway.store).create("who", role=role).secret
        served.gateway.keyring.refresh()
        headers = {"authorization": f"Bearer {secret}"}
        found = []
        for way in WAYS:
            with_files = way.path in ("/admin/revisions", "/admin/diff")
            body = {"files": _texts(tmp_path)} if with_files else way.body
            answer = await served.client.request(way.method, way.path, headers=headers, json=body)
            found.append((way.method, way.path, answer.status_code))
        entries = AuditBook(served.gateway.store).list()

    opened = [way for way in WAYS if role is not None and role in way.may.split()]
    assert found == [(w.method, w.path, w.then if w in opened else 403) for w in WAYS]
    assert {entry.name for entry in entries} == {"who"}
    assert [(entry.action, entry.subject, entry.outcome) for entry in entries] == [
        (*way.tried, _outcome(way) if way in opened else "refused")
        for way in WAYS
        if way.noted or way not in opened
    ]


def _texts(home: Path) -> dict[str, str]:
    return {str(file.relative_to(home)): file.read_text() for file in home.rglob("*.yaml")}


def _outcome(way: Way) -> str:
    return "done" if way.then == 200 else "failed"


@pytest.mark.parametrize("content", [b"{", b'{"no": "such field"}'])
async def test_what_is_refused_is_in_the_log_whatever_its_body_holds(
    provider: StandIn, tmp_path: Path, content: bytes
) -> None:
    configuration = snapshot([target("openai/mini", provider.url)], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True) as served:
        strangers = ("sb-nobody-knows-this", served.key)
        for path in ("/admin/weights", "/admin/diff"):
            for token in strangers:
                headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
                await served.client.post(path, content=content, headers=headers)
        entries = AuditBook(served.gateway.store).list()

    assert [(entry.name, entry.action, entry.outcome) for entry in entries] == [
        (name, f"POST {path}", "refused")
        for path in ("/admin/weights", "/admin/diff")
        for name in ("unknown", "test")
    ]


async def test_who_may_only_look_has_no_files_compared(provider: StandIn, tmp_path: Path) -> None:
    # What is wrong with them may be told with what the environment holds.
    configuration = snapshot([target("openai/mini", provider.url)], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True, role="operate") as served:
        files = {"gateway.yaml": "default_route: ${HOME}"}
        tried = await served.client.post("/admin/diff", json={"files": files})
    assert (tried.status_code, tried.json()["error"]["code"]) == (403, "role_needed")


async def test_what_was_tried_is_kept_with_who_and_whence(
    provider: StandIn, tmp_path: Path
) -> None:
    configuration = snapshot([target("openai/mini", provider.url)], keys={"openai": KEY})
    async with serving(configuration, tmp_path, key=True) as served:
        keys = Keys(served.gateway.store)
        operator = keys.create("ops", role="operate")
        served.gateway.keyring.refresh()
        headers = {"authorization": f"Bearer {operator.secret}"}
        asked = {"version": "v2"}
        await served.client.post("/admin/adapters/promote/gone", json=asked, headers=headers)
        await served.client.post("/admin/adapters/pin/gone", json={})
        stranger = {"authorization": "Bearer sb-nobody-knows-this"}
        await served.client.post("/admin/adapters/pin/gone", json={}, headers=stranger)
        failed, refused, unknown = AuditBook(served.gateway.store).list()

    assert (failed.name, failed.key, failed.source) == ("ops", operator.key.id, "127.0.0.1")
    assert (failed.action, failed.subject, failed.outcome) == (
        "adapters promote",
        "gone",
        "failed",
    )
    assert failed.detail["version"] == "v2"
    assert "there is no adapter 'gone'" in failed.detail["error"]
    assert (refused.name, refused.outcome) == ("test", "refused")
    assert (unknown.name, unknown.key, unknown.outcome) == ("unknown", None, "refused")
    written = _written(tmp_path)
    assert operator.secret.encode() not in written
    assert b"sb-nobody-knows-this" not in written


async def test_a_stranger_cannot_fill_the_log(served: Served) -> None:
    Keys(served.gateway.store).create("somebody")
    served.gateway.keyring.refresh()
    answers: list[httpx.Response] = [
        await served.client.get("/admin/adapters") for _ in range(REFUSALS_A_MINUTE + 5)
    ]

    assert {answer.status_code for answer in answers} == {401}
    entries: list[Entry] = AuditBook(served.gateway.store).list(limit=1000)
    assert len(entries) == REFUSALS_A_MINUTE


def _written(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.glob("switchboard.db*"))


async def test_an_admin_makes_and_revokes_keys(served: Served) -> None:
    store = served.gateway.store
    admin = Keys(store).create("boss", role="admin").secret
    applier = Keys(store).create("deployer", role="apply").secret
    served.gateway.keyring.refresh()
    headers = {"authorization": f"Bearer {admin}"}
    wanted = {"name": "app", "routes": ["general", "nope"], "role": "read", "expires_in": 60}

    refused = await served.client.post(
        "/admin/keys", json=wanted, headers={"authorization": f"Bearer {applier}"}
    )
    made = (await served.client.post("/admin/keys", json=wanted, headers=headers)).json()
    again = await served.client.post("/admin/keys", json=wanted, headers=headers)
    known = (await served.client.get("/admin/keys", headers=headers)).json()["data"]
    revoked = await served.client.delete("/admin/keys/app", headers=headers)

    assert (refused.status_code, again.status_code, revoked.status_code) == (403, 409, 200)
    assert made["secret"].startswith(made["prefix"])
    assert (made["routes"], made["role"]) == (["general", "nope"], "read")
    assert made["unknown_routes"] == ["nope"]
    assert [key["name"] for key in known] == ["boss", "deployer", "app"]
    entries = AuditBook(store).list()
    assert [(each.action, each.outcome) for each in entries] == [
        ("keys create", "refused"),
        ("keys create", "done"),
        ("keys create", "failed"),
        ("keys revoke", "done"),
    ]
    assert made["secret"] not in str(entries)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"name": "a/b"}, "name: a key's name may not have '/' in it"),
        ({"name": "a\nb"}, "name: a key's name may not have '\\n' in it"),
        ({"name": ""}, "name: a key's name is empty; say who will use the key"),
        ({"name": "app", "expires_in": -5}, "expires_in: "),
        ({"name": "app", "expires_in": 1e300}, "expires_in: "),
    ],
)
async def test_what_is_no_key_is_refused(served: Served, wanted: Any, said: str) -> None:
    keys = Keys(served.gateway.store)
    admin = keys.create("boss", role="admin").secret
    served.gateway.keyring.refresh()
    headers = {"authorization": f"Bearer {admin}"}
    answer = await served.client.post("/admin/keys", json=wanted, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(said)
    assert [key.name for key in keys.list()] == ["boss"]
