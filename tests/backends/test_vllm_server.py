"""vLLM servers run by us: their command lines, and that they are kept running."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.backends.vllm_command import command, environment, max_rank, unread, url
from gateway.backends.vllm_server import (
    GUARD,
    Log,
    Program,
    ServerFailed,
    VllmServer,
    backoff,
    check_ports,
    failures_after,
    how,
    installed,
)
from gateway.types.backends import Adapter, Backend, Serve, Version
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
        *("--enable-lora", "--max-lora-rank", "32", "--max-loras", "4", "--max-cpu-loras", "4"),
    ]
    both = [*found, adapter("both", Version("", mix={"a": 1.0, "b": 1.0}))]
    assert max_rank(backend(tmp_path), both) == 32
    assert max_rank(backend(tmp_path, max_rank=100), both) == 128


def test_a_rank_that_cannot_be_read_yet_is_told(tmp_path: Path) -> None:
    lora.write(tmp_path / "a", lora.tensors(rank=8), lora.config(rank=8))
    found = [
        adapter("a", Version("", source="a")),
        adapter("far", Version("", source="s3://bucket/far")),
        adapter("known", Version("", source="s3://bucket/known", rank=64)),
    ]
    assert unread(backend(tmp_path), found) == ["far"]
    assert unread(backend(tmp_path, max_rank=64), found) == []
    assert max_rank(backend(tmp_path), found) == 64


def test_what_is_declared_has_the_last_word(tmp_path: Path) -> None:
    serve = Serve(
        "qwen",
        "q",
        "w",
        "0.0.0.0",
        8001,
        gpus=(0, 1),
        quantization="awq",
        args={
            "max-model-len": "8192",
            "enable-prefix-caching": "true",
            "async-scheduling": "false",
        },
    )
    line = command([sys.executable, "-m", "vllm.api"], serve, backend(tmp_path), [])
    assert line[3:5] == ["--model", "w"]
    assert "--quantization awq --tensor-parallel-size 2" in " ".join(line)
    assert line[-4:] == [
        *("--max-model-len", "8192", "--enable-prefix-caching", "--no-async-scheduling"),
    ]
    assert environment(serve, backend(tmp_path), [], {})["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert url(serve) == "http://127.0.0.1:8001"


def test_the_key_goes_by_the_environment_and_never_by_the_command_line(tmp_path: Path) -> None:
    keyed = backend(tmp_path, api_key="sk-secret")
    own = {"PATH": "/bin", "OPENAI_API_KEY": "sk-other", "SWITCHBOARD_AGENT_KEY": "sk-agent"}
    assert environment(SERVE, keyed, [], own, ["sk-other"]) == {
        "PATH": "/bin",
        "VLLM_API_KEY": "sk-secret",
    }
    assert "sk-secret" not in " ".join(command(["vllm", "serve"], SERVE, keyed, []))


def test_loading_at_run_time_is_allowed_only_where_there_are_adapters(tmp_path: Path) -> None:
    found = [adapter("a", Version("", source="a"))]
    made = environment(SERVE, backend(tmp_path), found, {})
    assert made == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    assert environment(SERVE, backend(tmp_path), [], {}) == {}


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


def program(folder: Path, port: int, **more: Any) -> Program:
    return msgspec.structs.replace(
        Program(
            name=f"local:{port}",
            line=("vllm",),
            env={},
            url=f"http://127.0.0.1:{port}",
            served="base",
            log=folder / "logs" / "local.log",
        ),
        **more,
    )


@asynccontextmanager
async def running(
    folder: Path, told: Told, **env: str
) -> AsyncIterator[tuple[VllmServer, "asyncio.Task[None]"]]:
    port = free_port()
    serve = Serve("qwen", "base", "weights", "127.0.0.1", port)
    server = VllmServer(
        program(
            folder,
            port,
            line=tuple(command(FAKE, serve, backend(folder), [])),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **env},
        ),
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
            models = (await client.get(f"{server.program.url}/v1/models")).json()
        assert models["data"][0]["id"] == "base"
        pid = pid_of(told)
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    assert "--served-model-name base" in server.program.log.read_text()


async def test_one_that_is_killed_is_started_again(tmp_path: Path) -> None:
    told = Told()
    async with running(tmp_path, told) as (server, _):
        await asyncio.wait_for(server.healthy.wait(), 30)
        os.killpg(pid_of(told), signal.SIGKILL)
        await told.until("ended by SIGKILL, as when memory runs out; started again in 1 s")
        await told.until("serves http://", times=2)


async def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Only the server dies, as of an error: what it started would keep the GPU's memory."""
    told = Told()
    async with running(tmp_path, told, WITH_A_WORKER="1") as (server, _):
        await asyncio.wait_for(server.healthy.wait(), 30)
        log = server.program.log.read_text()
        main, worker = (int(re.findall(rf"{word} (\d+)", log)[-1]) for word in ("main", "worker"))
        os.kill(main, signal.SIGKILL)
        await told.until("started again in 1 s")
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


