"""What several workers cost: CPU a request with one and with two, beside real Redis and PostgreSQL.

Where cores allow, two workers reach 2 x one's throughput divided by how much dearer a request has
become when each worker has as much to do as the one had. On a machine whose cores are also taken by
the load, the mock and the databases the greatest rate says nothing of that; so each worker is given
the same rate, well below what fills a core, and what counts is the CPU of the workers' processes,
rows written and all.

On such a machine a request is also dearer because everything else has twice as much to do, and
shares caches and cores with the workers. So there are three kinds: one worker; two gateways of one
worker each that know nothing of each other, each with a database and a Redis of its own; and two
workers. The second says what the machine makes of twice the work, and what two workers take above
it is what they cost each other. All kinds are measured in turn, several times; the median of each
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
from collections.abc import Callable, Iterator, Sequence
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


def load(ports: Sequence[int], rate: float, seconds: float) -> dict[str, float]:
    """So many requests a second at each of these ports, all different."""
    command = [sys.executable, "-m", "benchmarks.load", "open", "--model", "auto", "--distinct"]
    command += ["--seconds", str(seconds), "--rate", str(rate), "--spread", str(CONNECTIONS)]
    running = [
        subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE) for port in ports
    ]
    said = [each.communicate()[0] for each in running]
    if any(each.returncode for each in running):
        raise RuntimeError("the load failed")
    found = [json.loads(each) for each in said]
    sums = {name: sum(each[name] for each in found) for name in ("requests", "failed")}
    return {**sums, "p50_ms": median(each["p50_ms"] for each in found)}


def written(port: int) -> None:
    """Back when no worker has a row left to write."""
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        waiting = [line for line in page.splitlines() if line.startswith("switchboard_log_waiting")]
        if not any(float(line.rpartition(" ")[2]) for line in waiting):
            return
        time.sleep(0.05)


def measured(homes: Sequence[Path], workers: int, rate: float, seconds: float) -> dict[str, float]:
    """CPU a request in µs at `rate` for each worker, of a gateway of so many workers in each of
    `homes`; what a worker takes at rest, and the share of the one that had least to do."""
    with contextlib.ExitStack() as stack:
        gateways = [stack.enter_context(gateway(home, workers)) for home in homes]
        pids = [
            each
            for port, pid in gateways
            for each in [worker["pid"] for worker in ready(port)["workers"]] or [pid]
        ]
        ports = [port for port, _ in gateways for _ in range(workers)]
        load(ports, rate, 1.0)
        began, before = all_written(ports), [cpu_s(each) for each in pids]
        time.sleep(2.0)
        rest = (sum(map(cpu_s, pids)) - sum(before)) / (time.monotonic() - began)
        began, before = time.monotonic(), [cpu_s(each) for each in pids]
        seen = load(ports, rate, seconds)
        took = all_written(ports) - began
        used = [cpu_s(each) - start for each, start in zip(pids, before, strict=True)]
    return {
        "cpu_us": 1e6 * (sum(used) - rest * took) / seen["requests"],
        "requests": seen["requests"],
        "failed": seen["failed"],
        "p50_ms": seen["p50_ms"],
        "least_share": min(used) / sum(used),
        "at_rest_ms_a_second": 1000 * rest / len(pids),
    }


def all_written(ports: Sequence[int]) -> float:
    """The instant at which no worker had a row left to write."""
    for port in ports:
        written(port)
    return time.monotonic()


ONE, APART, TOGETHER = "one worker", "two gateways that share nothing", "two workers"


def compared(rounds: int, rate: float, seconds: float, say: Callable[[str], None]) -> Figures:
    """All kinds in turn, `rate` requests a second for each worker."""
    upstream = servers.free_port()
    seen: dict[str, list[dict[str, float]]] = {ONE: [], APART: [], TOGETHER: []}
    with contextlib.ExitStack() as stack:
        stack.enter_context(process("benchmarks.mock_upstream", "--port", str(upstream)))
        homes = []
        for _ in range(2):
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = stack.enter_context(servers.postgres())
            coordinator = stack.enter_context(servers.redis())
            write_configuration(home, upstream)
            with (home / "gateway.yaml").open("a") as file:
                file.write(f"store: {database.url}\ncoordinator: {coordinator.url}\n")
            homes.append(home)
        for turn in range(rounds):
            for kind, found in seen.items():
                of = homes if kind == APART else homes[:1]
                found.append(measured(of, 2 if kind == TOGETHER else 1, rate, seconds))
                say(f"turn {turn + 1}, {kind}: {found[-1]['cpu_us']:.0f} us a request")
    return {
        "kinds": {
            kind: {name: round(median(each[name] for each in found), 2) for name in found[0]}
            for kind, found in seen.items()
        },
        "by_turn_us": {
            kind: [round(each["cpu_us"], 1) for each in of] for kind, of in seen.items()
        },
        "rate": rate,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def speed_up(found: Figures, beside: str) -> float:
    """How many times one worker's throughput two have, where each has a core of its own, by what a
    request costs `beside`; turn by turn, as the machine is faster at one time than at another."""
    turns = zip(found["by_turn_us"][beside], found["by_turn_us"][TOGETHER], strict=True)
    return float(median(2 * other / two for other, two in turns))


def table(found: Figures) -> str:
    """As Markdown."""
    apart, one = speed_up(found, APART), speed_up(found, ONE)
    lines = [
        f"{found['date']}, {found['rate']:g} requests/s for each worker. Where each worker has a "
        f"core, two do {apart:.2f} times what one does, by what a request costs two gateways that "
        "share nothing but this machine; by what it costs one worker that has the machine almost "
        f"to itself, {one:.2f} times.",
        "",
        "| | CPU µs a request | by turn | share of the worker with least to do | failed |",
        "|---|--:|---|--:|--:|",
    ]
    for kind, each in found["kinds"].items():
        by_turn = ", ".join(f"{one:.0f}" for one in found["by_turn_us"][kind])
        lines.append(
            f"| {kind} | {each['cpu_us']:.1f} | {by_turn} | {100 * each['least_share']:.0f} % "
            f"| {each['failed']:g} |"
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
