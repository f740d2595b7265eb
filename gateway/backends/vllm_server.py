"""Runs the vLLM servers that a configuration declares: started, watched, started again, stopped.

For machines of one's own. Under Kubernetes or Ray those run them, and the gateway finds them. Each
server runs under a guard (`gateway.backends.guard`), so that its workers end with it, and all of
them with us, also where we are killed.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec

from gateway.adapters.engine import read
from gateway.errors import SwitchboardError

GUARD = Path(__file__).with_name("guard.py")

START_WITHIN_S = 1800.0
"""How long a start may take: large weights come over a network."""
LOOK_EVERY_S = 1.0
ANSWER_WITHIN_S = 5.0
SILENT_S = 60.0
"""How long a healthy server may fail to answer /health before it is started again."""
DEAD_S = 10.0
"""The same where it answers 503: vLLM's engine has ended, and will not come back."""
LONGEST_WAIT_S = 60.0
STEADY_S = 60.0
"""An end after so long in good health counts as the first failure again."""
TERM_S = 20.0
LOG_BYTES = 50_000_000
"""A log that has grown to this is moved aside; one is kept."""
TOLD_LINES = 12
TOLD_BYTES = 20_000


class ServerFailed(SwitchboardError):
    """A server did not come up; the text has the end of its log."""


class Program(msgspec.Struct, frozen=True):
    """What is run. `served` is the model that it has to list once it is up; `key` opens it.

    `beside` are the servers that share its GPU: while it starts they sleep.
    """

    name: str
    line: tuple[str, ...]
    env: Mapping[str, str]
    url: str
    served: str
    log: Path
    key: str | None = None
    beside: tuple[str, ...] = ()


Tell = Callable[[str, str], None]
"""Takes a server's name, and what happens to it."""

Progress = Callable[[str, float, str], None]
"""Takes a starting server's name, for how many seconds it has been starting, and the last line of
its log."""


def _no_progress(name: str, elapsed_s: float, line: str) -> None:
    """Shows nothing."""


# ---------------------------------------------------------------- decisions


def backoff(failures: int) -> float:
    """Seconds before the next start, after `failures` in a row: 1 s doubling to 60 s."""
    return float(min(LONGEST_WAIT_S, 2.0 ** min(failures - 1, 10)))


def failures_after(failures: int, healthy_s: float) -> int:
    """Failures in a row, when another one follows on `healthy_s` seconds of good health."""
    return 1 if healthy_s >= STEADY_S else failures + 1


def patience(status: int | None) -> float:
    """Seconds for which /health may answer other than 200; None is no answer at all."""
    return DEAD_S if status == 503 else SILENT_S


def how(code: int) -> str:
    """An exit code in words; signals come as shells have them, or below 0."""
    number = code - 128 if code > 128 else -code
    if number in {each.value for each in signal.Signals}:
        name = signal.Signals(number).name
        return f"by {name}{', as when memory runs out' if name == 'SIGKILL' else ''}"
    return f"with exit code {code}"


# ---------------------------------------------------------------- one server


class Log:
    """A server's log on disk, which never grows past twice `limit` bytes."""

    def __init__(self, path: Path, limit: int = LOG_BYTES) -> None:
        self.path = path
        self.last = ""
        """The last line that says something."""
        self._limit = limit

    def write(self, block: bytes) -> None:
        """Appends. Raises OSError."""
        lines = [line for line in block.decode(errors="replace").splitlines() if line.strip()]
        self.last = lines[-1].strip() if lines else self.last
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(block)
            size = file.tell()
        if size >= self._limit:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))

    def end(self) -> str:
        """Its last lines, and where it is."""
        if not self.path.exists():
            return f"nothing stands in {self.path}"
        with self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TOLD_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-TOLD_LINES:]
        return f"the end of {self.path}:\n" + "\n".join(f"  {line}" for line in lines)


