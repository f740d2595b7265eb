"""How long replaying a log takes, and how often its intervals hold: `--write` for the page.

A store with a million decided requests is made first, in a directory that is removed afterwards:
four routes, four candidates each of which one has two replicas, a policy that explores and keeps
the incumbent, and feedback on every fifth request. It is replayed by what `switchboard replay`
calls, on one core.
"""

import argparse
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.quality import write
from benchmarks.replay_world import REGIMES, coverage
from gateway.policy.decide import Decider
from gateway.policy.live import Live
from gateway.revisions.replay import Replay, replay
from gateway.store.decisions import encoded
from gateway.store.replay import ReplayLog
from gateway.store.schema import feedback, requests
from gateway.store.store import Store
from gateway.types.backends import Capabilities, Price, Shaping, Target
from gateway.types.decisions import Question
from gateway.types.policies import Policy
from gateway.types.requests import Caller, Needs
from gateway.types.routes import Candidate, Match, Metric, Route
from gateway.types.snapshot import Server, Snapshot

ROUTES = ("support", "contracts", "translation", "general")
EVERY = 5
"""One request of so many has feedback."""


def configuration(policy: Policy) -> Snapshot:
    """The benchmark's, with one policy for all routes."""
    targets = [
        Target(
            name=f"b{n}/m",
            backend=f"b{n}",
            model="m",
            adapter=None,
            served="m",
            internal=False,
            price=Price(input, input, 4 * input),
            capabilities=Capabilities(),
            shaping=Shaping(),
            replicas=tuple(f"http://b{n}-{each}" for each in range(2 if n == 0 else 1)),
            first_token_s=first,
        )
        for n, (input, first) in enumerate(((2e-6, 0.3), (1e-6, 0.5), (5e-7, 0.4), (1e-7, 0.2)))
    ]
    right = Metric("accepted", "boolean", "feedback", "=", 1.0)
    routes = {
        name: Route(
            name=name,
            description="",
            value=0.02,
            internal=False,
            match=Match(),
            candidates=tuple(
                Candidate(each.name, 0.95 - 0.04 * n) for n, each in enumerate(targets)
            ),
            policy="balanced",
            metrics=(right,),
            right="accepted",
        )
        for name in ROUTES
    }
    return Snapshot(
        hash=policy.name,
        server=Server(),
        default_route="general",
        aliases={},
        routes=routes,
        policies={"balanced": policy},
        targets={each.name: each for each in targets},
        backends={},
    )


OLD = Policy(
    "logged", waiting_first_token=0.002, waiting_whole=0.0005, explore=0.05, switch_margin=0.05
)
NEW = Policy(
    "new", waiting_first_token=0.0005, waiting_whole=0.0001, explore=0.05, switch_margin=0.05
)


def logged(count: int, seed: int = 1) -> Iterator[tuple[dict[str, Any], float | None]]:
    """Rows of the requests table, as the writer writes them, and what was said of each."""
    rng = random.Random(seed)
    snapshot = configuration(OLD)
    decider, live = Decider(snapshot), Live()
    for n in range(count):
        if n % 50 == 0:
            for target in snapshot.targets.values():
                for url in target.replicas:
                    seen = target.first_token_s * rng.lognormvariate(0.0, 0.5)
                    live.estimate(target, url).saw_first_token(seen, 0, n * 0.6)
        question = Question(
            ROUTES[n % 4], "balanced", Needs(input_tokens=int(rng.lognormvariate(5, 1))), Caller()
        )
        decision = decider.decide(question, live, rng.random())
        live.chose(question, decision)
        choice = decision.ranked[0]
        row = {
            "id": f"req_{n:032x}",
            "decision_id": f"dec_{n:032x}",
            "started": n * 0.6,
            "endpoint": "chat/completions",
            "model": "auto",
            "stream": True,
            "key_name": "anonymous",
            "route": question.route,
            "recognised_by": "classifier",
            "confidence": 0.9,
            "recognised_detail": "",
            "policy": "balanced",
            "snapshot": snapshot.hash,
            "target": choice.target,
            "replica": choice.replica,
            "decision": encoded(decision),
            "needs": msgspec.json.encode(question.needs).decode(),
            "status": 200,
            "outcome": "ok",
            "error": "",
            "input_tokens": question.needs.input_tokens,
            "cached_tokens": 0,
            "output_tokens": 200,
            "cost_usd": choice.cost * rng.lognormvariate(-0.125, 0.5),
            "estimated": False,
            "first_token_s": choice.first_token_s * rng.lognormvariate(-0.125, 0.5),
            "total_s": choice.total_s * rng.lognormvariate(-0.125, 0.5),
            "overhead_s": 0.0003,
        }
        said = float(rng.random() < choice.quality) if n % EVERY == 0 else None
        yield row, said


