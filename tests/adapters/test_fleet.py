"""Versions, promotions, canaries and mixes through a whole gateway, at stand-in replicas."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.adapters.fleet import Fleet
from gateway.adapters.state import AdapterState
from gateway.policy.live import Live
from gateway.standin.behaviour import Fault, FaultKind
from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn
from gateway.store.adapters import AdapterBook
from gateway.store.audit import ITSELF, AuditBook
from gateway.store.keys import Keys
from gateway.store.store import Store
from gateway.types.backends import Version
from gateway.types.snapshot import Snapshot
from tests.adapters import lora
from tests.gateway.support import Served, route, serving, snapshot, target, with_adapters

SUPPORT = "local/qwen+support"


def configuration(folder: Path, *replicas: StandIn, **versions: list[str]) -> Snapshot:
    """One base at every replica, with adapters; the route takes support."""
    urls = tuple(replica.origin for replica in replicas)
    base = target("local/qwen", urls[0], internal=True, served="base", replicas=urls)
    routes = [route("general", SUPPORT, internal=True)]
    versions = versions or {"support": ["v7", "v8"]}
    return with_adapters(snapshot([base], routes), folder, base=base.name, **versions)


class Admin:
    """Commands, as an administrator gives them."""

    def __init__(self, served: Served) -> None:
        self._client = served.client
        key = Keys(served.gateway.store).create("ops", role="operate").secret
        served.gateway.keyring.refresh()
        self.headers = {"authorization": f"Bearer {key}"}
        served.client.headers["authorization"] = f"Bearer {key}"

    async def do(self, command: str, name: str = "support", **asked: Any) -> httpx.Response:
        return await self._client.post(
            f"/admin/adapters/{command}/{name}", json=asked, headers=self.headers
        )

    async def show(self, name: str = "support") -> dict[str, Any]:
        answer = await self._client.get(f"/admin/adapters/{name}", headers=self.headers)
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown


@asynccontextmanager
async def fleet(
    folder: Path, *, replicas: int = 2, vllm: Vllm | None = None, **versions: list[str]
) -> AsyncIterator[tuple[Served, Admin, list[StandIn]]]:
    """A gateway with everything loaded, its admin, and its replicas."""
    standins = [StandIn(vllm=vllm or Vllm()) for _ in range(replicas)]
    for standin in standins:
        await standin.start()
    try:
        async with serving(configuration(folder, *standins, **versions), folder) as served:
            await served.gateway.adapters_present()
            yield served, Admin(served), standins
    finally:
        for standin in standins:
            await standin.stop()


def asked_of(*standins: StandIn) -> list[str]:
    """The model that each chat was for, in order."""
    return [
        json.loads(seen.body)["model"]
        for standin in standins
        for seen in standin.seen
        if seen.path.endswith("/chat/completions")
    ]


def version_of(served_name: str) -> str:
    """`v7` of `support@v7-3f9a12bc`."""
    return served_name.partition("@")[2].partition("-")[0]


# ---------------------------------------------------------------- what is served


async def test_the_first_version_is_live_under_a_name_of_its_own(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (served, admin, replicas):
        assert (await served.chat()).status_code == 200
        shown = await admin.show()
    (name,) = asked_of(*replicas)
    assert version_of(name) == "v7"
    assert shown["live"] == "v7"
    assert shown["serving"] == name
    assert shown["versions"][0]["digest"].startswith(name.rpartition("-")[2])
    for replica in shown["replicas"].values():
        assert replica["loaded"] == [name]
        assert replica["p_resident"] == 1.0


async def test_replicas_read_from_the_shelf_and_never_from_the_source(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, _, replicas):
        for replica in replicas:
            assert replica.engine is not None
            for _, path in replica.engine.loads:
                assert Path(path).parent == tmp_path / "shelf"
                assert (Path(path) / "adapter_model.safetensors").is_file()


async def test_a_version_can_be_asked_for_by_name_and_is_loaded_then(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (served, _, replicas):
        answer = await served.chat(model=f"{SUPPORT}@v8")
        assert answer.headers["x-switchboard-target"] == f"{SUPPORT}@v8"
        assert [version_of(name) for name in asked_of(*replicas)] == ["v8"]


async def test_a_bad_adapter_is_kept_from_every_replica_and_its_target_is_away(
    tmp_path: Path,
) -> None:
    async with StandIn(vllm=Vllm()) as vllm:
        plain = configuration(tmp_path, vllm, support=[""])
        lora.write(tmp_path / "sources" / "support", said=lora.config(use_dora=True))
        async with serving(plain, tmp_path) as served:
            await served.gateway.adapters_present()
            answer = await served.chat()
            shown = await Admin(served).show()
        assert vllm.engine is not None
        assert vllm.engine.loads == []
    assert answer.status_code == 503
    assert "use_dora: true" in answer.json()["error"]["message"]
    assert "use_dora: true" in shown["problem"]


async def test_only_an_admins_key_commands(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (served, _, _):
        plain = Keys(served.gateway.store).create("app").secret
        served.gateway.keyring.refresh()
        headers = {"authorization": f"Bearer {plain}"}
        refused = [
            await served.client.get("/admin/adapters", headers=headers),
            await served.client.post("/admin/adapters/pin/support", json={}, headers=headers),
        ]
    assert [answer.status_code for answer in refused] == [403, 403]
    assert refused[0].json()["error"]["code"] == "role_needed"


async def test_without_any_key_nobody_commands(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm()) as vllm:
        async with serving(configuration(tmp_path, vllm), tmp_path) as served:
            assert (await served.client.get("/admin/adapters")).status_code == 403


# ---------------------------------------------------------------- promotion


async def test_a_promotion_loads_and_probes_everywhere_before_it_counts(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (served, admin, replicas):
        answer = await admin.do("promote", version="v8")
        assert answer.status_code == 200, answer.text
        assert (answer.json()["live"], answer.json()["previous"]) == ("v8", "v7")
        for replica in replicas:
            assert replica.engine is not None
            assert {version_of(name) for name in replica.engine.adapters} == {"v7", "v8"}
            assert any(seen.path.endswith("/v1/completions") for seen in replica.seen)
        await served.chat()
        assert [version_of(name) for name in asked_of(*replicas)] == ["v8"]


async def test_where_one_replica_cannot_load_it_nothing_changes(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (served, admin, replicas):
        v8 = next(v for v in (await admin.show())["versions"] if v["version"] == "v8")
        assert replicas[1].engine is not None
        replicas[1].engine.refuses[v8["path"]] = (500, "out of memory")
        answer = await admin.do("promote", version="v8")
        assert answer.status_code == 409
        assert "out of memory" in answer.json()["error"]["message"]
        assert replicas[1].origin in answer.json()["error"]["message"]
        await served.chat()
        assert [version_of(name) for name in asked_of(*replicas)] == ["v7"]
        assert (await admin.show())["history"] == []


async def test_a_replica_that_goes_away_meanwhile_does_not_hold_it_up(tmp_path: Path) -> None:
    """It says nothing against the version, and has it before it is asked for it."""
    async with fleet(tmp_path) as (served, admin, replicas):
        await replicas[1].stop()
        answer = await admin.do("promote", version="v8")
        assert answer.status_code == 200, answer.text
        for _ in range(4):
            await served.chat()
        assert {version_of(name) for name in asked_of(replicas[0])} == {"v8"}


async def test_where_none_can_be_reached_the_reason_is_told(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, admin, replicas):
        for replica in replicas:
            await replica.stop()
        answer = await admin.do("promote", version="v8")
        assert answer.status_code == 409
        message = answer.json()["error"]["message"]
        assert "ConnectError" in message or "can be reached" in message


async def test_a_rollback_is_a_change_of_name_alone(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (served, admin, replicas):
        await admin.do("promote", version="v8")
        loads = [len(replica.engine.loads) for replica in replicas if replica.engine]
        answer = await admin.do("rollback")
        assert answer.json()["live"] == "v7"
        assert [len(replica.engine.loads) for replica in replicas if replica.engine] == loads
        await served.chat()
        assert [version_of(name) for name in asked_of(*replicas)] == ["v7"]
        changes = [change["change"] for change in (await admin.show())["history"]]
    assert changes == ["rollback", "promote v8"]


async def test_what_is_live_is_kept_over_a_restart(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm()) as vllm:
        plain = configuration(tmp_path, vllm)
        async with serving(plain, tmp_path) as served:
            await served.gateway.adapters_present()
            admin = Admin(served)
            await admin.do("promote", version="v8")
        async with serving(plain, tmp_path) as served:
            served.client.headers.update(admin.headers)
            await served.gateway.adapters_present()
            await served.chat()
        assert [version_of(name) for name in asked_of(vllm)] == ["v8"]


async def test_under_load_nothing_fails_and_no_old_answer_comes_after_a_promotion(
    tmp_path: Path,
) -> None:
    async with fleet(tmp_path, vllm=Vllm(load_s=0.02)) as (served, admin, replicas):
        done = False
        statuses: list[int] = []

        async def asks() -> None:
            while not done:
                statuses.append((await served.chat()).status_code)

        asking = [asyncio.create_task(asks()) for _ in range(8)]
        for version, other in (("v8", "v7"), ("v7", "v8"), ("v8", "v7")):
            assert (await admin.do("promote", version=version)).status_code == 200
            begun = [len(asked_of(replica)) for replica in replicas]
            for _ in range(20):
                assert (await served.chat()).status_code == 200
            # Those that had begun before the promotion ended may still have come after it.
            later = [
                version_of(name)
                for replica, n in zip(replicas, begun, strict=True)
                for name in asked_of(replica)[n:]
            ]
            assert later.count(other) <= len(asking)
        done = True
        await asyncio.gather(*asking)
    assert set(statuses) == {200}


async def test_files_changed_in_place_are_a_new_content_that_is_switched_to(tmp_path: Path) -> None:
    async with fleet(tmp_path, support=[""]) as (served, admin, replicas):
        before = (await admin.show())["serving"]
        lora.write(tmp_path / "sources" / "support", lora.tensors(seed=99))
        plain = served.gateway.pipeline.plane.snapshot
        await served.gateway.swap(msgspec.structs.replace(plain, hash="another"))
        await served.gateway.adapters_present()
        await served.chat()
        after = (await admin.show())["serving"]
    assert before != after
    assert asked_of(*replicas) == [after]


async def test_what_is_wrongly_asked_is_answered_with_the_mend(tmp_path: Path) -> None:
    async with fleet(tmp_path, support=["v7", "v8"], brand=[""]) as (_, admin, _):
        answers = [
            await admin.do("promote", version="v9"),
            await admin.do("promote", version="v7"),
            await admin.do("promote"),
            await admin.do("promote", "brand", version="v1"),
            await admin.do("rollback"),
            await admin.do("promote", "suport", version="v8"),
            await admin.do("explode"),
            await admin.do("canary", version="v8", share=2),
            await admin.do("load", replica="http://elsewhere:1"),
        ]
    said = [(answer.status_code, answer.json()["error"]["message"]) for answer in answers]
    for (status, message), (wanted, words) in zip(
        said,
        [
            (409, "no version 'v9'; there are v7, v8"),
            (409, "live already"),
            (400, "needs 'version'"),
            (409, "write them as `versions:"),
            (409, "nothing to go back to"),
            (404, "there is no adapter 'suport'; declared: local/qwen+brand, local/qwen+support"),
            (404, "no command 'explode'"),
            (400, "share"),
            (404, "has no replica http://elsewhere:1"),
        ],
        strict=True,
    ):
        assert (status, words in message) == (wanted, True), message


# ---------------------------------------------------------------- canary


async def test_a_canary_is_sticky_and_gets_about_its_share(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (served, admin, replicas):
        assert (await admin.do("canary", version="v8", share=0.3)).status_code == 200
        for user in range(60):
            for _ in range(2):
                await served.chat(user=f"user-{user}")
        rows = [
            (json.loads(seen.body)["user"], version_of(json.loads(seen.body)["model"]))
            for replica in replicas
            for seen in replica.seen
            if seen.path.endswith("/chat/completions")
        ]
    got: dict[str, set[str]] = {}
    for user, version in rows:
        got.setdefault(user, set()).add(version)
    assert all(len(versions) == 1 for versions in got.values())
    share = sum(versions == {"v8"} for versions in got.values()) / len(got)
    assert 0.1 < share < 0.55


async def test_a_canary_goes_on_while_a_replica_or_its_target_drains(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (served, admin, replicas):
        first, second = replicas
        assert (await admin.do("canary", version="v8", share=0.5)).status_code == 200

        async def give(subject: str, share: float) -> int:
            asked = {"subject": subject, "share": share, "why": "work on it", "force": True}
            answer = await served.client.post("/admin/weights", json=asked, headers=admin.headers)
            return answer.status_code

        async def versions() -> list[str]:
            before = len(asked_of(first)), len(asked_of(second))
            for user in range(30):
                assert (await served.chat(user=f"user-{user}")).status_code == 200
            names = asked_of(first)[before[0] :] + asked_of(second)[before[1] :]
            return sorted(version_of(name) for name in names)

        usual = await versions()
        assert set(usual) == {"v7", "v8"}
        assert await give(first.origin, 0.0) == 200
        asked = len(asked_of(first))
        assert await versions() == usual, "the same users get it, at the other replica"
        assert len(asked_of(first)) == asked
        assert await give(SUPPORT, 0.0) == 200
        assert (await served.chat(user="user-1")).status_code == 503
        assert (await admin.show())["canary"]["version"] == "v8"
        assert await give(SUPPORT, 1.0) == 200
        assert await give(first.origin, 1.0) == 200
        assert await versions() == usual


async def test_a_canary_that_fails_goes_back_and_says_why(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (served, admin, replicas):
        await admin.do("canary", version="v8", share=0.5)
        v8 = next(v["served"] for v in (await admin.show())["versions"] if v["version"] == "v8")
        for replica in replicas:
            assert replica.engine is not None
            replica.engine.breaks[v8] = Fault(kind=FaultKind.STATUS, status=500)
        for user in range(40):
            await served.chat(user=f"user-{user}")

        async def is_over() -> bool:
            return (await admin.show())["canary"] is None

        async with asyncio.timeout(20):
            while not await is_over():  # noqa: ASYNC110 - the gateway judges in its own time
                await asyncio.sleep(0.1)
            shown = await admin.show()
            book = AuditBook(served.gateway.store)
            while not (entries := [each for each in book.list() if each.name == ITSELF]):
                await admin.show()
    assert shown["live"] == "v7"
    assert "of its requests failed" in shown["ended"]
    assert shown["history"][0]["author"] == "the canary itself"
    (entry,) = entries
    assert (entry.action, entry.subject) == ("canary end", f"{SUPPORT}@v8")
    assert "of its requests failed" in entry.detail["why"]


# ---------------------------------------------------------------- mixing


async def test_a_mix_is_made_of_its_parts_and_served(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm()) as vllm:
        plain = configuration(tmp_path, vllm, support=[""], brand=[""])
        both = msgspec.structs.replace(
            plain.adapters[0],
            name="both",
            versions=(Version("", mix={"support": 1.0, "brand": 0.8}),),
        )
        mixed = msgspec.structs.replace(plain.targets[SUPPORT], name="local/qwen+both")
        mixed = msgspec.structs.replace(mixed, adapter="both", served="both")
        whole = msgspec.structs.replace(
            plain,
            adapters=(*plain.adapters, both),
            targets={**plain.targets, "local/qwen+both": mixed},
        )
        async with serving(whole, tmp_path) as served:
            await served.gateway.adapters_present()
            answer = await served.chat(model="local/qwen+both")
            assert answer.status_code == 200, answer.text
            admin = Admin(served)
            shown = await admin.show("both")
            first = shown["versions"][0]
        assert first["rank"] == 8
        async with serving(whole, tmp_path) as served:
            served.client.headers.update(admin.headers)
            await served.gateway.adapters_present()
            again = (await admin_of(served, admin).show("both"))["versions"][0]
    assert again == first
    assert asked_of(vllm)[0].startswith("both@")


def admin_of(served: Served, before: Admin) -> Admin:
    """The same administrator at another gateway on the same store."""
    again = Admin.__new__(Admin)
    again._client = served.client
    again.headers = before.headers
    return again


class SlowBook(AdapterBook):
    """A store that takes its time to save, once it is told to."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.slow = False
        self.saving = threading.Event()
        self.looked = threading.Event()

    def save(self, target: str, state: AdapterState, change: str, author: str) -> None:
        if self.slow:
            self.saving.set()
            self.looked.wait(0.3)  # nobody may look meanwhile: then the time runs out
        super().save(target, state, change, author)

    def states(self) -> dict[str, AdapterState]:
        found = super().states()
        self.looked.set()
        return found


