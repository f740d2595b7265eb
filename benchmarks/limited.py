"""What limits add to a request: one that all concern beside one that none does, in one gateway.

    python -m benchmarks.limited [--processes 3] [--turns 100] [--write]

Two processes of one program differ by more than limits cost: where their memory lies is left to
chance. So each process serves two routes that are alike, but that one of them, and the key that
asks for it, have all limits; both are asked in turns of a fifth of a second, and what counts is the
difference of a turn, by the operating system's account of all threads of the process. The same is
done with two routes and keys without limits: what that comes to is the measure's own fault.

nginx, asked the same in between, says how fast the machine is just then: the same code takes
twice as long on one machine as on another, and both of these do.
"""

import argparse
import asyncio
import datetime
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
NGINX_EVERY, NGINX_S = 10, 1.0
OF_KEY = (
    *("--requests", "100000000/min", "--tokens", "1000000M/min", "--concurrent", "1000000"),
    *("--per-day", "1000000 usd", "--per-month", "10000000 usd"),
)
"""All limits that a key can have, and never reached."""

QUIET_US = 13.0
"""What nginx takes for a request on a core that nothing else disturbs."""


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


async def in_turns(
    running: Running, nginx: Running, asked: dict[str, str], turns: int
) -> tuple[list[float], list[float], list[float]]:
    """CPU µs of a request to each of two routes, by key, turn by turn in both orders, and of one
    to nginx, after every so many."""
    text = next(prompts(1))

    async def side(system: Running, model: str, key: str) -> Side:
        raw = request(model, text, f"authorization: Bearer {key}\r\n", False)
        return Side([await connect(system.port) for _ in range(CONNECTIONS)], raw)

    both = [await side(running, route, key) for route, key in asked.items()]
    beside = await side(nginx, nginx.model, nginx.key)
    for one in both * 2:
        await one.turn(1.0, running.cpu_us)
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    for n in range(turns):
        for place in (0, 1) if n % 2 == 0 else (1, 0):
            found[place].append(await both[place].turn(TURN_S, running.cpu_us))
        if n % NGINX_EVERY == NGINX_EVERY - 1:
            found[2].append(await beside.turn(NGINX_S, nginx.cpu_us))
            # The gateway's rows were written meanwhile: neither route is to have that for itself.
            for one in both:
                await one.turn(TURN_S, running.cpu_us)
    return found


def one_process(
    upstream: int, nginx: Running, folder: Path, turns: int, *, limits: bool
) -> dict[str, Any]:
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
        plain, other, beside = uvloop.run(in_turns(running, nginx, keys, turns))
    added = [one - without for one, without in zip(other, plain, strict=True)]
    return {"request_us": plain, "added_us": added, "nginx_us": beside}


def measured(processes: int, turns: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What limits add, and what nothing adds by the same measure."""
    os.sched_setaffinity(0, {LOAD_CORE})
    seen: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for n in range(processes):
        for limits in (True, False):
            with tempfile.TemporaryDirectory() as temporary:
                folder, upstream = Path(temporary), free_port()
                folder.chmod(0o755)  # nginx's worker runs as another user
                with (
                    systems.mock(upstream, LOAD_CORE, folder),
                    systems.nginx(free_port(), upstream, SUT_CORE, folder) as nginx,
                ):
                    each = one_process(upstream, nginx, folder, turns, limits=limits)
            seen[limits].append(each)
            added, of, beside = (
                statistics.median(each[kind]) for kind in ("added_us", "request_us", "nginx_us")
            )
            what = "all limits" if limits else "no limits"
            say(f"{what}, process {n + 1}: {added:+.1f} us of {of:.1f}, nginx {beside:.1f}")
    every = [each for both in seen.values() for each in both]
    return {
        "request_us": _median(every, "request_us"),
        "nginx_us": _median(every, "nginx_us"),
        "limits": _summed(seen[True]),
        "nothing": _summed(seen[False]),
        "processes": processes,
        "turns": turns,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _summed(of: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all processes, and of each."""
    return {
        "added_us": _median(of, "added_us"),
        "by_process_us": [_median([each], "added_us") for each in of],
        "times_nginx": [
            round(statistics.median(each["added_us"]) / statistics.median(each["nginx_us"]), 3)
            for each in of
        ],
    }


def _median(of: list[dict[str, Any]], kind: str) -> float:
    every: list[float] = [one for each in of for one in each[kind]]
    return round(statistics.median(every), 1)


def table(found: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        f"{found['date']}. Without limits a request takes {found['request_us']:.1f} µs of all "
        f"threads' CPU, nginx's {found['nginx_us']:.1f} µs. The last column is what would be added "
        f"on a core where nginx's takes {QUIET_US:g} µs, by what nginx took between the same "
        "process's turns.",
        "",
        f"| the second route and its key have | added here | by process | × nginx | where nginx "
        f"takes {QUIET_US:g} µs |",
        "|---|--:|---|--:|--:|",
    ]
    for what, name in (("all limits", "limits"), ("no limits", "nothing")):
        each = found[name]
        by_process = ", ".join(f"{one:+.1f}" for one in each["by_process_us"])
        times = statistics.median(each["times_nginx"])
        lines.append(
            f"| {what} | {each['added_us']:+.1f} µs | {by_process} | {times:+.2f} "
            f"| {times * QUIET_US:+.1f} µs |"
        )
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
