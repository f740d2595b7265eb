"""What several workers cost: CPU a request with one and with two, beside real Redis and PostgreSQL.

Where cores allow, two workers reach 2 x one's throughput divided by how much dearer a request has
become when each worker has as much to do as the one had. On a machine whose cores are also taken by
the load, the mock and the databases the greatest rate says nothing of that; so each worker is given
the same rate, well below what fills a core, and what counts is the CPU of the workers' processes,
rows written and all. One and two workers are measured in turn, several times; the median of each
counts.

    python -m benchmarks.workers [--rounds 3] [--write]
"""

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gateway_config import write_configuration
from tests import servers

RESULTS = Path(__file__).with_name("workers.json")
CONNECTIONS = 128
"""The kernel gives each to one of the workers, so that many are shared out about evenly."""

Figures = dict[str, Any]

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


def compared(rounds: int, rate: float, seconds: float, say: Callable[[str], None]) -> Figures:
    """One worker and two in turn, `rate` requests a second for each worker."""
    upstream = servers.free_port()
    seen: dict[int, list[dict[str, float]]] = {1: [], 2: []}
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
        for turn in range(rounds):
            for workers, found in seen.items():
                found.append(measured(home, workers, rate, seconds))
                say(f"turn {turn + 1}, {workers} workers: {found[-1]['cpu_us']:.0f} us a request")
    return {
        "workers": {
            str(workers): {
                name: round(median(each[name] for each in found), 2) for name in found[0]
            }
            for workers, found in seen.items()
        },
        "by_turn_us": {
            str(n): [round(each["cpu_us"], 1) for each in found] for n, found in seen.items()
        },
        "rate": rate,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def speed_up(found: Figures) -> float:
    """Two workers' throughput in one's where each has a core of its own."""
    one, two = (found["workers"][n]["cpu_us"] for n in ("1", "2"))
    return float(2 * one / two)


def table(found: Figures) -> str:
    """As Markdown."""
    lines = [
        f"{found['date']}, {found['rate']:g} requests/s for each worker. Where each worker has a "
        f"core, two do {speed_up(found):.2f} times what one does.",
        "",
        "| workers | CPU µs a request | by turn | share of the one with least to do | failed |",
        "|--:|--:|---|--:|--:|",
    ]
    for workers, each in found["workers"].items():
        by_turn = ", ".join(f"{one:.0f}" for one in found["by_turn_us"][workers])
        lines.append(
            f"| {workers} | {each['cpu_us']:.1f} | {by_turn} | "
            f"{100 * each['least_share'] / int(workers):.0f} % | {each['failed']:g} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=800.0, help="for each worker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    found = compared(options.rounds, options.rate, options.seconds, say)
    print(table(found))
    if options.write:
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
