"""The systems under test, each as its own processes and in an environment of its own.

All of them forward to the same mock upstream, have one core to themselves, and are set up as their
documentation says for a fast single worker. Their environments are made under `.bench/`.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".bench"
SWITCHBOARD = str(Path(sys.executable).parent / "switchboard")
TICKS = os.sysconf("SC_CLK_TCK")
SUT_CORE, LOAD_CORE = 0, 1

VERSIONS = {"vllm_router": "0.1.17", "litellm": "1.106.2", "portkey": "1.15.2"}

LITELLM_KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"
"""It does not start without one, nor with a short one."""


class Running(msgspec.Struct, frozen=True):
    """A started system: where it listens, what to ask it for, and its processes' group."""

    name: str
    port: int
    model: str
    key: str
    process: int
    auto: str | None = None
    ready_s: float = 0.0
    headers: tuple[str, ...] = ()

    def pids(self) -> list[int]:
        """The system's processes, all of the group that it was started in."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    if os.getpgid(int(entry.name)) == self.process:
                        found.append(int(entry.name))
        return found

    def cpu_s(self) -> float:
        """Seconds of user and system time that the system's processes have used so far."""
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += (int(fields[11]) + int(fields[12])) / TICKS
        return total

    def cpu_us(self) -> float:
        """The same in microseconds and to the nanosecond, of threads that run yet."""
        total = 0
        for pid in self.pids():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    total += int((thread / "schedstat").read_text().split()[0])
        return total / 1e3

    def rss_mb(self) -> float:
        """Resident memory of all its processes, in megabytes."""
        pages = 0
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


Started = contextlib.AbstractContextManager[Running]
"""A system from the moment that it answers until the block ends."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def made_key(store: str, name: str, *options: str) -> str:
    """A new key of the gateway that keeps its log in `store`."""
    command = [SWITCHBOARD, "keys", "create", "--name", name, "--store", store, "--json", *options]
    made = subprocess.run(command, check=True, capture_output=True)
    secret: str = json.loads(made.stdout)["secret"]
    return secret


@contextlib.contextmanager
def started(
    name: str,
    command: Sequence[str],
    port: int,
    *,
    core: int,
    model: str,
    key: str = "none",
    auto: str | None = None,
    probe: str = "/health",
    env: Mapping[str, str] | None = None,
    headers: tuple[str, ...] = (),
    folder: Path,
) -> Iterator[Running]:
    """The system from the moment that it answers until the block ends."""
    log = folder / f"{name}.log"
    began = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            cwd=folder,
        )
    try:
        _wait(f"http://127.0.0.1:{port}{probe}", process, log)
        ready = time.perf_counter() - began
        yield Running(name, port, model, key, process.pid, auto, ready, headers)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until something answers at `url`, whatever it says."""
    for _ in range(6000):
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(url, timeout=2).read()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing answers at {url}: {log.read_text()[-2000:]}")


def mock(port: int, core: int, folder: Path) -> Started:
    """The upstream of them all."""
    return started(
        "mock",
        [sys.executable, "-m", "benchmarks.mock_upstream", "--port", str(port)],
        port,
        core=core,
        model="mock",
        folder=folder,
        env={"PYTHONPATH": str(ROOT)},
    )


NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 1000000000;
    location / {{
      proxy_pass http://up;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def nginx(port: int, upstream: int, core: int, folder: Path) -> Started:
    """nginx's proxy_pass: what a proxy costs that looks at nothing."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(folder=folder, port=port, upstream=upstream))
    command = [binary, "-c", str(conf), "-p", str(folder)]
    return started("nginx", command, port, core=core, model="mock", folder=folder)


def vllm_router(port: int, upstream: int, core: int, folder: Path) -> Started:
    """vllm-router: balances load over workers, nothing more."""
    python = python_environment("vllm_router", [f"vllm-router=={VERSIONS['vllm_router']}"])
    command = [
        str(python.parent / "vllm-router"),
        *("--worker-urls", f"http://127.0.0.1:{upstream}"),
        *("--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"),
        *("--log-level", "error"),
    ]
    return started("vllm_router", command, port, core=core, model="mock", folder=folder)


def litellm(port: int, upstream: int, core: int, folder: Path) -> Started:
    """LiteLLM's proxy with one OpenAI-compatible model."""
    python = python_environment("litellm", [f"litellm[proxy]=={VERSIONS['litellm']}"])
    config = {
        "model_list": [
            {
                "model_name": "mock",
                "litellm_params": {
                    "model": "openai/mock",
                    "api_base": f"http://127.0.0.1:{upstream}/v1",
                    "api_key": "none",
                },
            }
        ]
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))
    command = [str(python.parent / "litellm"), "--config", str(path), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"]
    return started(
        "litellm",
        command,
        port,
        core=core,
        model="mock",
        key=LITELLM_KEY,
        probe="/health/liveliness",
        folder=folder,
        env={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MASTER_KEY": LITELLM_KEY,
        },
    )


def portkey(port: int, upstream: int, core: int, folder: Path) -> Started:
    """Portkey's gateway on Node; each request's headers say where it goes."""
    home = ENVIRONMENTS / "portkey"
    script = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not script.exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text("{}")
        package = f"@portkey-ai/gateway@{VERSIONS['portkey']}"
        subprocess.run(["npm", "install", "--silent", package], cwd=home, check=True)
    command = ["node", str(script), f"--port={port}", "--headless"]
    return started(
        "portkey",
        command,
        port,
        core=core,
        model="mock",
        probe="/",
        headers=(
            "x-portkey-provider: openai",
            f"x-portkey-custom-host: http://127.0.0.1:{upstream}/v1",
        ),
        folder=folder,
    )


def python_environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment with `packages`, made if it is not there."""
    home = ENVIRONMENTS / name
    python = home / "bin/python"
    stamp = home / ".ready"
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        command = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages]
        subprocess.run(command, check=True)
        stamp.touch()
    return python
