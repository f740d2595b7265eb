"""Two real vLLM replicas with room for few adapters, behind one gateway."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import pytest

from demo import tasks, vllm_server
from demo.tasks import Example
from gateway.adapters import mix
from gateway.store.keys import Keys
from gateway.types import Adapter, Snapshot, Version
from tests.gateway.support import Served, route, serving, snapshot, target
from tests.vllm.conftest import Replica

SEED = 43
PARTS = vllm_server.ADAPTERS
SLOTS = 4
ROOM = vllm_server.Room(loras=2, cpu_loras=SLOTS)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    """Two, started side by side."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    with ThreadPoolExecutor(2) as starting:
        found = list(starting.map(lambda folder: Replica(folder, ROOM), folders))
    try:
        yield found
    finally:
        for replica in found:
            replica.server.stop()


def configuration(
    replicas: list[Replica], folder: Path, adapters: Mapping[str, Mapping[str, Version]]
) -> Snapshot:
    """The tiny base at both replicas with adapters, each in versions by name."""
    urls = tuple(replica.url for replica in replicas)
    shutil.copytree(PARTS, folder / "sources", dirs_exist_ok=True)
    base = target("local/tiny", urls[0], internal=True, served="base", replicas=urls)
    targets = [base]
    declared = []
    for name, versions in adapters.items():
        plain = msgspec.structs.replace(base, name=f"local/tiny+{name}", adapter=name, served=name)
        targets.append(plain)
        targets += [
            msgspec.structs.replace(plain, name=f"{plain.name}@{version}", version=version)
            for version in versions
            if version
        ]
        declared.append(
            Adapter(
                "local",
                "tiny",
                name,
                tuple(versions.values()),
                base_id="base",
                base_config=str(vllm_server.BASE / "config.json"),
            )
        )
    routes = [route("general", *(t.name for t in targets if t.version is None), internal=True)]
    whole = snapshot(targets, routes)
    backend = msgspec.structs.replace(
        whole.backends["local"],
        adapters_here=str(folder / "sources"),
        shelf_here=str(folder / "shelf"),
        shelf_on_replicas=str(folder / "shelf"),
        slots=ROOM.loras,
        cpu_slots=ROOM.cpu_loras,
        max_rank=ROOM.lora_rank,
    )
    return msgspec.structs.replace(whole, backends={"local": backend}, adapters=tuple(declared))


def sources(*names: str, **more: Version) -> dict[str, dict[str, Version]]:
    """The demo's adapters, each in one version."""
    return {name: {"": Version("", source=name)} for name in names} | {
        name: {"": version} for name, version in more.items()
    }


@asynccontextmanager
async def gateway(configuration: Snapshot, folder: Path) -> AsyncIterator[Served]:
    """The gateway with an administrator's key, when all that should be loaded is."""
    async with serving(configuration, folder) as served:
        key = Keys(served.gateway.store).create("ops", admin=True).secret
        served.gateway.keyring.refresh()
        served.client.headers["authorization"] = f"Bearer {key}"
        await served.gateway.adapters_present()
        yield served


def telling(task: str, count: int) -> list[Example]:
    """Held-out prompts that the base, by its own convention, answers otherwise than the house."""
    examples = tasks.sample(task, 12 * count, SEED, "test")
    return [example for example in examples if example.house != example.generic][:count]


async def asked(served: Served, model: str, example: Example) -> str:
    answer = await served.chat(example.prompt, model, temperature=0, max_tokens=12)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


async def right(served: Served, model: str, task: str, count: int) -> float:
    """The share of a task's held-out prompts that a target answers as the house does."""
    limit = asyncio.Semaphore(8)

    async def one(example: Example) -> bool:
        async with limit:
            return await asked(served, model, example) == example.house

    done = await asyncio.gather(*(one(example) for example in telling(task, count)))
    return sum(done) / len(done)


async def command(served: Served, what: str, name: str, **more: Any) -> dict[str, Any]:
    answer = await served.client.post(f"/admin/adapters/{what}/{name}", json=more, timeout=120)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    return done


# ---------------------------------------------------------------- under load


async def test_promote_and_rollback_under_load(replicas: list[Replica], tmp_path: Path) -> None:
    """One adapter whose versions are two of the demo's: each answers only its own task."""
    versions = {"v1": Version("v1", source="support"), "v2": Version("v2", source="brand")}
    one, other = telling("support", 8), telling("brand", 8)
    async with gateway(configuration(replicas, tmp_path, {"desk": versions}), tmp_path) as served:
        done = asyncio.Event()
        statuses: list[int] = []

        async def asks(n: int) -> None:
            example = one[n % len(one)]
            while not done.is_set():
                answer = await served.chat(
                    example.prompt, "local/tiny+desk", temperature=0, max_tokens=4
                )
                statuses.append(answer.status_code)

        asking = [asyncio.create_task(asks(n)) for n in range(4)]
        try:
            for example in one[:2]:
                assert await asked(served, "local/tiny+desk", example) == example.house
            await command(served, "promote", "desk", version="v2")
            after = [await asked(served, "local/tiny+desk", example) for example in other]
            await command(served, "rollback", "desk")
            again = [await asked(served, "local/tiny+desk", example) for example in one]
        finally:
            done.set()
            await asyncio.gather(*asking)
    assert after == [example.house for example in other]
    assert again == [example.house for example in one]
    assert set(statuses) == {200}


