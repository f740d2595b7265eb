"""vLLM servers run by us: their command lines, and that they are kept running."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gateway.backends.vllm_server import (
    ServerFailed,
    VllmServer,
    check_ports,
    command,
    environment,
    max_rank,
)
from gateway.types import Adapter, Backend, Serve, Version
from tests.adapters import lora

FAKE = [sys.executable, str(Path(__file__).with_name("engine_process.py"))]
SERVE = Serve("qwen", "Qwen/Qwen3-8B", "/models/qwen", "127.0.0.1", 8000)


def adapter(name: str, *versions: Version) -> Adapter:
    return Adapter("local", "qwen", name, versions)


def backend(folder: Path, **more: object) -> Backend:
    return Backend("local", "vllm", (), adapters_here=str(folder), **more)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the command line


def test_a_server_without_adapters_has_no_lora(tmp_path: Path) -> None:
    assert command(["vllm", "serve"], SERVE, backend(tmp_path), []) == [
        *("vllm", "serve", "/models/qwen", "--host", "127.0.0.1", "--port", "8000"),
        *("--served-model-name", "Qwen/Qwen3-8B"),
    ]


def test_loras_flags_come_from_the_adapters(tmp_path: Path) -> None:
    lora.write(tmp_path / "a", lora.tensors(rank=24), lora.config(rank=24))
    lora.write(tmp_path / "b", lora.tensors(rank=8), lora.config(rank=8))
    found = [adapter("a", Version("", source="a")), adapter("b", Version("", source="b"))]
    line = command(["vllm", "serve"], SERVE, backend(tmp_path), found)
    assert line[line.index("--enable-lora") :] == [
        *("--enable-lora", "--max-lora-rank", "32", "--max-loras", "2", "--max-cpu-loras", "2"),
    ]
    both = [*found, adapter("both", Version("", mix={"a": 1.0, "b": 1.0}))]
    assert max_rank(backend(tmp_path), both) == 32
    assert max_rank(backend(tmp_path, max_rank=100), both) == 128


def test_what_is_declared_has_the_last_word(tmp_path: Path) -> None:
    serve = Serve(
        "qwen",
        "q",
        "w",
        "0.0.0.0",
        8001,
        gpus=(0, 1),
        quantization="awq",
        args={"max-model-len": "8192", "enable-prefix-caching": "true"},
    )
    line = command([sys.executable, "-m", "vllm.api"], serve, backend(tmp_path), [])
    assert line[3:5] == ["--model", "w"]
    assert "--quantization awq --tensor-parallel-size 2" in " ".join(line)
    assert line[-3:] == ["--max-model-len", "8192", "--enable-prefix-caching"]


def test_the_key_goes_by_the_environment_and_never_by_the_command_line(tmp_path: Path) -> None:
    keyed = backend(tmp_path, api_key="sk-secret")
    made = environment(SERVE, keyed, {"PATH": "/bin"})
    assert made["VLLM_API_KEY"] == "sk-secret"
    assert made["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "sk-secret" not in " ".join(command(["vllm", "serve"], SERVE, keyed, []))


# ---------------------------------------------------------------- kept running


class Told:
    """What was said, and a way to wait for it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, name: str, what: str) -> None:
        self.said.append(what)
        self._news.set()

    async def until(self, words: str, times: int = 1) -> None:
        async with asyncio.timeout(30):
            while sum(words in said for said in self.said) < times:
                self._news.clear()
                await self._news.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(
    folder: Path, told: Told, **env: str
) -> AsyncIterator[tuple[VllmServer, "asyncio.Task[None]"]]:
    port = free_port()
    serve = Serve("qwen", "base", "weights", "127.0.0.1", port)
    server = VllmServer(
        f"local:{port}",
        command(FAKE, serve, backend(folder), []),
        {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **env},
        f"http://127.0.0.1:{port}",
        folder / "logs" / "local.log",
        told,
        clock=asyncio.get_running_loop().time,
        sleep=lambda seconds: asyncio.sleep(min(seconds, 0.05)),
    )
    task = asyncio.create_task(server.run())
    try:
        yield server, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pid_of(told: Told) -> int:
    return int([said for said in told.said if said.startswith("started")][-1].split()[-1])


async def test_it_serves_and_is_ended_with_its_group(tmp_path: Path) -> None:
    told = Told()
    async with running(tmp_path, told) as (server, _):
        await asyncio.wait_for(server.healthy.wait(), 30)
        async with httpx.AsyncClient() as client:
            models = (await client.get(f"{server.url}/v1/models")).json()
        assert models["data"][0]["id"] == "base"
        pid = pid_of(told)
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    assert "--served-model-name base" in server.log.read_text()


async def test_one_that_is_killed_is_started_again(tmp_path: Path) -> None:
    told = Told()
    async with running(tmp_path, told) as (server, _):
        await asyncio.wait_for(server.healthy.wait(), 30)
        os.killpg(pid_of(told), signal.SIGKILL)
        await told.until("ended with -9; started again in 1 s")
        await told.until("serves http://", times=2)
    assert server.restarts == 1


async def test_one_that_never_comes_up_says_its_last_words(tmp_path: Path) -> None:
    told = Told()
    async with running(tmp_path, told, FAILS_AT_START="1") as (_, task):
        with pytest.raises(ServerFailed, match="OutOfMemoryError: not enough of it"):
            await asyncio.wait_for(asyncio.shield(task), 30)


async def test_a_command_that_is_not_there_is_told_with_the_mend(tmp_path: Path) -> None:
    server = VllmServer(
        "local:1",
        ["/nowhere/vllm"],
        {},
        "http://127.0.0.1:1",
        tmp_path / "log",
        Told(),
        clock=asyncio.get_running_loop().time,
    )
    with pytest.raises(ServerFailed, match="install vLLM, or name its command"):
        await server.run()


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    def at(port: int) -> VllmServer:
        url = f"http://127.0.0.1:{port}"
        return VllmServer(f"local:{port}", [], {}, url, tmp_path / "log", Told(), clock=float)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerFailed, match="something listens"):
            check_ports([at(port)])
    free = free_port()
    check_ports([at(free)])
    with pytest.raises(ServerFailed, match="give one another port"):
        check_ports(
            [at(free), VllmServer("b", [], {}, at(free).url, tmp_path, Told(), clock=float)]
        )
