"""Times of a real vLLM, asked directly and through the gateway, in one run.

    python -m benchmarks.vllm_times [--rounds 40] [--write]

One CPU replica serves the demo's tiny base with room for 2 adapters in a batch and 4 in memory.
Measured are, as medians over rounds that take turns:

    the first token of an adapter that is in a slot, in memory alone, or evicted (read from disk)
    a load through the API, and how long it holds up a stream that runs meanwhile
    first token and whole answer against how many requests run at once
    the first token through the gateway and directly, warm, and cold: the adapter unknown to the
    replica, so that it has to be loaded first, by the gateway or by hand

and whether vLLM reads an adapter's files when `Residency` expects it to: each request of a seeded
sequence is compared with what the server's processes have read meanwhile. `--write` keeps all of
it in `vllm_times.json`, which the placement simulation takes its second world from. Absolute times
of so small a model on a shared CPU say little; differences and ratios are what to look at.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx

from demo import processes, vllm_server
from gateway.adapters import mix
from gateway.adapters.residency import Residency

RESULTS = Path(__file__).with_name("vllm_times.json")
ROOM = vllm_server.Room(loras=2, cpu_loras=4)
ADAPTERS = [f"a{n}" for n in range(8)]
PADDING = 300_000
"""Bytes of white space in each adapter's config: reading one can be seen in a process's account."""
AT_ONCE = (1, 2, 4, 8)
TOKENS = 32
PROMPT = "Where is my parcel?"

GATEWAY = """
default_route: general
backends:
  local:
    kind: vllm
    replicas: [{url}]
    replica_hour: 0.40 usd
    peak_tokens_per_second: 2000
    lora: {{slots: 2, cpu_slots: 4, max_rank: 16}}
    adapter_store: {adapters}
    models:
      tiny:
        id: base
        adapters:
{declared}
"""
GENERAL = """
name: general
value: 0.01 usd
candidates: [{target: local/tiny, quality: 0.9}]
policy: plain
"""


# ---------------------------------------------------------------- asking


class Server:
    """A base URL with what its calls need."""

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        # vLLM closes what was idle for five seconds; what it is closing must not be written to.
        kept = httpx.Limits(keepalive_expiry=3.0)
        self.client = httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=kept)

    async def post(self, path: str, body: dict[str, Any]) -> float:
        """Seconds that a call takes, which must succeed."""
        began = time.perf_counter()
        answer = await self.client.post(path, json=body)
        seconds = time.perf_counter() - began
        if not answer.is_success:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:300]}")
        return seconds

    async def stream(self, model: str, tokens: int = 1) -> list[float]:
        """When each piece of an answer came, in seconds from the request."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "skip_special_tokens": False,
            "temperature": 0,
            "stream": True,
        }
        came = []
        began = time.perf_counter()
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                raise RuntimeError(f"{model}: {(await answer.aread())[:300]!r}")
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and '"content"' in line and '"role"' not in line:
                    came.append(time.perf_counter() - began)
        return came

    async def first(self, model: str) -> float:
        """Seconds to the first token."""
        return (await self.stream(model))[0]


async def load(vllm: Server, folder: Path, name: str) -> float:
    return await vllm.post(
        "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder / name)}
    )


async def unload(vllm: Server, name: str) -> float:
    return await vllm.post("/v1/unload_lora_adapter", {"lora_name": name})


# ---------------------------------------------------------------- one server


async def residency(vllm: Server, rounds: int) -> dict[str, float]:
    """The first token of an adapter in a slot, in memory, and evicted. All are registered."""
    seen: dict[str, list[float]] = {"in_slot": [], "in_memory": [], "evicted": []}
    for _ in range(rounds):
        await vllm.first(ADAPTERS[0])
        seen["in_slot"].append(await vllm.first(ADAPTERS[0]))
        for name in ADAPTERS[1:3]:  # two others take the slots; memory holds all three
            await vllm.first(name)
        seen["in_memory"].append(await vllm.first(ADAPTERS[0]))
        for name in ADAPTERS[1:6]:  # five others: more than memory holds
            await vllm.first(name)
        seen["evicted"].append(await vllm.first(ADAPTERS[0]))
    return {f"first_token_{name}_s": statistics.median(each) for name, each in seen.items()}


