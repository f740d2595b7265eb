"""Real servers for tests, each a process of its own on a free port: Redis and PostgreSQL.

They are installed by `make test`; where one is missing the test fails, it is not passed over.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PLACES = "/usr/sbin:/sbin:/usr/lib/postgresql/17/bin:/usr/lib/postgresql/15/bin"
"""Where Debian puts servers: not on every user's PATH."""

UNPRIVILEGED = "postgres"
"""Who runs PostgreSQL where the tests run as root, which it refuses."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RealServer:
    """A server's process that can be killed, held and started again on the same port and data."""

    def __init__(self, command: Sequence[str], url: str, ready: Callable[[], bool]) -> None:
        self.url = url
        self._command = command
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Back when it takes connections."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self._command[0]} did not start: {self._process.poll()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """At once, as a power cut would; what is on disk stays."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self, grace_s: float = 10.0) -> None:
        """In order."""
        if self._process is None or self._process.poll() is not None:
            return
        self._signal(signal.SIGINT)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def hold(self) -> None:
        """It keeps its connections and says nothing, until `go_on`; its children neither."""
        self._signal(signal.SIGSTOP)
        for child in self._children():
            os.kill(child, signal.SIGSTOP)

    def go_on(self) -> None:
        """After `hold`."""
        for child in self._children():
            os.kill(child, signal.SIGCONT)
        self._signal(signal.SIGCONT)

    def _children(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextmanager
def redis() -> Iterator[RealServer]:
    """A Redis that keeps nothing on disk; `url` is `redis://127.0.0.1:PORT`."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", folder]
        server = RealServer(command, f"redis://127.0.0.1:{port}", lambda: _answers(port, b"PING"))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def postgres() -> Iterator[RealServer]:
    """A PostgreSQL with an empty database; `url` is `postgresql://…/switchboard`."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    root = os.geteuid() == 0
    if root:
        owner = pwd.getpwnam(UNPRIVILEGED)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    before = ["setpriv", "--reuid", UNPRIVILEGED, "--regid", UNPRIVILEGED, "--clear-groups"]
    before = before if root else []
    try:
        where = ["-D", str(folder / "data")]
        made = [program("initdb"), *where, "-U", "switchboard", "-A", "trust", "--no-sync"]
        subprocess.run([*before, *made], check=True, capture_output=True)
        command = [program("postgres"), *where, "-p", str(port), "-k", str(folder)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=60"]
        url = f"postgresql://switchboard@127.0.0.1:{port}"
        ready = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        server = RealServer(
            [*before, *command],
            f"{url}/switchboard",
            lambda: subprocess.run(ready, check=False).returncode == 0,
        )
        server.start()
        try:
            psql = [program("psql"), "-qX", f"{url}/postgres", "-c", "CREATE DATABASE switchboard"]
            subprocess.run(psql, check=True, capture_output=True)
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> str:
    """Where a program of theirs is."""
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), PLACES)))
    if found is None:
        raise RuntimeError(f"{name} is missing; `make test` installs it")
    return found


def _answers(port: int, line: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(line + b"\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
