"""The gateway's side of litellm's process: started, watched, restarted, and told only its keys.

The process runs in an environment of its own (`python`), sees none of the gateway's environment
variables beyond `ENVIRONMENT`, and gets its configuration through a pipe: keys stand neither in
its arguments nor in its environment, and in no file. The pipe stays open, so that the process also
ends when the gateway is killed. Importing litellm takes seconds: `start` does not wait for it, and
until `ready` is set the socket refuses connections, as a backend that is down does.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import httpx
import msgspec

from gateway.errors import SwitchboardError
from gateway.types.backends import Backend, Capabilities, Price, Target
from gateway.types.snapshot import Snapshot

SERVER = Path(__file__).with_name("litellm_server.py")

ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""What the process may see of the gateway's environment: how to reach its providers, no more."""

MAX_LINE = 65_536
"""Bytes of one line that the process writes; longer ones are not passed on."""

LONG_LINE = b"(a line too long to log)"

SOCKET_LIMIT = 100
"""Bytes of a Unix socket's path; the system takes 107, and cuts or refuses longer ones."""


class LitellmUnavailable(SwitchboardError):
    """litellm's process cannot be started, or does not answer."""


def backoff(failures: int) -> float:
    """Seconds before the next start, after `failures` in a row: 0.25 s doubling to 30 s."""
    return min(30.0, 0.25 * 2.0 ** min(failures - 1, 10))


def scrubbed(environment: Mapping[str, str], home: str) -> dict[str, str]:
    """The process's environment: `ENVIRONMENT` and an empty home, where no other keys lie."""
    kept = {name: environment[name] for name in ENVIRONMENT if name in environment}
    return {**kept, "HOME": home, "TMPDIR": home}


def configuration(backends: Iterable[Backend], socket: str) -> bytes:
    """The one line that the process reads: everything that it may know."""
    told = [
        {
            "backend": each.name,
            "provider": each.provider,
            "models": each.models,
            "api_key": each.api_key,
            "api_base": each.api_base,
            "headers": each.headers,
            "arguments": each.arguments,
            "parameters": each.parameters,
        }
        for each in backends
    ]
    return msgspec.json.encode({"socket": socket, "backends": told}) + b"\n"


def served_by(
    snapshot: Snapshot, url: str, prices: Mapping[str, tuple[Price, Capabilities]]
) -> Snapshot:
    """`snapshot` with the process at `url` as the replica of every litellm backend.

    Targets that declare no price take it from `prices`, and where they declare no context length,
    that as well. The providers' keys are the process's: towards it the backends have none.
    """
    replace = msgspec.structs.replace
    backends = {
        name: replace(each, replicas=(url,), api_key=None, headers={})
        if each.kind == "litellm"
        else each
        for name, each in snapshot.backends.items()
    }
    targets = {
        name: _priced(replace(each, replicas=(url,)), prices)
        if name not in snapshot.compositions and backends[each.backend].kind == "litellm"
        else each
        for name, each in snapshot.targets.items()
    }
    return replace(snapshot, backends=backends, targets=targets)


def _priced(target: Target, prices: Mapping[str, tuple[Price, Capabilities]]) -> Target:
    if target.name not in prices:
        return target
    price, can = prices[target.name]
    declared = target.capabilities
    context = declared.context if declared.context is not None else can.context
    return msgspec.structs.replace(
        target,
        price=target.price if target.priced else price,
        priced=True,
        capabilities=msgspec.structs.replace(declared, context=context),
    )


def secrets_of(backends: Iterable[Backend]) -> tuple[str, ...]:
    """What must not reach a log, the longest first, so that none hides a part of another."""
    texts = {
        text
        for each in backends
        for text in (each.api_key, *each.headers.values(), *each.arguments.values())
        if isinstance(text, str) and len(text) >= 8
    }
    return tuple(sorted(texts, key=len, reverse=True))


def redact(line: str, secrets: Sequence[str]) -> str:
    """`line` without any of `secrets`."""
    for secret in secrets:
        line = line.replace(secret, "[key]")
    return line