async def test_a_change_under_way_is_not_undone_by_a_look_at_the_store(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm()) as vllm, httpx.AsyncClient() as client:
        whole = configuration(tmp_path, vllm)
        book = SlowBook(Store.open(f"sqlite:///{tmp_path}/slow.db"))
        fleet = Fleet(
            Live(), client, book, changed=lambda: None, clock=time.perf_counter, now=time.time
        )
        await fleet.follow()
        fleet.serve(whole)
        await fleet.present()
        await fleet.promote(SUPPORT, "v8", "ops")
        book.looked.clear()
        book.slow = True
        changing = asyncio.create_task(fleet.promote(SUPPORT, "v7", "ops"))
        await asyncio.to_thread(book.saving.wait, 10)
        await fleet.follow()
        await changing
        assert fleet.shown(SUPPORT)["live"] == "v7"
        assert version_of(fleet.dress(whole).targets[SUPPORT].served) == "v7"
        await fleet.stop()


async def test_a_restarted_replica_has_its_adapters_again_within_two_seconds(
    tmp_path: Path,
) -> None:
    """Without a request for them: as soon as it is healthy it is looked at."""
    async with fleet(tmp_path, support=["v7"], brand=["v1"]) as (_, _, (first, second)):
        assert first.engine is not None
        assert second.engine is not None
        before = set(first.engine.adapters)
        assert len(before) == 2
        await first.restart()
        assert not first.engine.adapters
        loads = "/v1/load_lora_adapter"
        async with asyncio.timeout(2.0):
            await first.until(lambda: first.engine is not None and len(first.engine.loads) == 4)
        assert set(first.engine.adapters) == before
        assert len([seen for seen in second.seen if seen.path == loads]) == 2