async def test_nothing_outlives_a_starter_that_is_killed(tmp_path: Path) -> None:
    """The guard sees the pipe close, whatever ended us."""
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, str(GUARD), *FAKE, "weights", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "WITH_A_WORKER": "1"},
    )
    assert starter.stdout is not None
    found: dict[str, int] = {}
    async with asyncio.timeout(30):
        while len(found) < 2:
            line = (await starter.stdout.readline()).decode()
            assert line
            found |= {word: int(pid) for word, pid in re.findall(r"(main|worker) (\d+)", line)}
        starter.kill()
        await starter.stdout.read()  # to its end: the last of them that could write is gone
        await starter.wait()
    for pid in found.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


STARTER = """
import subprocess, sys
process = subprocess.Popen(
    [sys.executable, "-I", "-S", sys.argv[1], "5", sys.executable, *sys.argv[3:]],
    stdin=subprocess.PIPE, start_new_session=True,
)
process.wait()
"""


async def test_one_that_never_comes_up_says_its_last_words(tmp_path: Path) -> None:
    told = Told()
    async with running(tmp_path, told, FAILS_AT_START="1") as (_, task):
        with pytest.raises(ServerFailed, match="OutOfMemoryError: not enough of it"):
            await asyncio.wait_for(asyncio.shield(task), 30)


async def test_a_command_that_is_not_there_is_told_with_the_mend(tmp_path: Path) -> None:
    server = VllmServer(
        program(tmp_path, 1, line=("/nowhere/vllm",)),
        Told(),
        clock=asyncio.get_running_loop().time,
    )
    with pytest.raises(ServerFailed, match="install vLLM, or name what runs it"):
        await server.run()


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerFailed, match="something listens"):
            check_ports([program(tmp_path, port)])
    free = free_port()
    check_ports([program(tmp_path, free)])
    with pytest.raises(ServerFailed, match="give one another `port`"):
        check_ports([program(tmp_path, free), program(tmp_path, free, name="b")])


# ---------------------------------------------------------------- decisions


def test_the_wait_doubles_until_it_has_served_for_a_while() -> None:
    waits, failures = [], 0
    for _ in range(8):
        failures = failures_after(failures, healthy_s=3.0)
        waits.append(backoff(failures))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff(failures_after(failures, healthy_s=61.0)) == 1


def test_an_exit_code_is_told_in_words() -> None:
    assert how(3) == "with exit code 3"
    assert how(128 + 11) == how(-11) == "by SIGSEGV"


def test_a_log_is_moved_aside_when_it_is_large(tmp_path: Path) -> None:
    log = Log(tmp_path / "logs" / "server.log", limit=100)
    for n in range(30):
        log.write(f"line {n}\n".encode())
    assert log.last == "line 29"
    assert sum(each.stat().st_size for each in log.path.parent.iterdir()) < 200
    assert "line 29" in log.end()


def test_a_vllm_whose_command_does_not_know_itself_is_run_by_its_module(tmp_path: Path) -> None:
    """As the CPU build: its distribution has another name."""
    for name, text in (("vllm", "#!/bin/sh\n"), ("python", "#!/bin/sh\nexit 1\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    python = str((tmp_path / "python").resolve())
    module = "vllm.entrypoints.openai.api_server"
    assert installed(str(tmp_path)) == (python, "-P", "-m", module)
    (tmp_path / "python").write_text("#!/bin/sh\nexit 0\n")
    assert installed(str(tmp_path)) == (str(tmp_path / "vllm"), "serve")
    with pytest.raises(ServerFailed, match="vLLM is not installed here"):
        installed(str(tmp_path / "nowhere"))
