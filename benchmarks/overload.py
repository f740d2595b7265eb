"""Goodput and latency as more comes than a backend can take: at half of it, and up to ten times.

A backend that makes so many answers at once, each in a fixed time, in a process of its own; the
gateway in another; and this one, which asks in an open loop: requests come when they come, whether
or not those before them were answered, and each one's time counts from when it was due.

    python -m benchmarks.overload [--slots 20] [--service 0.05] [--declared] [--json]
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from benchmarks.load import request

LEVELS = (0.5, 1.0, 2.0, 5.0, 10.0)

GATEWAY = """
server: {{listen: 127.0.0.1:8080}}
default_route: general
backends:
  one:
    {server}
    {admission}
    models: {{model: {{id: model, price: {{input: 1 usd/Mtok, output: 2 usd/Mtok}}}}}}
"""
ROUTE = """
name: general
value: 0.02 usd
candidates: [{target: one/model, quality: 0.9}]
policy: plain
"""
POLICY = "name: plain\n"
RUN = "from gateway.cli import main; main()"


class Level(msgspec.Struct, frozen=True):
    """What came of one load: `times` the backend's capacity, rates a second, times in seconds."""

    times: float
    offered: float
    goodput: float
    p50_s: float
    p99_s: float
    refused: dict[str, int]
    refused_p99_s: float


@asynccontextmanager
async def process(*command: str, until: str, errors: bool = False) -> AsyncIterator[str]:
    """A process, and the first line that it says with `until` in it."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdout=subprocess.DEVNULL if errors else subprocess.PIPE,
        stderr=subprocess.PIPE if errors else subprocess.DEVNULL,
    )
    said = running.stderr if errors else running.stdout
    assert said is not None
    try:
        async with asyncio.timeout(60):
            while until not in (line := (await said.readline()).decode()):
                if not line:
                    raise RuntimeError(f"{command[1]} ended before it was ready")
        reading = asyncio.create_task(said.read())  # it must not wait for its log to be read
        yield line.strip()
    finally:
        with suppress(ProcessLookupError):
            running.terminate()
        await running.wait()
        await asyncio.gather(reading, return_exceptions=True)


@asynccontextmanager
async def system(
    slots: int, service_s: float, admission: str = "", *, vllm: bool = False
) -> AsyncIterator[int]:
    """The backend, a vLLM that tells what it has to do or one that says nothing, and the gateway in
    front of it; the gateway's port."""
    backend = (
        "-m",
        "gateway.standin",
        "--slots",
        str(slots),
        "--first-token",
        str(service_s),
        "--lenient",
        *(("--vllm", "model") if vllm else ()),
    )
    async with process(*backend, until="http") as url:
        with tempfile.TemporaryDirectory() as home:
            for folder in ("routes", "policies"):
                (Path(home) / folder).mkdir()
            server = (
                f"kind: vllm\n    replicas: [{url}]" if vllm else f"kind: openai\n    url: {url}"
            )
            bound = admission and f"admission: {admission}"
            text = GATEWAY.format(server=server, admission=bound)
            (Path(home) / "gateway.yaml").write_text(text)
            (Path(home) / "routes/general.yaml").write_text(ROUTE)
            (Path(home) / "policies/plain.yaml").write_text(POLICY)
            serve = ("-c", RUN, "serve", "--config", home, "--listen", "127.0.0.1:0")
            store = ("--store", f"sqlite:///{home}/log.db")
            async with process(*serve, *store, until="Switchboard serves", errors=True) as said:
                yield int(said.split(" (")[0].rpartition(":")[2])


class Load:
    """Requests sent to one port; connections are kept, and there are as many as are needed."""

    def __init__(self, port: int, seed: int = 1) -> None:
        self._port = port
        self._draw = random.Random(seed)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._raw = request("auto", "hello", "", stream=False)
        self._seen: list[tuple[int, str, float]] = []

    async def level(self, times: float, capacity: float, seconds: float) -> Level:
        """Offers `times` the capacity for so long, and waits for what is still under way."""
        loop = asyncio.get_running_loop()
        self._seen = []
        began = due = loop.time()
        tasks: set[asyncio.Task[None]] = set()
        while (due := due + self._draw.expovariate(times * capacity)) < began + seconds:
            if (wait_s := due - loop.time()) > 0.0:
                await asyncio.sleep(wait_s)
            task = asyncio.create_task(self._one(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.wait_for(asyncio.gather(*list(tasks), return_exceptions=True), 60)
        served = sorted(seconds for status, _, seconds in self._seen if status == 200)
        refused = sorted(seconds for status, _, seconds in self._seen if status != 200)
        codes = Counter(f"{status} {code}" for status, code, _ in self._seen if status != 200)
        return Level(
            times=times,
            offered=len(self._seen) / seconds,
            goodput=len(served) / seconds,
            p50_s=_quantile(served, 0.5),
            p99_s=_quantile(served, 0.99),
            refused=dict(codes),
            refused_p99_s=_quantile(refused, 0.99),
        )

    def close(self) -> None:
        """Closes what is kept."""
        for _, writer in self._idle:
            writer.close()

    async def _one(self, due: float) -> None:
        status, code = await self._asked()
        self._seen.append((status, code, asyncio.get_running_loop().time() - due))

    async def _asked(self) -> tuple[int, str]:
        try:
            reader, writer = self._idle.pop() if self._idle else await self._connected()
            writer.write(self._raw)
            head = await reader.readuntil(b"\r\n\r\n")
            fields = head.lower()
            length = int(fields.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            return 0, type(error).__name__
        if b"connection: close" in fields:
            writer.close()
        else:
            self._idle.append((reader, writer))
        status = int(head[9:12])
        return status, "" if status == 200 else str(json.loads(body)["error"]["code"])

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


async def measured(
    slots: int,
    service_s: float,
    admission: str,
    levels: Sequence[float],
    seconds: float,
    *,
    vllm: bool = False,
) -> list[Level]:
    """Each level for so many seconds, one after the other, at one gateway."""
    capacity = slots / service_s
    async with system(slots, service_s, admission, vllm=vllm) as port:
        load = Load(port)
        try:
            await load.level(0.25, capacity, 1.0)  # connections, and what it does at first
            return [await load.level(times, capacity, seconds) for times in levels]
        finally:
            load.close()


def main() -> None:
    """The command."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("--slots", type=int, default=20, help="answers made at once")
    command.add_argument("--service", type=float, default=0.05, help="seconds that each takes")
    command.add_argument("--seconds", type=float, default=5.0, help="how long each level lasts")
    command.add_argument("--admission", default="{concurrent: 20}", help="as in gateway.yaml")
    command.add_argument("--vllm", action="store_true", help="it tells what it has to do")
    command.add_argument("--json", action="store_true", help="the figures as JSON")
    told = command.parse_args()
    seconds = min(told.seconds, 30.0)
    levels = asyncio.run(
        measured(told.slots, told.service, told.admission, LEVELS, seconds, vllm=told.vllm)
    )
    if told.json:
        print(msgspec.json.encode(levels).decode())
        return
    print("load    offered/s  goodput/s    p50     p99   refused (p99)")
    for level in levels:
        refused = ", ".join(f"{code}: {count}" for code, count in level.refused.items())
        print(
            f"{level.times:4g} x {level.offered:10.0f} {level.goodput:10.0f}"
            f" {level.p50_s * 1e3:6.0f} ms {level.p99_s * 1e3:5.0f} ms"
            f"   {refused or 'none'} ({level.refused_p99_s * 1e3:.0f} ms)"
        )


if __name__ == "__main__":
    main()
