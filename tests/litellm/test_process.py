"""litellm's process as the gateway keeps it: started, watched, restarted, ended, told little.

Most of these run a small program in the place of Python with litellm: what is watched is a process
whatever runs in it. Two run the real one.
"""

import asyncio
import itertools
import json
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.backends.litellm_process import (
    MAX_LINE,
    SERVER,
    LitellmProcess,
    LitellmUnavailable,
    backoff,
    configuration,
    redact,
    scrubbed,
    secrets_of,
    served_by,
)
from gateway.types.backends import Backend, Capabilities, Price, Shaping, Target
from gateway.types.snapshot import Server, Snapshot
from tests.litellm import wire
from tests.litellm.conftest import KEYS, PYTHON, backends
from tests.litellm.provider import provider

KEY = "sk-secret-of-a-provider"


def declared(name: str, **fields: Any) -> Backend:
    return Backend(name=name, kind="litellm", replicas=(), provider="anthropic", **fields)


ONE = [declared("claude", api_key=KEY, models={"small": "c"})]


class Log(list[str]):
    """Lines as they are logged, to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.append(line)
        self._more.set()

    async def until(self, text: str) -> str:
        """The first line that contains `text`."""
        async with asyncio.timeout(60):
            while True:
                for line in self:
                    if text in line:
                        return line
                self._more.clear()
                await self._more.wait()


class Pauses(list[float]):
    """Records the pauses that are asked for; the last of `count` never ends."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        self.all = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        if len(self) == self._count:
            self.all.set()
            await asyncio.Event().wait()


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Makes an executable of Python's lines, to stand where Python with litellm would."""

    def make(lines: str) -> str:
        path = tmp_path / "program"
        path.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{lines}\n")
        path.chmod(0o700)
        return str(path)

    return make


@asynccontextmanager
async def running(
    python: str,
    log: Log,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    stable: float = 60.0,
    grace: float = 30.0,
) -> AsyncIterator[LitellmProcess]:
    process = LitellmProcess(
        ONE,
        python=python,
        log=log,
        clock=clock,
        sleep=sleep,
        environment={"PATH": os.environ["PATH"], "OTHERS_API_KEY": "sk-others"},
        stable=stable,
        grace=grace,
    )
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


def from_here(path: str) -> str:
    return os.path.relpath(path)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not just its exit code waiting to be read."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


SERVES = "config = sys.stdin.readline(); print('ready', flush=True); sys.stdin.read()"

# ---------------------------------------------------------------- what it is told


async def test_it_is_configured_through_a_pipe_alone(program: Callable[[str], str]) -> None:
    lines = "open('told', 'w').write('\\0'.join([config := sys.stdin.readline(), *sys.argv]))\n"
    lines += "print('ready', flush=True); sys.stdin.read()"
    async with running(program(lines), Log()) as process:
        async with asyncio.timeout(30):
            await process.ready.wait()
        home = Path(process.socket_path).parent
        config, *arguments = (home / "told").read_text().split("\0")
        seen = told_at_start(process.pid)
    told = json.loads(config)
    assert told["socket"] == str(home / "openai.sock")
    assert told["backends"] == [
        {
            "backend": "claude",
            "provider": "anthropic",
            "models": {"small": "c"},
            "api_key": KEY,
            "api_base": None,
            "headers": {},
            "arguments": {},
            "parameters": [],
        }
    ]
    assert arguments[1:] == ["-I", "-u", str(SERVER)]
    assert KEY not in seen
    assert "sk-others" not in seen


def told_at_start(pid: int | None) -> str:
    """A process's environment and arguments, which others on the machine can read."""
    place = Path(f"/proc/{pid}")
    return (place / "environ").read_text() + (place / "cmdline").read_text()


def test_its_environment_holds_the_way_out_and_an_empty_home() -> None:
    full = {"PATH": "/bin", "HTTPS_PROXY": "p", "OPENAI_API_KEY": "k", "HOME": "/root", "X": "y"}
    assert scrubbed(full, "/h") == {
        "PATH": "/bin",
        "HTTPS_PROXY": "p",
        "HOME": "/h",
        "TMPDIR": "/h",
    }


