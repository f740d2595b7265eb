"""A gateway before real vLLM replicas with room for few adapters."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from demo import tasks, vllm_server
from demo.tasks import Example
from gateway.store.keys import Keys
from gateway.types.backends import Adapter, Version
from gateway.types.snapshot import Snapshot
from tests.cli.running import switchboard
from tests.gateway.support import Served, route, serving, snapshot, target
from tests.vllm.conftest import Replica

SEED = 43
ROUTE_FILES = {
    "routes/general.yaml": """
name: general
value: 0.01 usd
candidates: [{target: local/tiny, quality: 0.9}]
policy: plain
""",
    "policies/plain.yaml": "name: plain\n",
}
"""What a configuration needs besides its `gateway.yaml`, where requests name their targets."""

PARTS = vllm_server.ADAPTERS
SLOTS = 4
ROOM = vllm_server.Room(loras=2, cpu_loras=SLOTS)


def configuration(
    urls: Sequence[str], folder: Path, adapters: Mapping[str, Mapping[str, Version]]
) -> Snapshot:
    """The tiny base at both replicas with adapters, each in versions by name."""
    shutil.copytree(PARTS, folder / "sources", dirs_exist_ok=True)
    base = target("local/tiny", urls[0], internal=True, served="base", replicas=tuple(urls))
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
        key = Keys(served.gateway.store).create("ops", role="operate").secret
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


async def until(holds: Any, deadline_s: float = 90) -> None:
    """Asks again and again: the replicas are other processes."""
    async with asyncio.timeout(deadline_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def home_of(vllm: Replica, home: Path, *adapters: str, files: Mapping[str, str]) -> None:
    """A directory to be served: `local/tiny` at the replica with these of the trained adapters,
    and `files`; what `gateway.yaml` there says more stands behind that, its `backends` last."""
    shutil.copytree(PARTS, home / "adapters")
    named = ", ".join(f"{name}: {{source: {name}}}" for name in adapters)
    own, _, backends = files["gateway.yaml"].partition("backends:\n")
    gateway_file = f"""{own}store: sqlite:///switchboard.db
backends:
  local:
    kind: vllm
    replicas: [{vllm.url}]
    replica_hour: 0.40 usd
    peak_tokens_per_second: 2000
    adapter_store: {home}/adapters
    models:
      tiny: {{id: base, config: {vllm_server.BASE / "config.json"}, adapters: {{{named}}}}}
{backends}"""
    for name, text in {**files, "gateway.yaml": gateway_file}.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)


async def printed(served: Served, home: Path, *words: str, asks: bool = False) -> Any:
    """What a command prints as JSON; one that asks does so through the gateway."""
    at = ("--gateway", f"http://127.0.0.1:{served.port}") if asks else ()
    ran = await asyncio.to_thread(switchboard, *words, "--json", *at, home=home)
    assert ran.code == 0, ran.err
    return json.loads(ran.out)
