"""Starts and stops a real vLLM server on 127.0.0.1, from the environment in `.vllm/`.

Only the standard library is used, so that any Python can do it.

    with vllm_server.start(port=8100, log_path=Path("vllm.log")) as server:
        ...                                      # server.url answers OpenAI's API
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

DEMO = Path(__file__).resolve().parent
PYTHON = DEMO.parent / ".vllm" / "bin" / "python"
WEIGHTS = DEMO / "weights"
BASE = WEIGHTS / "base"
ADAPTERS = WEIGHTS / "adapters"

SERVED_NAME = "base"
POLL_S = 0.25
STOP_GRACE_S = 15.0


class VllmFailed(Exception):
    """The server did not become healthy; the text holds the end of its log."""


class Room(NamedTuple):
    """What one server has room for.

    `loras` adapters can be in one batch and `cpu_loras` stay in memory; past that, adapters are
    read again from disk. `context` counts tokens, `kv_cache_gib` GiB of memory. More than one
    thread does not help so small a model, and on a busy machine threads waiting for each other
    make it ten times slower.
    """

    loras: int = 4
    cpu_loras: int = 8
    lora_rank: int = 16
    context: int = 512
    sequences: int = 8
    kv_cache_gib: int = 1
    threads: int = 1


Progress = Callable[[float, str], None]


def _silent(elapsed_s: float, last_line: str) -> None:
    """Shows nothing."""


def free_port() -> int:
    """A port that is free on 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(port: int, adapters: Mapping[str, Path], room: Room, base: Path) -> list[str]:
    line = [
        str(PYTHON), "-P", "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(base.resolve()), "--served-model-name", SERVED_NAME,
        "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", str(room.context), "--max-num-seqs", str(room.sequences),
        "--enable-lora", "--max-loras", str(room.loras),
        "--max-cpu-loras", str(room.cpu_loras), "--max-lora-rank", str(room.lora_rank),
        "--enforce-eager",
    ]  # fmt: skip
    if adapters:
        line.append("--lora-modules")
        line += [f"{name}={path.resolve()}" for name, path in adapters.items()]
    return line


def environment(room: Room) -> dict[str, str]:
    """The caller's environment, with vLLM kept off the network and inside `.vllm/`."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(room.threads),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CACHE_ROOT": str(PYTHON.parents[1] / "cache"),
        "VLLM_CPU_KVCACHE_SPACE": str(room.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_TARGET_DEVICE": "cpu",
    }


class Server:
    """A running server and its process group. `stop` it, or use it as a context manager."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
        self.process = process
        self.port = port
        self.log_path = log_path
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        return self.process.poll() is None

    def is_healthy(self) -> bool:
        """True when `/health` answers 200 within two seconds."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait(self, deadline_s: float, progress: Progress = _silent) -> float:
        """Waits until it is healthy; gives the seconds that it took.

        `progress` hears the elapsed seconds and the log's last line about once a second. Raises
        VllmFailed when the process ends or the deadline passes; the caller still has to stop it.
        """
        began, told = time.monotonic(), 0.0
        while not self.is_healthy():
            elapsed = time.monotonic() - began
            if not self.is_running():
                raise VllmFailed(f"vLLM ended with {self.process.returncode}: {self._log_end()}")
            if elapsed > deadline_s:
                raise VllmFailed(f"vLLM is not healthy after {deadline_s:.0f} s: {self._log_end()}")
            if elapsed - told >= 1:
                told = elapsed
                progress(elapsed, self._log_lines()[-1])
            time.sleep(POLL_S)
        return time.monotonic() - began

    def stop(self) -> None:
        """Ends the server with all its workers, asking first; returns when none is left."""
        for stop_signal, grace_s in (
            (signal.SIGTERM, STOP_GRACE_S),
            (signal.SIGKILL, STOP_GRACE_S),
        ):
            if not self._signal(stop_signal):
                break
            if wait_until_gone(self.process.pid, grace_s):
                break
        self._reap()

    def kill(self) -> None:
        """Ends it at once with all its workers, as a crash of its host would."""
        self._signal(signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _signal(self, number: signal.Signals) -> bool:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _log_lines(self) -> list[str]:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [line for line in lines if line.strip()] or [""]

    def _log_end(self) -> str:
        end = "\n  ".join(self._log_lines()[-15:])
        return f"the end of {self.log_path}:\n  {end}"


def members(group: int) -> list[int]:
    """The processes of a process group that still run; ended ones not yet reaped are left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def _guard(line: Sequence[str]) -> int:
    """Runs vLLM and gives its exit status; ends it when the process that asked for it has gone.

    Standard input is a pipe from that process: it ends with it, however it ended.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)  # meant for vLLM, which is in the same group
    child = subprocess.Popen(line, stdin=subprocess.DEVNULL)

    def end_when_alone() -> None:
        os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter ends
        os.killpg(0, signal.SIGTERM)
        time.sleep(STOP_GRACE_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_when_alone, daemon=True).start()
    return child.wait()


def wait_until_gone(group: int, deadline_s: float) -> bool:
    """True as soon as no process of the group runs, False when some still do at the deadline."""
    until = time.monotonic() + deadline_s
    while members(group):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S / 5)
    return True


def launch(
    port: int,
    *,
    log_path: Path,
    adapters: Mapping[str, Path] | None = None,
    room: Room | None = None,
    base: Path = BASE,
) -> Server:
    """Starts the process and returns at once: `wait` for it. Several can start side by side.

    `adapters` are loaded at the start, by name; more can be loaded through the API. Raises
    VllmFailed when `.vllm/` has not been made.
    """
    if not PYTHON.exists():
        raise VllmFailed(f"{PYTHON} is missing: run `python3 {DEMO / 'vllm_env.py'}` first")
    room = room or Room()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, *command(port, adapters or {}, room, base)],
            env=environment(room),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: stop() ends the workers too
        )
    return Server(process, port, log_path)


def start(
    port: int,
    *,
    log_path: Path,
    adapters: Mapping[str, Path] | None = None,
    room: Room | None = None,
    base: Path = BASE,
    deadline_s: float = 240.0,
    progress: Progress = _silent,
) -> Server:
    """`launch`, then wait until healthy; on failure nothing is left running. Raises VllmFailed."""
    server = launch(port, log_path=log_path, adapters=adapters, room=room, base=base)
    try:
        server.wait(deadline_s, progress)
    except BaseException:
        server.stop()
        raise
    return server


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1:]))