async def test_its_directory_is_private_and_goes_with_it(program: Callable[[str], str]) -> None:
    async with running(program(SERVES), Log()) as process:
        home = Path(process.socket_path).parent
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert not home.exists()
    with pytest.raises(LitellmUnavailable):
        _ = process.socket_path


async def test_python_may_be_named_from_here(program: Callable[[str], str]) -> None:
    async with running(from_here(program(SERVES)), Log()) as process:
        async with asyncio.timeout(30):
            await process.ready.wait()


# ---------------------------------------------------------------- what it says


async def test_its_lines_are_logged_without_keys(program: Callable[[str], str]) -> None:
    lines = f"sys.stdin.readline(); print('sent {KEY} away', file=sys.stderr)\n"
    lines += f"print('{KEY}' * {MAX_LINE // 10}, file=sys.stderr)\n"
    lines += "print('unready', flush=True); print('after', file=sys.stderr); sys.stdin.read()"
    log = Log()
    async with running(program(lines), log) as process:
        await log.until("after")
        assert not process.ready.is_set()
    assert log[0] == "litellm: sent [key] away"
    assert log[1] == "litellm: (a line too long to log)"
    assert KEY not in "".join(log)


def test_a_key_within_a_longer_key_does_not_save_the_rest() -> None:
    both = [
        declared("a", api_key="secret-key"),
        declared("b", arguments={"t": "secret-key-longer", "n": 1}, headers={"h": "of-a-header"}),
    ]
    assert redact("x secret-key-longer secret-key of-a-header", secrets_of(both)) == (
        "x [key] [key] [key]"
    )


# ---------------------------------------------------------------- its ends


async def test_it_is_started_again_ever_more_slowly(program: Callable[[str], str]) -> None:
    log, pauses = Log(), Pauses(3)
    async with running(program("sys.exit(3)"), log, sleep=pauses) as process:
        async with asyncio.timeout(30):
            await pauses.all.wait()
        assert process.failures == 3
        assert process.pid is None
    assert pauses == [0.25, 0.5, 1.0]
    assert log[0] == "litellm: ended with code 3; started again in 0.25 s"


async def test_an_end_after_long_service_is_the_first_again(program: Callable[[str], str]) -> None:
    ticks = itertools.count(step=100)
    pauses = Pauses(3)
    async with running(
        program("sys.exit(3)"), Log(), sleep=pauses, clock=lambda: float(next(ticks))
    ):
        async with asyncio.timeout(30):
            await pauses.all.wait()
    assert pauses == [0.25, 0.25, 0.25]


def test_pauses_double_up_to_half_a_minute() -> None:
    assert [backoff(n) for n in (1, 2, 3, 8, 9, 5000)] == [0.25, 0.5, 1.0, 30.0, 30.0, 30.0]


async def test_ready_is_over_when_it_dies(program: Callable[[str], str]) -> None:
    pauses = Pauses(1)
    async with running(program(SERVES), Log(), sleep=pauses) as process:
        async with asyncio.timeout(30):
            await process.ready.wait()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            await pauses.all.wait()
        assert not process.ready.is_set()


async def test_one_that_will_not_end_is_killed(program: Callable[[str], str]) -> None:
    lines = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\n"
    log = Log()
    async with running(program(lines + "time.sleep(1000)"), log, grace=0.05) as process:
        async with asyncio.timeout(30):
            await process.ready.wait()
        pid = process.pid
    assert pid is not None
    assert not is_running(pid)
    assert log[-1] == "litellm: did not end within 0.05 s, and is killed"


async def test_what_it_started_ends_with_it(program: Callable[[str], str]) -> None:
    lines = "import subprocess\nchild = subprocess.Popen(['sleep', '1000'])\n"
    lines += "print(f'child {child.pid} ', file=sys.stderr, flush=True); sys.stdin.read()"
    log = Log()
    async with running(program(lines), log):
        child = int((await log.until("child ")).split()[2])
        assert is_running(child)
    assert not is_running(child)


async def test_a_python_that_is_not_there_is_named() -> None:
    process = LitellmProcess(ONE, python="/nowhere/python", log=Log(), clock=time.monotonic)
    with pytest.raises(LitellmUnavailable, match=r"/nowhere/python.*scripts/litellm_env\.py"):
        await process.start()
    await process.stop()


