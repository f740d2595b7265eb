"""Runs the vLLM servers that a configuration declares: started, watched, started again, stopped.

For machines of one's own. Under Kubernetes or Ray those run them, and the gateway finds them.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import httpx

from gateway.adapters import files
from gateway.adapters.check import RANKS
from gateway.errors import SwitchboardError
from gateway.types import Adapter, Backend, Serve

HEALTHY_WITHIN_S = 900.0
"""How long a start may take: large weights come over a network."""
LOOK_EVERY_S = 1.0
SILENT_S = 60.0
"""How long a healthy server may fail to answer /health before it is started again."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
STEADY_S = 60.0
"""A server that was healthy for so long is started again at once."""
TERM_S = 20.0
LOG_BYTES = 50_000_000
"""A log that has grown past this is moved aside at the next start; one is kept."""
TOLD_LINES = 12
PR_SET_PDEATHSIG = 1


class ServerFailed(SwitchboardError):
    """A server did not come up; the text has the end of its log."""


# ---------------------------------------------------------------- the command line


def command(
    program: Sequence[str], serve: Serve, backend: Backend, adapters: Sequence[Adapter]
) -> list[str]:
    """The command line of one server. Options of `args` come last, so that they have the last word.

    The API key goes by the environment: everybody on the machine can read command lines.
    """
    words = [*program, "--model" if "-m" in program else "", serve.weights]
    line = [word for word in words if word]
    line += ["--host", serve.host, "--port", str(serve.port), "--served-model-name", serve.id]
    if serve.quantization is not None:
        line += ["--quantization", serve.quantization]
    if len(serve.gpus) > 1:
        line += ["--tensor-parallel-size", str(len(serve.gpus))]
    mine = [a for a in adapters if (a.backend, a.model) == (backend.name, serve.model)]
    if mine:
        line += ["--enable-lora", "--max-lora-rank", str(max_rank(backend, mine))]
        line += ["--max-loras", str(backend.slots or min(len(mine), 8))]
        line += ["--max-cpu-loras", str(backend.cpu_slots or max(len(mine), backend.slots or 0))]
    for name, value in serve.args.items():
        line += [f"--{name}"] if value == "true" else [f"--{name}", value]
    return line


def environment(serve: Serve, backend: Backend, own: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: this process's, and what vLLM needs besides."""
    made = dict(own)
    made["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if serve.gpus:
        made["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in serve.gpus)
    if backend.api_key is not None:
        made["VLLM_API_KEY"] = backend.api_key
    return made | dict(serve.env)


def max_rank(backend: Backend, adapters: Sequence[Adapter]) -> int:
    """The rank to start with: as declared, or the first that vLLM takes of the largest found."""
    if backend.max_rank is not None:
        return next((rank for rank in RANKS if rank >= backend.max_rank), RANKS[-1])
    known: dict[str, int] = {}
    largest = 16
    for adapter in adapters:
        for version in adapter.versions:
            rank = version.rank or 0
            if version.source is not None and "://" not in version.source:
                rank = _rank_of(Path(backend.adapters_here) / version.source)
            elif version.mix and version.rank is None:
                rank = sum(known.get(part.partition("@")[0], 0) for part in version.mix)
            known[adapter.name] = max(known.get(adapter.name, 0), rank)
            largest = max(largest, rank)
    return next((rank for rank in RANKS if rank >= largest), RANKS[-1])


def _rank_of(directory: Path) -> int:
    try:
        return files.read(directory).rank
    except (files.AdapterError, OSError):
        return 0  # the gateway will say what is wrong with it


# ---------------------------------------------------------------- one server


Tell = Callable[[str, str], None]
"""A server's name, and what happens to it."""


class VllmServer:
    """One server's process, kept running."""

    def __init__(
        self,
        name: str,
        line: Sequence[str],
        env: Mapping[str, str],
        url: str,
        log: Path,
        tell: Tell,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.url = url
        self.log = log
        self.restarts = 0
        self.healthy = asyncio.Event()
        self._line = list(line)
        self._env = dict(env)
        self._tell = tell
        self._clock = clock
        self._sleep = sleep
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Keeps it running until cancelled. Raises ServerFailed where it never came up."""
        wait, ever = FIRST_WAIT_S, False
        try:
            while True:
                await self._start()
                came = await self._came_up()
                if not came and not ever:
                    raise ServerFailed(f"{self.name} ended at its start; {self._last_words()}")
                ever = ever or came
                began = self._clock()
                why = await self._watched() if came else "it did not come up"
                self.healthy.clear()
                await self._end()
                self.restarts += 1
                wait = FIRST_WAIT_S if self._clock() - began > STEADY_S else wait
                self._tell(self.name, f"{why}; started again in {wait:.0f} s (see {self.log})")
                await self._sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)
        finally:
            self.healthy.clear()
            await asyncio.shield(self._end())

    async def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.before"))
        with self.log.open("ab") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._line,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._env,
                    start_new_session=True,
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise ServerFailed(
                    f"{self.name}: {self._line[0]} cannot be run ({error.strerror}); install vLLM, "
                    "or name its command with --command"
                ) from error
        self._tell(self.name, f"started, process {self._process.pid}")

    async def _came_up(self) -> bool:
        """True once it is healthy; false where it ends before, or takes too long."""
        assert self._process is not None
        began = self._clock()
        while self._clock() - began < HEALTHY_WITHIN_S:
            if self._process.returncode is not None:
                return False
            if await self._is_healthy():
                self.healthy.set()
                self._tell(self.name, f"serves {self.url} after {self._clock() - began:.0f} s")
                return True
            await self._sleep(LOOK_EVERY_S)
        return False

    async def _watched(self) -> str:
        """Why it has to be started again, once it has."""
        assert self._process is not None
        seen = self._clock()
        while True:
            await self._sleep(LOOK_EVERY_S)
            if self._process.returncode is not None:
                return f"ended with {self._process.returncode}"
            if await self._is_healthy():
                seen = self._clock()
            elif self._clock() - seen > SILENT_S:
                return f"has not been healthy for {SILENT_S:.0f} s"

    async def _is_healthy(self) -> bool:
        try:
            async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
                return (await client.get(f"{self.url}/health")).status_code == 200
        except httpx.HTTPError:
            return False

    async def _end(self) -> None:
        """Ends the process with all its workers: first kindly."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            _signal_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), TERM_S)
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        self._process = None

    def _last_words(self) -> str:
        text = self.log.read_bytes()[-20_000:].decode(errors="replace")
        lines = text.splitlines()[-TOLD_LINES:]
        return f"the end of {self.log}:\n" + "\n".join(f"  {line}" for line in lines)


def check_ports(servers: Sequence[VllmServer]) -> None:
    """Raises ServerFailed where something listens already, or two servers want the same port."""
    taken: dict[str, str] = {}
    for server in servers:
        before = taken.setdefault(server.url, server.name)
        if before != server.name:
            raise ServerFailed(
                f"{server.name} and {before} want {server.url}; give one another port"
            )
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((host, int(port))) == 0:
                raise ServerFailed(
                    f"{server.name}: something listens at {server.url} already; stop it, or write "
                    "another `port`"
                )


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _end_with_parent() -> None:
    """In the child: it is ended when whoever started it is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
