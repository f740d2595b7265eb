"""`make bench`: the gateway with everything on beside nginx and its peers, in one run.

One core for the system under test, the other for the mock upstream and the load. What counts is
CPU time a request, from the operating system's accounting of the system's processes; absolute
times on a shared machine mean little, so nginx stands in the same run. Writes
`benchmarks/results.json` and `benchmarks/results.md`.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import limited, systems, vllm_times, workers
from benchmarks.gateway_config import KEY_NAME, write_configuration
from benchmarks.systems import LOAD_CORE, ROOT, SUT_CORE, Running, Started, free_port

Result = dict[str, Any]


def load_command(kind: str, system: Running, model: str) -> list[str]:
    """The load as a process on its own core."""
    command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "benchmarks.load", kind]
    command += ["--port", str(system.port), "--model", model]
    for line in (f"authorization: Bearer {system.key}", *system.headers):
        command += ["--header", line]
    return command


def load(kind: str, system: Running, model: str, **options: float | bool) -> dict[str, float]:
    """One run of the load on its own core."""
    command = load_command(kind, system, model)
    for name, value in options.items():
        if value is True:
            command.append(f"--{name}")
        elif value is not False:
            command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load on {system.name} failed: {done.stderr.decode()[-1500:]}")
    result: dict[str, float] = json.loads(done.stdout)
    if result["failed"]:
        raise RuntimeError(f"{system.name}: {result['failed']} requests failed")
    return result


def per_request(system: Running, model: str, seconds: float, distinct: bool) -> dict[str, float]:
    """CPU µs a request and requests a second, after a warm-up."""
    load("closed", system, model, seconds=1.5, distinct=distinct)
    before = system.cpu_s()
    done = load("closed", system, model, seconds=seconds, distinct=distinct)
    cpu = system.cpu_s() - before
    return {"cpu_us": cpu / done["requests"] * 1e6, "rate": done["rate"]}


def per_chunk(system: Running, model: str, count: int, rounds: int) -> float:
    """CPU µs a relayed chunk: streams of 100 events, 10 ms apart."""
    load("streams", system, model, connections=count, rounds=1)
    before = system.cpu_s()
    done = load("streams", system, model, connections=count, rounds=rounds)
    return (system.cpu_s() - before) / (done["chunks"] / 2) * 1e6


def added_ms(system: Running, direct: Running, rate: float, seconds: float) -> dict[str, float]:
    """What the gateway adds to a request at `rate`, against asking the upstream itself."""
    with_us = load("open", system, system.model, rate=rate, seconds=seconds)
    without = load("open", direct, direct.model, rate=rate, seconds=seconds)
    return {
        "p50": max(0.0, with_us["p50_ms"] - without["p50_ms"]),
        "p99": max(0.0, with_us["p99_ms"] - without["p99_ms"]),
        "rate": rate,
    }


def open_streams_mb(system: Running, count: int) -> float:
    """Resident megabytes while `count` streams are open."""
    command = load_command("streams", system, system.model)
    command += ["--connections", str(count), "--rounds", "1"]
    peak = 0.0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            peak = max(peak, system.rss_mb())
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        assert process.stdout is not None
        result = json.loads(process.stdout.read())
    if result["requests"] != count:
        raise RuntimeError(f"only {result['requests']} of {count} streams were served")
    return peak


def gateway(port: int, upstream: int, core: int, folder: Path) -> Started:
    """Switchboard with everything on: keys, classification, five candidates, log, metrics."""
    return _gateway("switchboard", port, upstream, core, folder)


def with_limits(port: int, upstream: int, core: int, folder: Path) -> Started:
    """The same with all limits of the key and of the route, counted in process."""
    return _gateway("switchboard_limits", port, upstream, core, folder, limits=True)


@contextlib.contextmanager
def shared(port: int, upstream: int, core: int, folder: Path) -> Iterator[Running]:
    """The same with those limits in Redis, as several workers have them."""
    redis = free_port()
    binary = shutil.which("redis-server") or "/usr/bin/redis-server"
    command = ["taskset", "-c", str(LOAD_CORE), binary, "--port", str(redis)]
    command += ["--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            name = "switchboard_redis"
            with _gateway(name, port, upstream, core, folder, limits=True, redis=redis) as running:
                yield running
        finally:
            server.terminate()


def _gateway(
    name: str,
    port: int,
    upstream: int,
    core: int,
    folder: Path,
    *,
    limits: bool = False,
    redis: int | None = None,
) -> Started:
    home = folder / name
    write_configuration(home, upstream, limits=limits, redis=redis)
    store = f"sqlite:///{home}/switchboard.db"
    key = systems.made_key(store, KEY_NAME)
    command = [systems.SWITCHBOARD, "serve", "--config", str(home)]
    command += ["--listen", f"127.0.0.1:{port}", "--store", store]
    return systems.started(
        name,
        command,
        port,
        core=core,
        model="support",
        auto="auto",
        key=key,
        probe="/ready",
        folder=folder,
    )


SYSTEMS: dict[str, Callable[[int, int, int, Path], Started]] = {
    "nginx": systems.nginx,
    "switchboard": gateway,
    "switchboard_limits": with_limits,
    "switchboard_redis": shared,
    "vllm_router": systems.vllm_router,
    "litellm": systems.litellm,
    "portkey": systems.portkey,
}


TOGETHER = ("nginx", "switchboard", "switchboard_limits", "switchboard_redis", "vllm_router")
"""Measured in turns, round after round: the machine's speed drifts by more than they differ."""

