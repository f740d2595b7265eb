"""Starts and stops a real vLLM server on 127.0.0.1, from the environment in `.vllm/`.

Only the standard library is used, so that any Python can do it.

    with vllm_server.start(port=8100, log_path=Path("vllm.log")) as server:
        ...                                      # server.url answers OpenAI's API
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from demo import processes

DEMO = Path(__file__).resolve().parent
PYTHON = DEMO.parent / ".vllm" / "bin" / "python"
WEIGHTS = DEMO / "weights"
BASE = WEIGHTS / "base"
ADAPTERS = WEIGHTS / "adapters"

SERVED_NAME = "base"
POLL_S = 0.25


class VllmFailed(Exception):
    """The server did not become healthy; the text holds the end of its log."""


class Room(NamedTuple):
    """What one server has room for.

    `loras` adapters can be in one batch and `cpu_loras` stay in memory; past that, adapters are
    read again from disk. One slot more than there are adapters stays empty: vLLM's CPU build lets
    the adapter in the last slot answer for the base where both share a batch. `context` counts
    tokens: past the 512 that it was trained on, the base writes no sense, but it writes on.
    `kv_cache_gib` counts GiB of memory. More than one thread does not help so small a model, and on
    a busy machine threads waiting for each other make it ten times slower.
    """

    loras: int = 5
    cpu_loras: int = 8
    lora_rank: int = 16
    context: int = 512
    sequences: int = 8
    kv_cache_gib: int = 1
    threads: int = 1


Progress = Callable[[float], None]


def _silent(elapsed_s: float) -> None:
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
        "--hf-overrides", json.dumps({"max_position_embeddings": room.context}),
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


class Server(processes.Guarded):
    """A running server and its process group. `stop` it, or use it as a context manager."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log_path: Path) -> None:
        super().__init__(process, log_path)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def is_healthy(self) -> bool:
        """True when `/health` answers 200 within two seconds."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait(self, deadline_s: float, progress: Progress = _silent) -> float:
        """Waits until it is healthy; gives the seconds that it took.

        `progress` hears the elapsed seconds about once a second. Raises VllmFailed when the process
        ends or the deadline passes; the caller still has to stop it.
        """
        began, told = time.monotonic(), 0.0
        while not self.is_healthy():
            elapsed = time.monotonic() - began
            if not self.is_running():
                raise VllmFailed(f"vLLM ended with {self.process.returncode}: {self.log_end()}")
            if elapsed > deadline_s:
                raise VllmFailed(f"vLLM is not healthy after {deadline_s:.0f} s: {self.log_end()}")
            if elapsed - told >= 1:
                told = elapsed
                progress(elapsed)
            time.sleep(POLL_S)
        return time.monotonic() - began


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
    process = processes.popen(
        command(port, adapters or {}, room, base), log_path=log_path, env=environment(room)
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
