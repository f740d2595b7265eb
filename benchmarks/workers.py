"""What several workers cost: CPU a request with one and with two, beside real Redis and PostgreSQL.

Where cores allow, two workers reach 2 x one's throughput divided by how much dearer a request has
become when each worker has as much to do as the one had. On a machine whose cores are also taken by
the load, the mock and the databases the greatest rate says nothing of that; so each worker is given
the same rate, well below what fills a core, and what counts is the CPU of the workers' processes,
rows written and all. One and two workers are measured in turn, several times; the median of each
counts. `python -m benchmarks.workers`
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gateway_config import write_configuration
from tests import servers

CONNECTIONS = 128
"""The kernel gives each to one of the workers, so that many are shared out about evenly."""

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def process(*command: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python module's process, ended at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.terminate()
            child.communicate(timeout=90)


@contextlib.contextmanager
def gateway(home: Path, workers: int) -> Iterator[tuple[int, int]]:
    """A gateway of so many workers; its port, and the process that was begun."""
    command = ["gateway.cli", "serve", "--config", str(home), "--listen", "127.0.0.1:0"]
    with process(*command, "--workers", str(workers)) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if "Switchboard serves http" in line:
                yield int(line.split(" (")[0].rpartition(":")[2]), child.pid
                return
        raise RuntimeError("the gateway did not start")


def ready(port: int) -> Any:
    """The detail of `/ready`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
        return json.load(answer)


def cpu_s(pid: int) -> float:
    """What a process has used of the CPU so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def load(port: int, rate: float, seconds: float) -> dict[str, float]:
    """So many requests a second, all different."""
    command = [sys.executable, "-m", "benchmarks.load", "open", "--port", str(port)]
    command += ["--model", "auto", "--seconds", str(seconds), "--rate", str(rate), "--distinct"]
    command += ["--spread", str(CONNECTIONS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def written(port: int) -> None:
    """Back when no worker has a row left to write."""
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        waiting = [line for line in page.splitlines() if line.startswith("switchboard_log_waiting")]
        if not any(float(line.rpartition(" ")[2]) for line in waiting):
            return
        time.sleep(0.05)


def measured(home: Path, workers: int, rate: float, seconds: float) -> dict[str, float]:
    """CPU a request in µs at `rate` for each worker, what a worker takes at rest, and how evenly
    they shared the requests (1 is evenly)."""
    with gateway(home, workers) as (port, pid):
        pids = [worker["pid"] for worker in ready(port)["workers"]] or [pid]
        load(port, rate, 1.0)
        written(port)
        began, before = time.monotonic(), [cpu_s(each) for each in pids]
        time.sleep(2.0)
        rest = (sum(map(cpu_s, pids)) - sum(before)) / (time.monotonic() - began)
        began, before = time.monotonic(), [cpu_s(each) for each in pids]
        seen = load(port, rate * workers, seconds)
        written(port)
        used = [cpu_s(each) - start for each, start in zip(pids, before, strict=True)]
        took = time.monotonic() - began
    return {
        "cpu_us": 1e6 * (sum(used) - rest * took) / seen["requests"],
        "requests": seen["requests"],
        "failed": seen["failed"],
        "p50_ms": seen["p50_ms"],
        "least_share": min(used) / sum(used) * workers,
        "at_rest_ms_a_second": 1000 * rest / workers,
    }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=800.0, help="for each worker")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    upstream = servers.free_port()
    with (
        servers.postgres() as database,
        servers.redis() as coordinator,
        process("benchmarks.mock_upstream", "--port", str(upstream)),
        tempfile.TemporaryDirectory() as folder,
    ):
        home = Path(folder)
        write_configuration(home, upstream)
        with (home / "gateway.yaml").open("a") as file:
            file.write(f"store: {database.url}\ncoordinator: {coordinator.url}\n")
        rounds: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        for _ in range(options.rounds):
            for workers, seen in rounds.items():
                seen.append(measured(home, workers, options.rate, options.seconds))
        figures = {
            f"{workers} workers": {
                name: round(median(each[name] for each in seen), 2) for name in seen[0]
            }
            for workers, seen in rounds.items()
        }
        one, two = (figures[f"{n} workers"]["cpu_us"] for n in (1, 2))
        figures["speed-up where cores allow"] = {"two workers": round(2 * one / two, 2)}
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