async def loads(vllm: Server, folder: Path, rounds: int) -> dict[str, float]:
    """A load, and by how much longer the longest gap of a running stream is for it."""
    seconds: list[float] = []
    with_load: list[float] = []
    without: list[float] = []
    for n in range(rounds):
        stream = asyncio.create_task(vllm.stream(ADAPTERS[0], 200))
        await asyncio.sleep(0.15)
        if n % 2:
            await unload(vllm, ADAPTERS[7])
            seconds.append(await load(vllm, folder, ADAPTERS[7]))
        came = await stream
        gap = max(b - a for a, b in itertools.pairwise(came[5:]))
        (with_load if n % 2 else without).append(gap)
    return {
        "load_s": statistics.median(seconds),
        "longest_gap_with_a_load_s": statistics.median(with_load),
        "longest_gap_without_s": statistics.median(without),
    }


async def at_once(vllm: Server, rounds: int) -> list[dict[str, float]]:
    """First token and whole answer of TOKENS tokens, against how many run."""
    found = []
    for count in AT_ONCE:
        firsts, wholes = [], []
        for _ in range(max(3, rounds // 4)):
            done = await asyncio.gather(*(vllm.stream(ADAPTERS[0], TOKENS) for _ in range(count)))
            firsts += [came[0] for came in done]
            wholes += [came[-1] for came in done]
        found.append(
            {
                "requests": count,
                "first_token_s": statistics.median(firsts),
                "whole_s": statistics.median(wholes),
            }
        )
    return found


def bytes_read(group: int) -> int:
    """What a server's processes have read so far."""
    total = 0
    for pid in processes.members(group):
        fields = Path(f"/proc/{pid}/io").read_text().split()
        total += int(fields[fields.index("rchar:") + 1])
    return total


async def order_of_use(vllm: Server, group: int, requests: int) -> dict[str, float]:
    """How often vLLM reads an adapter's files exactly when our model of its memory says so."""
    random = Random(7)
    weights = [1.0 / (n + 1) for n in range(len(ADAPTERS))]
    held = Residency(ROOM.cpu_loras)
    for name in ADAPTERS:
        await vllm.first(name)
        held.used(name, 0.0)
    right = cold = 0
    for now, name in enumerate(random.choices(ADAPTERS, weights, k=requests), start=1):
        expected = held.p_resident(name, float(now)) < 0.5
        before = bytes_read(group)
        await vllm.first(name)
        was_cold = bytes_read(group) - before > PADDING / 2
        held.used(name, float(now))
        right += expected == was_cold
        cold += was_cold
    return {"requests": requests, "read_from_disk": cold, "as_expected": right}


# ---------------------------------------------------------------- beside the gateway


async def through_gateway(
    vllm: Server, gateway: Server, folder: Path, rounds: int
) -> dict[str, dict[str, float]]:
    """First tokens, directly and through the gateway, in turns."""
    listed = (await vllm.client.get("/v1/models")).json()["data"]
    shown = (await gateway.client.get("/admin/adapters")).json()["data"]
    serving = {each["target"].partition("+")[2]: each["serving"] for each in shown}
    warm = next(n for n in ADAPTERS if serving[n] in {model["id"] for model in listed})
    cold = ADAPTERS[-1]
    seen: dict[str, list[float]] = {
        each: [] for each in ("warm_direct", "warm_gateway", "cold_direct", "cold_gateway")
    }
    for _ in range(5):
        await vllm.first(serving[warm])
        await gateway.first(f"local/tiny+{warm}")
    for _ in range(rounds):
        for _ in range(5):
            seen["warm_direct"].append(await vllm.first(serving[warm]))
            seen["warm_gateway"].append(await gateway.first(f"local/tiny+{warm}"))
        seconds = await load(vllm, folder, cold)
        seen["cold_direct"].append(seconds + await vllm.first(cold))
        await unload(vllm, cold)
        await gateway.post(f"/admin/adapters/unload/{cold}", {})
        seen["cold_gateway"].append(await gateway.first(f"local/tiny+{cold}"))
    found = {}
    for kind in ("warm", "cold"):
        direct, ours = seen[f"{kind}_direct"], seen[f"{kind}_gateway"]
        found[kind] = {
            "direct_ms": 1e3 * statistics.median(direct),
            "gateway_ms": 1e3 * statistics.median(ours),
            "direct_p95_ms": 1e3 * _p95(direct),
            "gateway_p95_ms": 1e3 * _p95(ours),
            "rounds": len(ours),
        }
    return found


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def configuration(home: Path, url: str, adapters: Path) -> None:
    """A gateway's directory."""
    declared = "\n".join(f"          {name}: {{source: {name}}}" for name in ADAPTERS)
    files = {
        "gateway.yaml": GATEWAY.format(url=url, adapters=adapters, declared=declared),
        "routes/general.yaml": GENERAL,
        "policies/plain.yaml": "name: plain\n",
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)


class Gateway:
    """A gateway as a process of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._port = vllm_server.free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._store = f"sqlite:///{home}/switchboard.db"

    def __enter__(self) -> Server:
        switchboard = str(Path(sys.executable).with_name("switchboard"))
        words = ["keys", "create", "--name", "bench", "--admin", "--store", self._store]
        made = subprocess.run([switchboard, *words], check=True, capture_output=True, text=True)
        key = made.stdout.strip()
        headers = {"authorization": f"Bearer {key}"}
        serve = ["serve", "--config", str(self._home), "--listen", f"127.0.0.1:{self._port}"]
        with (self._home / "gateway.log").open("wb") as log:
            self._process = subprocess.Popen(
                [switchboard, *serve, "--store", self._store], stdout=log, stderr=log
            )
        url = f"http://127.0.0.1:{self._port}"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                ready = httpx.get(f"{url}/ready", headers=headers, timeout=2).json()
                if any(state["loaded"] for state in ready["replicas"].values()):
                    return Server(url, key)
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        self.__exit__()
        raise RuntimeError((self._home / "gateway.log").read_text()[-1500:])

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)


# ---------------------------------------------------------------- all of it


def written(folder: Path) -> None:
    """Adapters that differ a little, with configs that are long to read."""
    for n, name in enumerate(ADAPTERS):
        part = mix.Part(vllm_server.ADAPTERS / "support", 1.0 - 1e-3 * n)
        mix.mix([part], folder / name, max_rank=16)
        config = folder / name / "adapter_config.json"
        config.write_text(config.read_text() + " " * PADDING)


async def measured(rounds: int, say: Any) -> dict[str, Any]:
    """Every figure."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written(folder / "adapters")
        say("vLLM: starting")
        with vllm_server.start(
            vllm_server.free_port(), log_path=folder / "vllm.log", room=ROOM
        ) as server:
            vllm = Server(server.url)
            for name in ADAPTERS:
                await load(vllm, folder / "adapters", name)
                await vllm.first(name)
            found: dict[str, Any] = await residency(vllm, rounds)
            say(json.dumps(found))
            found |= await loads(vllm, folder / "adapters", rounds)
            say(json.dumps(found))
            found["at_once"] = await at_once(vllm, rounds)
            say(json.dumps(found["at_once"]))
            found["order_of_use"] = await order_of_use(vllm, server.process.pid, 10 * rounds)
            say(json.dumps(found["order_of_use"]))
            for name in ADAPTERS:
                await unload(vllm, name)
            configuration(folder / "home", server.url, folder / "adapters")
            with Gateway(folder / "home") as gateway:
                found["first_token"] = await through_gateway(
                    vllm, gateway, folder / "adapters", rounds
                )
            say(json.dumps(found["first_token"]))
    return found


def table(found: dict[str, Any]) -> str:
    """The first tokens through the gateway, as Markdown."""
    lines = [
        "| first token | directly | through the gateway | added | p95 directly | p95 gateway |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for kind, each in found["first_token"].items():
        added = each["gateway_ms"] - each["direct_ms"]
        p95 = f"{each['direct_p95_ms']:.1f} ms | {each['gateway_p95_ms']:.1f} ms"
        lines.append(
            f"| {kind} | {each['direct_ms']:.1f} ms | {each['gateway_ms']:.1f} ms "
            f"| {added:+.1f} ms | {p95} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    found = asyncio.run(measured(options.rounds, say))
    found["machine"] = f"{os.cpu_count()} cores, vLLM 0.32.0 on the CPU, one thread"
    print(table(found))
    if options.write:
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