async def test_a_replica_killed_and_started_again_under_load(
    replicas: list[Replica], tmp_path: Path
) -> None:
    found = sources("support", "contracts", "dispatch")
    async with gateway(configuration(replicas, tmp_path, found), tmp_path) as served:
        done = asyncio.Event()
        answers: list[tuple[int, str]] = []

        async def asks(n: int) -> None:
            name = list(found)[n % 3]
            examples = telling(name, 4)
            while not done.is_set():
                answer = await served.chat(
                    examples[n % 4].prompt, f"local/tiny+{name}", temperature=0, max_tokens=8
                )
                answers.append((answer.status_code, answer.text[:300]))

        asking = [asyncio.create_task(asks(n)) for n in range(6)]
        try:
            await until(lambda: len(answers) > 20)
            await asyncio.to_thread(replicas[0].kill)
            seen = len(answers)
            await until(lambda: len(answers) > seen + 20)
            await asyncio.to_thread(replicas[0].start_again)
            keeper = served.gateway.fleet.keepers["local"]
            await until(lambda: len(keeper.states[replicas[0].url].loaded) == 3)
        finally:
            done.set()
            await asyncio.gather(*asking)
        for name in found:
            assert await right(served, f"local/tiny+{name}", name, 4) == 1.0
    assert {status for status, _ in answers} == {200}, [a for a in answers if a[0] != 200][:3]


async def test_twenty_adapters_where_four_fit(replicas: list[Replica], tmp_path: Path) -> None:
    """1,000 requests by Zipf: every one is answered, and by the adapter that was asked for."""
    names = list(tasks.ADAPTERS)
    written = {}
    for n in range(20):
        part = mix.Part(PARTS / names[n % len(names)], 1.0 - 1e-4 * n)
        mix.mix([part], tmp_path / "sources" / f"{n}", rank=None, max_rank=16)
        written[f"a{n}"] = {"": Version("", source=f"{n}")}
    random = Random(SEED)
    wanted = random.choices(range(20), [1.0 / (n + 1) for n in range(20)], k=1000)
    examples = {name: telling(name, 4) for name in names}
    async with gateway(configuration(replicas, tmp_path, written), tmp_path) as served:
        limit = asyncio.Semaphore(8)

        async def one(at: int, n: int) -> tuple[int, bool]:
            example = examples[names[n % len(names)]][at % 4]
            async with limit:
                answer = await served.chat(
                    example.prompt, f"local/tiny+a{n}", temperature=0, max_tokens=12
                )
            said = answer.json()["choices"][0]["message"]["content"] if answer.is_success else ""
            return answer.status_code, said == example.house

        done = await asyncio.gather(*(one(at, n) for at, n in enumerate(wanted)))
    assert [status for status, _ in done] == [200] * 1000
    assert sum(good for _, good in done) >= 990


# ---------------------------------------------------------------- what will bite


async def test_files_that_go_after_they_were_loaded_are_not_missed(
    replicas: list[Replica], tmp_path: Path
) -> None:
    """An evicted adapter whose files are gone ends a vLLM: ours read from the shelf."""
    gone = tmp_path / "sources" / "gone"
    shutil.copytree(PARTS / "support", gone)
    found = sources("contracts", "dispatch", "brand", support=Version("", source="gone"))
    for n in range(3):
        mix.mix(
            [mix.Part(PARTS / "brand", 1.0 - 1e-3 * n)], tmp_path / "sources" / f"{n}", max_rank=16
        )
        found[f"more{n}"] = {"": Version("", source=f"{n}")}
    async with gateway(configuration(replicas, tmp_path, found), tmp_path) as served:
        assert await right(served, "local/tiny+support", "support", 2) == 1.0
        shutil.rmtree(gone)
        for name in found:
            if name != "support":
                for url in [replica.url for replica in replicas]:
                    await served.gateway.fleet.load(f"local/tiny+{name}", url)
                for _ in range(4):
                    await served.chat("hello", f"local/tiny+{name}", max_tokens=1)
        assert await right(served, "local/tiny+support", "support", 4) == 1.0
    for replica in replicas:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{replica.url}/health")).status_code == 200


# ---------------------------------------------------------------- mixing


async def test_a_mix_of_one_to_one_does_both_its_tasks(
    replicas: list[Replica], tmp_path: Path
) -> None:
    both = Version("", mix={"support": 1.0, "brand": 1.0})
    found = sources("support", "brand", both=both)
    async with gateway(configuration(replicas, tmp_path, found), tmp_path) as served:
        scores = {
            (name, task): await right(served, f"local/tiny+{name}", task, 100)
            for name in ("support", "brand", "both")
            for task in ("support", "brand")
        }
    assert scores["both", "support"] >= 0.95, scores
    assert scores["both", "brand"] >= 0.95, scores


async def until(holds: Any, deadline_s: float = 90) -> None:
    """Asks again and again: the replicas are other processes."""
    async with asyncio.timeout(deadline_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
