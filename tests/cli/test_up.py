"""`switchboard up`, as it is typed."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx

from tests.backends.test_vllm_server import FAKE, free_port
from tests.cli.running import switchboard
from tests.config.trees import ENV, FILES, GATEWAY, write

SWITCHBOARD = str(Path(sys.executable).with_name("switchboard"))


def served(port: int) -> dict[str, str]:
    serve = f"    serve: [{{model: qwen, port: {port}}}]\n    models:\n      qwen"
    return {**FILES, "gateway.yaml": GATEWAY.replace("    models:\n      qwen", serve, 1)}


async def test_it_runs_what_is_declared_until_it_is_told_to_stop(tmp_path: Path) -> None:
    port = free_port()
    home = write(tmp_path / "home", served(port))
    process = await asyncio.create_subprocess_exec(
        *(SWITCHBOARD, "up", "--config", str(home), "--command", " ".join(FAKE)),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ENV, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(60):
        while f"serves http://127.0.0.1:{port}" not in said:
            line = (await process.stderr.readline()).decode()
            assert line, said
            said += line
        process.send_signal(signal.SIGTERM)
        said += (await process.stderr.read()).decode()
        assert await process.wait() == 0
    assert said.rstrip().endswith("stopped")
    log = home / ".switchboard" / "logs" / f"local-{port}.log"
    assert "--enable-lora --max-lora-rank 16 --max-loras 2 --max-cpu-loras 32" in log.read_text()


async def test_models_that_share_a_gpu_are_started_one_after_the_other(tmp_path: Path) -> None:
    """A start needs the memory: whoever was there before sleeps by then."""
    qwen, coder = free_port(), free_port()
    shared = f"""\
  local:
    kind: vllm
    turns: {{}}
    serve: [{{model: qwen, port: {qwen}}}, {{model: coder, port: {coder}}}]
    models:
      qwen: {{id: qwen, replicas: [http://127.0.0.1:{qwen}]}}
      coder: {{id: coder, replicas: [http://127.0.0.1:{coder}]}}
"""
    start, end = GATEWAY.index("  local:"), GATEWAY.index("  openai:")
    text = GATEWAY[:start] + shared + GATEWAY[end:]
    files = {**FILES, "gateway.yaml": text}
    del files["routes/contract-summary.yaml"]
    home = write(tmp_path / "home", files)
    process = await asyncio.create_subprocess_exec(
        *(SWITCHBOARD, "up", "--config", str(home), "--command", " ".join(FAKE)),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ENV, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(60), httpx.AsyncClient() as client:
        while said.count("serves http://127.0.0.1:") < 2:
            line = (await process.stderr.readline()).decode()
            assert line, said
            said += line
        asleep = [
            (await client.get(f"http://127.0.0.1:{port}/is_sleeping")).json()["is_sleeping"]
            for port in (qwen, coder)
        ]
        process.send_signal(signal.SIGTERM)
        await process.stderr.read()
        assert await process.wait() == 0
    assert sorted(asleep) == [False, True]
    assert said.index("serves") < said.rindex("started, process")


def test_with_nothing_declared_it_says_what_to_write(tmp_path: Path) -> None:
    ran = switchboard("up", home=write(tmp_path))
    assert ran.code == 1
    assert "write `serve: [{model: …, port: 8000}]`" in ran.said
