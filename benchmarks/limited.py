"""What limits add to a request: one that all concern beside one that none does, in one gateway.

    python -m benchmarks.limited [--processes 3] [--turns 100] [--write]

Two processes of one program differ by more than limits cost: where their memory lies is left to
chance. So each process serves two routes that are alike, but that one of them, and the key that
asks for it, have all limits; both are asked in turns of a fifth of a second, and what counts is the
difference of a turn, by the operating system's account of all threads of the process. The same is
done with two routes and keys without limits: what that comes to is the measure's own fault.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import systems
from benchmarks.gateway_config import QUOTA, write_configuration
from benchmarks.load import Client, connect, prompts, request
from benchmarks.systems import LOAD_CORE, SUT_CORE, Running, free_port, made_key

RESULTS = Path(__file__).with_name("limited.json")
CONNECTIONS = 32
TURN_S = 0.2
OF_KEY = (
    *("--requests", "100000000/min", "--tokens", "1000000M/min", "--concurrent", "1000000"),
    *("--per-day", "1000000 usd", "--per-month", "10000000 usd"),
)
"""All limits that a key can have, and never reached."""


class Side:
    """One of the two: its connections, and what it asks."""

    def __init__(self, clients: list[Client], raw: bytes) -> None:
        self.clients = clients
        self.raw = raw

    async def turn(self, seconds: float, cpu_us: Callable[[], float]) -> float:
        """CPU µs a request, each connection asking again when answered."""
        until, answered = time.perf_counter() + seconds, 0

        async def ask(client: Client) -> None:
            nonlocal answered
            while time.perf_counter() < until:
                status = await client.ask(self.raw)
                if status != 200:
                    raise RuntimeError(f"a request was answered with {status}")
                answered += 1

        before = cpu_us()
        await asyncio.gather(*(ask(client) for client in self.clients))
        return (cpu_us() - before) / answered


async def _sides(port: int, asked: dict[str, str]) -> list[Side]:
    text = next(prompts(1))
    return [
        Side(
            [await connect(port) for _ in range(CONNECTIONS)],
            request(route, text, f"authorization: Bearer {key}\r\n", False),
        )
        for route, key in asked.items()
    ]


async def in_turns(
    running: Running, asked: dict[str, str], turns: int
) -> tuple[list[float], list[float]]:
    """CPU µs of a request to each of two routes, by key, turn by turn in both orders."""
    plain, other = await _sides(running.port, asked)
    for side in (plain, other, plain, other):
        await side.turn(1.0, running.cpu_us)
    found: tuple[list[float], list[float]] = ([], [])
    for n in range(turns):
        for place in (0, 1) if n % 2 == 0 else (1, 0):
            side = (plain, other)[place]
            found[place].append(await side.turn(TURN_S, running.cpu_us))
    return found


def one_process(upstream: int, folder: Path, turns: int, *, limits: bool) -> dict[str, Any]:
    """A gateway from its start to its end: µs of a request, and what the second route adds."""
    home = folder / f"limits-{limits}"
    write_configuration(home, upstream)
    twin = (home / "routes/support.yaml").read_text().replace("name: support", "name: billing")
    (home / "routes/billing.yaml").write_text(twin + (f"limits: {{{QUOTA}}}\n" if limits else ""))
    store = f"sqlite:///{home}/switchboard.db"
    keys = {
        "support": made_key(store, "plain"),
        "billing": made_key(store, "other", *(OF_KEY if limits else ())),
    }
    port = free_port()
    command = [systems.SWITCHBOARD, "serve", "--config", str(home)]
    command += ["--listen", f"127.0.0.1:{port}", "--store", store]
    with systems.started(
        home.name, command, port, core=SUT_CORE, model="support", probe="/ready", folder=folder
    ) as running:
        plain, other = uvloop.run(in_turns(running, keys, turns))
    added = [one - without for one, without in zip(other, plain, strict=True)]
    return {"request_us": statistics.median(plain), "added_us": added}


def measured(processes: int, turns: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What limits add, and what nothing adds by the same measure."""
    os.sched_setaffinity(0, {LOAD_CORE})
    seen: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for n in range(processes):
        for limits in (True, False):
            with tempfile.TemporaryDirectory() as temporary:
                folder, upstream = Path(temporary), free_port()
                with systems.mock(upstream, LOAD_CORE, folder):
                    each = one_process(upstream, folder, turns, limits=limits)
            seen[limits].append(each)
            what = "all limits" if limits else "no limits"
            added = statistics.median(each["added_us"])
            say(f"{what}, process {n + 1}: {added:+.1f} us of {each['request_us']:.1f}")
    return {
        "request_us": round(
            statistics.median(each["request_us"] for both in seen.values() for each in both), 1
        ),
        "limits": _summed(seen[True]),
        "nothing": _summed(seen[False]),
        "processes": processes,
        "turns": turns,
    }


def _summed(of: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all processes, and of each."""
    every = [one for each in of for one in each["added_us"]]
    return {
        "added_us": round(statistics.median(every), 1),
        "by_process_us": [round(statistics.median(each["added_us"]), 1) for each in of],
    }


def table(found: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        f"Without limits a request takes {found['request_us']:.1f} µs of all threads' CPU.",
        "",
        "| the second route and its key have | added to a request | by process |",
        "|---|--:|---|",
    ]
    for what, name in (("all limits", "limits"), ("no limits", "nothing")):
        each = found[name]
        by_process = ", ".join(f"{one:+.1f}" for one in each["by_process_us"])
        lines.append(f"| {what} | {each['added_us']:+.1f} µs | {by_process} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    found = measured(options.processes, options.turns, say)
    print(table(found))
    if options.write:
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