class VllmServer:
    """One server's process, kept running. `healthy` is set while it serves."""

    def __init__(
        self,
        program: Program,
        tell: Tell,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        progress: Progress = _no_progress,
        start_within_s: float = START_WITHIN_S,
        gpu: asyncio.Lock | None = None,
    ) -> None:
        """`gpu` is held by whoever starts there, where several share one."""
        self._gpu = gpu or asyncio.Lock()
        self.program = program
        self.healthy = asyncio.Event()
        self.log = Log(program.log)
        self._tell = tell
        self._progress = progress
        self._clock = clock
        self._sleep = sleep
        self._start_within_s = start_within_s
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Keeps it running until cancelled; then nothing of it is left. Raises ServerFailed where
        it does not come up the first time."""
        failures, has_served = 0, False
        headers = {"authorization": f"Bearer {self.program.key}"} if self.program.key else {}
        try:
            async with httpx.AsyncClient(
                base_url=self.program.url,
                headers=headers,
                timeout=ANSWER_WITHIN_S,
                trust_env=False,
            ) as client:
                while True:
                    async with self._gpu:
                        await self._make_room(client)
                        await self._start()
                        why, healthy_s = await self._came_up(client), 0.0
                    if why is None:
                        has_served = True
                        why, healthy_s = await self._watched(client)
                    self.healthy.clear()
                    await self._end()
                    if not has_served:
                        raise ServerFailed(f"{self.program.name} {why}; {self.log.end()}")
                    failures = failures_after(failures, healthy_s)
                    wait = backoff(failures)
                    again = f"started again in {wait:.0f} s (see {self.log.path})"
                    self._tell(self.program.name, f"{why}; {again}")
                    await self._sleep(wait)
        finally:
            self.healthy.clear()
            await asyncio.shield(self._end())

    # -------------------------------------------------------- its life

    async def _make_room(self, client: httpx.AsyncClient) -> None:
        """Puts those beside it to sleep as soon as they have nothing to do: a start needs the GPU's
        memory. One that cannot be asked has none of it, or the start will say so."""
        for url in self.program.beside:
            try:
                if not (await client.get(f"{url}/is_sleeping")).json()["is_sleeping"]:
                    while not await _is_idle(client, url):
                        await self._sleep(LOOK_EVERY_S)
                    slept = await client.post(f"{url}/sleep?level=1", timeout=START_WITHIN_S)
                    slept.raise_for_status()
            except (httpx.HTTPError, ValueError, KeyError) as error:
                if not isinstance(error, httpx.ConnectError):
                    self._tell(self.program.name, f"{url} could not be put to sleep: {error}")

    async def _start(self) -> None:
        command = shutil.which(self.program.line[0], path=self.program.env.get("PATH"))
        if command is None:
            raise ServerFailed(
                f"{self.program.name}: there is no command {self.program.line[0]}; install vLLM, "
                "or name what runs it with --command"
            )
        self._process = await asyncio.create_subprocess_exec(
            # -I and -S: nothing that the server's environment says reaches the guard's imports.
            *(sys.executable, "-I", "-S", str(GUARD), str(TERM_S)),
            *(command, *self.program.line[1:]),
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            env=self.program.env,
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read(self._process))
        self._tell(self.program.name, f"started, process {self._process.pid}")

    async def _read(self, process: Process) -> None:
        """Takes the output in to its end, also where the disk is full: or the server would hang."""
        assert process.stdout is not None
        failed = False
        while block := await process.stdout.read(65_536):
            try:
                self.log.write(block)
                failed = False
            except OSError as error:
                if not failed:
                    self._tell(self.program.name, f"cannot be logged: {error}")
                failed = True

    async def _came_up(self, client: httpx.AsyncClient) -> str | None:
        """None once it serves; else why it does not."""
        assert self._process is not None
        began = self._clock()
        while (elapsed := self._clock() - began) < self._start_within_s:
            if self._process.returncode is not None:
                return f"ended {how(self._process.returncode)} before it served"
            if await _health(client) == 200:
                why = await self._lists_its_model(client)
                if why is None:
                    self.healthy.set()
                    self._tell(self.program.name, f"serves {self.program.url} ({elapsed:.0f} s)")
                return why
            self._progress(self.program.name, elapsed, self.log.last)
            await self._sleep(LOOK_EVERY_S)
        return f"was not healthy within {self._start_within_s:.0f} s"

    async def _lists_its_model(self, client: httpx.AsyncClient) -> str | None:
        try:
            answer = await client.get("/v1/models")
            answer.raise_for_status()
            listed = msgspec.json.decode(answer.content, type=_Models).data
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            return f"is healthy, but does not list its models ({error})"
        names = [each.id for each in listed]
        if self.program.served in names:
            return None
        return f"lists {', '.join(names) or 'no model'}, and not {self.program.served}"

    async def _watched(self, client: httpx.AsyncClient) -> tuple[str, float]:
        """Why it has to be started again, once it has; and for how many seconds it was healthy."""
        assert self._process is not None
        began = seen = self._clock()
        while True:
            await self._sleep(LOOK_EVERY_S)
            if self._process.returncode is not None:
                return f"ended {how(self._process.returncode)}", self._clock() - began
            status = await _health(client)
            if status == 200:
                seen = self._clock()
            elif (sick := self._clock() - seen) > patience(status):
                said = "did not answer" if status is None else f"answered {status} to"
                return f"{said} /health for {sick:.0f} s", seen - began

    async def _end(self) -> None:
        """Ends the process with all its workers: first kindly."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            _signal_group(process.pid, signal.SIGTERM)
            await _ended(process, TERM_S)
        _signal_group(process.pid, signal.SIGKILL)
        await _ended(process, LOOK_EVERY_S)
        assert self._reader is not None
        await asyncio.wait([self._reader], timeout=LOOK_EVERY_S)
        self._reader.cancel()


