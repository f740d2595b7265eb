"""`switchboard up` with the real vLLM: LoRA switched on, ended with its workers, started again."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx

from demo import processes, vllm_server
from gateway.adapters import files, sizing
from tests.config.trees import write
from tests.vllm.support import ROUTE_FILES

SWITCHBOARD = str(Path(sys.executable).with_name("switchboard"))
STARTS_WITHIN_S = 240

GATEWAY = """
default_route: general
backends:
  local:
    kind: vllm
    replicas: [http://127.0.0.1:{port}]
    replica_hour: 0.40 usd
    peak_tokens_per_second: 2000
    adapter_store: {adapters}
    serve:
      - model: tiny
        port: {port}
        weights: {base}
        args: {{max-model-len: 512, max-num-seqs: 8, enforce-eager: true}}
    models:
      tiny:
        id: base
        adapters:
          support: {{source: support}}
          brand: {{source: brand}}
"""


async def test_a_real_vllm_is_run_with_room_for_the_declared_adapters(tmp_path: Path) -> None:
    port = vllm_server.free_port()
    home = write(
        tmp_path / "home",
        {
            "gateway.yaml": GATEWAY.format(
                port=port, adapters=vllm_server.ADAPTERS, base=vllm_server.BASE.resolve()
            ),
            **ROUTE_FILES,
        },
    )
    said: list[str] = []
    room = vllm_server.Room()
    up = await asyncio.create_subprocess_exec(
        *(SWITCHBOARD, "up", "--config", str(home)),
        *("--command", f"{vllm_server.PYTHON} -P -m vllm.entrypoints.openai.api_server"),
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | vllm_server.environment(room),
    )
    assert up.stderr is not None

    async def until(words: str) -> str:
        assert up.stderr is not None
        async with asyncio.timeout(STARTS_WITHIN_S):
            while True:
                line = (await up.stderr.readline()).decode()
                assert line, "".join(said)
                said.append(line)
                if words in line:
                    return line

    guards = []
    try:
        guards.append(int((await until("started, process")).split()[-1]))
        await until("starting for")
        await until(f"serves http://127.0.0.1:{port}")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for name in ("support", "brand"):
                path = str((vllm_server.ADAPTERS / name).resolve())
                body = {"lora_name": name, "lora_path": path}
                loaded = await client.post("/v1/load_lora_adapter", json=body)
                assert loaded.status_code == 200, loaded.text
        engine = _engine(guards[0])
        os.kill(engine, signal.SIGKILL)
        await until("started again in 1 s")
        assert not processes.members(guards[0])
        guards.append(int((await until("started, process")).split()[-1]))
        await until(f"serves http://127.0.0.1:{port}")
        up.send_signal(signal.SIGTERM)
        said.append((await up.stderr.read()).decode())
        assert await up.wait() == 0
        assert not any(processes.members(each) for each in guards)
    finally:
        if up.returncode is None:
            up.kill()
            await up.wait()
    log = (home / ".switchboard" / "logs" / f"local-{port}.log").read_text()
    _agrees_with_plan(log, room)


def _engine(group: int) -> int:
    """The engine's process, which the API's process started."""
    for each in processes.members(group):
        if b"EngineCore" in Path(f"/proc/{each}/cmdline").read_bytes():
            return each
    raise AssertionError("no engine runs")


def _agrees_with_plan(log: str, room: vllm_server.Room) -> None:
    """The tokens that vLLM says its KV cache holds are those of the plan's formula."""
    told = re.search(r"KV cache size: ([\d,]+) tokens", log)
    assert told is not None
    base = files.read_base(vllm_server.BASE)
    tokens = room.kv_cache_gib * 2**30 / sizing.kv_per_token(base, bytes_each=2)
    assert int(told[1].replace(",", "")) == tokens
