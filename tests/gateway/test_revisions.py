"""Revisions end to end: a gateway's process, and the commands that change what it serves."""

import asyncio
import json
import os
import re
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import msgspec
import pytest

from gateway.app import Gateway
from gateway.errors import ConfigError
from gateway.revisions.opening import Home, open_home
from gateway.serving import listening
from gateway.standin.behaviour import Behaviour, Fault, FaultKind
from gateway.standin.standin import StandIn
from gateway.store.audit import ITSELF, AuditBook, Entry
from gateway.store.keys import Keys
from gateway.store.revisions import Guard, Revision, Revisions
from gateway.store.store import Store
from tests.cli.running import switchboard
from tests.gateway.files import ROUTE, SWITCHBOARD, write
from tests.gateway.test_serve import Running, chat, serving


class Ran(msgspec.Struct):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its JSON."""
        return json.loads(self.out)


async def command(home: Path, *words: str, url: str = "", key: str = "") -> Ran:
    """One command on a configuration, with the gateway's address and an admin's key."""
    env = {
        **os.environ,
        "SWITCHBOARD_STORE": store_url(home),
        "SWITCHBOARD_GATEWAY": url or "http://127.0.0.1:9",
        "COLUMNS": "200",
    }
    if key:
        env["SWITCHBOARD_ADMIN_KEY"] = key
    process = await asyncio.create_subprocess_exec(
        *(SWITCHBOARD, *words, "--config", str(home)), stdout=PIPE, stderr=PIPE, env=env
    )
    out, err = await process.communicate()
    return Ran(process.returncode or 0, out.decode(), err.decode())


def store_url(home: Path) -> str:
    return f"sqlite:///{home}/switchboard.db"


BROKEN = Fault(kind=FaultKind.STATUS, status=500)
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "hello there"}]}


async def quickly(home: Path, *words: str, url: str, key: str = "") -> Ran:
    """The same in this process."""
    options = ["--config", str(home), "--store", store_url(home), "--gateway", url]
    if key:
        options += ["--key", key]
    ran = await asyncio.to_thread(switchboard, *words, *options, env=os.environ)
    return Ran(*ran)


@asynccontextmanager
async def inside(
    home: Path, key: str = "", *, watch: bool = False, env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, str, str]]:
    """The gateway of a home in this process: a client with a key, its URL, what it said first."""
    where = Home(home, env or {}, watch=watch)
    store, opening = open_home(where, store_url(home))
    gateway = Gateway(opening.snapshot, store, home=where, opening=opening)
    await gateway.start()
    async with listening(gateway, "127.0.0.1", 0, opening.snapshot.server) as port:
        url = f"http://127.0.0.1:{port}"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as client:
            yield client, url, "\n".join(opening.said)
    await gateway.stop()


def texts(home: Path) -> dict[str, Any]:
    """The body of an application of the files as they are."""
    files = home.rglob("*.yaml")
    return {"files": {str(path.relative_to(home)): path.read_text() for path in files}}


def revisions(home: Path) -> tuple[Revision, ...]:
    store = Store.open(store_url(home))
    try:
        return Revisions(store).list()
    finally:
        store.close()


def audited(home: Path, name: str) -> list[Entry]:
    store = Store.open(store_url(home))
    try:
        return [entry for entry in AuditBook(store).list() if entry.name == name]
    finally:
        store.close()


def admin_key(home: Path) -> str:
    store = Store.open(store_url(home))
    try:
        return Keys(store).create("boss", role="admin").secret
    finally:
        store.close()


def add_route(home: Path, name: str) -> None:
    (home / f"routes/{name}.yaml").write_text(ROUTE.format(name=name))


async def ready(url: str, key: str = "") -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(headers=headers) as client:
        found: dict[str, Any] = (await client.get(f"{url}/ready")).json()
        return found


async def serves(url: str, route: str) -> bool:
    return (await chat(url, route)).status_code == 200


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Path]:
    """A configuration whose provider answers."""
    async with StandIn() as provider:
        write(tmp_path, provider.url)
        yield tmp_path


async def started(running: Running) -> str:
    return await running.says(r"serves (http://\S+)")


async def test_what_is_applied_is_served_and_gone_back_from(home: Path) -> None:
    async with serving(home) as running:
        url = await started(running)
        add_route(home, "legal")
        assert not await serves(url, "legal")

        applied = await command(home, "apply", "-m", "for the lawyers", "--json", url=url)
        assert applied.code == 0, applied.err
        assert applied.data["served"] is True
        answer = await chat(url, "legal")
        assert answer.status_code == 200

        began = time.monotonic()
        back = await command(home, "rollback", "--json", url=url)
        took = time.monotonic() - began
        assert back.code == 0, back.err
        assert not await serves(url, "legal")
        detail = await ready(url)
        async with httpx.AsyncClient() as client:
            id = answer.headers["x-switchboard-decision"]
            decision = (await client.get(f"{url}/v1/decisions/{id}")).json()

    told = await command(home, "history", "--json")
    assert [(each["kind"], each["running"]) for each in told.data] == [
        ("rollback", True), ("apply", False), ("start", False)
    ]  # fmt: skip
    assert decision["snapshot"] == told.data[1]["hash"] == applied.data["revision"]["hash"]
    assert detail["snapshot"] == told.data[0]["hash"] == told.data[2]["hash"]
    shown = (await command(home, "history")).out
    assert "for the lawyers" in shown
    assert "rolled back" in shown
    assert took < 20  # a whole process of its own, on whatever machine this is


async def test_through_the_gateway_it_is_checked_served_and_gone_back_from(home: Path) -> None:
    key = admin_key(home)
    async with inside(home, key) as (client, url, _):
        (home / "gateway.yaml").write_text(
            (home / "gateway.yaml").read_text() + "aliases: {other: auto}\n"
        )
        ran = await quickly(home, "apply", "--json", url=url, key=key)
        assert ran.code == 0, ran.err
        assert ran.data["revision"]["author"] == "boss"
        assert (await ready(url, key))["snapshot"] == ran.data["revision"]["hash"]
        assert (await quickly(home, "rollback", url=url, key=key)).code == 0
        assert (await ready(url, key))["revision"]["seq"] == 3

        took = []
        for _ in range(3):
            assert (await client.post("/admin/revisions", json=texts(home))).is_success
            began = time.monotonic()
            assert (await client.post("/admin/rollback", json={})).is_success
            took.append(time.monotonic() - began)
        files = dict(texts(home)["files"])
        for alias, next_one in (("other", "second"), ("second", "third")):
            files["gateway.yaml"] = files["gateway.yaml"].replace(alias, next_one)
            assert (await client.post("/admin/revisions", json={"files": files})).is_success
        two_back = await quickly(home, "rollback", "2", "--json", url=url, key=key)
        listed = (await client.get("/admin/revisions")).json()["data"]
        one = (await client.get(f"/admin/revisions/{listed[0]['hash'][:12]}")).json()
    assert median(took) < 1.0, took
    assert two_back.code == 0, two_back.err
    kinds = ["rollback", "apply", "apply", "rollback", "apply", "rollback"]
    assert [each["kind"] for each in listed[:6]] == kinds
    assert listed[0]["hash"] == listed[3]["hash"] != listed[1]["hash"]
    assert "gateway.yaml" in one["files"]


async def test_a_wrong_revision_is_told_everywhere_and_the_old_serves_on(home: Path) -> None:
    key = admin_key(home)
    async with inside(home, key) as (client, url, _):
        answer = await client.post(
            "/admin/revisions", json={"files": {"gateway.yaml": "\ndefault_route: general\n"}}
        )
        assert answer.status_code == 422
        places = [(p["file"], p["line"], p["key"]) for p in answer.json()["problems"]]
        assert ("gateway.yaml", 2, "default_route") in places
        detail = await ready(url, key)
        metrics = (await client.get("/metrics")).text
        assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 200

        moved = await client.post("/admin/revisions", json={**texts(home), "after": 9})
        assert (moved.status_code, moved.json()["error"]["code"]) == (409, "revision_refused")
        nothing = await client.post("/admin/rollback", json={})
        assert nothing.status_code == 404

        # What is wrong in the files is said before anything is sent.
        (home / "routes/general.yaml").write_text("name: general\nvalue: lots\n")
        wrong = await quickly(home, "apply", url=url, key=key)
        assert (wrong.code, wrong.out) == (1, "")
        assert "general.yaml:2 value" in wrong.err
    assert "unknown route" in detail["configuration_error"]
    assert "switchboard_config_errors_total 1.0" in metrics
    assert f'hash="{detail["snapshot"]}"' in metrics


async def test_only_an_admins_key_may(home: Path) -> None:
    store = Store.open(store_url(home))
    key = Keys(store).create("app").secret
    store.close()
    async with inside(home, key) as (client, _, _):
        for path in ("/admin/revisions", "/admin/revisions/1"):
            assert (await client.get(path)).status_code == 403
        assert (await client.post("/admin/revisions", json=texts(home))).status_code == 403
        assert (await client.post("/admin/rollback", json={})).status_code == 403


async def test_a_restart_serves_the_last_revision_and_tells_the_drift(home: Path) -> None:
    async with inside(home):
        pass
    add_route(home, "legal")
    async with inside(home) as (_, url, said):
        assert "the files differ from revision 1" in said
        assert not await serves(url, "legal")
        async with asyncio.timeout(60):
            while "routes/legal.yaml" not in ((await ready(url))["drift"] or ""):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        # Without a key it goes into the store, and the gateway finds it there.
        assert (await quickly(home, "apply", url=url)).code == 0
        assert await serves(url, "legal")
        assert (await ready(url))["drift"] is None


async def test_another_directory_is_not_served_from_this_ones_store(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As where both are served from one working directory, with the default store there."""
    async with inside(home):
        pass
    other = tmp_path_factory.mktemp("other")
    write(other, "http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError) as refused:
        open_home(Home(other), store_url(home))
    assert f"another configuration, in {home}" in str(refused.value)
    assert f"{other}/gateway.yaml: store: the store" in str(refused.value)
    assert "a store of its own" in str(refused.value)
    mend = f"`switchboard apply --config {other} --store {store_url(home)}`"
    assert mend in str(refused.value)
    # The same files elsewhere are no other configuration, and neither is one that was applied.
    store = Store.open(store_url(home))
    files = {str(path.relative_to(other)): path.read_text() for path in other.rglob("*.yaml")}
    Revisions(store).save("2" * 64, files, "ops", 5e9)
    store.close()
    store, opening = open_home(Home(other), store_url(home))
    store.close()
    assert opening.revision.seq == 2


async def test_wrong_files_do_not_serve_what_is_another_directorys(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with inside(home):
        pass
    other = tmp_path_factory.mktemp("other")
    (other / "gateway.yaml").write_text("default_route: [\n")
    for _ in range(2):  # a start that was refused does not make it at home there
        with pytest.raises(ConfigError) as refused:
            open_home(Home(other), store_url(home))
        assert f"{other}/gateway.yaml:" in str(refused.value)
        assert f"another configuration, in {home}" in str(refused.value)


async def test_a_directory_without_files_serves_no_store_that_merely_lies_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inside(home):
        pass
    here = home / "here"
    here.mkdir()
    (home / "switchboard.db").rename(here / "switchboard.db")
    (home / "gateway.yaml").unlink()
    monkeypatch.chdir(here)
    with pytest.raises(ConfigError, match="there is no such file"):
        open_home(Home(here), None)
    with pytest.raises(ConfigError, match="there is no such file"):
        open_home(Home(here / "nowhere"), "sqlite:///switchboard.db")
    assert not (here / "nowhere").exists()
    # One that is named is served, and so is its own of before; both say what that is.
    for directory, named in ((here, "sqlite:///switchboard.db"), (here, None), (home, None)):
        store, opening = open_home(Home(directory), named)
        store.close()
        assert opening.revision.seq == 1
        assert f"no gateway.yaml in {directory}: revision 1 by serve" in "\n".join(opening.said)


async def test_a_moved_directory_is_no_other(home: Path) -> None:
    url = store_url(home)
    async with inside(home):
        pass
    moved = await asyncio.to_thread(home.rename, home.with_name("moved"))
    add_route(moved, "legal")
    store, opening = open_home(Home(moved), url.replace(str(home), str(moved)))
    store.close()
    assert opening.revision.seq == 1


async def test_an_environment_that_finds_anothers_revision_says_so(home: Path) -> None:
    async with inside(home):
        pass
    (home / "gateway.prod.yaml").write_text("aliases: {other: auto}\n")
    store, opening = open_home(Home(home, environment="prod"), store_url(home))
    store.close()
    assert "of another environment (none, here: 'prod')" in "\n".join(opening.said)


async def test_where_none_runs_it_is_for_the_next_start(home: Path) -> None:
    ran = await quickly(home, "apply", url="http://127.0.0.1:9")
    assert ran.code == 0, ran.err
    assert "no gateway answers at http://127.0.0.1:9: the next start serves it" in ran.out
    assert "--gateway URL" in ran.out
    add_route(home, "legal")
    assert (await quickly(home, "apply", url="http://127.0.0.1:9")).code == 0
    (home / "routes/legal.yaml").unlink()
    async with inside(home) as (_, url, _):
        assert await serves(url, "legal")


async def test_with_a_store_that_is_named_going_back_needs_no_files(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await quickly(home, "apply", url="http://127.0.0.1:9")
    add_route(home, "legal")
    await quickly(home, "apply", url="http://127.0.0.1:9")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    line = ("rollback", "--store", store_url(home), "--json")
    ran = await asyncio.to_thread(switchboard, *line, home=elsewhere)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["revision"]["seq"] == 3
    # Where the files there cannot be read nothing is done before that is said.
    (elsewhere / "gateway.yaml").write_text("default_route: [\n")
    ran = await asyncio.to_thread(switchboard, *line, home=elsewhere)
    assert (ran.code, len(revisions(home))) == (1, 3)


@pytest.mark.parametrize("words", [("apply", "--json"), ("diff", "--json")])
async def test_programs_have_what_is_wrong_as_json(home: Path, words: tuple[str, ...]) -> None:
    add_route(home, "legal")
    (home / "routes/legal.yaml").write_text("name: legal\n")
    ran = await quickly(home, *words, url="http://127.0.0.1:9")
    assert ran.code == 1
    problem = json.loads(ran.out)["problems"][0]
    assert (problem["file"], problem["severity"]) == (f"{home}/routes/legal.yaml", "error")
    assert "legal.yaml" in ran.err


async def test_files_that_are_wrong_do_not_keep_the_last_revision_from_serving(home: Path) -> None:
    async with inside(home):
        pass
    (home / "gateway.yaml").write_text("default_route: [\n")
    async with inside(home) as (_, url, said):
        assert await serves(url, "general")
        assert "the files are wrong, revision 1 is served" in said


async def test_a_last_revision_that_cannot_be_served_says_what_helps(home: Path) -> None:
    text = (home / "gateway.yaml").read_text().replace("sk-provider", "${PROVIDER_KEY}")
    (home / "gateway.yaml").write_text(text)
    async with inside(home, env={"PROVIDER_KEY": "sk-one"}):
        pass
    with pytest.raises(ConfigError, match=r"PROVIDER_KEY is not set[\s\S]*switchboard rollback"):
        open_home(Home(home), store_url(home))


async def test_a_last_revision_that_cannot_be_served_does_not_stop_a_start(home: Path) -> None:
    """As if an older version had written it, and this one did not know a key of it any more."""
    key = admin_key(home)
    async with inside(home, key) as (client, _, _):
        for name in ("legal", "tax"):
            add_route(home, name)
            assert (await client.post("/admin/revisions", json=texts(home))).is_success
        assert (await client.post("/admin/rollback", json={})).is_success  # leaves tax
    store = Store.open(store_url(home))
    files = dict(revisions(home)[0].files)
    files["gateway.yaml"] += "no_key_of_today: 1\n"
    Revisions(store).save("0" * 64, files, "the version before", 5e9)
    store.close()

    async with inside(home, key) as (client, url, _):
        detail = await ready(url, key)
        metrics = (await client.get("/metrics")).text
        assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 200
        assert detail["revision"]["seq"] == 4
        assert (
            "revision 5 by the version before, the store's last, cannot"
            in (detail["configuration_error"])
        )
        assert "no_key_of_today" in detail["configuration_error"]
        assert "switchboard_config_errors_total 1.0" in metrics
        # To go back is possible, and to go on, too: both are a revision after the wrong one.
        back = await client.post("/admin/rollback", json={})
        assert back.is_success, back.text
        assert back.json()["seq"] == 6
        detail = await ready(url, key)
    assert detail["configuration_error"] is None
    assert [each.rolled_back is None for each in revisions(home)[:2]] == [True, False]


async def test_what_is_served_for_a_wrong_last_one_can_be_applied_over_it(home: Path) -> None:
    key = admin_key(home)
    async with inside(home, key):
        pass
    store = Store.open(store_url(home))
    Revisions(store).save("0" * 64, {"gateway.yaml": "no: key\n"}, "the version before", 5e9)
    store.close()
    async with inside(home, key) as (client, _, _):
        answer = await client.post("/admin/revisions", json=texts(home))
        assert answer.is_success, answer.text
        assert answer.json()["seq"] == 3


async def test_secrets_are_kept_as_they_are_written(home: Path) -> None:
    text = (home / "gateway.yaml").read_text().replace("sk-provider", "${PROVIDER_KEY}")
    (home / "gateway.yaml").write_text(text)
    async with inside(home, env={"PROVIDER_KEY": "sk-one"}):
        pass
    # Another secret is no other content: a restart serves the same revision with it.
    async with inside(home, env={"PROVIDER_KEY": "sk-two"}) as (_, url, said):
        assert "differ" not in said
        assert (await ready(url))["snapshot"] == revisions(home)[0].hash
    assert len(revisions(home)) == 1
    assert b"sk-one" not in (home / "switchboard.db").read_bytes()


async def test_a_watcher_and_a_restart_do_not_serve_again_what_was_left(home: Path) -> None:
    async with serving(home, "--watch") as running:
        url = await started(running)
        add_route(home, "legal")
        await running.says(r"serving snapshot (\w+): revision 2")
        assert (await command(home, "rollback", url=url)).code == 0
        assert not await serves(url, "legal")
        (home / "routes/legal.yaml").touch()
        await running.says(r"(the files hold what was rolled back)")
        assert not await serves(url, "legal")
    async with serving(home, "--watch") as running:
        url = await started(running)
        assert "the files hold what was rolled back" in running.printed
        assert not await serves(url, "legal")
        add_route(home, "tax")
        await running.says(r"serving snapshot (\w+): revision 4")
        assert await serves(url, "tax")
    assert [each.kind for each in revisions(home)] == ["watch", "rollback", "watch", "start"]


async def test_with_watch_files_changed_meanwhile_are_served_at_the_start(home: Path) -> None:
    async with inside(home):
        pass
    add_route(home, "legal")
    async with inside(home, watch=True) as (_, url, said):
        assert "the files have changed since revision 1" in said
        assert await serves(url, "legal")


async def test_a_difference_is_told_planned_and_applied_as_planned(home: Path) -> None:
    key = admin_key(home)
    plan = str(home / "plan.json")
    async with inside(home, key) as (client, url, _):
        none = await quickly(home, "diff", url=url, key=key)
        assert none.code == 0
        assert "no difference" in none.out
        for _ in range(3):
            assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 200

        text = (home / "gateway.yaml").read_text()
        (home / "gateway.yaml").write_text(
            text.replace("models:\n", "models:\n      maxi: {id: maxi, price: {input: 0 usd/Mtok, "
                         "output: 0 usd/Mtok}}\n")
        )  # fmt: skip
        route = (home / "routes/general.yaml").read_text()
        (home / "routes/general.yaml").write_text(
            route.replace("[{", "[{target: openai/maxi, quality: 0.95}, {")
        )
        shown = await quickly(home, "diff", "--out", plan, url=url, key=key)
        assert shown.code == 2, shown.err
        assert "+ backends.openai.models.maxi" in shown.out
        assert "+ routes.general.candidates[openai/maxi]" in shown.out
        # Rows are written in batches, a moment after the answer.
        async with asyncio.timeout(60):
            while "general: 3 from openai/mini to openai/maxi" not in shown.out:
                shown = await quickly(home, "diff", "--out", plan, url=url, key=key)
        assert "3 would go elsewhere (100 %)" in shown.out
        assert "as the gateway measures its targets" in shown.out
        table = await quickly(home, "diff", "--format", "markdown", url=url)
        assert table.code == 2
        assert "| + | `backends.openai.models.maxi` |" in table.out
        assert "3 would go elsewhere" in table.out
        assert "Expected cost" in shown.out
        data = (await quickly(home, "diff", "--format", "json", url=url, key=key)).data
        traffic = data["traffic"]
        assert (data["running"], traffic["elsewhere"]) == (1, 3)
        assert traffic["old_usd"] > 0.0 == traffic["new_usd"], "the new target is free"
        assert traffic["logged_usd"] > 0.0

        changed = (home / "routes/general.yaml").read_text()
        (home / "routes/general.yaml").write_text(changed.replace("0.95", "0.94"))
        refused = await quickly(home, "apply", plan, url=url, key=key)
        assert refused.code == 1
        assert "the files have changed since the plan was made" in refused.err
        (home / "routes/general.yaml").write_text(changed)
        assert (await quickly(home, "apply", plan, url=url, key=key)).code == 0
        assert (await quickly(home, "rollback", url=url, key=key)).code == 0
        moved = await quickly(home, "apply", plan, url=url, key=key)
        assert moved.code == 1
        assert "revision 3 has come since revision 1" in " ".join(moved.err.split())
        moved = await quickly(home, "apply", plan, url=url)
        assert moved.code == 1
        assert "revision 3 has come since revision 1" in " ".join(moved.err.split())

        (home / "routes/general.yaml").write_text("name: general\n")
        assert (await quickly(home, "diff", url=url, key=key)).code == 1


@pytest.mark.parametrize(
    ("behaviour", "limits", "why", "guard"),
    [
        (
            Behaviour(fault=BROKEN),
            (),
            "of its requests failed, 0 % before",
            Guard(120.0, 0.02, 0.5),
        ),
        (
            Behaviour(first_token_s=0.2),
            ("--max-latency", "80", "--max-errors", "50"),
            "% longer than before (allowed: 80 %)",
            Guard(120.0, 0.5, 0.8),
        ),
    ],
    ids=["errors", "latency"],
)
async def test_a_revision_that_does_worse_goes_back_by_itself_and_says_why(
    home: Path, behaviour: Behaviour, limits: tuple[str, ...], why: str, guard: Guard
) -> None:
    key = admin_key(home)
    async with inside(home, key) as (client, url, _), StandIn(behaviour) as worse_one:
        for _ in range(25):
            assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 200
        text = (home / "gateway.yaml").read_text()
        good = re.search(r"url: (\S+)", text)
        assert good is not None
        (home / "gateway.yaml").write_text(text.replace(good[1], worse_one.url))

        words = ("apply", "--guard", "2m", *limits)
        command = asyncio.create_task(quickly(home, *words, url=url, key=key))
        async with asyncio.timeout(60):
            while (await ready(url, key))["revision"]["seq"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert (await ready(url, key))["guard"]["revision"] == 2
            while (await ready(url, key))["revision"]["seq"] < 3:
                await client.post("/v1/chat/completions", json=HELLO)
            ran = await command
        detail = await ready(url, key)
        assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 200
    assert ran.code == 1
    assert "was rolled back: " in " ".join(ran.err.split())
    assert detail["revision"]["kind"] == "guard"
    assert why in detail["revision"]["note"]
    last, worse, first = revisions(home)
    assert (last.hash, worse.rolled_back is None) == (first.hash, False)
    assert worse.verdict.startswith("rolled back: ")
    assert worse.guard == guard
    (entry,) = [each for each in audited(home, ITSELF) if each.action == "guard rollback"]
    assert (entry.action, entry.subject, entry.outcome) == ("guard rollback", "revision 2", "done")
    assert why in entry.detail["why"]
    assert entry.detail["to"] == "revision 1"


async def test_a_guard_that_finds_nothing_keeps_it(home: Path) -> None:
    async with inside(home) as (_, url, _):
        add_route(home, "legal")
        ran = await quickly(home, "apply", "--guard", "1s", url=url)
        assert ran.code == 0, ran.err
        assert "kept: 0 requests, too few to tell" in ran.out
        assert await serves(url, "legal")
        async with asyncio.timeout(60):
            while not (entries := await asyncio.to_thread(audited, home, ITSELF)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    (last, _) = revisions(home)
    assert last.verdict.startswith("kept")
    assert [entry.action for entry in entries] == ["guard kept"]


async def test_what_runs_already_is_said_to_and_no_guard_begins(home: Path) -> None:
    boss = admin_key(home)
    async with inside(home, boss) as (_, url, _):
        for key in (boss, ""):
            ran = await quickly(home, "apply", "--guard", "1s", url=url, key=key)
            assert ran.code == 0, ran.err
            assert "has this content already: nothing changes, and no guard is begun" in ran.out
            told = await quickly(home, "apply", "--json", url=url, key=key)
            assert told.data["revision"]["unchanged"] is True
        add_route(home, "legal")
        changed = await quickly(home, "apply", "--json", url=url, key=boss)
        assert changed.data["revision"]["unchanged"] is False
    (last, _) = revisions(home)
    assert last.guard is None


def test_a_time_or_a_revision_that_is_ambiguous_is_refused(tmp_path: Path) -> None:
    ran = switchboard("apply", "--guard", "2x", "--config", str(tmp_path))
    assert (ran.code, "'2x' is no span of time; write one such as" in ran.err) == (2, True)
    ran = switchboard("rollback", "1", "--to", "2", "--config", str(tmp_path))
    assert (ran.code, "name one of '1' and --to 2" in ran.err) == (2, True)


async def test_another_revision_ends_a_guard(home: Path) -> None:
    async with inside(home) as (_, url, _):
        add_route(home, "legal")
        ran = await quickly(home, "apply", "--guard", "10m", "--no-wait", url=url)
        assert ran.code == 0, ran.err
        async with asyncio.timeout(60):
            while (await ready(url))["guard"] is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            add_route(home, "tax")
            assert (await quickly(home, "apply", url=url)).code == 0
            while not (await asyncio.to_thread(revisions, home))[1].verdict:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert revisions(home)[1].verdict == "not ended: revision 3 came"