STREAMED = ("nginx", "switchboard", "vllm_router")
"""Those whose streams are measured too: limits have no part in a chunk's way."""


def measure(names: list[str], seconds: float, rounds: int, say: Callable[[str], None]) -> Result:
    """Every figure: medians of `rounds` turns for the quick systems, one turn for the slow."""
    result: Result = {"cpu_us_per_request": {}, "cpu_us_per_chunk": {}, "requests_per_s": {}}
    together = [name for name in TOGETHER if name in names]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.chmod(folder, 0o755)  # noqa: S103 - nginx's worker runs as another user
        upstream = free_port()
        with systems.mock(upstream, LOAD_CORE, folder) as direct:
            if together:
                _measure_group(together, direct, folder, seconds, rounds, result, say)
            for name in names:
                if name not in together:
                    _measure_group([name], direct, folder, seconds, 1, result, say)
    result |= decisions()
    result["machine"] = f"{platform.machine()}, {_cpu()}, {os.cpu_count()} cores"
    result["versions"] = {"python": platform.python_version(), **systems.VERSIONS}
    result["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    return result


def _measure_group(
    names: list[str],
    direct: Running,
    folder: Path,
    seconds: float,
    rounds: int,
    result: Result,
    say: Callable[[str], None],
) -> None:
    """Starts the systems, measures them in turns, and stops them."""
    seen: Seen = defaultdict(list)
    with contextlib.ExitStack() as stack:
        running = []
        for name in names:
            say(f"{name}: starting")
            started = SYSTEMS[name](free_port(), direct.port, SUT_CORE, folder)
            running.append(stack.enter_context(started))
        for turn in range(rounds):
            # Each kind for all before the next, there and back again: what one leaves a core's
            # caches and its disk in is the next one's start, and has cost it a tenth.
            for measured in (_named, _chunks, _auto):
                for system in running if turn % 2 == 0 else reversed(running):
                    measured(system, seconds, seen)
            say(f"{', '.join(names)}: turn {turn + 1} of {rounds}")
        for kind in ("cpu_us_per_request", "cpu_us_per_chunk", "requests_per_s"):
            digits = None if kind == "requests_per_s" else 1
            for (what, name), values in seen.items():
                if what == kind:
                    result[kind][name] = round(statistics.median(values), digits)
                    say(f"{name}: {kind} {result[kind][name]:,}")
        for system in running:
            if system.name == "switchboard":
                _measure_apart(system, direct, seconds, result, say)


Seen = dict[tuple[str, str], list[float]]
"""Every figure of a kind, of a system."""


def _named(system: Running, seconds: float, seen: Seen) -> None:
    named = per_request(system, system.model, seconds, distinct=False)
    seen["cpu_us_per_request", system.name].append(named["cpu_us"])
    seen["requests_per_s", system.name].append(named["rate"])


def _chunks(system: Running, seconds: float, seen: Seen) -> None:
    if system.name in STREAMED:
        seen["cpu_us_per_chunk", system.name].append(per_chunk(system, system.model, 50, 3))


def _auto(system: Running, seconds: float, seen: Seen) -> None:
    if system.name == "switchboard" and system.auto is not None:
        auto = per_request(system, system.auto, seconds, distinct=True)
        seen["cpu_us_per_request", f"{system.name}_auto"].append(auto["cpu_us"])


def _measure_apart(
    system: Running, direct: Running, seconds: float, result: Result, say: Callable[[str], None]
) -> None:
    """What only the gateway is asked: its latency, memory and start."""
    rate = result["requests_per_s"][system.name] / 2
    turns = [added_ms(system, direct, rate, seconds) for _ in range(3)]
    result["added_ms"] = {
        key: round(statistics.median(turn[key] for turn in turns), 3) for key in turns[0]
    }
    result["ready_s"] = round(system.ready_s, 2)
    result["rss_mb_2000_streams"] = round(open_streams_mb(system, 2000), 1)
    say(f"{system.name}: {result['added_ms']}, {result['rss_mb_2000_streams']} MB")


def decisions() -> Result:
    """CPU µs of one decision among five candidates, and with 1,000 adapters and 100 routes
    declared besides, by its own benchmark."""
    command = [sys.executable, "-m", "benchmarks.decide", "--json"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = json.loads(done.stdout)
    return {"decide_us": found["five_us"], "decide_large_us": found["thousand_adapters_us"]}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def table(result: Result) -> str:
    """The results as Markdown."""
    requests, chunks = result["cpu_us_per_request"], result["cpu_us_per_chunk"]
    base = requests.get("nginx")
    lines = [
        "# What a request costs",
        "",
        f"{result['date']}, {result['machine']}; one core for the system, CPU time from the "
        "operating system's accounting of its processes, nginx in the same run.",
        "",
        "| system | CPU µs a request | × nginx | requests/s | CPU µs a chunk |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, cost in sorted(requests.items(), key=lambda item: item[1]):
        times = f"{cost / base:.1f}" if base else "–"
        rate = result["requests_per_s"].get(name)
        lines.append(
            f"| {name} | {cost:.1f} | {times} | {f'{rate:,}' if rate else '–'} "
            f"| {chunks.get(name, '–')} |"
        )
    lines += _limits_line(requests)
    if "added_ms" in result:
        added = result["added_ms"]
        lines += [
            "",
            f"Added at half of saturation ({added['rate']:,.0f}/s): p50 {added['p50']} ms, "
            f"p99 {added['p99']} ms. Resident with 2,000 open streams: "
            f"{result['rss_mb_2000_streams']} MB. Ready after {result['ready_s']} s. "
            f"One decision among five candidates: {result['decide_us']:.1f} µs; with 1,000 "
            f"adapters declared: {result['decide_large_us']:.1f} µs.",
        ]
    if limited.RESULTS.exists():
        lines += [
            "",
            "## What limits add, in one process",
            "",
            "By `python -m benchmarks.limited`: processes of one program differ by more than "
            "limits cost, so each process serves two routes that are alike but for the limits, in "
            "turns.",
            "",
            limited.table(json.loads(limited.RESULTS.read_text())),
        ]
    if workers.RESULTS.exists():
        lines += [
            "",
            "## Two workers",
            "",
            "By `python -m benchmarks.workers`: all kinds in turn, with a real "
            "PostgreSQL and Redis.",
            "",
            workers.table(json.loads(workers.RESULTS.read_text())),
        ]
    if vllm_times.RESULTS.exists():
        lines += [
            "",
            "## The first token, through the gateway and from vLLM directly",
            "",
            "In turns, by `python -m benchmarks.vllm_times`: the real vLLM's CPU build with the "
            "demo's tiny base. Cold is an adapter that the replica does not know: it is loaded "
            "first, by the gateway or by hand.",
            "",
            vllm_times.table(json.loads(vllm_times.RESULTS.read_text())),
        ]
    return "\n".join(lines) + "\n"


def _limits_line(requests: dict[str, float]) -> list[str]:
    """What limits add to a request, by the difference of two systems of the same run."""
    plain = requests.get("switchboard")
    added = {
        where: requests[name] - plain
        for name, where in (("switchboard_limits", "in process"), ("switchboard_redis", "in Redis"))
        if plain is not None and name in requests
    }
    if not added:
        return []
    base = requests.get("nginx")
    said = ", ".join(
        f"{cost:.1f} µs" + (f" ({cost / base:.2f} × nginx)" if base else "") + f" {where}"
        for where, cost in added.items()
    )
    return [
        "",
        f"All limits of a key and its route add {said} to a request, by the difference of two "
        "processes: two of the same program differ by some 5 µs.",
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="comma-separated systems", default=",".join(SYSTEMS))
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write results.json and results.md")
    options = parser.parse_args()
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    result = measure(options.only.split(","), options.seconds, options.rounds, say)
    print(table(result))
    if options.write:
        (ROOT / "benchmarks/results.json").write_text(json.dumps(result, indent=2) + "\n")
        (ROOT / "benchmarks/results.md").write_text(table(result))


if __name__ == "__main__":
    main()