class LitellmProcess:
    """litellm's process and the Unix socket that it serves OpenAI's API on.

    `backends` are those of kind `litellm`, and all of one snapshot's: the process keeps to them. A
    request's model there is `<backend>/<declared model>`. `log` takes each line that the process
    writes, and what becomes of it. `stable` is how many seconds of serving, by `clock`, let an end
    count as the first failure again.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        python: str = sys.executable,
        log: Callable[[str], None],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        environment: Mapping[str, str] = os.environ,
        stable: float = 60.0,
        grace: float = 5.0,
    ) -> None:
        self.backends = tuple(backends)
        self._python = python
        self._secrets = secrets_of(backends)
        self._write = log
        self._clock = clock
        self._sleep = sleep
        self._environment = environment
        self._stable = stable
        self._grace = grace
        self._directory: str | None = None
        self._process: Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()
        self.failures = 0

    @property
    def socket_path(self) -> str:
        """Where the process listens, from `start` to `stop`."""
        if self._directory is None:
            raise LitellmUnavailable("litellm's process has not been started")
        return os.path.join(self._directory, "openai.sock")

    @property
    def url(self) -> str:
        """`socket_path` as a replica's URL."""
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int | None:
        """The running process, if one runs now."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self) -> None:
        """Launches the process and its watch; `ready` is set once it serves.

        Raises LitellmUnavailable if there is no such Python.
        """
        self._python = _executable(self._python)
        self._directory = _private_directory()
        self._watch = asyncio.create_task(self._keep_running(), name="litellm-watch")

    async def stop(self) -> None:
        """Ends the process (TERM, then KILL after `grace` seconds) and removes its directory."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            if not self._watch.cancelled() and (error := self._watch.exception()) is not None:
                self._log(f"the watch had ended: {error!r}")
            self._watch = None
        if self._directory is not None:
            shutil.rmtree(self._directory)
            self._directory = None

    async def prices(self) -> Mapping[str, tuple[Price, Capabilities]]:
        """What litellm's map says of `<backend>/<model>`; a model that it does not know is absent.

        Waits until the process is ready. Raises LitellmUnavailable if it does not answer.
        """
        await self.ready.wait()
        transport = httpx.AsyncHTTPTransport(uds=self.socket_path)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://litellm") as client:
                answer = await client.get("/prices")
                answer.raise_for_status()
        except httpx.HTTPError as error:
            raise LitellmUnavailable(f"litellm's process tells no prices: {error!r}") from error
        told = msgspec.json.decode(answer.content, type=dict[str, _Told | None])
        return {name: each.read() for name, each in told.items() if each is not None}

    async def _keep_running(self) -> None:
        while True:
            started = self._clock()
            try:
                how = f"ended with {_how(await self._run_once())}"
            except OSError as error:
                how = f"could not be started: {error}"
            self.failures = 1 if self._clock() - started >= self._stable else self.failures + 1
            wait = backoff(self.failures)
            self._log(f"{how}; started again in {wait:g} s")
            await self._sleep(wait)

    async def _run_once(self) -> int:
        """One process from its start to its end; the exit code. Cancelled, it ends the process."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        self._process = process = await self._spawn()
        readers = [
            asyncio.create_task(self._read_ready(_pipe(process.stdout))),
            asyncio.create_task(self._read_log(_pipe(process.stderr))),
        ]
        try:
            return await process.wait()
        finally:
            self.ready.clear()
            await self._end(process)
            await asyncio.gather(*readers)

    async def _spawn(self) -> Process:
        home = os.path.dirname(self.socket_path)
        process = await asyncio.create_subprocess_exec(
            # -I: neither the folder of the script nor PYTHON* variables reach the imports.
            *(self._python, "-I", "-u", str(SERVER)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=scrubbed(self._environment, home),
            cwd=home,
            start_new_session=True,
        )
        pipe = process.stdin
        assert pipe is not None
        pipe.write(configuration(self.backends, self.socket_path))
        # A process that dies at once breaks the pipe; its exit code says more than that error.
        with contextlib.suppress(ConnectionError):
            await pipe.drain()
        return process

    async def _end(self, process: Process) -> None:
        """TERM, then KILL, to the whole group: what the process itself started ends as well."""
        _signal_group(process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._grace)
        except TimeoutError:
            self._log(f"did not end within {self._grace:g} s, and is killed")
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()

    async def _read_ready(self, pipe: asyncio.StreamReader) -> None:
        async for line in _lines(pipe):
            if line == b"ready":
                self._log("ready")
                self.ready.set()

    async def _read_log(self, pipe: asyncio.StreamReader) -> None:
        async for line in _lines(pipe):
            self._log(line.decode(errors="replace"))

    def _log(self, line: str) -> None:
        self._write(f"litellm: {redact(line, self._secrets)}")


class _Told(msgspec.Struct, frozen=True):
    """A model's entry in the process's `/prices`."""

    input: float
    cached_input: float
    output: float
    context: int | None
    tools: bool
    vision: bool
    audio: bool
    json_schema: bool
    endpoints: frozenset[str]

    def read(self) -> tuple[Price, Capabilities]:
        price = Price(input=self.input, cached_input=self.cached_input, output=self.output)
        return price, Capabilities(
            context=self.context,
            tools=self.tools,
            vision=self.vision,
            audio=self.audio,
            json_schema=self.json_schema,
            endpoints=self.endpoints,
        )


def _executable(python: str) -> str:
    """The absolute path of `python`: the process starts in a directory of its own."""
    found = shutil.which(python)
    if found is None:
        raise LitellmUnavailable(
            f"{python}: no such Python for litellm; "
            "make its environment with `python scripts/litellm_env.py`"
        )
    return os.path.abspath(found)


def _private_directory() -> str:
    """A new 0700 directory whose path leaves room for the socket's."""
    for parent in (None, "/tmp"):  # noqa: S108  the fallback where TMPDIR is too long
        path = tempfile.mkdtemp(prefix="switchboard-litellm-", dir=parent)
        if len(os.fsencode(path)) < SOCKET_LIMIT - len("/openai.sock"):
            return path
        os.rmdir(path)
    raise LitellmUnavailable("no directory with a path short enough for a Unix socket; set TMPDIR")


def _pipe(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    assert stream is not None
    return stream


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Each line without its end; of a longer one than `MAX_LINE` only that there was one.

    To cut it could cut a key in two, and redaction would not know the halves.
    """
    rest = b""
    while block := await stream.read(MAX_LINE):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line if len(line) <= MAX_LINE else LONG_LINE
        rest = rest[: MAX_LINE + 1]
    if rest:
        yield rest if len(rest) <= MAX_LINE else LONG_LINE


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _how(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    return signal.Signals(-code).name