def fill(path: Path, count: int) -> Store:
    """A SQLite store with so many requests."""
    store = Store.open(f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    names: list[str] = []
    rows: list[tuple[Any, ...]] = []
    told: list[tuple[Any, ...]] = []

    def flush() -> None:
        connection.executemany(
            f"insert into {requests.name} ({', '.join(names)})"
            f" values ({', '.join('?' * len(names))})",
            rows,
        )
        connection.executemany(
            f"insert into {feedback.name} (identity, request_id, metric, value, at)"
            " values (?, ?, 'accepted', ?, ?)",
            told,
        )
        connection.commit()
        rows.clear()
        told.clear()

    for row, said in logged(count):
        names = names or list(row)
        rows.append(tuple(row.values()))
        if said is not None:
            told.append((f"{row['id']}/accepted/", row["id"], said, row["started"] + 60.0))
        if len(rows) == 20_000:
            flush()
    if rows:
        flush()
    connection.close()
    return store


class Took(msgspec.Struct, frozen=True):
    """Seconds of processor and of the clock that a replay took, and what it said."""

    cpu_s: float
    clock_s: float
    megabytes: float
    told: Replay


def timed(store: Store, path: Path) -> Took:
    """All of the store replayed."""
    running, new = configuration(OLD), configuration(NEW)
    clock, cpu = time.perf_counter(), time.process_time()
    told = replay(ReplayLog(store), new, running, {running.hash: running}.get, 0.0, 1e12)
    return Took(
        time.process_time() - cpu,
        time.perf_counter() - clock,
        path.stat().st_size / 1e6,
        told,
    )


def page(count: int, runs: int, say: Callable[[str], None]) -> str:
    """What goes onto the page."""
    lines = [
        f"`python -m benchmarks.replay --write`, {runs:,} seeded runs each. The share of 95 %"
        " intervals that held the true change; promised are 95 %. (With so many runs a true 95 %"
        f" shows as {100 * (0.95 - 2 * (0.95 * 0.05 / runs) ** 0.5):.1f} to"
        f" {100 * (0.95 + 2 * (0.95 * 0.05 / runs) ** 0.5):.1f} %.) The doubly robust one is what"
        " `switchboard replay` tells.",
        "",
        "| logged | right: IPS | SNIPS | doubly robust | its width | cost: IPS | SNIPS |"
        " doubly robust |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for regime in REGIMES:
        say(regime.name)
        found = coverage(regime, runs, seed=7)
        right, cost = found["right"], found["cost"]
        cells = [f"{100 * right[method][0]:.1f} %" for method in ("ips", "snips", "dr")]
        cells.append(f"{100 * right['dr'][1]:.1f} points")
        cells += [f"{100 * cost[method][0]:.1f} %" for method in ("ips", "snips", "dr")]
        what = f"{regime.name}; {regime.requests:,} requests"
        lines.append(f"| {what} | {' | '.join(cells)} |")
    say(f"a store of {count:,} requests")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        store = fill(path, count)
        say("replay")
        took = timed(store, path)
        store.close()
    change = took.told.figures["right"]
    lines += [
        "",
        f"A log of {count:,} requests ({took.megabytes:,.0f} MB in SQLite, each with a decision"
        f" over four candidates and five replicas, feedback on one in {EVERY}) was replayed under a"
        f" policy that waits longer in {took.cpu_s:.0f} s of one core's time,"
        f" {1e6 * took.cpu_s / count:.0f} µs a request; by the clock {took.clock_s:.0f} s, on a"
        f" machine of {os.cpu_count()} cores with a load of {os.getloadavg()[0]:.0f}."
        f" {100 * took.told.elsewhere:.0f} % would go elsewhere;"
        f" right changes by {100 * change.change:+.2f} points"
        + (
            f" ({100 * change.low:+.2f} to {100 * change.high:+.2f})."
            if change.low is not None and change.high is not None
            else "."
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/quality.md")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    asked = parser.parse_args()
    found = page(asked.requests, asked.runs, lambda what: print(f"… {what}", flush=True))
    print(found)
    if asked.write:
        write("replay", found)


if __name__ == "__main__":
    main()