async def _is_idle(client: httpx.AsyncClient, url: str) -> bool:
    engine = read((await client.get(f"{url}/metrics")).text)
    return not engine.running + engine.waiting


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    """vLLM's /v1/models."""

    data: list[_Model]


async def _health(client: httpx.AsyncClient) -> int | None:
    """The status of /health; None where there is no answer."""
    try:
        return (await client.get("/health")).status_code
    except httpx.HTTPError:
        return None


async def _ended(process: Process, within_s: float) -> None:
    """Waits, but not for ever: a worker that left the group may hold the output's pipe open."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), within_s)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


# ---------------------------------------------------------------- before any starts


def check_ports(programs: Sequence[Program]) -> None:
    """Raises ServerFailed where a server could not listen: its port has to be free."""
    taken: dict[str, str] = {}
    for program in programs:
        if program.url in taken:
            raise ServerFailed(
                f"{program.name}: {taken[program.url]} listens at {program.url}, too; give one "
                "another `port` under `serve`"
            )
        taken[program.url] = program.name
        parts = urlsplit(program.url)
        with socket.socket(
            socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET
        ) as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((parts.hostname or "", parts.port or 80)) == 0:
                raise ServerFailed(
                    f"{program.name}: something listens at {program.url} already; stop it, or "
                    "write another `port` under `serve`"
                )


MODULE = "vllm.entrypoints.openai.api_server"
KNOWS_ITSELF = "import importlib.metadata; importlib.metadata.version('vllm')"


def installed(path: str | None = None) -> tuple[str, ...]:
    """What runs vLLM here: its command, or its module where the command is missing or cannot work.

    vLLM's CPU build is a distribution of another name, and the command ends where it asks for its
    own version. `path` is where commands are looked for. Raises ServerFailed where there is none.
    """
    found = shutil.which("vllm", path=path)
    if found is None:
        if importlib.util.find_spec("vllm") is not None:
            return (sys.executable, "-P", "-m", MODULE)
        raise ServerFailed(
            "vLLM is not installed here; install it, or say what runs it, such as "
            f"--command '/opt/vllm/bin/python -m {MODULE}'"
        )
    python = Path(found).resolve().with_name("python")
    if python.exists() and not _succeeds([str(python), "-P", "-c", KNOWS_ITSELF]):
        return (str(python), "-P", "-m", MODULE)
    return (found, "serve")


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, stderr=DEVNULL, check=False).returncode == 0
