"""Two real vLLM replicas with room for few adapters, behind one gateway."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import msgspec
import pytest

from demo import tasks
from gateway.adapters import mix
from gateway.standin.standin import StandIn
from gateway.types.backends import Version
from tests.gateway.support import serving
from tests.vllm.conftest import Replica
from tests.vllm.support import (
    PARTS,
    ROOM,
    SEED,
    asked,
    command,
    configuration,
    gateway,
    right,
    sources,
    telling,
    until,
)
from tests.vllm.test_gateway import configuration as own_configuration


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


def urls(replicas: list[Replica]) -> list[str]:
    return [replica.url for replica in replicas]


# ---------------------------------------------------------------- under load


async def test_promote_and_rollback_under_load(replicas: list[Replica], tmp_path: Path) -> None:
    """One adapter whose versions are two of the demo's: each answers only its own task."""
    versions = {"v1": Version("v1", source="support"), "v2": Version("v2", source="brand")}
    one, other = telling("support", 8), telling("brand", 8)
    async with gateway(
        configuration(urls(replicas), tmp_path, {"desk": versions}), tmp_path
    ) as served:
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


async def test_an_adapter_that_is_added_is_loaded_before_it_serves(
    replicas: list[Replica], tmp_path: Path
) -> None:
    before, after = (
        configuration(urls(replicas), tmp_path, sources(*names))
        for names in (("support",), ("support", "contracts"))
    )
    async with gateway(before, tmp_path) as served:
        assert await served.gateway.swap(after) == []
        served_as = served.gateway.pipeline.plane.snapshot.targets["local/tiny+contracts"].served
        holders = [
            url for url, name in served.gateway.fleet.keepers["local"].ready if name == served_as
        ]
        assert holders
        for url in holders:
            listed = (await served.client.get(f"{url}/v1/models")).json()["data"]
            assert served_as in [model["id"] for model in listed]
        assert await right(served, "local/tiny+contracts", "contracts", 4) == 1.0


async def test_a_replica_killed_and_started_again_under_load(
    replicas: list[Replica], tmp_path: Path
) -> None:
    found = sources("support", "contracts", "dispatch")
    async with gateway(configuration(urls(replicas), tmp_path, found), tmp_path) as served:
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

        asking = [asyncio.create_task(asks(n)) for n in range(3)]
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


async def test_a_mix_is_made_and_promoted_under_load(
    replicas: list[Replica], tmp_path: Path
) -> None:
    """From then on it does the tasks of both its parts, and no request fails meanwhile."""
    versions = {
        "v1": Version("v1", source="support"),
        "v2": Version("v2", mix={"support": 1.0, "brand": 1.0}),
    }
    found = sources("support", "brand", both=Version("")) | {"both": versions}
    async with gateway(configuration(urls(replicas), tmp_path, found), tmp_path) as served:
        done = asyncio.Event()
        statuses: list[int] = []
        examples = telling("support", 8)

        async def asks(n: int) -> None:
            while not done.is_set():
                answer = await served.chat(
                    examples[n].prompt, "local/tiny+both", temperature=0, max_tokens=4
                )
                statuses.append(answer.status_code)

        asking = [asyncio.create_task(asks(n)) for n in range(4)]
        try:
            await command(served, "promote", "both", version="v2")
            scores = [
                await right(served, "local/tiny+both", task, 40) for task in ("support", "brand")
            ]
        finally:
            done.set()
            await asyncio.gather(*asking)
    assert min(scores) >= 0.95, scores
    assert set(statuses) == {200}


async def test_auto_reaches_three_adapters_on_two_replicas(
    replicas: list[Replica], tmp_path: Path
) -> None:
    """By this tree's own routes: each prompt finds its adapter, wherever that is loaded."""
    async with StandIn() as provider:
        whole = own_configuration(replicas[0].url, provider.url)
        both = tuple(urls(replicas))
        backend = msgspec.structs.replace(
            whole.backends["local"],
            replicas=both,
            slots=ROOM.loras,
            cpu_slots=ROOM.cpu_loras,
            max_rank=ROOM.lora_rank,
        )
        targets = {
            name: msgspec.structs.replace(each, replicas=both) if each.internal else each
            for name, each in whole.targets.items()
        }
        spread = msgspec.structs.replace(
            whole, backends={**whole.backends, "local": backend}, targets=targets
        )
        async with serving(spread, tmp_path) as served:
            await served.gateway.adapters_present()
            limit = asyncio.Semaphore(8)

            async def one(task: str, prompt: str, house: str) -> tuple[str, str, str]:
                async with limit:
                    answer = await served.chat(prompt, temperature=0, max_tokens=12)
                assert answer.status_code == 200, answer.text
                row = await served.decision(answer)
                said = answer.json()["choices"][0]["message"]["content"]
                right = "right" if said == house else "wrong"
                return answer.headers["x-switchboard-target"], right, row["attempts"][0]["replica"]

            names = ("support", "contracts", "dispatch")
            asked = [(t, e.prompt, e.house) for t in names for e in telling(t, 20)]
            done = await asyncio.gather(*(one(*each) for each in asked))
    for name, found in zip(names, (done[:20], done[20:40], done[40:]), strict=True):
        reached = [right for target, right, _ in found if target == f"local/tiny+{name}"]
        assert len(reached) >= 19, found
        assert reached.count("right") >= 19, found
    assert {replica for _, _, replica in done} == set(both)


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
    async with gateway(configuration(urls(replicas), tmp_path, written), tmp_path) as served:
        limit = asyncio.Semaphore(8)

        async def one(at: int, n: int) -> tuple[str, bool]:
            """What went wrong, and whether the answer was right."""
            example = examples[names[n % len(names)]][at % 4]
            async with limit:
                answer = await served.chat(
                    example.prompt, f"local/tiny+a{n}", temperature=0, max_tokens=12
                )
            if not answer.is_success:
                return answer.text, False
            return "", answer.json()["choices"][0]["message"]["content"] == example.house

        done = await asyncio.gather(*(one(at, n) for at, n in enumerate(wanted)))
    assert [wrong for wrong, _ in done if wrong] == []
    assert sum(good for _, good in done) >= 990
