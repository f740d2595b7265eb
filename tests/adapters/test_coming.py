"""What a new snapshot brings is loaded before it serves, and waited for no longer than is said."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.adapters import sources
from gateway.adapters.coming import coming
from gateway.standin.engine import Engine, Vllm
from gateway.standin.standin import StandIn
from gateway.types.backends import Turns
from gateway.types.snapshot import Snapshot
from tests.adapters import lora
from tests.adapters.test_fleet import SUPPORT, Admin, asked_of, configuration
from tests.gateway.support import Served, serving, serving_home

OLD: dict[str, list[str]] = {"support": ["v7"]}
NEW: dict[str, list[str]] = {"support": ["v7"], "brand": [""]}
BRAND = "local/qwen+brand"


def engine(standin: StandIn) -> Engine:
    assert standin.engine is not None
    return standin.engine


def loaded(standin: StandIn) -> list[str]:
    """The adapters that were ever loaded there, by their declared names."""
    return sorted(served.partition("@")[0] for served, _ in engine(standin).loads)


async def p_resident(admin: Admin, name: str) -> dict[str, float]:
    """By replica."""
    shown = await admin.show(name)
    return {url: each["p_resident"] for url, each in shown["replicas"].items()}


# ---------------------------------------------------------------- what is to be loaded


def test_a_new_adapter_comes_and_what_stays_as_it_is_does_not(tmp_path: Path) -> None:
    replica = StandIn()
    old, new = configuration(tmp_path, replica, **OLD), configuration(tmp_path, replica, **NEW)
    comes = coming(old, new)
    assert comes is not None
    assert [each.name for each in comes.adapters] == ["brand"]
    assert comes.snapshot.routes == old.routes
    assert coming(old, old) is None
    assert coming(new, old) is None


@pytest.mark.parametrize("there", [("http://b:1",), ("http://a:1", "http://b:1")])
@pytest.mark.parametrize("back", [False, True])
def test_adapters_of_a_backend_whose_replicas_change_come_with_them(
    there: tuple[str, ...], back: bool, tmp_path: Path
) -> None:
    plain = configuration(tmp_path, StandIn(), **OLD)
    old, new = (
        msgspec.structs.replace(
            plain, backends={"local": msgspec.structs.replace(plain.backends["local"], replicas=to)}
        )
        for to in (("http://a:1",), there)
    )
    comes = coming(new, old) if back else coming(old, new)
    assert comes is not None
    assert [each.target for each in comes.adapters] == [SUPPORT]
    assert sorted(comes.snapshot.backends["local"].replicas) == ["http://a:1", "http://b:1"]


def test_at_a_backend_that_is_declared_otherwise_nothing_is_loaded_before(tmp_path: Path) -> None:
    old, new = (configuration(tmp_path, StandIn(), **names) for names in (OLD, NEW))

    def changed(**changes: object) -> Snapshot:
        backend = msgspec.structs.replace(new.backends["local"], **changes)
        return msgspec.structs.replace(new, backends={"local": backend})

    assert coming(old, changed(api_key="another")) is None
    assert coming(old, changed(replica_hour=7.0)) is not None, "no load depends on that"


def test_where_models_take_turns_nothing_is_loaded_before(tmp_path: Path) -> None:
    """Who sleeps loads nothing, and is not to be woken for it."""
    new = configuration(tmp_path, StandIn(), **NEW)
    turns = msgspec.structs.replace(new.backends["local"], turns=Turns(gpus=(("a", "b"),)))
    new = msgspec.structs.replace(new, backends={"local": turns})
    old = configuration(tmp_path, StandIn(), **OLD)
    assert coming(msgspec.structs.replace(old, backends={"local": turns}), new) is None
    without = msgspec.structs.replace(old, targets={}, backends={}, routes={}, adapters=())
    assert coming(without, new) is None
    besides = configuration(tmp_path, StandIn(), **OLD)
    plain = msgspec.structs.replace(besides.backends["local"], name="other")
    adapters = [msgspec.structs.replace(each, backend="other") for each in besides.adapters]
    both = msgspec.structs.replace(
        new,
        backends={**new.backends, "other": plain},
        adapters=(*new.adapters, *adapters),
    )
    comes = coming(without, both)
    assert comes is not None
    assert comes.snapshot.backends.keys() == {"other"}, "no keeper looks at the other one yet"


# ---------------------------------------------------------------- a gateway that swaps


async def test_a_new_adapter_is_loaded_before_it_serves(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm(load_s=0.3)) as vllm:
        async with serving(configuration(tmp_path, vllm, **OLD), tmp_path) as served:
            await served.gateway.adapters_present()
            admin = Admin(served)
            swap = asyncio.create_task(served.gateway.swap(configuration(tmp_path, vllm, **NEW)))
            early = []
            while not swap.done():
                early.append((await served.chat(model=BRAND)).status_code)
                await asyncio.sleep(0.02)
            at_swap = await p_resident(admin, "brand")
            loads = loaded(vllm)
            assert (await served.chat(model=BRAND)).status_code == 200
    assert await swap == []
    assert early.count(404) > 0, "what serves meanwhile is the snapshot that does not know it"
    assert at_swap == {vllm.origin: 1.0}
    assert loads == ["brand", "support"]
    assert loaded(vllm) == loads, "the request had nothing to load"


async def test_a_replica_that_takes_anothers_place_has_its_adapters_before(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm()) as old, StandIn(vllm=Vllm(load_s=0.2)) as new:
        async with serving(configuration(tmp_path, old, **OLD), tmp_path) as served:
            await served.gateway.adapters_present()
            admin = Admin(served)
            warnings = await served.gateway.swap(configuration(tmp_path, new, **OLD))
            assert loaded(new) == ["support"]
            assert await p_resident(admin, "support") == {new.origin: 1.0}
            assert (await served.chat()).status_code == 200
        assert warnings == []
        assert len(asked_of(new)) == 1


async def test_what_a_removed_replica_held_is_loaded_at_those_that_stay(tmp_path: Path) -> None:
    names: dict[str, list[str]] = {"support": [""], "brand": [""], "legal": [""]}
    async with StandIn(vllm=Vllm()) as stays, StandIn(vllm=Vllm()) as goes:
        both = configuration(tmp_path, stays, goes, **names)
        async with serving(both, tmp_path) as served:
            await served.gateway.adapters_present()
            assert loaded(goes) != []
            await served.gateway.swap(configuration(tmp_path, stays, **names))
            assert loaded(stays) == sorted(names)


async def test_a_new_backend_has_its_adapters_before_it_serves(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm()) as vllm:
        new = configuration(tmp_path, vllm, **OLD)
        without = msgspec.structs.replace(new, targets={}, backends={}, routes={}, adapters=())
        async with serving(without, tmp_path) as served:
            assert await served.gateway.swap(new) == []
            assert loaded(vllm) == ["support"]
            assert await p_resident(Admin(served), "support") == {vllm.origin: 1.0}


async def test_a_slow_load_is_waited_for_no_longer_than_is_said(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm(load_s=1.0)) as vllm:
        async with serving(configuration(tmp_path, vllm, **OLD), tmp_path) as served:
            await served.gateway.adapters_present()
            began = time.perf_counter()
            warnings = await served.gateway.swap(configuration(tmp_path, vllm, **NEW), 0.2)
            took = time.perf_counter() - began
            assert warnings == [f"{BRAND} is loaded nowhere yet: it takes longer"]
            assert took < 0.9, "the load itself takes a second"
            assert (await served.chat(model=BRAND)).status_code == 200
    assert loaded(vllm) == ["brand", "support"], "the load that was begun was not begun again"


async def test_what_cannot_be_loaded_is_a_warning_with_its_reason(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm()) as vllm, StandIn(vllm=Vllm()) as dead:
        await dead.stop()
        old, new = (configuration(tmp_path, vllm, **names) for names in (OLD, NEW))
        async with serving(new, tmp_path) as served:
            await served.gateway.adapters_present()
        refusals = {path: (500, "no room") for name, path in engine(vllm).loads if "brand" in name}
        engine(vllm).restart()
        async with serving(old, tmp_path) as served:
            await served.gateway.adapters_present()
            engine(vllm).refuses |= refusals
            refused = await served.gateway.swap(new)
            lora.write(tmp_path / "sources" / "legal", said=lora.config(use_dora=True))
            wrong = await served.gateway.swap(_with_wrong(new))
            away = await served.gateway.swap(configuration(tmp_path, dead, **OLD))
            assert served.gateway.pipeline.plane.snapshot.backends["local"].replicas == (
                dead.origin,
            )
    assert refused == [f"{BRAND} is loaded nowhere yet: 500: no room"]
    assert len(wrong) == 1
    assert "local/qwen+legal is loaded nowhere yet" in wrong[0]
    assert "use_dora: true" in wrong[0]
    assert f"{SUPPORT} is loaded nowhere yet: no replica of local can be reached" in away


async def test_who_comes_waits_for_nobody_elses_files_and_no_files_are_fetched_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, go_on = sources.fetch, threading.Event()
    fetched: list[str] = []

    def slow_brand(source: str, **more: Any) -> Any:
        fetched.append(source)
        if source == "brand":
            go_on.wait(20)
        return fetch(source, **more)

    monkeypatch.setattr(sources, "fetch", slow_brand)
    async with StandIn(vllm=Vllm()) as old, StandIn(vllm=Vllm()) as new:
        async with serving(configuration(tmp_path, old, **OLD), tmp_path) as served:
            await served.gateway.adapters_present()
            late = await served.gateway.swap(configuration(tmp_path, old, **NEW), 0.1)
            assert late == [f"{BRAND} is loaded nowhere yet: its files are being fetched"]
            assert await served.gateway.swap(configuration(tmp_path, new, **NEW), 1.0) == late
            assert loaded(new) == ["support"], "it waited for no files"
            go_on.set()
            await served.gateway.adapters_present()
            assert (await served.chat(model=BRAND)).status_code == 200
    assert fetched.count("brand") == 1


async def test_of_more_adapters_than_there_is_room_for_none_is_said_to_be_late(
    tmp_path: Path,
) -> None:
    names: dict[str, list[str]] = {f"a{n}": [""] for n in range(6)}
    async with StandIn(vllm=Vllm(max_loras=2)) as vllm:
        roomy = configuration(tmp_path, vllm, **OLD)
        many = configuration(tmp_path, vllm, **OLD, **names)
        old, new = (
            msgspec.structs.replace(
                each,
                backends={"local": msgspec.structs.replace(each.backends["local"], slots=2)},
            )
            for each in (roomy, many)
        )
        async with serving(old, tmp_path) as served:
            await served.gateway.adapters_present()
            assert await served.gateway.swap(new) == []
            assert 0 < len([name for name in loaded(vllm) if name != "support"]) <= 2


async def test_what_several_lack_is_said_once(tmp_path: Path) -> None:
    names: dict[str, list[str]] = {f"a{n}": [""] for n in range(5)}
    async with StandIn(vllm=Vllm()) as vllm, StandIn(vllm=Vllm()) as dead:
        await dead.stop()
        async with serving(configuration(tmp_path, vllm, **names), tmp_path) as served:
            await served.gateway.adapters_present()
            said = await served.gateway.swap(configuration(tmp_path, dead, **names))
    (about,) = [each for each in said if "loaded nowhere" in each]
    assert about == (
        "local/qwen+a0, local/qwen+a1, local/qwen+a2 and 2 more are loaded nowhere yet: "
        "no replica of local can be reached"
    )


def _with_wrong(plain: Snapshot) -> Snapshot:
    """With an adapter besides, of the files in `sources/legal`."""
    brand = next(each for each in plain.adapters if each.name == "brand")
    version = msgspec.structs.replace(brand.versions[0], source="legal")
    legal = msgspec.structs.replace(brand, name="legal", versions=(version,))
    return msgspec.structs.replace(plain, adapters=(*plain.adapters, legal))


async def test_a_swap_that_is_given_up_leaves_the_adapters_as_they_were(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm(load_s=0.5)) as vllm:
        old, new = (configuration(tmp_path, vllm, **names) for names in (OLD, NEW))
        async with serving(old, tmp_path) as served:
            await served.gateway.adapters_present()
            admin = Admin(served)
            swap = asyncio.create_task(served.gateway.swap(new))
            async with asyncio.timeout(10):
                while await _names(served, admin) == ["support"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            swap.cancel()
            with pytest.raises(asyncio.CancelledError):
                await swap
            assert await _names(served, admin) == ["support"]
            assert (await served.chat()).status_code == 200


# ---------------------------------------------------------------- revisions


def files(url: str, *names: str) -> dict[str, str]:
    """A configuration with these adapters of one vLLM."""
    adapters = "".join(f"          {name}: {{source: {name}}}\n" for name in names)
    return {
        "gateway.yaml": "default_route: general\nbackends:\n  local:\n    kind: vllm\n"
        f"    replicas: [{url}]\n    replica_hour: 2 usd\n    adapter_store: sources\n"
        "    models:\n      qwen:\n        id: base\n"
        "        price: {input: 1 usd/Mtok, output: 1 usd/Mtok}\n"
        "        adapters:\n" + adapters,
        "routes/general.yaml": "name: general\nvalue: 0.01 usd\npolicy: balanced\nmatch: named\n"
        "candidates: [{target: local/qwen+support, quality: 0.9}]\n",
        "policies/balanced.yaml": "name: balanced\n",
    }


@asynccontextmanager
async def at_home(folder: Path) -> AsyncIterator[tuple[StandIn, Served]]:
    """A vLLM whose loads take a second, and the gateway of files with one adapter. It looks for
    other revisions when it is asked to."""
    lora.write(folder / "sources" / "support", lora.tensors(seed=1))
    lora.write(folder / "sources" / "brand", lora.tensors(seed=2))
    async with StandIn(vllm=Vllm(load_s=1.0)) as vllm:
        for name, text in files(vllm.origin, "support").items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        async with serving_home(folder, look_every_s=1000) as served:
            await served.gateway.adapters_present()
            yield vllm, served


async def test_what_is_applied_waits_for_its_adapters_and_what_is_gone_back_to_hardly(
    tmp_path: Path,
) -> None:
    async with at_home(tmp_path) as (vllm, served):
        running = served.gateway.running
        applied = await running.apply(files(vllm.origin, "support", "brand"), "ops")
        assert applied.warnings == ()
        assert loaded(vllm) == ["brand", "support"]
        await running.apply(files(vllm.origin, "support"), "ops")
        engine(vllm).adapters = {
            name: path for name, path in engine(vllm).adapters.items() if "brand" not in name
        }
        began = time.perf_counter()
        back = await running.roll_back(None, "ops")
        took = time.perf_counter() - began
        assert back.warnings == (f"{BRAND} is loaded nowhere yet: it takes longer",)
        assert took < 0.9, "the load alone takes a second"
        assert (await served.chat(model=BRAND)).status_code == 200


async def test_what_another_process_applied_waits_for_its_adapters_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_home(tmp_path) as (vllm, served):
        running = served.gateway.running
        for names in (("support", "brand"), ("support", "brand", "lost")):
            found = await running.check(files(vllm.origin, *names))
            running.book.save(found.snapshot.hash, dict(found.texts), "ops", time.time())
            await running.notice()
            assert loaded(vllm) == ["brand", "support"]
        assert running.seq == 3
    assert "local/qwen+lost is loaded nowhere yet" in caplog.text


async def _names(served: Served, admin: Admin) -> list[str]:
    answer = await served.client.get("/admin/adapters", headers=admin.headers)
    return [each["target"].partition("+")[2] for each in answer.json()["data"]]