async def test_a_python_without_litellm_says_so() -> None:
    log = Log()
    async with running(sys.executable, log, sleep=Pauses(1)):
        line = await log.until("litellm_env.py")
    assert "No module named 'litellm'" in line


# ---------------------------------------------------------------- the real one


async def test_killed_it_is_started_again_and_serves() -> None:
    log = Log()
    async with provider() as upstream:
        upstream.plays(wire.message([wire.text("hello")]))
        process = LitellmProcess(
            backends(upstream.url),
            python=str(PYTHON),
            log=log,
            clock=time.monotonic,
            environment=os.environ | {"OTHERS_API_KEY": "sk-others-secret"},
        )
        await process.start()
        try:
            assert await ask(process) == "hello"
            first = process.pid
            assert first is not None
            seen = told_at_start(first)
            assert not [key for key in [*KEYS.values(), "sk-others"] if key in seen]
            os.kill(first, signal.SIGKILL)
            await log.until("ended with SIGKILL")
            assert await ask(process) == "hello"
            assert process.pid != first
        finally:
            await process.stop()


async def ask(process: LitellmProcess) -> str:
    """One chat, once the process is ready."""
    async with asyncio.timeout(120):
        await process.ready.wait()
    transport = httpx.AsyncHTTPTransport(uds=process.socket_path)
    body = {"model": "claude/small", "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        answer = await client.post("http://litellm/v1/chat/completions", json=body)
    content = answer.json()["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


async def test_it_ends_when_the_gateway_is_gone(tmp_path: Path) -> None:
    """A gateway that is killed says nothing, but its end of the pipe closes all the same."""
    process = await asyncio.create_subprocess_exec(
        *(str(PYTHON), "-I", "-u", str(SERVER)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(configuration([], str(tmp_path / "s")))
    async with asyncio.timeout(120):
        assert await process.stdout.readline() == b"ready\n"
        process.stdin.close()
        assert await process.wait() == 0


# ---------------------------------------------------------------- its place in a snapshot

FREE = Price()
MAP = {"claude/small": (Price(1e-6, 1e-7, 5e-6), Capabilities(context=200_000, vision=True))}


def snapshot(**fields: Any) -> Snapshot:
    small = Target(
        name="claude/small",
        backend="claude",
        model="small",
        adapter=None,
        served="claude/small",
        internal=False,
        price=FREE,
        capabilities=Capabilities(),
        shaping=Shaping(),
        replicas=(),
        priced=False,
    )
    other = Backend(name="local", kind="vllm", replicas=("http://gpu:8000",), api_key="kept")
    return Snapshot(
        hash="h",
        server=Server(),
        default_route="general",
        aliases={},
        routes={},
        policies={},
        targets={
            "claude/small": msgspec.structs.replace(small, **fields),
            "local/q": msgspec.structs.replace(small, name="local/q", backend="local", priced=True),
        },
        backends={"claude": ONE[0], "local": other},
    )


def test_the_process_is_its_backends_only_replica_and_keeps_their_keys() -> None:
    before = snapshot()
    after = served_by(before, "unix:///s", {})
    assert after.backends["claude"].replicas == ("unix:///s",)
    assert after.backends["claude"].api_key is None
    assert after.targets["claude/small"].replicas == ("unix:///s",)
    assert not after.targets["claude/small"].priced
    assert after.backends["local"] is before.backends["local"]
    assert after.targets["local/q"] is before.targets["local/q"]
    assert after.hash == before.hash


def test_a_price_that_nobody_declared_comes_from_the_map() -> None:
    target = served_by(snapshot(), "unix:///s", MAP).targets["claude/small"]
    assert (target.price, target.priced) == (MAP["claude/small"][0], True)
    assert target.capabilities == Capabilities(context=200_000)


def test_what_is_declared_stays() -> None:
    own = {"price": Price(1.0, 1.0, 1.0), "priced": True, "capabilities": Capabilities(context=9)}
    target = served_by(snapshot(**own), "unix:///s", MAP).targets["claude/small"]
    assert (target.price, target.capabilities.context) == (Price(1.0, 1.0, 1.0), 9)
